"""A run that is looked at: its map, what its report says, the input it was made from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.quality import say_all
from streamumap.source import Reading, RowSource, open_rows
from streamumap.store.blockfile import BlockFile
from streamumap.store.statefile import Damaged, read_state


@dataclass(frozen=True)
class SavedRun:
    """`report` is the content of run.json, None where the run is not finished."""

    path: Path
    embedding: np.ndarray  # (N, 2 or more) float32
    report: dict | None
    title: str
    facts: str


def open_run(path: Path) -> SavedRun:
    """The run in a folder, its last checkpoint where it is not finished. Raises InputError."""
    found = next((p for p in (path / "embedding.npy", path / "scratch" / "layout.state") if p.exists()), None)
    if found is None:
        raise InputError(
            f"{path}: expected a run with a map or the beginning of one, found no embedding.npy; start it with streamumap embed."
        )
    embedding = read_map(found)
    if embedding.shape[1] < 2:
        raise InputError(
            f"{path}: expected a map of 2 or more dimensions, found {embedding.shape[1]}; a picture needs two."
        )
    if not (path / "run.json").exists():
        return SavedRun(path, embedding, None, path.name, "not finished")
    report, title, facts = _read_report(path / "run.json")
    return SavedRun(path, embedding, report, title, facts)


def describe(report: dict) -> tuple[str, str]:
    """Title and subtitle of a run's picture, from its run.json."""
    source, quality = report["input"], report["quality"]
    facts = f"{source['rows']:,} x {source['features']:,} {source['dtype']}, {report['params']['metric']}, k {report['params']['n_neighbors']}"
    if "map" in report:
        return Path(source["name"]).name, f"{facts}; placed on the map of {report['map']['rows']:,} rows"
    if "placed" in report:
        facts += f"; {report['placed']['rows']:,} of them placed on the map of the others"
    return Path(source["name"]).name, f"{facts}; {say_all(quality)}"


def input_of(run: SavedRun, given: str | None = None) -> RowSource | None:
    """The input of the run: `given`, or where the report says it was, or beside the run; None where it is at neither of
    these. Raises InputError where `given` is another matrix."""
    recorded = (run.report or {}).get("input", {})
    name = recorded.get("name", "")
    places = [given] if given else [name, str(run.path.parent / Path(name).name)] if name else []
    for place in places:
        if not (given or Path(place).exists()):
            continue
        try:
            source = open_rows(place, Reading("bfloat16" if recorded.get("dtype") == "bfloat16" else None))
        except InputError:
            if given:
                raise
            continue
        if _same(source, recorded, len(run.embedding)):
            return source
        source.close()
        if given:
            raise InputError(
                f"--input: {given}: expected the input of {run.path}, found other rows; give the file it was made from."
            )
    return None


def _same(source: RowSource, recorded: dict, n_rows: int) -> bool:
    """Whether the source is the one recorded, wherever it was moved."""
    if source.n_rows != n_rows:
        return False
    was, now = recorded.get("fingerprint", {}).get("blake2b"), source.fingerprint.get("blake2b")
    return was is None or now is None or was == now


def read_map(path: Path) -> np.ndarray:
    """The positions in a .npy file of a run. Raises InputError."""
    try:
        if path.suffix == ".state":
            return read_state(path).array("positions")
        file = BlockFile.open(path)
    except (OSError, ValueError, KeyError, Damaged) as e:
        raise InputError(
            f"{path}: expected the map of a run, found something else or a part of it; run streamumap embed again."
        ) from e
    embedding = file.read(0, len(file))
    file.close()
    return embedding


def read_own_table(run: SavedRun) -> Any:
    """embedding.parquet of the run as a pyarrow table, None where the run is not finished. Raises InputError."""
    import pyarrow.parquet

    path = run.path / "embedding.parquet"
    if not path.exists():
        return None
    try:
        return pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as e:
        raise InputError(
            f"{path}: expected the table of a run, found something else; run streamumap embed again."
        ) from e


def _read_report(path: Path) -> tuple[dict, str, str]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return report, *describe(report)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{path}: expected the report of a run, found something else; run streamumap embed again."
        ) from e
