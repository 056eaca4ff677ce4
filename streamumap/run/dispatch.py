"""The backends of a run. Reading, search, ranks, graph and points on the map go to the backend that the plan names, with its rows and block
sizes. Backends are imported when they are used."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.events import Advance
from streamumap.neighbors.cuda import points_sizes
from streamumap.neighbors.metric import Metric, compared, named
from streamumap.neighbors.protocol import Backend, ComparedRows, Count, KnnGraph, NearestBackend, SearchRequest
from streamumap.neighbors.sparse.sizes import CORPUS_ROWS
from streamumap.neighbors.zero import close_gaps, join_zero_rows
from streamumap.params import Params
from streamumap.planning.job import Plan
from streamumap.source import RowSource
from streamumap.source.scan.cpu import scan
from streamumap.source.scan.result import Scan
from streamumap.source.sparse.csr_rows import CsrRows
from streamumap.source.views.centered import ComparedView
from streamumap.store.blockfile import BlockFile
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint

FINISHED_VALUES = 1 << 16
"""Distances of a graph that are turned into those of the user's metric together."""


@dataclass(frozen=True)
class Rows:
    """The rows of a run in the forms that stages take, as `view` has them. `searched`: `original` or its reduced form. `csr`: the rows in CSR
    form, or None where they have few zeros. `asked`: the name of the user's metric."""

    original: RowSource
    searched: RowSource
    csr: CsrRows | None
    found: Scan
    view: ComparedView
    asked: str

    @property
    def metric(self) -> Metric:
        """The metric under which these rows are compared: a view may have brought them to length 1 already."""
        return compared(named(self.asked), self.view)

    @property
    def reduced(self) -> bool:
        return self.searched is not self.original

    def to_search(self, plan: Plan) -> ComparedRows:
        """The rows among which neighbors are searched for."""
        non_negative = self.found.non_negative and not self.reduced and not self.view.unit
        return ComparedRows(self.searched, self.csr, self.metric, non_negative, plan.device)

    def to_count(self, plan: Plan) -> ComparedRows:
        """The original rows, among which ranks are counted."""
        return replace(self.to_search(plan), source=self.original)


def backend(name: str) -> Backend:
    """Get the module of a k-NN search, by the name that a plan gives it."""
    if name == "packed":
        from streamumap.neighbors.sparse import search as sparse

        return sparse
    if name == "cuda":
        from streamumap.neighbors.cuda import search as cuda

        return cuda
    if name == "cuvs":
        from streamumap.neighbors import cuvs

        return cuvs
    assert name == "dense", name
    from streamumap.neighbors.dense import search as dense

    return dense


def nearest_backend(name: str) -> NearestBackend:
    """Get the module of a search for the neighbors of new rows, by the name that a plan gives it."""
    if name == "packed":
        from streamumap.neighbors.sparse import nearest as sparse

        return sparse
    if name == "cuda":
        from streamumap.neighbors.cuda import nearest as cuda

        return cuda
    assert name == "dense", name
    from streamumap.neighbors.dense import nearest as dense

    return dense


def check_installed(p: Params) -> None:
    """Raise InputError where a backend is asked for by name whose package is not installed."""
    for option, package in (("neighbors", "cuvs"), ("layout", "cuml")):
        if getattr(p, option) == package and find_spec(package) is None:
            raise InputError(
                f"--{option}: expected {package} to be installed, found none; pip install 'streamumap[{package}]' or use --{option} auto."
            )


def read(
    source: RowSource, plan: Plan, advance: Advance, checkpoint: Checkpoint = NO_CHECKPOINT
) -> tuple[Scan, CsrRows | None]:
    """Scan the rows; where a GPU does, it may return them without their zeros too."""
    stage = plan["read"]
    if stage.backend == "cuda":
        from streamumap.source.scan import cuda as scan_cuda

        assert plan.device
        room_bytes = plan.budget.host_bytes - stage.predicted.host_bytes
        return scan_cuda.scan(source, stage.blocks["block_rows"], plan.device, room_bytes, advance, checkpoint)
    return scan(source, stage.blocks["block_rows"], advance, checkpoint), None


def search(
    rows: Rows,
    plan: Plan,
    p: Params,
    sample: np.ndarray,
    is_good_enough: Callable[[np.ndarray, np.ndarray], bool],
    advance: Advance,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> KnnGraph:
    """Find the k-NN graph by the planned backend. An approximate search stops once `is_good_enough(neighbors (S, k - 1), their ranks)` accepts
    the neighbors of the rows `sample` int64 (S,)."""

    def reached(neighbors: np.ndarray, count: Count | None = None) -> bool:
        if count is None or rows.reduced:
            count = partial(count_closer, rows, plan)
        return is_good_enough(neighbors, count(sample, neighbors))

    planned = plan["neighbors"]
    request = SearchRequest(
        rows.to_search(plan), p.n_neighbors, planned.blocks, rows.found.is_zero, sample, reached, p.seed,
        exhaustive=p.recall >= 1.0, n_threads=plan.machine.n_cores, advance=advance, checkpoint=checkpoint,
    )  # fmt: skip
    graph = backend(planned.backend).search(request)
    if rows.view.unit:
        _finish_unit(rows, graph)
    return graph


def _finish_unit(rows: Rows, graph: KnnGraph) -> None:
    """Turn the distances of rows that the view has brought to length 1 into those of the user's metric, in place."""
    metric, is_zero = named(rows.asked), rows.found.is_zero
    step = max(1, FINISHED_VALUES // graph.indices.shape[1])
    for start in range(0, len(graph.indices), step):
        indices, distances = (array[start : start + step] for array in graph)
        rows.view.to_asked_metric(
            indices, distances, lambda squares: metric.from_squares(squares, np), is_zero[indices]
        )
    if rows.reduced:
        close_gaps(*graph)  # zero rows need not be the furthest any more
    join_zero_rows(*graph, np.flatnonzero(is_zero).astype(np.int32))


def search_steps(plan: Plan) -> int:
    """Count the rows by which `search` advances: all rows for each pass. An approximate search makes at least one pass."""
    n, planned = plan.job.n_rows, plan["neighbors"]
    if planned.backend == "packed" and not planned.blocks["batch_rows"]:
        return n * (1 + -(-n // CORPUS_ROWS))
    return n


def count_closer(rows: Rows, plan: Plan, sample: np.ndarray, others: np.ndarray, stage: str = "quality") -> np.ndarray:
    """Count exact ranks in the ORIGINAL rows, whatever was searched: int64 (S, m). Reads blocks of the size planned for `stage`."""
    name = "cuda" if plan.device else "dense" if rows.csr is None else "packed"
    blocks = plan[stage].blocks
    if blocks.get("pass_rows"):
        from streamumap.neighbors.cuda import count_passing

        return count_passing.count_closer(
            rows.to_count(plan), sample, others, blocks["block_rows"], blocks["pass_rows"]
        )
    return backend(name).count_closer(rows.to_count(plan), sample, others, blocks["block_rows"])


def points(plan: Plan, embedding: np.ndarray) -> Any:
    """Prepare the positions float32 (N, c) of a map for questions about nearest rows, ranks and lost neighbors: the `Points` of the planned
    device."""
    if plan.device:
        from streamumap.neighbors.cuda import points as cuda_points

        return cuda_points.Points(embedding, plan.device, points_sizes.values(plan["quality"].blocks["query_rows"]))
    from streamumap.neighbors import points as cpu_points

    return cpu_points.Points(embedding, plan.machine.n_cores)


def build_graph(plan: Plan, p: Params, knn: tuple[BlockFile, BlockFile], checkpoint: Checkpoint, advance: Advance):
    """Build the fuzzy graph of a k-NN graph, (indices, distances), and find the rows of each of its components."""
    planned = plan["graph"]
    given: dict = dict(
        local_connectivity=p.local_connectivity, set_op_mix_ratio=p.set_op_mix_ratio, advance=advance, **planned.blocks
    )
    if planned.backend == "cuda":
        from streamumap.graph import cuda

        assert plan.device
        return cuda.build(*knn, checkpoint.create, device=plan.device, **given)
    from streamumap.graph import build

    return build.build(*knn, checkpoint.create, checkpoint=checkpoint, **given)
