"""The main job as a straight line: read, plan, then stage after stage, each one measured; what is there already is used again."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from streamumap import __version__, initial, memory, quality
from streamumap.blockfile import BlockFile
from streamumap.errors import InputError, Stopped
from streamumap.events import Listener, Note, StageAdvanced, StageDone, StageStarted, Tick, ignore
from streamumap.memory import Budget, Footprint, Machine, format_bytes
from streamumap.params import Params
from streamumap.planner import QUALITY_NEIGHBORS, QUALITY_ROWS, Job, Plan, make_plan, resolve_name
from streamumap.source import RowSource, check_shape, open_source
from streamumap.source.packed import PackedRows, pack, pays
from streamumap.source.rows import DenseRows
from streamumap.source.scan import Scan, check_finite, scan, wild_features
from streamumap.workdir import Workdir, key_of

SAVE_EPOCHS = 25


def budget_for(machine: Machine, budget: str | int | None, host_budget: str | int | None) -> Budget:
    """--budget and --host-budget as caps; what is not given is a share of what is free."""
    given = None if budget is None else memory.parse_bytes(budget)
    host = None if host_budget is None else memory.parse_bytes(host_budget, "--host-budget")
    host_default = int(machine.host_free_bytes * memory.DEFAULT_SHARE)
    if machine.device is None:
        return Budget(host_bytes=min(x for x in (given or host_default, host) if x is not None))
    device = given or int(machine.device.free_bytes * memory.DEFAULT_SHARE)
    return Budget(host_bytes=host or host_default, device_bytes=device)


def plan_for(x, rows, features, dtype, active, budget, host_budget, device, **params) -> Plan:
    """`streamumap.plan`."""
    if (x is None) == (rows is None or features is None):
        raise InputError("plan: expected an input, or --rows and --features, found both or neither; give one of them.")
    if x is not None:
        source = open_source(x, dtype)
        job = Job(source.n_rows, source.n_features, source.dtype)
        source.close()
    else:
        check_shape("plan", rows, features)
        job = Job(rows, features, resolve_name(dtype or "float16"))
    if active is not None:
        job = replace(job, n_nonzero=job.n_rows * active)
    machine = memory.machine(device)
    return make_plan(job, Params(**params), budget_for(machine, budget, host_budget), machine)


def embed(
    x: Any,
    params: Params,
    *,
    out: str | os.PathLike,
    budget: str | int | None = None,
    host_budget: str | int | None = None,
    device: str = "auto",
    dtype: str | None = None,
    listener: Listener = ignore,
    stopping: Callable[[], bool] = lambda: False,
) -> dict:
    """Makes a map of every row of `x` in the folder `out` and returns the content of its run.json. Raises the errors of `errors.py`.

    `stopping()` is asked between units of work; when it is true the run raises Stopped, and the same call continues it.
    """
    source = open_source(x, dtype)
    machine = memory.machine(device)
    job = Job(source.n_rows, source.n_features, source.dtype)
    plan = make_plan(job, params, budget_for(machine, budget, host_budget), machine)
    work = Workdir(Path(out), source.fingerprint)
    try:
        run = _Run(source, params, plan, work, listener, stopping)
        try:
            return run.all()
        finally:
            run.close()
    finally:
        work.close()
        source.close()


class _Run:
    """What the stages of one run share, and how each of them is timed, measured and told of."""

    def __init__(self, source: RowSource, params: Params, plan: Plan, work: Workdir, listener: Listener, stopping: Callable[[], bool]):
        self.source, self.params, self.plan, self.work = source, params, plan, work
        self.listener, self.stopping = listener, stopping
        self.report: dict = {"stages": [], "warnings": [], "quality": {}, "reused": []}
        self.base_bytes = memory.anonymous_bytes()
        self.watch = memory.Watch(plan.machine.device)
        self.packed: PackedRows | None = None
        self.started = time.monotonic()

    def close(self) -> None:
        self.watch.close()
        if self.packed is not None:
            self.packed.close()

    def all(self) -> dict:
        if self.params.n_neighbors > self.source.n_rows:
            self.warn(f"n_neighbors: {self.params.n_neighbors} is more than the {self.source.n_rows} rows; {self.source.n_rows} are used.")
            self.params = replace(self.params, n_neighbors=self.source.n_rows)
        for text in getattr(self.source, "warnings", ()):
            self.warn(text)
        found = self.read()
        rows = self.reduce()
        keys = self.keys()
        if self.work.has("neighbors", keys["neighbors"]):
            self.reuse("the k-NN graph")
        else:
            self.neighbors(rows, found, keys["neighbors"])
        if self.work.has("embedding", keys["embedding"]):
            self.reuse("the map")
            embedding = self.work.open("embedding").read(0, self.source.n_rows)
        else:
            graph = self.graph(keys["graph"])
            embedding = self.layout(graph, rows, keys["embedding"])
        self.source.check_unchanged()
        self.quality(embedding, found)
        return self.write(embedding, found)

    def keys(self) -> dict[str, str]:
        """What each stage's output depends on."""
        p = self.params
        knn = key_of(__version__, p.n_neighbors, p.metric, p.reduce, p.reduce_dims, p.recall, p.seed, self.plan["neighbors"].backend)
        graph = key_of(knn, p.local_connectivity, p.set_op_mix_ratio)
        map_ = key_of(graph, self.plan["layout"].backend, *[getattr(p, n) for n in LAYOUT_PARAMS])
        return {"neighbors": knn, "graph": graph, "embedding": map_}

    def warn(self, text: str) -> None:
        self.report["warnings"].append(text)
        self.listener(Note("warning", text))

    def reuse(self, what: str) -> None:
        self.report["reused"].append(what)
        self.listener(Note("info", f"{what} of the run before is used again"))

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[tuple[Tick, list[str]]]:
        """Times and measures what happens inside. Gives a tick and a list whose last text is the stage's result."""
        planned = self.plan[name]
        result: list[str] = [""]
        done = 0

        def tick(n: int) -> None:
            nonlocal done
            done += n
            self.listener(StageAdvanced(name, done))
            if self.stopping():
                raise Stopped(f"stopped while {name} was at {min(done, total)} of {total} {unit}; the same command continues the run.")

        self.listener(StageStarted(name, total, unit))
        self.watch.lap()
        started = time.monotonic()
        yield tick, result
        seconds = time.monotonic() - started
        host_bytes, device_bytes = self.watch.lap()
        measured = Footprint(max(0, host_bytes - self.base_bytes), device_bytes)
        self.report["stages"].append(
            {
                "stage": name, "backend": planned.backend, "blocks": planned.blocks, "seconds": round(seconds, 3),
                "predicted": asdict(planned.predicted), "measured": {"host_bytes": measured.host_bytes, "device_bytes": measured.device_bytes},
            }
        )  # fmt: skip
        self.listener(StageDone(name, seconds, result[-1]))

    def read(self) -> Scan:
        """One pass that finds what is broken or special; a second one that packs rows that are mostly zeros."""
        block_rows = self.plan["read"].blocks["block_rows"]
        n = self.source.n_rows
        with self.stage("read", n, "rows") as (tick, result):
            found = scan(self.source, block_rows, tick)
            check_finite(self.source.name, found)
            if self.plan.machine.device is None and pays(n, found.n_features, found.n_nonzero) and self.params.reduce == "none":
                job = replace(self.plan.job, n_nonzero=found.n_nonzero)
                self.plan = make_plan(job, self.params, self.plan.budget, self.plan.machine)
                folder = self.work.scratch if self.plan.packed_on_disk else None
                self.packed = pack(self.source, block_rows, found.n_nonzero, folder)
            self.source.check_unchanged()
            result.append(f"{n:,} x {found.n_features:,} {self.source.dtype}, {100 * found.density:.3g}% non-zero")
        for column in wild_features(found)[:3]:
            self.warn(f"feature {column}: its values are millions of times those of the others and decide every distance; check or drop it.")
        if found.n_zero_rows:
            self.listener(Note("info", f"{found.n_zero_rows:,} rows are all zeros; they are marked is_zero"))
        if found.n_duplicate_rows:
            self.listener(Note("info", f"{found.n_duplicate_rows:,} rows repeat an earlier row; they are marked duplicate_of"))
        return found

    def reduce(self) -> RowSource:
        """The source itself, or its principal components in a file of scratch, streamed twice."""
        if self.params.reduce == "none":
            return self.source
        from streamumap.reduce import StreamedPCA

        n, dims = self.source.n_rows, min(self.params.reduce_dims, self.source.n_features, self.source.n_rows)
        block_rows = self.plan["reduce"].blocks["block_rows"]
        rows = DenseRows(self.source, self.params.metric)
        device = self.plan.machine.device.label if self.plan.machine.device else None
        with self.stage("reduce", 2 * n, "rows") as (tick, result):
            pca = StreamedPCA(dims, device)
            for _, block in initial.blocks(rows.block, n, block_rows):
                pca.partial_fit(block)
                tick(len(block))
            file = self.work.create("reduced", (n, dims), np.float32)
            for start, block in initial.blocks(rows.block, n, block_rows):
                file.write(start, pca.transform(block))
                tick(len(block))
            result.append(f"{dims} of {self.source.n_features} dimensions keep {100 * pca.explained_variance_ratio_.sum():.3g}% of the variance")
        return open_source(file.path)

    def neighbors(self, rows: RowSource, found: Scan, key: str) -> None:
        planned, p, n = self.plan["neighbors"], self.params, self.source.n_rows
        reached_at: list[float] = []
        small = quality.sample_rows(n, QUALITY_ROWS // 4, p.seed + 1)

        def reached(indices: np.ndarray) -> bool:
            ranks = self.count_closer(small, indices[small])
            reached_at.append(quality.recall(ranks, indices[small]))
            return reached_at[-1] >= p.recall

        with self.stage("neighbors", self.neighbor_units(planned), "rows") as (tick, result):
            indices, distances = self.search(rows, found, reached, tick)
            sample = quality.sample_rows(n, QUALITY_ROWS, p.seed)
            ranks = self.count_closer(sample, indices[sample, 1:])
            recall = quality.recall(ranks, indices[sample, 1:])
            self.work.forget("neighbors", "embedding")
            for name, array in (("knn_indices", indices), ("knn_distances", distances)):
                file = self.work.create(name, array.shape, array.dtype)
                file.write(0, array)
                self.work.publish_file(file)
                file.close()
            self.work.publish_json("recall.json", {"knn_recall": recall, "sample_size": len(sample)})
            result.append(f"recall@{p.n_neighbors} {recall:.4f} on {len(sample):,} sampled rows, backend {planned.backend}")
        if recall < p.recall:
            self.warn(f"recall: {p.recall:g} was asked for, {recall:.4f} was reached, {p.recall - recall:.4f} short; "
                      + ("neighbours of reduced rows are not those of the rows." if p.reduce != "none" else "raise --budget."))  # fmt: skip
        self.work.done("neighbors", key)

    def neighbor_units(self, planned) -> int:
        n = self.source.n_rows
        if planned.backend == "packed":
            from streamumap.neighbors.footprint import PACKED_CORPUS_ROWS

            return n * (-(-n // PACKED_CORPUS_ROWS) + 1)
        return n

    def search(self, rows: RowSource, found: Scan, reached, tick: Tick) -> tuple[np.ndarray, np.ndarray]:
        planned, p = self.plan["neighbors"], self.params
        blocks = planned.blocks
        if planned.backend == "packed":
            from streamumap.neighbors import packed

            return packed.search(
                self.packed, p.n_neighbors, p.metric, non_negative=found.non_negative, is_zero=found.is_zero, tick=tick, **blocks
            )
        if planned.backend == "cuda":
            from streamumap.neighbors import cuda

            assert self.plan.machine.device
            non_negative = found.non_negative and p.reduce == "none"
            return cuda.search(
                rows, p.n_neighbors, p.metric, non_negative=non_negative, is_zero=found.is_zero, device=self.plan.machine.device.label,
                tick=tick, **blocks,
            )  # fmt: skip
        from streamumap.neighbors import dense

        return dense.search(
            DenseRows(rows, p.metric), p.n_neighbors, seed=p.seed, n_threads=self.plan.machine.n_cores, reached=reached,
            exhaustive=p.recall >= 1.0 or rows.n_rows <= dense.EXHAUSTIVE_ROWS, is_zero=found.is_zero, tick=tick, **blocks,
        )  # fmt: skip

    def count_closer(self, sample: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Exact ranks in the original rows, whatever the search saw."""
        metric, planned = self.params.metric, self.plan["quality"]
        block_rows = planned.blocks["block_rows"]
        if self.packed is not None:
            from streamumap.neighbors import packed

            return packed.count_closer(self.packed, sample, others, metric, block_rows)
        if planned.backend == "cuda":
            from streamumap.neighbors import cuda

            assert self.plan.machine.device
            return cuda.count_closer(self.source, sample, others, metric, other_rows=block_rows, device=self.plan.machine.device.label)
        from streamumap.neighbors import dense

        return dense.count_closer(DenseRows(self.source, metric), sample, others, block_rows)

    def graph(self, key: str):
        from streamumap.graph import build

        p, block_rows = self.params, self.plan["graph"].blocks["block_rows"]
        if self.work.has("graph", key):
            self.reuse("the fuzzy graph")
            return build.Graph(*(self.work.open(name) for name in ("indptr", "targets", "weights")))
        with self.stage("graph", 3 * self.source.n_rows, "rows") as (tick, result):
            graph = build.build(
                self.work.open("knn_indices"), self.work.open("knn_distances"), self.work.create,
                local_connectivity=p.local_connectivity, set_op_mix_ratio=p.set_op_mix_ratio, block_rows=block_rows, tick=tick,
            )  # fmt: skip
            result.append(f"{graph.n_edges:,} edges")
        self.work.done("graph", key)
        return graph

    def start(self, rows: RowSource) -> np.ndarray:
        p, n = self.params, self.source.n_rows
        sample_rows = self.plan["start"].blocks["sample_rows"]
        with self.stage("start", n, "rows") as (tick, result):
            if p.init == "random":
                positions = initial.random(n, p.n_components, p.seed)
            elif p.init == "spectral":
                positions = self.spectral_start(sample_rows)
            else:
                positions = self.pca_start(rows, sample_rows, tick)
            result.append("pca" if p.init == "auto" else p.init)
        return positions

    def pca_start(self, rows: RowSource, sample_rows: int, tick: Tick) -> np.ndarray:
        p, n = self.params, self.source.n_rows
        block_rows = max(1, sample_rows // 8)
        numbers = initial.sample_numbers(n)[:: max(1, -(-min(n, initial.SAMPLE_ROWS) // sample_rows))]
        if self.packed is not None:
            packed, metric = self.packed, p.metric
            sample, read = _sparse(packed.take(numbers), packed.n_features, metric), lambda a, b: _sparse(packed.block(a, b), packed.n_features, metric)
        else:
            dense = DenseRows(rows, p.metric)
            sample, read = dense.take(numbers), dense.block

        def ticked(a: int, b: int):
            tick(b - a)
            return read(a, b)

        return initial.pca(initial.blocks(ticked, n, block_rows), sample, rows.n_features, p.n_components, p.seed)

    def spectral_start(self, block_rows: int) -> np.ndarray:
        from streamumap.graph import build

        graph = build.Graph(*(self.work.open(name) for name in ("indptr", "targets", "weights")))
        n = self.source.n_rows
        return initial.spectral(lambda: initial.blocks(lambda a, b: _csr(graph.block(a, b), n), n, n), n, self.params.n_components, self.params.seed)

    def layout(self, graph, rows: RowSource, key: str) -> np.ndarray:
        from streamumap.layout import run, schedule

        p, n = self.params, self.source.n_rows
        block_rows = self.plan["layout"].blocks["block_rows"]
        heaviest = max(int(weights.max()) for _, weights in graph.weights.blocks(1 << 22))
        settings = schedule.settings(n, heaviest, **{name: getattr(p, name) for name in schedule.SETTINGS})
        backend = run.cuda_backend(self.plan.machine.device.label) if self.plan.machine.device else run.cpu_backend()
        if self.work.has("layout", key):
            file = self.work.open("layout")
            state = run.LayoutState(file.read(0, n), int(self.work.open("epoch").read(0, 1)[0]))
            self.reuse(f"the layout up to epoch {state.epoch}")
        else:
            state = run.LayoutState(self.start(rows))
        blocks = [lambda a=a: graph.block(a, min(a + block_rows, n)) for a in range(0, n, block_rows)]

        def save(state: run.LayoutState) -> None:
            self.work.forget("layout")
            for name, array in (("layout", state.positions), ("epoch", np.array([state.epoch]))):
                self._replace(name, array)
            self.work.done("layout", key)

        with self.stage("layout", settings.n_epochs - state.epoch, "epochs") as (tick, result):
            state = run.run(state, settings.n_epochs, blocks, settings, backend, tick, save, SAVE_EPOCHS)
            self.work.forget("embedding")
            self.work.publish_array("embedding", state.positions)
            far = quality.far_share(state.positions)
            result.append(f"{settings.n_epochs} epochs, backend {self.plan['layout'].backend}")
        self.report["quality"]["far_share"] = far
        self.work.done("embedding", key)
        return state.positions

    def _replace(self, name: str, array: np.ndarray) -> None:
        file = self.work.create(name, array.shape, array.dtype)
        file.write(0, array)
        file.sync()
        file.close()

    def quality(self, embedding: np.ndarray, found: Scan) -> None:
        p, n = self.params, self.source.n_rows
        k = min(QUALITY_NEIGHBORS, n - 2)
        sample = quality.sample_rows(n, QUALITY_ROWS, p.seed)
        with self.stage("quality", 1, "pass") as (tick, result):
            ranks = self.count_closer(sample, quality.nearest_on_map(embedding, sample, k))
            trust, kept = quality.trustworthiness(ranks, n), quality.preservation(ranks)
            tick(1)
            result.append(f"trustworthiness@{k} {trust:.4f}, kNN preservation@{k} {kept:.4f} on {len(sample):,} sampled rows")
        recall = _read_json(self.work.path / "recall.json")
        self.report["quality"] |= {
            "knn_recall": {"value": recall["knn_recall"], "k": p.n_neighbors, "sample_size": recall["sample_size"]},
            "knn_preservation": {"value": kept, "k": k, "sample_size": len(sample)},
            "trustworthiness": {"value": trust, "k": k, "sample_size": len(sample)},
        }

    def write(self, embedding: np.ndarray, found: Scan) -> dict:
        from streamumap import output
        from streamumap.render import render

        with self.stage("write", 2, "files") as (tick, result):
            self.work.publish("embedding.parquet", lambda path: output.write_parquet(path, embedding, found.is_zero, found.duplicate_of))
            tick(1)
            if self.params.n_components >= 2:
                title, subtitle = output.describe(self.finished_report(found))
                self.work.publish("map.png", lambda path: render(embedding, path, title=title, subtitle=subtitle))
            tick(1)
            result.append(str(self.work.path))
        report = self.finished_report(found)
        self.work.publish_json("run.json", report)
        self.work.finish()
        return report

    def finished_report(self, found: Scan) -> dict:
        stages, machine, budget = self.report["stages"], self.plan.machine, self.plan.budget
        peak = {f: max(s["measured"][f] for s in stages) for f in ("host_bytes", "device_bytes")}
        return {
            "schema": 1,
            "streamumap": __version__,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "exit_status": 0,
            "input": {
                "name": self.source.name, "rows": self.source.n_rows, "features": self.source.n_features, "dtype": self.source.dtype,
                "density": found.density, "zero_rows": found.n_zero_rows, "duplicate_rows": found.n_duplicate_rows,
                "dead_features": found.n_dead_features, "fingerprint": self.source.fingerprint,
            },
            "params": self.params.to_json(),
            "device": machine.device.name if machine.device else f"cpu, {machine.n_cores} cores, {platform.machine()}",
            "versions": _versions(),
            "budget": {"host_bytes": budget.host_bytes, "device_bytes": budget.device_bytes},
            "predicted_peak": asdict(self.plan.peak),
            "measured_peak": peak,
            "seconds": round(time.monotonic() - self.started, 3),
            **self.report,
        }  # fmt: skip


LAYOUT_PARAMS = (
    "n_epochs", "min_dist", "spread", "learning_rate", "repulsion_strength", "negative_sample_rate", "n_components", "init", "seed",
)  # fmt: skip


def _read_json(path: Path) -> dict:
    import json

    return json.loads(path.read_text())


def _sparse(rows, n_features: int, metric: str):
    """A block of packed rows as a scipy matrix, of length 1 for cosine."""
    import scipy.sparse

    indptr, indices, values = rows
    matrix = scipy.sparse.csr_matrix((values, indices.astype(np.int32), indptr), shape=(len(indptr) - 1, n_features))
    if metric == "cosine":
        norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1), np.float64)).ravel()
        matrix = scipy.sparse.diags(1.0 / np.where(norms > 0, norms, 1.0)).astype(np.float32) @ matrix
    return matrix.tocsr()


def _csr(block, n_columns: int):
    import scipy.sparse

    return scipy.sparse.csr_matrix((block.weights.astype(np.float32), block.targets, block.indptr), shape=(len(block.indptr) - 1, n_columns))


def _versions() -> dict[str, str]:
    names = ("numpy", "torch", "numba", "scipy", "scikit-learn", "triton")
    out = {"python": platform.python_version()}
    for name in names:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out



