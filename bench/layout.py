"""The layout alone, from one exact k-NN graph and one fuzzy graph: streamumap against umap-learn, or cuML on a GPU.

    python bench/layout.py --data FOLDER_OR_NPY [--seeds 3] [--epochs 200 500] [--dims 2] [--init auto random] [--device cuda]
    python bench/layout.py --data FOLDER_OR_NPY --try FIRST_REPULSION=1,ATTRACTION=0.5 --try REPULSION_POWER=2
    python bench/layout.py --curve line --init auto pca spectral random

Every map has all measures of `measures.measure`, and for curves the steps that tear them. A candidate of `--try` has other
constants of layout/schedule.py or layout/init/levels.py. umap-learn starts where its own `init` says (its spectral one for auto) or, with
`--their-starts ours`, where ours does. Besides: `edge_similarity`, the mean of 1 / (1 + a d^(2b)) over the graph's edges,
weighted by their weights. Compilation is not counted. cuML takes the k-NN graph and makes the fuzzy graph itself:
`graph_seconds` is what ours took for that.
"""

import argparse
import dataclasses
import importlib.util
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from measures import (
    Data,
    append,
    curve_breaks,
    dense_file,
    facts,
    measure,
    open_data,
    print_table,
    read_labels,
    sizes,
    skip,
)  # fmt: skip
from tree import ROOT

from streamumap import quality
from streamumap.errors import InputError
from streamumap.events import no_advance
from streamumap.graph.files import WEIGHT_ONE, Graph
from streamumap.layout import epochs, schedule
from streamumap.layout.init import levels, pca
from streamumap.params import Params
from streamumap.planning.planner import make_plan, with_edges
from streamumap.run import dispatch
from streamumap.run.initialize import GraphBlocks, first_positions, layout_backend
from streamumap.source import open_source
from streamumap.store.blockfile import BlockFile
from streamumap.store.checkpoint import NO_CHECKPOINT, NoCheckpoint

EDGE_ROWS = 65_536
ROWS_SEED = 7


@dataclass(frozen=True)
class Setup:
    """One graph, and what is laid out on it."""

    data: Data
    indices: np.ndarray  # int32 (N, k)
    distances: np.ndarray  # float32 (N, k)
    graph: Graph
    graph_seconds: float
    heaviest: int


@dataclass(frozen=True)
class System:
    """`lay_out(start, seed, n_epochs)` gives positions, float32 (N, C), in a backend with other `constants`. `start(seed,
    init)` None: ours."""

    name: str
    n_epochs: int
    lay_out: Callable[[np.ndarray, int, int], np.ndarray]
    constants: dict[str, float] = field(default_factory=dict)
    start: Callable[[int, str], np.ndarray] | None = None


def set_up(data: Data, folder: Path) -> Setup:
    """The exact k-NN graph, and the fuzzy graph as a run makes it."""
    indices, distances = dispatch.search(
        data.rows, data.plan, data.params, data.sample, lambda *_: False, no_advance, NO_CHECKPOINT
    )

    def create(name, shape, dtype):
        return BlockFile.create(folder / f"{name}.npy", shape, dtype)

    def filled(name, array):
        file = create(name, array.shape, array.dtype)
        file.write(0, array)
        return file

    near, far = filled("knn_indices", indices), filled("knn_distances", distances)
    seconds, graph = 0.0, None
    for _ in range(2):  # the first time may compile
        started = time.perf_counter()
        graph, _ = dispatch.build_graph(data.plan, data.params, (near, far), NoCheckpoint(create), no_advance)
        seconds = time.perf_counter() - started
    assert graph is not None
    return Setup(data, indices, distances, graph, seconds, graph.heaviest())


def settings(setup: Setup, seed: int, n_epochs: int) -> schedule.LayoutSettings:
    values = {name: getattr(setup.data.params, name) for name in schedule.LAYOUT_PARAMS}
    return schedule.layout_settings(setup.graph.n_rows, setup.heaviest, **values | {"seed": seed, "n_epochs": n_epochs})


@contextmanager
def changed(constants: dict[str, float]) -> Iterator[None]:
    """Other constants of schedule.py and levels.py meanwhile. Raises SystemExit for a name that neither has."""
    with ExitStack() as stack:
        for name, value in constants.items():
            holders = [module for module in (schedule, levels) if hasattr(module, name)]
            if not holders:
                sys.exit(f"--try: expected a constant of layout/schedule.py or layout/init/levels.py, found {name}")
            for module in holders:
                stack.enter_context(mock.patch.object(module, name, type(getattr(module, name))(value)))
        yield


@contextmanager
def backend_with(constants: dict[str, float], device: str | None) -> Iterator[epochs.Backend]:
    """The backend with other constants. numba freezes ATTRACTION when it compiles, and its cache does not see that it
    changed: the module is loaded a second time, with a cache of its own."""
    with changed(constants):
        if device:
            from streamumap.layout import cuda

            with mock.patch.object(cuda, "ATTRACTION", schedule.ATTRACTION):
                yield epochs.cuda_backend(device)
        elif "ATTRACTION" in constants:
            from numba import config

            spec = importlib.util.find_spec("streamumap.layout.cpu")
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            with tempfile.TemporaryDirectory() as cache, mock.patch.object(config, "CACHE_DIR", cache):
                spec.loader.exec_module(module)
                yield dataclasses.replace(epochs.cpu_backend(), epoch=module.epoch)
        else:
            yield epochs.cpu_backend()


def ours(
    setup: Setup, backend: epochs.Backend, start: np.ndarray, seed: int, n_epochs: int, until: int | None = None
) -> np.ndarray:
    block = setup.graph.block(0, setup.graph.n_rows)
    until = n_epochs if until is None else until
    return epochs.run(
        epochs.LayoutState(start), until, [lambda: block], settings(setup, seed, n_epochs), backend
    ).positions


def umap_learn(setup: Setup, start: np.ndarray, seed: int, n_epochs: int) -> np.ndarray:
    """umap-learn's loop on our graph, called as its simplicial_set_embedding does: edges too light to fire left out,
    both ends moved."""
    from umap.layouts import optimize_layout_euclidean
    from umap.umap_ import make_epochs_per_sample

    s, block = settings(setup, seed, n_epochs), setup.graph.block(0, setup.graph.n_rows)
    weights = block.weights.astype(np.float32) / WEIGHT_ONE
    kept = weights >= weights.max() / max(n_epochs, 1)
    head = np.repeat(np.arange(len(start), dtype=np.int32), np.diff(block.indptr))[kept]
    limits = np.iinfo(np.int32)
    state = np.random.RandomState(seed).randint(limits.min + 1, limits.max - 1, 3).astype(np.int64)
    positions = start.copy()
    return optimize_layout_euclidean(
        positions, positions, head, block.targets[kept], n_epochs, len(start), make_epochs_per_sample(weights[kept], n_epochs),
        s.a, s.b, state, s.repulsion_strength, s.learning_rate, s.negative_sample_rate, parallel=True, move_other=True,
    )  # fmt: skip


def umap_learns_start(setup: Setup, seed: int, init: str) -> np.ndarray:
    """float32 (N, 2): as its simplicial_set_embedding makes it and scales it to 0..10."""
    import scipy.sparse
    from umap.spectral import spectral_layout

    n, random = setup.graph.n_rows, np.random.RandomState(seed)
    if init == "random":
        start = random.uniform(-10, 10, (n, 2))
    else:
        if init == "pca":
            start = first_positions(*_for_start(setup, seed, init), no_advance, print)[0].astype(np.float64)
        else:
            block = setup.graph.block(0, n)
            weights = block.weights.astype(np.float32) / WEIGHT_ONE
            graph = scipy.sparse.csr_matrix((weights, block.targets, block.indptr), shape=(n, n))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says where eigenvectors do not converge
                start = spectral_layout(np.zeros((n, 1), np.float32), graph, 2, random)
        start = start * (10 / np.abs(start).max()) + random.normal(scale=1e-4, size=start.shape)
    return pca.given(start, seed)


def cuml(setup: Setup, umap, start: np.ndarray, seed: int, n_epochs: int) -> np.ndarray:
    """cuML's fuzzy graph and layout from our k-NN graph. It wants rows as well, of which it then uses the number: it
    gets the start."""
    p = setup.data.params
    model = umap(
        n_neighbors=p.n_neighbors, n_components=start.shape[1], n_epochs=n_epochs, min_dist=p.min_dist, spread=p.spread, init=start,
        precomputed_knn=(setup.indices.astype(np.int64), setup.distances), output_type="numpy",
    )  # fmt: skip
    return np.asarray(model.fit_transform(start))


def edges_on_map(setup: Setup, embedding: np.ndarray) -> dict[str, float]:
    """How long the graph's edges are on the map: see the head of this file."""
    s, n = settings(setup, 0, 1), setup.graph.n_rows
    total = weight = 0.0
    lengths = np.empty(setup.graph.n_edges, np.float32)
    for first in range(0, n, EDGE_ROWS):
        block = setup.graph.block(first, min(first + EDGE_ROWS, n))
        sources = np.repeat(np.arange(first, first + len(block.indptr) - 1), np.diff(block.indptr))
        squares = ((embedding[sources].astype(np.float64) - embedding[block.targets]) ** 2).sum(1)
        total += float((block.weights / (1 + s.a * squares**s.b)).sum())
        weight += float(block.weights.sum(dtype=np.float64))
        lengths[block.first_edge : block.first_edge + len(squares)] = np.sqrt(squares)
    return {"edge_similarity": total / weight, "edge_length": float(np.median(lengths))}


def systems(setup: Setup, options: argparse.Namespace, cuml_umap) -> Iterator[System]:
    """One after the other, each warm (compiled) when it is given."""
    n, device = setup.graph.n_rows, setup.data.plan.device
    small = np.zeros((n, 2), np.float32)
    for constants in [{}, *options.candidates]:
        with backend_with(constants, device) as backend:
            for dims in options.dims:
                ours(setup, backend, np.resize(small, (n, dims)), 0, 10, until=1)
            said = ", ".join(f"{name} {value:g}" for name, value in constants.items())
            for n_epochs in options.epochs or [schedule.DEFAULT_EPOCHS]:
                yield System(f"streamumap {said}".strip(), n_epochs, partial(ours, setup, backend), constants)
    if options.alone:
        return
    their_epochs = options.epochs or [500 if n <= 10_000 else 200]
    if device and cuml_umap:
        cuml(setup, cuml_umap, small, 0, 1)
        for n_epochs in their_epochs:
            yield System("cuML", n_epochs, partial(cuml, setup, cuml_umap))
    if importlib.util.find_spec("umap") is None:
        print("umap-learn is skipped: it is not installed")
        return
    umap_learn(setup, small, 0, 1)
    for n_epochs in their_epochs:
        if "own" in options.their_starts:
            yield System("umap-learn", n_epochs, partial(umap_learn, setup), start=partial(umap_learns_start, setup))
        if "ours" in options.their_starts:
            yield System("umap-learn, our start", n_epochs, partial(umap_learn, setup))


def compare(setup: Setup, options: argparse.Namespace, cuml_umap) -> list[dict]:
    """Every system on every init and seed, measured and recorded."""
    return [
        one_map(setup, options, system, dims, init, seed)
        for system in systems(setup, options, cuml_umap)
        for dims in options.dims
        for init in options.init
        for seed in range(
            options.seeds if system.name.startswith("streamumap") else options.their_seeds or options.seeds
        )
    ]


def one_map(setup: Setup, options: argparse.Namespace, system: System, dims: int, init: str, seed: int) -> dict:
    data, source = setup.data, setup.data.rows.original
    wall, cpu = time.perf_counter(), time.process_time()
    if system.start is None:
        start, _ = first_positions(*_for_start(setup, seed, init, dims, system.n_epochs), no_advance, print)
    else:
        start = system.start(seed, init)
    before = {"start_wall_seconds": time.perf_counter() - wall, "start_cpu_seconds": time.process_time() - cpu}
    wall, cpu = time.perf_counter(), time.process_time()
    embedding = system.lay_out(start, seed, system.n_epochs)
    costs = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    key = {"system": system.name, "init": init, "dims": dims, "epochs": system.n_epochs, "seed": seed}
    values = before | costs | measure(embedding, data, setup.indices) | edges_on_map(setup, embedding)
    if options.curve:
        values |= curve_breaks(embedding)
    parameters = {
        "rows": source.n_rows, "features": source.n_features, "dtype": source.dtype, "data": options.name, "metric": options.metric,
        "device": options.device, "n_edges": setup.graph.n_edges, "graph_seconds": setup.graph_seconds,
        "constants": system.constants,
    }  # fmt: skip
    append("layout", key | values | {"parameters": parameters, "measured_on": sizes(data)} | facts())
    print(f"{system.name}, {init}, {dims}-D, {system.n_epochs} epochs, seed {seed}", file=sys.stderr, flush=True)
    return key | values


def _for_start(setup: Setup, seed: int, init: str, dims: int = 2, n_epochs: int = 1) -> tuple:
    """The arguments of `first_positions`, but for whom it tells."""
    data = setup.data
    p = dataclasses.replace(data.params, n_components=dims, seed=seed, init=init)
    plan = with_edges(make_plan(data.plan.job, p, data.plan.budget, data.plan.machine), p, setup.graph.n_edges)
    blocks = GraphBlocks(setup.graph, layout_backend(plan))
    return data.rows, plan, p, blocks, settings(setup, seed, n_epochs)


def print_means(records: list[dict]) -> None:
    names = [name for name, value in records[0].items() if isinstance(value, float) and not name.endswith("_error")]
    groups: dict[tuple, list[dict]] = {}
    for r in records:
        groups.setdefault((r["dims"], r["init"], r["system"], r["epochs"]), []).append(r)
    lines = []
    for (dims, init, system, n_epochs), group in sorted(groups.items(), key=lambda item: item[0][:2]):
        means = [np.mean([r[name] for r in group]) for name in names]
        lines.append(
            [
                system,
                init,
                str(dims),
                str(n_epochs),
                str(len(group)),
                *(f"{x:.2f}" if x >= 10 else f"{x:.4f}" for x in means),
            ]
        )
    print_table(["mean over seeds", "init", "dims", "epochs", "seeds", *names], lines)


def import_cuml(device: str):
    """cuML's UMAP, before torch brings CUDA libraries of its own; None on a CPU, or, with the reason, where it is
    missing."""
    if device == "cpu":
        return None
    try:
        from cuml.manifold import UMAP
    except ImportError as error:
        print(f"cuML is skipped: {error}")
        return None
    return UMAP


def open_rows(path: Path, options: argparse.Namespace) -> Data:
    """All rows, or --rows of them, drawn at random."""
    params, labels = Params(metric=options.metric, recall=1.0), None
    if options.data:
        labels = read_labels(options.labels, options.data)
    if options.rows is None:
        return open_data(path, params, labels, options.device)
    source = open_source(path)
    numbers = quality.sample_rows(source.n_rows, options.rows, ROWS_SEED)
    return open_data(source.take(numbers), params, None if labels is None else labels[numbers], options.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="a .npy file, or a folder with topk_indices.npy and topk_values.npy")
    what.add_argument("--curve", choices=["line", "ring", "trajectory"], help="rows of tools/curves.py")
    parser.add_argument("--labels", type=Path, help="one label a line; a folder's labels.txt is found")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "euclidean"])
    parser.add_argument("--rows", type=int, help="so many random rows [default: all]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="+", help="[default: each system's own]")
    parser.add_argument("--dims", type=int, nargs="+", default=[2])
    parser.add_argument("--init", nargs="+", default=["auto"], help="[%(default)s]")
    parser.add_argument(
        "--try", dest="candidates", type=_constants, action="append", default=[], metavar="NAME=VALUE,..."
    )
    parser.add_argument("--their-starts", nargs="+", default=["own"], choices=["own", "ours"], help="[%(default)s]")
    parser.add_argument("--their-seeds", type=int, help="[default: as --seeds]")
    parser.add_argument("--alone", action="store_true", help="streamumap only")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    options = parser.parse_args()
    cuml_umap = None if options.alone else import_cuml(options.device)
    with tempfile.TemporaryDirectory() as name:
        try:
            data = open_rows(_file_of(options, Path(name)), options)
        except InputError as error:
            skip(str(error))
        print_means(compare(set_up(data, Path(name)), options, cuml_umap))


def _constants(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (part.split("=") for part in text.split(","))}


def _file_of(options: argparse.Namespace, scratch: Path) -> Path:
    """The rows as a file, and options.name: what they are called in the results. Skips where they are missing."""
    if options.curve:
        options.name, options.metric, out = options.curve, "euclidean", scratch / f"{options.curve}.npy"
        subprocess.run([sys.executable, str(ROOT / "tools" / "curves.py"), options.curve, str(out)], check=True)
        return out
    options.data = options.data.resolve()
    options.name = options.data.name
    if not options.data.exists():
        skip(f"{options.data} is missing")
    return dense_file(options.data, scratch)


if __name__ == "__main__":
    main()
