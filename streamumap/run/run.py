"""A run: its rows, its plan, its folder, and the calls that all stages use."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from streamumap import __version__
from streamumap.events import Listener
from streamumap.machine import gpu
from streamumap.neighbors.metric import Metric, named
from streamumap.planning.job import Plan
from streamumap.planning.overheads import CONTEXT_BYTES
from streamumap.request import Request
from streamumap.run.inputs import Inputs
from streamumap.run.recorder import Meter, Recorder
from streamumap.run.report import input_facts, report
from streamumap.source import RowSource, open_rows
from streamumap.source.scan.result import Scan
from streamumap.source.sparse.csr_rows import CsrRows
from streamumap.source.views.centered import ComparedView
from streamumap.source.views.row_selection import RowSelection
from streamumap.store.blockfile import BlockFile
from streamumap.store.saved_checkpoint import SavedCheckpoint
from streamumap.store.workdir import Workdir


@dataclass(frozen=True)
class New:
    """Rows that get a position on the map of others. `kept`: which rows of the input they are. `found`: the facts of a pass over them."""

    kept: RowSelection
    source: RowSource
    found: Scan


class Run(Recorder):
    """Everything that the stages of one run share.

    `input`: the rows of the request, as opened. `readable`: the same in a form that is read in place. `source`: those of them that are mapped,
    seen as `view` compares them; `kept` says which rows these are; `csr`: the same without their zeros, where that pays.
    `new`: with `place_rest`, the rows beside the sample. `params` and `plan` follow what is found in the rows.
    """

    source: RowSource
    readable: RowSource

    def __init__(
        self,
        request: Request,
        inputs: Inputs,
        plan: Plan,
        work: Workdir,
        listener: Listener,
        stopping: Callable[[], bool],
    ):
        super().__init__(plan, listener, stopping)
        if plan.device:
            gpu.load()  # takes seconds, in which the watching process starts
            self.watch.lap()
            gpu.cap(plan.device, (plan.budget.device_bytes or 0) - CONTEXT_BYTES)
        self.request, self.inputs, self.work = request, inputs, work
        self.params, self.input = request.params, inputs.source
        self.kept = RowSelection(inputs.source.n_rows, inputs.sample)
        self.csr: CsrRows | None = None
        self.view = ComparedView()
        self.new: New | None = None
        self.kept_files: set[str] = set()  # of the k-NN graph, made by `knn`
        self.given_start = open_rows(self.params.init).fingerprint if self.params.init.endswith(".npy") else None
        self.started = time.monotonic()
        work.warn = self.warn
        if work.damaged:
            self.warn("manifest.json is not what the run wrote there; nothing of the run before is used.")

    @property
    def metric(self) -> Metric:
        """The metric that the user asked for; `Rows.metric` is the one under which rows are compared."""
        return named(self.params.metric)

    def checkpoint(self, name: str, key: str, what: str, meter: Meter) -> SavedCheckpoint:
        """The checkpoint of one piece of work. `key` stands for everything that its result depends on; `what` is its name for people."""
        return SavedCheckpoint(self.work, name, key, what, meter, self)

    @contextmanager
    def stage(self, name: str, total: int, unit: str, resumable: bool = False) -> Iterator[tuple[Meter, list[str]]]:
        """Recorder.stage, with a line in run.log at the beginning and at the end."""
        self.work.log("begin", stage=name, backend=self.plan[name].backend, blocks=self.plan[name].blocks)
        started = time.monotonic()
        with super().stage(name, total, unit, resumable) as (meter, result):
            yield meter, result
            seconds = round(time.monotonic() - started, 3)
            self.work.log("end", stage=name, seconds=seconds, result=result[-1])

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Writes a line of run.log when the run begins and when it ends, however it ends."""
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
        """Lowers n_neighbors to the number of rows, with a warning."""
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
        """Writes results of the mapped rows to a file with a row for every row of the input. Rows that are not mapped get `missing`.
        `of_block` is applied to each block of `array` before it is written."""
        file = self.work.create(name, (self.kept.n_rows, *array.shape[1:]), array.dtype)
        for start, block in self.kept.blocks_back(array, missing, of_block):
            file.write(start, block)
        file.sync()
        file.close()
        self.work.publish_saved(name)

    def of_kept(self, name: str) -> np.ndarray:
        """Reads from a file with a row for every row of the input those of the mapped rows."""
        file = self.work.open(name)
        out = np.empty((self.source.n_rows, *file.shape[1:]), file.dtype)
        for start, block in self.kept.blocks_of(file):
            out[start : start + len(block)] = block
        file.close()
        return out

    def knn(self) -> tuple[BlockFile, BlockFile]:
        """The k-NN graph of the mapped rows, (indices, distances), numbered and scaled as the search had them."""
        if self.kept.rows is None and not self.view.exponent:
            return self.work.open("knn_indices"), self.work.open("knn_distances")
        return (
            self._of_kept("indices", self.kept.numbers_of),
            self._of_kept("distances", lambda block: self.view.scale(block, unit=self.metric.unit)),
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
        """Indices and distances (S, k - 1) of the neighbours of these rows, without the rows themselves."""
        files = self.knn()
        indices, distances = (np.concatenate([file.read(i, i + 1)[:, 1:] for i in sample]) for file in files)
        for file in files:
            file.close()
        return indices, distances

    def neighbor_blocks(self, block_rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first row, neighbours int32 (B, k - 1) without the rows themselves) over all mapped rows, in order."""
        file = self.work.open("knn_indices")
        for start, block in self.kept.blocks_of(file, block_rows):
            yield start, self.kept.numbers_of(block)[:, 1:]
        file.close()

    def report(self, found: Scan) -> dict:
        """The content of run.json so far."""
        compared = {
            "exponent": self.view.exponent,
            "centred": self.view.centre is not None,
            "compared_nonzero": self.plan.job.n_nonzero,
            "non_negative": found.non_negative,
        }
        return report(
            input_facts(self.source, self.inputs, found) | compared,
            self.params, self.plan, time.monotonic() - self.started, self.measured,
        )  # fmt: skip
