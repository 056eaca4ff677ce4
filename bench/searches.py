"""Prepares the k-NN searches that bench/neighbors.py compares: each gets its input, in the form that it needs, before it is timed.

`NAME@RECALL` is our search by that backend of --neighbors (packed, dense, cuda, cuvs) with that --recall; 1 compares all pairs unless
the backend is exact anyway. `nn-descent` is cuVS's all_neighbors with its defaults, `pynndescent` is called as umap-learn does.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from unittest import mock

import numpy as np
import tree  # noqa: F401

from streamumap import quality
from streamumap.events import no_advance
from streamumap.machine import memory
from streamumap.params import Params
from streamumap.planning.job import SEARCH_ROWS, Plan, job_of
from streamumap.planning.planner import make_plan
from streamumap.run import dispatch
from streamumap.run.dispatch import Rows
from streamumap.run.prepare import budget_for
from streamumap.source import Reading, open_rows, stored_dtype
from streamumap.source.scan.result import check_finite
from streamumap.source.sparse.csr_rows import csr_footprint, pack
from streamumap.source.views.centered import ComparedView
from streamumap.source.views.normalized import DenseRows
from streamumap.store.checkpoint import NO_CHECKPOINT

OURS = ("packed", "dense", "cuda", "cuvs")
PEERS = {"nn-descent": "cuvs", "pynndescent": "pynndescent"}
WARM_ROWS = 4096
FILL_BYTES = 2**24

Search = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Setting:
    """Rows as a run has them after its first stage, under one budget."""

    rows: Rows
    machine: memory.Machine
    budget: memory.Budget
    metric: str
    k: int
    read_seconds: float

    def plan(self, neighbors: str = "auto", recall: float = 0.95) -> tuple[Plan, Params]:
        found = self.rows.found
        p = Params(metric=self.metric, n_neighbors=self.k, neighbors=neighbors, recall=recall)
        job = replace(job_of(self.rows.original), n_nonzero=found.n_nonzero)
        return make_plan(job, p, self.budget, self.machine), p


def open_setting(x, width: int | None, metric: str, k: int, device: str, budget: str | None) -> Setting:
    """Reads and checks the rows of `x`, a path or an array, and stores sparse ones as CSR, as a run does."""
    started = time.perf_counter()
    source, machine = open_rows(x, Reading(n_features=width)), memory.machine(device)
    caps, p = budget_for(machine, budget, None), Params(metric=metric, n_neighbors=k)
    plan = make_plan(job_of(source), p, caps, machine)
    found, csr = dispatch.read(source, plan, no_advance, NO_CHECKPOINT)
    check_finite(source.name, found)
    plan = make_plan(replace(job_of(source), n_nonzero=found.n_nonzero), p, caps, machine)
    if plan.as_csr and csr is None:
        csr = pack(source, plan["read"].blocks["block_rows"], found.n_nonzero)
    rows = Rows(source, source, csr if plan.as_csr else None, found, ComparedView(), metric)
    return Setting(rows, machine, caps, metric, k, time.perf_counter() - started)


def few_rows(setting: Setting) -> Setting:
    """The first few thousand rows, to compile with."""
    source, device = setting.rows.original, setting.machine.device
    block = source.read(0, min(WARM_ROWS, source.n_rows))
    few = open_rows(block, Reading("bfloat16" if source.dtype == "bfloat16" else None))
    return open_setting(few, None, setting.metric, setting.k, device.label if device else "cpu", None)


def csr_bytes(setting: Setting) -> int:
    """Bytes of the CSR rows in memory; 0 if the rows are read from a file."""
    source, csr = setting.rows.original, setting.rows.csr
    if csr is None or setting.plan()[0].csr_on_disk:
        return 0
    itemsize = stored_dtype(csr.dtype).itemsize
    return csr_footprint(source.n_rows, source.n_features, csr.n_nonzero, itemsize, on_disk=False)[0]


def why_not(case: str, setting: Setting) -> str | None:
    """Why a case cannot run here, None if it can."""
    name = case.partition("@")[0]
    needs_gpu = name in ("cuda", "cuvs", "nn-descent")
    package = PEERS.get(name, "cuvs" if name == "cuvs" else None)
    if needs_gpu != (setting.machine.device is not None) and name != "pynndescent":
        return f"it runs on a {'GPU' if needs_gpu else 'CPU'} and --device is {'cpu' if needs_gpu else 'a GPU'}"
    if package and find_spec(package) is None:
        return f"{package} is not installed"
    if name == "packed" and setting.rows.csr is None:
        return "the rows are not mostly zeros"
    return None


def prepare(case: str, setting: Setting, warm: bool = False) -> Search:
    """A search that can be called repeatedly and returns indices int (N, c)."""
    name, _, recall = case.partition("@")
    if name in OURS:
        return _ours(name, float(recall or 0.95), setting, warm)
    return {"nn-descent": _nn_descent, "pynndescent": _pynndescent}[name](setting)


def _ours(name: str, recall: float, setting: Setting, warm: bool) -> Search:
    plan, p = setting.plan(name, recall)
    n = setting.rows.original.n_rows
    sample = quality.sample_rows(n, min(SEARCH_ROWS, n), p.seed)

    def enough(others: np.ndarray, ranks: np.ndarray) -> bool:
        return not warm and quality.reaches(ranks, others, recall)

    if warm and name == "cuda" and recall < 1:  # else it would compare all pairs of so few rows
        stage = plan["neighbors"]
        approximate = replace(stage, blocks=stage.blocks | {"chunk_rows": stage.blocks["other_rows"]})
        plan = replace(plan, stages=tuple(approximate if s is stage else s for s in plan.stages))

    def search() -> np.ndarray:
        with ExitStack() as patched:
            if warm and name == "dense" and recall < 1:
                way = "streamumap.neighbors.dense.search.all_with_all_is_cheaper"
                patched.enter_context(mock.patch(way, lambda *_: False))
            return dispatch.search(setting.rows, plan, p, sample, enough, no_advance, NO_CHECKPOINT)[0]

    return search


def _nn_descent(setting: Setting) -> Search:
    """cuVS NN-descent, on float32 rows in host memory, the only form that it takes."""
    import torch
    from cuvs.neighbors import all_neighbors, nn_descent

    matrix, k = _float32(setting), setting.k
    metric = {"euclidean": "sqeuclidean", "cosine": "cosine"}[setting.metric]
    params = all_neighbors.AllNeighborsParams(
        algo="nn_descent", n_clusters=1, overlap_factor=0, metric=metric, nn_descent_params=nn_descent.IndexParams(metric=metric)
    )  # fmt: skip
    assert setting.machine.device
    device = setting.machine.device.label

    def search() -> np.ndarray:
        found = torch.empty((len(matrix), k), dtype=torch.int64, device=device)
        far = torch.empty((len(matrix), k), dtype=torch.float32, device=device)
        all_neighbors.build(matrix, k, params, indices=found, distances=far)
        torch.cuda.synchronize()
        return found.cpu().numpy()

    return search


def _pynndescent(setting: Setting) -> Search:
    """pynndescent with umap-learn's settings, on a CSR matrix if the rows are mostly zeros, else on float32 rows."""
    from pynndescent import NNDescent

    csr, n = setting.rows.csr, setting.rows.original.n_rows
    rows = _float32(setting) if csr is None else _csr(csr)
    settings = dict(
        n_trees=min(64, 5 + round(n**0.5 / 20)), n_iters=max(5, round(np.log2(n))), max_candidates=60, low_memory=True, n_jobs=-1,
        compressed=False, random_state=np.random.RandomState(42),
    )  # fmt: skip
    return lambda: NNDescent(rows, n_neighbors=setting.k, metric=setting.metric, **settings).neighbor_graph[0]


def _float32(setting: Setting) -> np.ndarray:
    rows = DenseRows(setting.rows.original, unit=False)
    out = np.empty((rows.n_rows, rows.n_features), np.float32)
    step = max(1, FILL_BYTES // (4 * rows.n_features))

    def fill(start: int) -> None:
        out[start : start + step] = rows.block(start, min(start + step, rows.n_rows))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, range(0, rows.n_rows, step)))
    return out


def _csr(csr):
    import scipy.sparse

    indptr, indices, values = csr.block(0, csr.n_rows)
    parts = values.astype(np.float32), indices.astype(np.int32), indptr.astype(np.int32)
    return scipy.sparse.csr_matrix(parts, shape=(csr.n_rows, csr.n_features))
