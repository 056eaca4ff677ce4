"""What the stages of one run share."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from streamumap import __version__
from streamumap.events import Listener
from streamumap.machine import gpu
from streamumap.neighbors.given import GivenGraph
from streamumap.neighbors.metric import named
from streamumap.params import Params
from streamumap.planning.job import Plan
from streamumap.planning.overheads import CONTEXT_BYTES
from streamumap.run.recorder import Meter, Recorder
from streamumap.run.report import report
from streamumap.show.meta import Meta
from streamumap.source import RowSource, ToConvert, open_rows
from streamumap.source.scan.cpu import Scan
from streamumap.source.sparse.csr_rows import CsrRows
from streamumap.source.views.centered import View
from streamumap.source.views.row_selection import RowSelection
from streamumap.store.blockfile import BlockFile
from streamumap.store.resumable import SavedCheckpoint
from streamumap.store.workdir import Workdir


@dataclass(frozen=True)
class New:
    """Rows that are placed on the map of others: which of those that were given, and what a pass found in them."""

    kept: RowSelection
    source: RowSource
    found: Scan


class Run(Recorder):
    """`given` is the input as it was opened, `origin` where and how, for run.json. `source`, once it is read: its rows that are in
    the map, `kept` says which, as `view` has them, `csr` without their zeros where these are many; `opened`: all that were given,
    as they are read. `new`: with `places_rest`, the rows beside a sample."""

    source: RowSource
    opened: RowSource

    def __init__(
        self,
        given: RowSource | ToConvert,
        params: Params,
        plan: Plan,
        work: Workdir,
        listener: Listener,
        stopping: Callable[[], bool],
        sample: np.ndarray | None,
        given_knn: GivenGraph | None,
        meta: Meta | None,
        drop_nonfinite: bool,
        n_snapshots: int,
        places_rest: bool = False,
        origin: dict | None = None,
    ):
        super().__init__(plan, listener, stopping)
        if plan.device:
            gpu.load()  # takes seconds, in which the watching process starts
            self.watch.lap()
            gpu.cap(plan.device, (plan.budget.device_bytes or 0) - CONTEXT_BYTES)
        self.given, self.params, self.work = given, params, work
        self.sample, self.given_knn, self.meta = sample, given_knn, meta
        self.drop_nonfinite, self.n_snapshots = drop_nonfinite, n_snapshots
        self.kept = RowSelection(given.n_rows, sample)
        self.csr: CsrRows | None = None
        self.view = View()
        self.places_rest, self.origin = places_rest, origin or {}
        self.new: New | None = None
        self.kept_files: set[str] = set()  # of the k-NN graph, made by `knn`
        self.given_start = open_rows(params.init).fingerprint if params.init.endswith(".npy") else None
        self.started = time.monotonic()
        work.warn = self.warn
        if work.damaged:
            self.warn("manifest.json is not what the run wrote there; nothing of the run before is used.")

    def checkpoint(self, name: str, key: str, what: str, meter: Meter) -> SavedCheckpoint:
        """Of work that is made from what `key` stands for; `what`: its name for people."""
        return SavedCheckpoint(self.work, name, key, what, meter, self.stopping, meter.stop, self.warn, self.reuse)

    @contextmanager
    def stage(self, name: str, total: int, unit: str, resumable: bool = False) -> Iterator[tuple[Meter, list[str]]]:
        """As Recorder.stage, with a line of run.log when it begins and when it ends."""
        self.work.log("begin", stage=name, backend=self.plan[name].backend, blocks=self.plan[name].blocks)
        started = time.monotonic()
        with super().stage(name, total, unit, resumable) as (meter, result):
            yield meter, result
            seconds = round(time.monotonic() - started, 3)
            self.work.log("end", stage=name, seconds=seconds, result=result[-1])

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Lines of run.log for the beginning and the end of all."""
        self.work.log("run", version=__version__, device=self.plan.device or "cpu", params=self.params.to_json())
        try:
            yield
            self.work.log("finished", seconds=round(time.monotonic() - self.started, 3))
        except BaseException as e:
            self.work.log("ended", why=type(e).__name__, text=str(e))
            raise

    def warn(self, text: str) -> None:
        super().warn(text)
        self.work.log("warning", text=text)

    def reuse(self, what: str) -> None:
        super().reuse(what)
        self.work.log("reuse", what=what)

    def close(self) -> None:
        super().close()
        if self.csr is not None:
            self.csr.close()

    def clip_to(self, n_rows: int) -> None:
        """As many neighbours as there are rows, at most."""
        if self.params.n_neighbors > n_rows:
            self.warn(f"n_neighbors: {self.params.n_neighbors} is more than the {n_rows} rows; {n_rows} are used.")
            self.params = replace(self.params, n_neighbors=n_rows)

    def publish(
        self,
        name: str,
        array: np.ndarray,
        missing: float,
        of_block: Callable[[np.ndarray], np.ndarray] = lambda block: block,
    ) -> None:
        """Results of the rows that are in the map, as a file with a row for each that was given; `of_block`: of a part of them."""
        file = self.work.create(name, (self.kept.n_rows, *array.shape[1:]), array.dtype)
        for start, block in self.kept.blocks_back(array, missing, of_block):
            file.write(start, block)
        file.sync()
        file.close()
        self.work.publish_saved(name)

    def of_kept(self, name: str) -> np.ndarray:
        """Of a file with a row for each that was given, those in the map."""
        file = self.work.open(name)
        out = np.empty((self.source.n_rows, *file.shape[1:]), file.dtype)
        for start, block in self.kept.blocks_of(file):
            out[start : start + len(block)] = block
        file.close()
        return out

    def knn(self) -> tuple[BlockFile, BlockFile]:
        """Indices and distances of the k-NN graph of the rows that are in the map, as these were searched."""
        if self.kept.rows is None and not self.view.exponent:
            return self.work.open("knn_indices"), self.work.open("knn_distances")
        return (
            self._of_kept("indices", self.kept.numbers_of),
            self._of_kept("distances", lambda block: self.view.resized(block, unit=named(self.params.metric).unit)),
        )

    def _of_kept(self, name: str, of_block: Callable[[np.ndarray], np.ndarray]) -> BlockFile:
        if name in self.kept_files:
            return self.work.open(f"kept_{name}")
        given = self.work.open(f"knn_{name}")
        file = self.work.create(f"kept_{name}", (self.source.n_rows, *given.shape[1:]), given.dtype)
        for start, block in self.kept.blocks_of(given):
            file.write(start, of_block(block))
        given.close()
        self.kept_files.add(name)
        return file

    def neighbors_of(self, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours of these rows, (S, k - 1) without themselves, and the distances."""
        files = self.knn()
        indices, distances = (np.concatenate([file.read(i, i + 1)[:, 1:] for i in sample]) for file in files)
        for file in files:
            file.close()
        return indices, distances

    def neighbor_blocks(self, block_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, neighbours int32 (B, k - 1) without the rows themselves) of all rows that are in the map, in order."""
        file = self.work.open("knn_indices")
        for start, block in self.kept.blocks_of(file, block_rows):
            yield start, self.kept.numbers_of(block)[:, 1:]
        file.close()

    def report(self, found: Scan) -> dict:
        """The content of run.json so far."""
        n_sampled = None if self.sample is None else len(self.sample)
        seconds = time.monotonic() - self.started
        seen: dict = {"exponent": self.view.exponent, "centred": self.view.centre is not None}
        seen |= {"compared_nonzero": self.plan.job.n_nonzero, "non_negative": found.non_negative}
        origin = self.origin | seen
        return report(
            self.source, self.given.n_rows, n_sampled, found, self.params, self.plan, seconds, self.measured, origin
        )
