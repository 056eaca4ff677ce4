"""Who does what the plan says: the one place where a stage's backend, its rows and its numbers meet. Backends are
imported when they are used."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.events import Advance
from streamumap.machine import memory
from streamumap.neighbors.cuda.points_sizes import values
from streamumap.neighbors.sparse import sizes
from streamumap.neighbors.zero import close_gaps, join_zero_rows
from streamumap.params import Params
from streamumap.planning.job import Plan
from streamumap.source import RowSource
from streamumap.source.scan.cpu import scan
from streamumap.source.scan.result import Scan
from streamumap.source.sparse.csr_rows import CsrRows
from streamumap.source.views.centered import ComparedView
from streamumap.source.views.normalized import DenseRows
from streamumap.store.blockfile import BlockFile
from streamumap.store.checkpoint import NO_CHECKPOINT, Checkpoint


@dataclass(frozen=True)
class Rows:
    """The rows in the forms that stages want, seen as `view` has them. `searched` is `original` or its reduced form; `csr` None: not
    mostly zeros. `asked`: the metric of the user."""

    original: RowSource
    searched: RowSource
    csr: CsrRows | None
    found: Scan
    view: ComparedView
    asked: str

    @property
    def metric(self) -> str:
        """The one under which these rows are compared."""
        return self.view.metric(self.asked)


def check_installed(p: Params) -> None:
    """Raises InputError where a backend is asked for by name whose package is not there."""
    for option, package in (("neighbors", "cuvs"), ("layout", "cuml")):
        if getattr(p, option) == package and find_spec(package) is None:
            raise InputError(
                f"--{option}: expected {package} to be installed, found none; pip install 'streamumap[{package}]' or use --{option} auto."
            )


def read(
    source: RowSource, plan: Plan, advance: Advance, checkpoint: Checkpoint = NO_CHECKPOINT
) -> tuple[Scan, CsrRows | None]:
    """What is to be known of the rows, and these without their zeros where a GPU packs them on the way."""
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
    enough: Callable[[np.ndarray, np.ndarray], bool],
    advance: Advance,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[np.ndarray, np.ndarray]:
    """The k-NN graph by the planned backend: indices int32, distances float32 (N, k).

    Where it is approximate, until `enough(neighbours (S, k - 1) of the rows in `sample` int64 (S,), their ranks)`.
    """
    indices, distances = _search(rows, plan, p, sample, enough, advance, checkpoint)
    if rows.view.unit:
        rows.view.to_asked_metric(indices, distances, rows.found.is_zero[indices])
        if rows.searched is not rows.original:
            close_gaps(indices, distances)  # zero rows need not be the furthest any more
        join_zero_rows(indices, distances, np.flatnonzero(rows.found.is_zero).astype(np.int32))
    return indices, distances


def _search(rows: Rows, plan: Plan, p: Params, sample, enough, advance: Advance, checkpoint: Checkpoint):
    planned = plan["neighbors"]
    non_negative = rows.found.non_negative and rows.searched is rows.original and not rows.view.unit
    given: dict = dict(is_zero=rows.found.is_zero, advance=advance, **planned.blocks)
    if planned.backend == "cuvs":
        return _search_by_cuvs(rows, plan, p, sample, enough, non_negative=non_negative, **given)
    given["checkpoint"] = checkpoint
    if planned.backend == "packed":
        return _search_packed(rows, plan, p, sample, enough, non_negative=non_negative, **given)
    if planned.backend == "cuda":
        return _search_on_device(rows, plan, p, sample, enough, non_negative=non_negative, **given)
    from streamumap.neighbors.dense import search as dense

    def reached(neighbors: np.ndarray) -> bool:
        memory.trim()  # threads that search leave as much behind as counting takes
        return enough(neighbors[sample], count_closer(rows, plan, sample, neighbors[sample]))

    wanted: dict = dict(seed=p.seed, n_threads=plan.machine.n_cores, reached=reached, exhaustive=p.recall >= 1.0)
    return dense.search(DenseRows(rows.searched, rows.metric), p.n_neighbors, **wanted, **given)


def _search_packed(rows: Rows, plan: Plan, p: Params, sample, enough, **given):
    from streamumap.neighbors.sparse import search as sparse

    def reached(others: np.ndarray) -> bool:
        return enough(others, count_closer(rows, plan, sample, others))

    return sparse.search(rows.csr, p.n_neighbors, rows.metric, seed=p.seed, sample=sample, reached=reached, **given)


def _search_on_device(rows: Rows, plan: Plan, p: Params, sample, enough, *, other_rows: int, **given):
    from streamumap.neighbors.cuda import search as cuda

    with on_device(rows, plan, other_rows) as there:

        def reached(others: np.ndarray) -> bool:
            if rows.searched is not rows.original:
                return enough(others, count_closer(rows, plan, sample, others))
            return enough(others, cuda.count_closer(there, sample, others, other_rows=other_rows))

        wanted: dict = dict(seed=p.seed, sample=sample, reached=reached, other_rows=other_rows)
        return cuda.search(there, p.n_neighbors, **wanted, **given)


def _search_by_cuvs(rows: Rows, plan: Plan, p: Params, sample, enough, *, query_rows: int, other_rows: int, **given):
    from streamumap.neighbors import cuvs
    from streamumap.neighbors.cuda import search as cuda

    def measured(candidates: np.ndarray):
        with on_device(rows, plan, other_rows) as there:
            return cuvs.measure(there, candidates, query_rows, other_rows)

    def reached(neighbors: np.ndarray) -> bool:
        with on_device(rows, plan, other_rows, original=True) as there:
            others = neighbors[sample]
            return enough(others, cuda.count_closer(there, sample, others, other_rows=other_rows))

    wanted: dict = dict(device=plan.device, measured=measured, reached=reached)
    return cuvs.search(DenseRows(rows.searched, rows.metric), p.n_neighbors, **wanted, **given)


@contextmanager
def on_device(rows: Rows, plan: Plan, chunk_rows: int, original: bool = False) -> Iterator[Any]:
    """The rows for a GPU backend: as pairs that stay there, else as dense rows that pass by, `chunk_rows` at a time."""
    from streamumap.neighbors.cuda import search as cuda

    assert plan.device
    if rows.csr is not None:
        there: Any = cuda.SparseOnDevice(rows.csr, rows.metric, plan.device)
    else:
        there = cuda.DenseOnDevice(rows.original if original else rows.searched, rows.metric, chunk_rows, plan.device)
    with closing(there):
        yield there


def search_steps(plan: Plan) -> int:
    """How many rows `search` ticks: of each pass over them. Approximate ones make as many as it takes; one is sure."""
    n, planned = plan.job.n_rows, plan["neighbors"]
    if planned.backend == "packed" and not planned.blocks["batch_rows"]:
        return n * (1 + -(-n // sizes.CORPUS_ROWS))
    return n


def count_closer(rows: Rows, plan: Plan, sample: np.ndarray, others: np.ndarray, stage: str = "quality") -> np.ndarray:
    """Exact ranks in the ORIGINAL rows, whatever was searched: int64 (S, m). By blocks of the stage that asks."""
    block_rows = plan[stage].blocks["block_rows"]
    if plan.device:
        from streamumap.neighbors.cuda import search as cuda

        with on_device(rows, plan, block_rows, original=True) as there:
            return cuda.count_closer(there, sample, others, other_rows=block_rows)
    if rows.csr is not None:
        from streamumap.neighbors.sparse import search as sparse

        return sparse.count_closer(rows.csr, sample, others, rows.metric, block_rows)
    from streamumap.neighbors.dense import search as dense

    return dense.count_closer(DenseRows(rows.original, rows.metric), sample, others, block_rows)


def points(plan: Plan, embedding: np.ndarray) -> Any:
    """The positions of a map, float32 (N, c), to be asked for nearest rows, ranks and lost neighbours: a `points.Points`
    of the device."""
    if plan.device:
        from streamumap.neighbors.cuda import points as cuda_points

        return cuda_points.Points(embedding, plan.device, values(plan["quality"].blocks["query_rows"]))
    from streamumap.neighbors import points as cpu_points

    return cpu_points.Points(embedding, plan.machine.n_cores)


def build_graph(plan: Plan, p: Params, knn: tuple[BlockFile, BlockFile], checkpoint: Checkpoint, advance: Advance):
    """The fuzzy graph of a k-NN graph, (indices, distances), and the rows of each of its components."""
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
