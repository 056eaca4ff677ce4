"""What `render`, `view` and `export` share: the columns, names and clusters of a run that somebody wants to see."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from streamumap.errors import InputError, OutputError
from streamumap.events import Advance, Listener, Note, StageAdvanced, StageDone, StageStarted
from streamumap.show import clusters
from streamumap.show.columns import (
    POSITIONS,
    Column,
    column_of,
    feature_number,
    labels,
    pick,
    read_features,
    read_lines,
    read_table,
    top_features,
)
from streamumap.show.runs import Run, input_of
from streamumap.source import RowSource

TOP_FEATURES = 4
DISTORTION = "distortion"
"""The column of embedding.parquet that tells of the map, not of the rows: a page shows it when it is asked for."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for. `colors`: feature:NUMBER, cluster, or names of columns; the first is shown first."""

    labels: Path | None = None
    names: Path | None = None
    colors: Sequence[str] = ()
    input: str | None = None


def labels_of(run: Run, wanted: Wanted) -> list[Column]:
    """The columns of --labels."""
    return read_table("--labels", wanted.labels, len(run.embedding)) if wanted.labels else []


def columns_of(
    run: Run,
    wanted: Wanted,
    listener: Listener,
    given: Sequence[Column],
    cluster: Column | None = None,
    every: bool = False,
) -> list[Column]:
    """The columns that `wanted.colors` names, or the first of `given`; with `every`, then all others there are: `given`,
    `cluster`, and the run's own. Features are streamed from the input."""
    there: list[Column] = []
    for column in (*given, *([cluster] if cluster else ()), *_own_columns(run)):
        there += [column] if column.name not in {c.name for c in there} else []
    features = _features(run, wanted, listener)
    chosen = [features.get(color) or pick(there, color) for color in wanted.colors]
    chosen = chosen or (there if every else list(given[:1]))
    names = {column.name for column in chosen}
    return chosen + [column for column in there if every and column.name not in names]


def _own_columns(run: Run) -> list[Column]:
    """Those of embedding.parquet that say anything."""
    import pyarrow.parquet

    path = run.path / "embedding.parquet"
    if not path.exists():
        return []
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as e:
        raise InputError(
            f"{path}: expected the table of a run, found something else; run streamumap embed again."
        ) from e
    names = [name for name in table.column_names if name not in POSITIONS and not name.startswith("dim")]
    names.sort(key=lambda name: name == DISTORTION)  # what the user knows of the rows comes first
    found = [column_of(name, table[name].combine_chunks()) for name in names]
    return [c for c in found if c is not None and not (c.name == "is_zero" and len(getattr(c, "values", ())) < 2)]


def _features(run: Run, wanted: Wanted, listener: Listener) -> dict[str, Column]:
    asked = [color for color in wanted.colors if color.startswith("feature:")]
    if not asked:
        return {}
    source = input_of(run, wanted.input)
    if source is None:
        raise InputError(
            f"--color: {asked[0]}: expected the input of {run.path}, found none at its place; say where it is with --input."
        )
    try:
        numbers = [feature_number(color, source.n_features) or 0 for color in asked]
        with _stage(listener, "features", source) as advance:
            return dict(zip(asked, read_features(source, numbers, advance), strict=True))
    finally:
        source.close()


def names_of(run: Run, wanted: Wanted) -> Any:
    """The names as a pyarrow array of N strings, or None."""
    return read_lines("--names", wanted.names, len(run.embedding)) if wanted.names else None


def top_features_of(run: Run, wanted: Wanted, listener: Listener) -> tuple[np.ndarray, np.ndarray] | None:
    """As `columns.top_features`, or None where the input is not there any more."""
    source = input_of(run, wanted.input)
    if source is None:
        return None
    try:
        with _stage(listener, "features", source) as advance:
            return top_features(source, TOP_FEATURES, advance)
    finally:
        source.close()


def clusters_of(
    run: Run, names: Any, features: tuple[np.ndarray, np.ndarray] | None, listener: Listener
) -> tuple[Column | None, list[clusters.Cluster]]:
    """The coarse clusters as a column, and all that have a name, which labels.parquet of the run then holds as well.
    Nothing where there are neither names nor features."""
    if names is None and features is None:
        return None, []
    with _stage(listener, "clusters", None) as advance:
        levels = clusters.find(run.embedding)
        found = clusters.name(run.embedding, levels, clusters.Words(names, features))
        advance(1)
    try:
        clusters.write(run.path / "labels.parquet", found)
    except OutputError as e:  # somebody else's run, perhaps: the picture is what was asked for
        listener(Note("warning", str(e)))
    texts = {c.number: c.text for c in found if c.level == 0}
    values = np.array([texts.get(i, f"cluster {i}") for i in range(levels[0].n_clusters)] + [None], object)
    return labels("cluster", values[levels[0].codes]), found


@contextmanager
def _stage(listener: Listener, name: str, source: RowSource | None):
    total, done, started = (source.n_rows, 0, monotonic()) if source else (1, 0, monotonic())
    listener(StageStarted(name, total, "rows" if source else "pass"))

    def advance(n: int) -> None:
        nonlocal done
        done += n
        listener(StageAdvanced(name, done))

    given: Advance = advance
    yield given
    listener(StageDone(name, monotonic() - started, f"{total:,} rows" if source else ""))
