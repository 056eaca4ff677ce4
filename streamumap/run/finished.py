"""A finished map with everything that new rows need to get a position on it: rows, positions, parameters."""

import hashlib
import json
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.neighbors.metric import named
from streamumap.params import Params
from streamumap.planning.job import Job, job_of
from streamumap.source import Reading, RowSource, ToConvert, open_rows, open_source
from streamumap.source.views.centered import ComparedView, rebuild_view
from streamumap.source.views.row_selection import RowSelection
from streamumap.store.blockfile import BlockFile
from streamumap.store.manifest import NAME as MANIFEST
from streamumap.store.manifest import check_identity

AS_WRITTEN = {"mtime_ns", "inode"}
"""Parts of a fingerprint that differ between two copies of one file."""

OF_THE_INPUT = ("path", "reading", "exponent", "centred", "non_negative", "compared_nonzero", "fingerprint")
"""Fields of a report's "input" without which no row can be placed."""


@dataclass(frozen=True)
class Finished:
    """`name`: the run's name for people. `input`: the rows as they were opened. `kept`: which of them are on the map, at `positions`
    float32 (N, n_components). `folder`: the run's folder, or None where none was kept."""

    name: str
    input: RowSource | ToConvert
    kept: RowSelection
    positions: np.ndarray
    params: Params
    report: dict
    folder: Path | None

    @property
    def path(self) -> str:
        """The absolute path of the folder; "" where none was kept."""
        return os.path.abspath(self.folder) if self.folder else ""

    @property
    def centred(self) -> bool:
        """True where the rows were compared after their centre was subtracted."""
        return self.report["input"]["centred"]

    @property
    def non_negative(self) -> bool:
        return self.report["input"]["non_negative"]

    @property
    def n_nonzero(self) -> int:
        """How many values of the rows, as they were compared, are not zero."""
        return self.report["input"]["compared_nonzero"]

    @property
    def reading(self) -> Reading:
        return Reading.from_json(self.report["input"]["reading"])

    @property
    def fingerprint(self) -> dict:
        """Identifies the map: another map, or this one made again from other rows, has another fingerprint."""
        digest = hashlib.blake2b(self.positions.tobytes(), digest_size=16)
        digest.update(json.dumps([self.params.to_json(), self.report["input"]["fingerprint"]], sort_keys=True).encode())
        return {"format": "map", "blake2b": digest.hexdigest()}

    def job(self) -> Job:
        """The rows on the map, as a search sees them, for the plan."""
        if self.params.reduce != "none":
            dims = min(self.params.reduce_dims, self.input.n_features, len(self.positions))
            return Job(len(self.positions), dims, "float32", mapped=True)
        job = job_of(self.input)
        dtype = "float32" if self.centred or self.report["input"]["exponent"] else job.dtype
        return replace(job, n_rows=len(self.positions), dtype=dtype, n_nonzero=self.n_nonzero, mapped=True)

    def view(self, given: RowSource) -> ComparedView:
        """How the rows on the map were compared. `given`: the input, readable in place."""
        return rebuild_view(
            self.kept.source(given), self.report["input"]["exponent"], self.centred, unit=named(self.params.metric).unit
        )

    def reduced(self) -> tuple[RowSource, BlockFile]:
        """The reduced rows on the map, and the file of the components. Raises InputError where the run did not keep them."""
        files = [self.folder / "scratch" / f"{name}.npy" for name in ("reduced", "components")] if self.folder else []
        job = self.job()
        if files and all(file.exists() for file in files):
            rows, components = open_rows(files[0]), BlockFile.open(files[1])
            shape = (1 + job.n_features, self.input.n_features)
            if (rows.n_rows, rows.n_features, components.shape) == (job.n_rows, job.n_features, shape):
                return rows, components
        raise InputError(
            f"{self.name}: --reduce: expected the reduced rows of the map in its folder, found none; "
            "make the map again with an --out that is kept."
        )

    def close(self) -> None:
        self.input.close()


def open_finished(folder: Path, where: Any = None) -> Finished:
    """Opens the run in a folder. `where`: the input, if it was moved. Raises InputError where the run or its input is missing, and
    InputChanged where the input has changed."""
    report, stages = _report(folder), _stages(folder)
    try:
        mapped, everything = (BlockFile.open(folder / f"{name}.npy") for name in ("knn_indices", "embedding"))
        if len(mapped.shape) != 2 or len(mapped) != len(everything):
            raise ValueError(f"knn_indices.npy of shape {mapped.shape} beside embedding.npy of {everything.shape}")
        whole = everything.checksum() == stages["embedding"]["checksums"]["embedding"]
        kept, positions = _in_graph(mapped), everything.read(0, len(everything))
        mapped.close()
        everything.close()
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{folder}: expected the files of a finished run, found others or none ({e}); run streamumap embed again."
        ) from e
    if not whole:
        raise InputError(f"{folder}: embedding.npy is not what the run wrote there; run streamumap embed again.")
    path = report["input"]["path"]
    if where is None and not (path and _is_there(path)):
        expected = f"its input at {path}" if path else "an input with a path"
        raise InputError(f"{folder}: expected {expected}, found none; say with --input where its rows are now.")
    given = open_source(where if where is not None else path, Reading.from_json(report["input"]["reading"]))
    return finished_map(str(folder), given, kept, positions, report, folder, moved=where is not None)


def finished_map(
    name: str,
    given: RowSource | ToConvert,
    kept: RowSelection,
    positions: np.ndarray,
    report: dict,
    folder: Path | None = None,
    moved: bool = False,
) -> Finished:
    """Joins an open input with the positions of all its rows. With `moved`, only the content of the input must be that of the run, not its
    place or time. Raises InputError, InputChanged."""
    was, now = report["input"]["fingerprint"], given.fingerprint
    same = _content(was) == _content(now) if moved else was == now
    if not same or given.n_rows != len(positions):
        given.close()
        if not moved:
            remedy = "make the map again"
            remedy += "; or, where it has the same rows as then, name it with --input" if name == str(folder) else ""
            check_identity(was, now, given.name, f"as when {name} was made", remedy)
        raise InputError(
            f"{given.name}: rows: expected those of {name}, found others; give the input that it was made from."
        )
    params = Params(**{f.name: report["params"][f.name] for f in fields(Params)})
    return Finished(name, given, kept, np.ascontiguousarray(kept.of(positions)), params, report, folder)


def _report(folder: Path) -> dict:
    path = folder / "run.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        missing = [field for field in OF_THE_INPUT if field not in report["input"]]
        missing += [field.name for field in fields(Params) if field.name not in report["params"]]
        Params(**report["params"])
    except FileNotFoundError as e:
        raise InputError(
            f"{folder}: expected a finished run, found no run.json; make one with streamumap embed."
        ) from e
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{path}: expected the report of a map that rows can be placed on, found another; run streamumap embed again."
        ) from e
    if missing:
        raise InputError(
            f"{path}: expected the report of a map that rows can be placed on, found one without {', '.join(missing)}; "
            "run streamumap embed again."
        )
    return report


def _stages(folder: Path) -> dict:
    """The finished stages of a run by its manifest. A run that was started again no longer lists what it will replace."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(
            f"{folder / MANIFEST}: expected the manifest of a run, found none; run streamumap embed again."
        ) from e


def _in_graph(indices: BlockFile) -> RowSelection:
    """Selects the rows on the map: those that have themselves as first neighbour."""
    n, found = len(indices), []
    for start, block in indices.blocks(65_536):
        found.append(start + np.flatnonzero(block[:, 0] == np.arange(start, start + len(block))))
    rows = np.concatenate(found).astype(np.int64)
    return RowSelection(n, None if len(rows) == n else rows)


def _is_there(path: str) -> bool:
    return os.path.exists(path) or any(character in path for character in "*?[")


def _content(fingerprint: Any) -> Any:
    if isinstance(fingerprint, dict):
        return {key: _content(value) for key, value in fingerprint.items() if key not in AS_WRITTEN}
    return [_content(value) for value in fingerprint] if isinstance(fingerprint, list) else fingerprint
