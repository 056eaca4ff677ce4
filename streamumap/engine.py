"""The main job as a straight line: read, plan, then stage after stage, each one measured; what is there already is used
again."""

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from streamumap import __version__, backends, gpu, initial, memory, quality
from streamumap.backends import Rows
from streamumap.blockfile import BlockFile
from streamumap.errors import InputError
from streamumap.events import Listener, Note, ignore
from streamumap.graph.files import Graph
from streamumap.levers import Outlook, outlook
from streamumap.memory import Budget, Machine
from streamumap.meta import Meta
from streamumap.neighbors.given import GivenGraph, look_at_distances, open_graph
from streamumap.params import Params
from streamumap.planner import make_plan, resolve_name
from streamumap.plans import QUALITY_NEIGHBORS, QUALITY_ROWS, Job, Plan, job_of, sampled_job
from streamumap.recorder import Recorder
from streamumap.report import report
from streamumap.sampling import sampled
from streamumap.source import Reading, RowSource, ToConvert, check_shape, open_rows, open_source
from streamumap.source.base import stored_dtype
from streamumap.source.kept import Kept, all_but
from streamumap.source.packed import PackedRows, pack, packed_footprint
from streamumap.source.rows import DenseRows
from streamumap.source.scaled import extreme_exponent, scaled, sized
from streamumap.source.scan import Scan, check_finite, scan, wild_features
from streamumap.stage_plans import CONTEXT_BYTES
from streamumap.workdir import Workdir, check_space, key_of, used_bytes

SAVE_SECONDS = 5.0
"""Between two checkpoints of the layout."""

LAYOUT_PARAMS = (
    "n_epochs", "min_dist", "spread", "learning_rate", "repulsion_strength", "negative_sample_rate", "n_components", "init", "seed",
)  # fmt: skip


def budget_for(machine: Machine, budget: str | int | None, host_budget: str | int | None) -> Budget:
    """--budget and --host-budget as caps; what is not given is a share of what is free. On the host the least of these and
    the machine's own limits holds."""
    given = None if budget is None else memory.parse_bytes(budget)
    host = None if host_budget is None else memory.parse_bytes(host_budget, "--host-budget")
    default, device_bytes = int(machine.host_free_bytes * memory.DEFAULT_SHARE), None
    if machine.device:
        device_bytes = given or int(machine.device.free_bytes * memory.DEFAULT_SHARE)
        caps = [("--host-budget", host or default)]
    else:
        caps = [("--budget", given or default), *([("--host-budget", host)] if host else [])]
    caps += [(limit.name, max(1, limit.n_bytes - memory.anonymous_bytes())) for limit in machine.host_limits]
    limited_by, host_bytes = min(caps, key=lambda cap: cap[1])
    return Budget(host_bytes, device_bytes, limited_by)


def plan_for(
    x, rows, features, dtype, active, budget, host_budget, device, reading=None, knn=None, sample=None, **params
) -> Outlook:
    """`streamumap.plan`; `reading` instead of `dtype` and `features` of an input."""
    if (x is None) == (rows is None) or (x is None and features is None):
        raise InputError("plan: expected an input, or --rows and --features, found both or neither; give one of them.")
    if x is not None:
        source = open_source(x, reading or Reading(dtype, features))
        job = job_of(source)
        source.close()
    else:
        check_shape("plan", rows, features)
        job = Job(rows, features, resolve_name(dtype or "float16"))
    if active is not None:
        if not 1 <= active <= job.n_features:
            raise InputError(
                f"--active: expected 1 to {job.n_features}, the features of a row, found {active}; give one in this range."
            )
        job = replace(job, n_nonzero=job.n_rows * active)
    if sample is not None and not 3 <= sample <= job.n_rows:
        raise InputError(
            f"--sample: expected 3 to {job.n_rows}, the rows of the input, found {sample}; give one in this range."
        )
    p = Params(**params)
    backends.check_installed(p)
    graph = given_graph(knn, p, job.n_rows)
    if graph is not None:
        job = replace(job, knn_columns=graph.n_columns)
        graph.close()
    job = sampled_job(job, sample)
    machine = memory.machine(device)
    if x is None:  # a job to be run anywhere
        machine = replace(machine, host_limits=())
    return outlook(job, p, budget_for(machine, budget, host_budget), machine)


def given_graph(knn: Any, p: Params, n_rows: int) -> GivenGraph | None:
    """The k-NN graph that is given instead of searched for, if one is. Raises InputError where it cannot be used."""
    if knn is None:
        return None
    for option, value, default in (("neighbors", p.neighbors, "auto"), ("reduce", p.reduce, "none")):
        if value != default:
            raise InputError(
                f"--{option}: {value} says how neighbours are searched, and --knn gives them; leave one of the two out."
            )
    graph = open_graph(knn, n_rows)
    try:
        graph.check_width(min(p.n_neighbors, n_rows))
    except BaseException:
        graph.close()
        raise
    return graph


def embed(
    x: Any,
    params: Params,
    *,
    out: str | os.PathLike,
    budget: str | int | None = None,
    host_budget: str | int | None = None,
    device: str = "auto",
    reading: Reading | None = None,
    meta: str | os.PathLike | None = None,
    drop_nonfinite: bool = False,
    sample: int | None = None,
    stratify: str | os.PathLike | None = None,
    knn: Any = None,
    listener: Listener = ignore,
    snapshots: int = 0,
    stopping: Callable[[], bool] = lambda: False,
) -> dict:
    """Makes a map of every row of `x` in the folder `out` and returns the content of its run.json. Raises the errors of
    `errors.py`.

    `meta`: a file whose columns go into embedding.parquet, row for row. `drop_nonfinite`: rows with NaN or Inf are left
    out and are NaN in the map, as are those that are not among `sample` rows, drawn with the seed. `stratify`: a file of
    labels whose shares the sample keeps, or of row numbers that are the sample. `knn`: a k-NN graph of the rows, (indices,
    distances), each a .npy file or an array; see `neighbors.given`. `snapshots` positions on the way, evenly spaced over
    the epochs, are kept in out/snapshots. `stopping()` is asked between units of work; when it is true the run raises
    Stopped, and the same call continues it.
    """
    if isinstance(x, (str, os.PathLike)) and os.path.exists(x) and os.path.exists(out) and os.path.samefile(x, out):
        raise InputError(f"--out: {out}: expected another place than the input, found the input; choose another --out.")
    source = open_source(x, reading)
    columns = None if meta is None else Meta(meta, source.n_rows)
    backends.check_installed(params)
    machine = memory.machine(device)
    with ExitStack() as opened:
        opened.callback(source.close)
        graph = given_graph(knn, params, source.n_rows)
        if graph is not None:
            opened.callback(graph.close)
        rows = sampled(source.n_rows, sample, None if stratify is None else Path(stratify), params.seed)
        if rows is not None and graph is not None:
            raise InputError(
                "--knn: expected a graph of the rows on the map, found one of all rows beside a sample; leave one out."
            )
        job = replace(job_of(source), knn_columns=graph.n_columns if graph else 0)
        job = sampled_job(job, None if rows is None else len(rows))
        plan = make_plan(job, params, budget_for(machine, budget, host_budget), machine)
        check_space(Path(out), plan.peak.disk_bytes - used_bytes(Path(out)))
        work = opened.enter_context(closing(Workdir(Path(out), source.fingerprint)))
        run = _Run(source, params, plan, work, listener, stopping, snapshots, columns, drop_nonfinite, graph, rows)
        opened.callback(run.close)
        return run.all()


class _Run(Recorder):
    """One run: its stages in order, and what they share."""

    def __init__(
        self,
        source: RowSource | ToConvert,
        params: Params,
        plan: Plan,
        work: Workdir,
        listener: Listener,
        stopping: Callable[[], bool],
        snapshots: int,
        meta: Meta | None,
        drop_nonfinite: bool,
        given_knn: GivenGraph | None,
        sample: np.ndarray | None,
    ):
        super().__init__(plan, listener, stopping)
        if plan.device:
            gpu.cap(plan.device, (plan.budget.device_bytes or 0) - CONTEXT_BYTES)
        self.given, self.params, self.work, self.n_snapshots = source, params, work, snapshots
        self.source: RowSource  # the given one, once it can be read in place, without rows that are left out
        self.kept, self.sample = Kept(source.n_rows, sample), sample
        self.meta, self.drop_nonfinite, self.given_knn = meta, drop_nonfinite, given_knn
        self.packed: PackedRows | None = None
        self.given_start = open_rows(params.init).fingerprint if params.init.endswith(".npy") else None
        self.started = time.monotonic()

    def close(self) -> None:
        super().close()
        if self.packed is not None:
            self.packed.close()

    def all(self) -> dict:
        """The straight line."""
        self.clip_neighbors()
        found = self.read()
        rows = Rows(self.source, self.reduce(), self.packed, found)
        knn, graph_key, map_key = self.keys()
        if self.work.has("neighbors", knn):
            self.reuse("the k-NN graph")
        elif self.given_knn is not None:
            self.take_neighbors(rows, knn, self.given_knn)
        else:
            self.neighbors(rows, knn)
        if self.work.has("embedding", map_key):
            self.reuse("the map")
            embedding = self.of_kept("embedding")
        else:
            embedding = self.layout(rows, self.graph(graph_key), map_key)
        self.source.check_unchanged()
        self.quality(rows, embedding)
        return self.write(found, embedding)

    def clip_neighbors(self) -> None:
        self.clip_to(self.plan.job.n_rows)
        if self.given_knn is not None:
            self.measured["given_knn"] = self.given_knn.facts()
        for text in getattr(self.given, "warnings", ()):
            self.warn(text)
        for text in getattr(self.given, "notes", ()):
            self.listener(Note("info", text))

    def clip_to(self, n: int) -> None:
        if self.params.n_neighbors > n:
            self.warn(f"n_neighbors: {self.params.n_neighbors} is more than the {n} rows; {n} are used.")
            self.params = replace(self.params, n_neighbors=n)

    def keys(self) -> tuple[str, str, str]:
        """What k-NN graph, fuzzy graph and map depend on."""
        p = self.params
        reduced = (p.reduce, p.reduce_dims) if p.reduce != "none" else ()
        how = self.given_knn.fingerprint if self.given_knn else self.plan["neighbors"].backend
        dropped = self.kept.rows is not None
        which = [] if self.sample is None else [hashlib.blake2b(self.sample.tobytes(), digest_size=16).hexdigest()]
        knn = key_of(__version__, p.n_neighbors, p.metric, reduced, p.recall, p.seed, how, dropped, *which)
        graph = key_of(knn, p.local_connectivity, p.set_op_mix_ratio)
        return (
            knn,
            graph,
            key_of(graph, self.plan["layout"].backend, [getattr(p, name) for name in LAYOUT_PARAMS], self.given_start),
        )

    def read(self) -> Scan:
        """One pass that finds what is broken or special; rows that are mostly zeros are packed, in the same pass on a GPU."""
        given, block_rows = self.given, self.plan["read"].blocks["block_rows"]
        if self.sample is not None:
            self.listener(
                Note(
                    "info", f"{len(self.sample):,} of {given.n_rows:,} rows are sampled; the others are NaN in the map"
                )
            )
        n_passes = 2 if isinstance(given, ToConvert) else 1
        with self.stage("read", n_passes * given.n_rows, "rows") as (tick, result):
            if isinstance(given, ToConvert):
                given.device = self.plan.device
            source = given.convert(self.work.scratch, tick) if isinstance(given, ToConvert) else given
            self.source = source = self.kept.source(source)
            found, self.packed = self.fitting("read", lambda: backends.read(source, self.plan, tick))
            if isinstance(given, ToConvert) and given.drop_zero_rows and found.n_zero_rows:
                why = "features are dead, active in no row"
                self.source = source = self.leave_out(source, np.flatnonzero(found.is_zero), why)
                found, self.packed = scan(source, block_rows), None
            if self.drop_nonfinite and found.n_nonfinite_rows:
                why = "rows have NaN or infinite values"
                self.source = source = self.leave_out(source, found.nonfinite_rows, why)
                found, self.packed = scan(source, block_rows), None
            check_finite(source.name, found)
            self.exponent = extreme_exponent(found.norm_max)
            if self.exponent:
                self.source = source = scaled(source, self.exponent)
                found, self.packed = scan(source, block_rows), None
            job = replace(self.plan.job, n_rows=found.n_rows, dtype=source.dtype, n_nonzero=found.n_nonzero)
            self.plan = make_plan(job, self.params, self.plan.budget, self.plan.machine)
            self.work.reserve(self.plan.peak.disk_bytes)
            if not self.plan.packs or self.plan.packed_on_disk:
                self.packed = None
            if self.plan.packs and self.packed is None:
                folder = self.work.scratch if self.plan.packed_on_disk else None
                if folder:
                    sizes = source.n_rows, source.n_features, found.n_nonzero, stored_dtype(source.dtype).itemsize
                    self.work.take(packed_footprint(*sizes, on_disk=True)[1])
                self.packed = pack(source, block_rows, found.n_nonzero, folder)
            source.check_unchanged()
            result.append(
                f"{found.n_rows:,} x {found.n_features:,} {source.dtype}, {100 * found.density:.3g}% non-zero"
            )
        for column in wild_features(found)[:3]:
            self.warn(
                f"feature {column}: its values are millions of times those of the others and decide every distance; check or drop it."
            )
        if found.n_zero_rows:
            self.listener(Note("info", f"{found.n_zero_rows:,} rows are all zeros; they are marked is_zero"))
        if found.n_duplicate_rows:
            self.listener(
                Note("info", f"{found.n_duplicate_rows:,} rows repeat an earlier row; they are marked duplicate_of")
            )
        return found

    def leave_out(self, source: RowSource, rows: np.ndarray, why: str) -> RowSource:
        """The source without these rows; there must be enough others."""
        n, name = source.n_rows, source.name
        self.warn(f"{name}: {len(rows):,} of {n:,} {why}; they are left out and NaN in the map.")
        check_shape(f"{name} without the rows left out", n - len(rows), source.n_features)
        left = all_but(n, rows)
        self.kept = self.kept.only(left)
        self.clip_to(n - len(rows))
        return left.source(source)

    def publish(self, name: str, array: np.ndarray, missing: float) -> None:
        """Results of the rows that are in the map, as a file with a row for each that was given."""
        file = self.work.create(name, (self.kept.n_rows, *array.shape[1:]), array.dtype)
        for start, block in self.kept.blocks_back(array, missing):
            file.write(start, block)
        file.sync()
        file.close()
        self.work.publish_saved(name)

    def knn(self) -> tuple[BlockFile, BlockFile]:
        """Indices and distances of the k-NN graph of the rows that are in the map, as these were searched."""
        if self.kept.rows is not None or self.exponent:
            distances = self.of_kept("knn_distances")
            self.work.save("kept_indices", self.kept.numbers_of(self.of_kept("knn_indices")))
            self.work.save("kept_distances", sized(distances, -self.exponent, self.params.metric))
            return self.work.open("kept_indices"), self.work.open("kept_distances")
        return self.work.open("knn_indices"), self.work.open("knn_distances")

    def of_kept(self, name: str) -> np.ndarray:
        """Of a file with a row for each that was given, those in the map."""
        file, rows = self.work.open(name), self.kept.rows
        out = [
            block if rows is None else block[rows[slice(*np.searchsorted(rows, [start, start + len(block)]))] - start]
            for start, block in file.blocks(65_536)
        ]
        file.close()
        return np.concatenate(out)

    def reduce(self) -> RowSource:
        """The source itself, or its principal components in a file of scratch, streamed twice."""
        if self.params.reduce == "none":
            return self.source
        from streamumap.reduce import StreamedPCA

        source, n = self.source, self.source.n_rows
        dims = min(self.params.reduce_dims, source.n_features, n)
        block_rows, rows = self.plan["reduce"].blocks["block_rows"], DenseRows(source, self.params.metric)
        with self.stage("reduce", 2 * n, "rows") as (tick, result):
            pca = StreamedPCA(dims, self.plan.device)
            for _, block in initial.blocks(rows.block, n, block_rows):
                pca.partial_fit(block)
                tick(len(block))
            file = self.work.create("reduced", (n, dims), np.float32)
            for start, block in initial.blocks(rows.block, n, block_rows):
                file.write(start, pca.transform(block))
                tick(len(block))
            file.close()
            result.append(
                f"{dims} of {source.n_features} dimensions keep {100 * pca.explained_variance_ratio_.sum():.3g}% of the variance"
            )
        return open_rows(file.path)

    def neighbors(self, rows: Rows, key: str) -> None:
        p, n = self.params, self.source.n_rows

        size = min(QUALITY_ROWS, n)
        sample = quality.sample_rows(n, size, p.seed)

        recalls = [-1.0]

        def enough(others: np.ndarray, ranks: np.ndarray) -> bool:
            recalls.append(quality.recall(ranks, others))
            return recalls[-1] >= p.recall

        with self.stage("neighbors", backends.search_ticks(self.plan), "rows") as (tick, result):
            search = lambda: backends.search(rows, self.plan, p, sample, enough, tick)  # noqa: E731
            indices, distances = self.fitting("neighbors", search)
            self.work.forget("neighbors", "graph", "layout", "embedding")
            self.publish("knn_indices", self.kept.numbers_back(indices), -1)
            self.publish("knn_distances", sized(distances, self.exponent, p.metric), np.nan)
            if recalls[-1] < p.recall:  # not measured yet, or not since all were compared with all
                others = indices[sample, 1:]
                enough(others, self.ranks(rows, sample, others))
            measured = recalls[-1]
            result.append(
                f"recall@{p.n_neighbors} {measured:.4f} on {size:,} sampled rows, backend {self.plan['neighbors'].backend}"
            )
        reduced = "neighbours of reduced rows are not those of the rows"
        self.neighbors_done(key, measured, size, reduced if p.reduce != "none" else "a larger --budget may help")

    def take_neighbors(self, rows: Rows, key: str, given: GivenGraph) -> None:
        """The graph that is given, as if it had been searched for. Its recall is measured, whatever it is."""
        p, n, k = self.params, self.given.n_rows, self.params.n_neighbors
        left_out = None
        if self.kept.rows is not None:
            left_out = self.kept.back(np.zeros(len(self.kept.rows), bool), True)
        with self.stage("neighbors", n, "rows") as (tick, result):
            self.work.forget("neighbors", "graph", "layout", "embedding")
            names = {"knn_indices": np.int32, "knn_distances": np.float32}
            files = [self.work.create(name, (n, k), dtype) for name, dtype in names.items()]
            for start, near, far in given.blocks(k, self.plan["neighbors"].blocks["block_rows"], left_out):
                if left_out is not None:
                    gone = left_out[start : start + len(near)]
                    near[gone], far[gone] = -1, np.nan
                files[0].write(start, near)
                files[1].write(start, far)
                tick(len(near))
            given.check_unchanged()
            for file, name in zip(files, names, strict=True):
                file.sync()
                file.close()
                self.work.publish_saved(name)
            size = min(QUALITY_ROWS, self.source.n_rows)
            sample = quality.sample_rows(self.source.n_rows, size, p.seed)
            others, far = (np.concatenate([file.read(i, i + 1)[:, 1:] for i in sample]) for file in self.knn())
            measured = quality.recall(self.ranks(rows, sample, others, "neighbors"), others)
            result.append(f"given by {given.indices.name}, recall@{k} {measured:.4f} on {size:,} sampled rows")
        for text in given.notes(k):
            self.listener(Note("info", text))
        problem = look_at_distances(DenseRows(self.source, p.metric), sample, others, far)
        for text in (*given.warnings(), *([f"--knn: {given.distances.name}: {problem}."] if problem else [])):
            self.warn(text)
        self.neighbors_done(
            key, measured, size, "check that the given graph is of these rows, in this order and metric"
        )

    def neighbors_done(self, key: str, measured: float, size: int, remedy: str) -> None:
        """The recall that was measured on `size` rows, said aloud where it is too low."""
        p = self.params
        if measured < p.recall:
            short = p.recall - measured
            self.warn(f"recall: {p.recall:g} was asked for, {measured:.4f} was reached, {short:.4f} short; {remedy}.")
        self.work.done("neighbors", key, knn_recall={"value": measured, "k": p.n_neighbors, "sample_size": size})

    def graph(self, key: str):
        p = self.params
        if self.work.has("graph", key):
            self.reuse("the fuzzy graph")
            return Graph(*(self.work.open(name) for name in ("indptr", "targets", "weights")))
        with self.stage("graph", 3 * self.source.n_rows, "rows") as (tick, result):
            self.work.forget("graph")
            knn = self.knn()
            work = lambda: backends.build_graph(self.plan, p, knn, self.work.create, tick)  # noqa: E731
            graph, sizes = self.fitting("graph", work)
            pieces = (
                "in one piece" if len(sizes) == 1 else f"in {len(sizes):,} pieces, the largest of {sizes[0]:,} rows"
            )
            result.append(f"{graph.n_edges:,} edges, {pieces}")
        self.work.done("graph", key)
        self.measured["graph"] = {
            "edges": graph.n_edges,
            "components": len(sizes),
            "largest_component_rows": int(sizes[0]),
        }
        return graph

    def layout(self, rows: Rows, graph, key: str) -> np.ndarray:
        from streamumap.layout import run, schedule

        p, n = self.params, self.source.n_rows
        heaviest = max((int(weights.max()) for _, weights in graph.weights.blocks(1 << 22)), default=1)
        settings = schedule.settings(n, heaviest, **{name: getattr(p, name) for name in schedule.SETTINGS})
        blocks = backends.graph_blocks(graph, self.plan["layout"].blocks["block_rows"])
        state = self.saved_state(key) or run.LayoutState(self.start(rows, graph, settings))

        shots = set(np.linspace(0, settings.n_epochs, self.n_snapshots + 1).astype(int)[1:].tolist())
        saved_at = time.monotonic()

        def after_epoch(epoch: int, get: Callable[[], run.LayoutState]) -> None:
            nonlocal saved_at
            if epoch in shots:
                self.work.publish_snapshot(epoch, self.kept.back(get().positions, np.nan))
            if epoch < settings.n_epochs and (self.stopping() or time.monotonic() - saved_at > SAVE_SECONDS):
                self.work.forget("layout")
                self.work.save("layout", get().positions)
                self.work.done("layout", key, epoch=epoch)
                saved_at = time.monotonic()

        with self.stage("layout", settings.n_epochs - state.epoch, "epochs") as (tick, result):
            if self.plan["layout"].backend == "cuml":
                from streamumap.layout import cuml

                knn, distances = (file.read(0, len(file)) for file in self.knn())
                done = cuml.layout(knn, distances, state.positions, settings, p.local_connectivity, p.set_op_mix_ratio)
                state = run.LayoutState(done, settings.n_epochs)
            else:
                backend = backends.layout_backend(self.plan)
                state = run.run(state, settings.n_epochs, blocks, settings, backend, tick, after_epoch)
            self.work.retract()
            self.publish("embedding", state.positions, np.nan)
            result.append(f"{settings.n_epochs} epochs, backend {self.plan['layout'].backend}")
        self.work.done("embedding", key)
        return state.positions

    def saved_state(self, key: str):
        if not self.work.has("layout", key):
            return None
        from streamumap.layout.run import LayoutState

        epoch = self.work.facts("layout")["epoch"]
        self.reuse(f"the layout up to epoch {epoch}")
        return LayoutState(self.work.read("layout"), epoch)

    def start(self, rows: Rows, graph, settings) -> np.ndarray:
        with self.stage("start", self.source.n_rows, "rows") as (tick, result):
            positions, how = self.fitting(
                "start", lambda: backends.first_positions(rows, self.plan, self.params, graph, settings, tick)
            )
            result.append(how)
            return positions

    def quality(self, rows: Rows, embedding: np.ndarray) -> None:
        p, n = self.params, self.source.n_rows
        k, size = min(QUALITY_NEIGHBORS, n - 2), min(QUALITY_ROWS, n)
        with self.stage("quality", 1, "pass") as (tick, result):
            sample = quality.sample_rows(n, size, p.seed)
            near = self.fitting("quality", lambda: backends.nearest_on_map(self.plan, embedding, sample, k))
            ranks = self.ranks(rows, sample, near)
            trust, kept = quality.trustworthiness(ranks, n), quality.preservation(ranks)
            tick(1)
            result.append(f"trustworthiness@{k} {trust:.4f}, kNN preservation@{k} {kept:.4f} on {size:,} sampled rows")
        self.measured["quality"] = {
            **self.work.facts("neighbors"),
            "knn_preservation": {"value": kept, "k": k, "sample_size": size},
            "trustworthiness": {"value": trust, "k": k, "sample_size": size},
            "far_share": {"value": quality.far_share(embedding), "sample_size": n},
        }

    def ranks(self, rows: Rows, sample: np.ndarray, others: np.ndarray, stage: str = "quality") -> np.ndarray:
        return self.fitting(
            stage, lambda: backends.count_closer(rows, self.plan, self.params.metric, sample, others, stage)
        )

    def write(self, found: Scan, embedding: np.ndarray) -> dict:
        from streamumap import runs
        from streamumap.render import render

        with self.stage("write", 2, "files") as (tick, result):
            self.work.publish(
                "embedding.parquet",
                lambda path: self.write_parquet(path, embedding, found),
            )
            tick(1)
            if self.params.n_components >= 2:
                title, subtitle = runs.describe(self.report(found))
                size_px = self.plan["write"].blocks["size_px"]
                self.work.publish(
                    "map.png", lambda path: render(embedding, path, title=title, subtitle=subtitle, size_px=size_px)
                )
            tick(1)
            result.append(str(self.work.path))
        finished = self.report(found)
        self.work.publish_json("run.json", finished)
        self.work.finish()
        return finished

    def write_parquet(self, path: Path, embedding: np.ndarray, found: Scan) -> None:
        from streamumap import output

        kept, first = self.kept, self.kept.numbers_back(found.duplicate_of)
        output.write_parquet(
            path, kept.back(embedding, np.nan), kept.back(found.is_zero, False), kept.back(first, -1), self.meta
        )

    def report(self, found: Scan) -> dict:
        return report(
            self.source,
            self.given.n_rows,
            None if self.sample is None else len(self.sample),
            found,
            self.params,
            self.plan,
            time.monotonic() - self.started,
            self.measured,
        )
