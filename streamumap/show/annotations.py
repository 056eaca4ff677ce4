"""Annotations of a run's rows, for pictures and pages: columns, names, strongest features and clusters."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from streamumap.errors import InputError, OutputError
from streamumap.events import Advance, Listener, Note, StageAdvanced, StageDone, StageStarted
from streamumap.show import clusters as clustering
from streamumap.show.columns import (
    POSITIONS,
    Column,
    TopFeatures,
    column_of,
    feature_number,
    label_column,
    pick,
    read_features,
    read_lines,
    read_table,
    top_features,
)
from streamumap.show.saved_run import SavedRun, input_of, read_own_table
from streamumap.source import RowSource

TOP_FEATURES = 4
"""Features of each row that a page shows."""

DISTORTION = "distortion"
"""The column of embedding.parquet that describes the map, not the rows: it is shown first only on request."""


@dataclass(frozen=True)
class ShowOptions:
    """The options of `render` and `view` that say what to show: files of labels and names, colors, the input.

    colors: feature:NUMBER, cluster, or names of columns; the first one is shown first.
    """

    labels: Path | None = None
    names: Path | None = None
    colors: Sequence[str] = ()
    input: str | None = None


NO_OPTIONS = ShowOptions()


def labels_of(run: SavedRun, options: ShowOptions) -> list[Column]:
    """Reads the columns of --labels. Raises InputError."""
    return read_table("--labels", options.labels, len(run.embedding)) if options.labels else []


def names_of(run: SavedRun, options: ShowOptions) -> Any:
    """Reads the names as a pyarrow array of N strings, None without --names. Raises InputError."""
    return read_lines("--names", options.names, len(run.embedding)) if options.names else None


def columns_of(
    run: SavedRun,
    options: ShowOptions,
    listener: Listener,
    labels: Sequence[Column],
    cluster_column: Column | None = None,
    every: bool = False,
) -> list[Column]:
    """The columns that `options.colors` names, else the first of `labels`.

    With `every`, all others follow: `labels`, `cluster_column`, and the run's own. Features are streamed from the input.
    Raises InputError where there is no such column or no input.
    """
    by_name: dict[str, Column] = {}
    for column in (*labels, *([cluster_column] if cluster_column else ()), *_own_columns(run)):
        by_name.setdefault(column.name, column)
    known = list(by_name.values())
    features = _features(run, options, listener)
    chosen = [features.get(color) or pick(known, color) for color in options.colors]
    chosen = chosen or (known if every else list(labels[:1]))
    names = {column.name for column in chosen}
    return chosen + [column for column in known if every and column.name not in names]


def _own_columns(run: SavedRun) -> list[Column]:
    """The columns of embedding.parquet, without the positions and without is_zero where no row or every row is zero."""
    table = read_own_table(run)
    if table is None:
        return []
    names = [name for name in table.column_names if name not in POSITIONS and not name.startswith("dim")]
    names.sort(key=lambda name: name == DISTORTION)  # what the user knows of the rows comes first
    columns = [column_of(name, table[name].combine_chunks()) for name in names]
    return [c for c in columns if c is not None and not (c.name == "is_zero" and len(getattr(c, "values", ())) < 2)]


def _features(run: SavedRun, options: ShowOptions, listener: Listener) -> dict[str, Column]:
    """The activations of the features among the colors, by the text that names them."""
    colors = [color for color in options.colors if color.startswith("feature:")]
    if not colors:
        return {}
    source = input_of(run, options.input)
    if source is None:
        raise InputError(
            f"--color: {colors[0]}: expected the input of {run.path}, found none at its place; say where it is with --input."
        )
    with closing(source):
        numbers = [feature_number(color, source.n_features) or 0 for color in colors]
        with _stage(listener, "features", source) as advance:
            return dict(zip(colors, read_features(source, numbers, advance), strict=True))


def top_features_of(run: SavedRun, options: ShowOptions, listener: Listener) -> TopFeatures | None:
    """The strongest features of each row, read from the input; None where the input is gone. Raises InputError."""
    source = input_of(run, options.input)
    if source is None:
        return None
    with closing(source), _stage(listener, "features", source) as advance:
        return top_features(source, TOP_FEATURES, advance)


def clusters_of(
    run: SavedRun, names: Any, features: TopFeatures | None, listener: Listener
) -> tuple[Column | None, list[clustering.Cluster]]:
    """The coarse clusters as a column, and all clusters that have a name; labels.parquet of the run then holds them too.

    (None, []) where there are neither names nor features to name clusters by.
    """
    if names is None and features is None:
        return None, []
    with _stage(listener, "clusters", None) as advance:
        levels = clustering.find(run.embedding)
        clusters = clustering.name(run.embedding, levels, clustering.Words(names, features))
        advance(1)
    try:
        clustering.write(run.path / "labels.parquet", clusters)
    except OutputError as e:  # the run may be somebody else's; the picture is what the user asked for
        listener(Note("warning", str(e)))
    texts = {c.number: c.text for c in clusters if c.level == 0}
    values = np.array([texts.get(i, f"cluster {i}") for i in range(levels[0].n_clusters)] + [None], object)
    return label_column("cluster", values[levels[0].codes]), clusters


@contextmanager
def _stage(listener: Listener, name: str, source: RowSource | None) -> Iterator[Advance]:
    """Emits the events of a stage of as many units as the source has rows, or of one."""
    total, done, started = source.n_rows if source else 1, 0, monotonic()
    listener(StageStarted(name, total, "rows" if source else "pass"))

    def advance(n: int) -> None:
        nonlocal done
        done += n
        listener(StageAdvanced(name, done))

    yield advance
    listener(StageDone(name, monotonic() - started, f"{total:,} rows" if source else ""))
