"""SavedRun: a run read back from its folder, with its map, its report and the input it was made from."""

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
    """A run in a folder. `report` is the content of run.json, None where the run is not finished; `facts` says the input,
    the settings and the quality in one line."""

    path: Path
    embedding: np.ndarray  # (N, 2 or more) float32
    report: dict | None
    title: str
    facts: str


def open_run(path: Path) -> SavedRun:
    """Opens the run in a folder, or its last checkpoint where it is not finished. Raises InputError."""
    file = next((p for p in (path / "embedding.npy", path / "scratch" / "layout.state") if p.exists()), None)
    if file is None:
        raise InputError(
            f"{path}: expected a run with a map or the beginning of one, found no embedding.npy; start it with streamumap embed."
        )
    embedding = read_map(file)
    if embedding.shape[1] < 2:
        raise InputError(
            f"{path}: expected a map of 2 or more dimensions, found {embedding.shape[1]}; a picture needs two."
        )
    if not (path / "run.json").exists():
        return SavedRun(path, embedding, None, path.name, "not finished")
    report, title, facts = _read_report(path / "run.json")
    return SavedRun(path, embedding, report, title, facts)


def describe(report: dict) -> tuple[str, str]:
    """The title and the subtitle of a run's picture, from the content of run.json."""
    source, quality = report["input"], report["quality"]
    facts = f"{source['rows']:,} x {source['features']:,} {source['dtype']}, {report['params']['metric']}, k {report['params']['n_neighbors']}"
    if "map" in report:
        return Path(source["name"]).name, f"{facts}; placed on the map of {report['map']['rows']:,} rows"
    if "placed" in report:
        facts += f"; {report['placed']['rows']:,} of them placed on the map of the others"
    return Path(source["name"]).name, f"{facts}; {say_all(quality)}"


def input_of(run: SavedRun, option: str | None = None) -> RowSource | None:
    """Opens the input of the run: the file that --input names (`option`), else where the report says it was, or beside the
    run; None where it is in neither. Raises InputError where the file of --input is another matrix."""
    recorded = (run.report or {}).get("input", {})
    name = recorded.get("name", "")
    candidates = [option] if option else [name, str(run.path.parent / Path(name).name)] if name else []
    for candidate in candidates:
        if not (option or Path(candidate).exists()):
            continue
        try:
            source = open_rows(candidate, Reading("bfloat16" if recorded.get("dtype") == "bfloat16" else None))
        except InputError:
            if option:
                raise
            continue
        if _same(source, recorded, len(run.embedding)):
            return source
        source.close()
        if option:
            raise InputError(
                f"--input: {option}: expected the input of {run.path}, found other rows; give the file it was made from."
            )
    return None


def _same(source: RowSource, recorded: dict, n_rows: int) -> bool:
    """Whether the source has the recorded rows and content, wherever the file was moved."""
    if source.n_rows != n_rows:
        return False
    was, now = recorded.get("fingerprint", {}).get("blake2b"), source.fingerprint.get("blake2b")
    return was is None or now is None or was == now


def read_map(path: Path) -> np.ndarray:
    """Reads the positions in a .npy or .state file of a run. Raises InputError."""
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
    """Reads embedding.parquet of the run as a pyarrow table; None where the run is not finished. Raises InputError."""
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
    """Reads run.json: its content, the title and the subtitle. Raises InputError."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return report, *describe(report)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{path}: expected the report of a run, found something else; run streamumap embed again."
        ) from e
