"""Start and layout alone, on the k-NN graph of a finished GPU run: variants of ours, and cuML, timed and measured.

    python bench/layout_at_scale.py --run RUN --data ROWS.npy [--cuml] [--quick]

The k-NN graph comes from the run's folder, the measures from the rows: trustworthiness@15 and preservation@15 on 1,000
sampled rows with ranks over all rows, and random triplets. Each variant of ours is laid out once cold (Triton compiles)
and once warm, which is timed; the two must be the same bytes, and so must a layout that was stopped and continued.
Lines go to bench/results/layout.jsonl.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from measures import append, facts, print_table

from streamumap import backends, initial, memory, quality
from streamumap.blockfile import BlockFile
from streamumap.graph.build import build
from streamumap.graph.files import Graph
from streamumap.layout import levels, run, schedule
from streamumap.params import Params
from streamumap.source import open_source
from streamumap.source.rows import DenseRows

NEIGHBORS, SAMPLE_ROWS, TRIPLETS, SEED = 15, 1_000, 20_000, 7
GRAPH_BLOCK_ROWS = 1 << 20
STOPS = (50, 101, 150)


@dataclass(frozen=True)
class Variant:
    """Ours with other constants: `changes` names module, constant and value."""

    name: str
    n_epochs: int
    changes: tuple[tuple, ...] = ()


VARIANTS = [
    Variant("default", 200),
    Variant("default", 300),
    Variant("default", 500),
    Variant("widening 0.4", 300, ((levels, "WIDENING", 0.4),)),
    Variant("widening 0.2", 300, ((levels, "WIDENING", 0.2),)),
    Variant("level epochs 300", 300, ((levels, "LEVEL_EPOCHS", 300),)),
    Variant("smoothings 6", 300, ((levels, "SMOOTHINGS", 6),)),
    Variant("step power 1", 300, ((schedule, "STEP_POWER", 1),)),
]


@dataclass(frozen=True)
class Job:
    rows: DenseRows
    graph: Graph
    heaviest: int
    device: str
    params: Params

    def settings(self, n_epochs: int) -> schedule.Settings:
        values = {name: getattr(self.params, name) for name in schedule.SETTINGS}
        return schedule.settings(self.graph.n_rows, self.heaviest, **values | {"n_epochs": n_epochs})

    def place_top(self, numbers: np.ndarray) -> np.ndarray:
        sample = self.rows.take(numbers)
        return initial.pca([(0, sample)], sample, self.rows.n_features, self.params.n_components, self.params.seed)


def lay_out(job: Job, n_epochs: int, stops=()) -> tuple[np.ndarray, dict]:
    """The map, and seconds of start and layout."""
    backend = run.cuda_backend(job.device)
    blocks = backends.GraphBlocks(job.graph, backend).of(job.graph.n_rows)
    s, began = job.settings(n_epochs), time.perf_counter()
    begun = levels.start(blocks, s, backend, job.place_top)
    between = time.perf_counter()
    state = run.LayoutState(begun.positions)
    for until in (*stops, n_epochs):
        state = run.run(state, until, blocks, s, backend)
    seconds = {"start_seconds": between - began, "layout_seconds": time.perf_counter() - between}
    return state.positions, seconds | {"levels": list(begun.level_sizes), "unreached": begun.n_unreached}


def ours(job: Job, variants: list[Variant], watch: memory.Watch) -> list[tuple[dict, np.ndarray]]:
    import torch

    found = []
    for number, variant in enumerate(variants):
        with ExitStack() as changed:
            for module, name, value in variant.changes:
                changed.enter_context(mock.patch.object(module, name, value))
            cold = lay_out(job, variant.n_epochs, STOPS)[0] if number == 0 else None
            watch.lap()
            torch.cuda.empty_cache()
            positions, costs = lay_out(job, variant.n_epochs)
            _, costs["device_bytes"] = watch.lap()
        if cold is not None:
            print(f"continued at {STOPS} and laid out twice: the same bytes: {cold.tobytes() == positions.tobytes()}")
        found.append(({"system": f"streamumap, {variant.name}", "epochs": variant.n_epochs} | costs, positions))
        print(json.dumps(found[-1][0]), file=sys.stderr, flush=True)
    torch.cuda.empty_cache()
    return found


def cuml(umap, indices, distances) -> list[tuple[dict, np.ndarray]]:
    """Its own fuzzy graph, 200 epochs, and both of its starts, each warm."""
    found = []
    for start in ("random", "spectral"):
        model = umap(
            n_neighbors=indices.shape[1], n_epochs=200, init=start, precomputed_knn=(indices.astype(np.int64), distances),
            output_type="numpy",
        )  # fmt: skip
        for _ in range(2):
            began = time.perf_counter()
            positions = np.asarray(model.fit_transform(np.zeros((len(indices), 2), np.float32)))
            seconds = time.perf_counter() - began
        found.append(({"system": f"cuML, {start}", "epochs": 200, "layout_seconds": seconds}, positions))
        print(json.dumps(found[-1][0]), file=sys.stderr, flush=True)
        gc.collect()
    return found


def measured(job: Job, maps: list[np.ndarray]) -> list[dict]:
    """All maps in one pass over the rows."""
    from streamumap.neighbors import cuda

    n, source = job.rows.n_rows, job.rows.source
    sample = quality.sample_rows(n, SAMPLE_ROWS, SEED)
    looked = dict(other_rows=65_536, device=job.device)
    near = np.concatenate([cuda.nearest_points(y, sample, NEIGHBORS, **looked) for y in maps], axis=1)
    with closing(cuda.StreamedRows(source, job.params.metric, 16_384, job.device)) as streamed:
        ranks = cuda.count_closer(streamed, sample, near, other_rows=16_384)
    triplets, first_is_nearer = draw_triplets(job.rows)
    out = []
    for number, y in enumerate(maps):
        own = ranks[:, number * NEIGHBORS : (number + 1) * NEIGHBORS]
        first, second = (((y[triplets[:, 0]] - y[triplets[:, i]]) ** 2).sum(1) for i in (1, 2))
        out.append(
            {
                "trustworthiness": quality.trustworthiness(own, n),
                "knn_preservation": quality.preservation(own),
                "triplet_accuracy": float(((first < second) == first_is_nearer).mean()),
                "far_share": quality.far_share(y),
                "span": float(np.ptp(y, axis=0).max()),
            }
        )
    return out


def draw_triplets(rows: DenseRows) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3) rows, of which the second or the third is nearer to the first; and whether it is the second."""
    random = np.random.Generator(np.random.Philox(key=[SEED, 0x7A]))
    triplets = random.integers(rows.n_rows, size=(TRIPLETS, 3))
    excess = np.empty(TRIPLETS)
    for start in range(0, TRIPLETS, 2_000):
        part = triplets[start : start + 2_000]
        needed = np.unique(part)
        taken = rows.take(needed)
        own, first, second = (taken[np.searchsorted(needed, part[:, i])] for i in range(3))
        excess[start : start + 2_000] = ((own - first) ** 2).sum(1) - ((own - second) ** 2).sum(1)
    return triplets[excess != 0], excess[excess != 0] < 0


def fuzzy_graph(folder: Path, create: Callable, params: Params) -> tuple[Graph, float]:
    began = time.perf_counter()
    files = [BlockFile.open(folder / f"knn_{name}.npy") for name in ("indices", "distances")]
    chosen = dict(local_connectivity=params.local_connectivity, set_op_mix_ratio=params.set_op_mix_ratio)
    return build(*files, create, block_rows=GRAPH_BLOCK_ROWS, **chosen)[0], time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder with knn_indices.npy and knn_distances.npy")
    parser.add_argument("--data", type=Path, required=True, help="the rows, a .npy file")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "euclidean"])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--cuml", action="store_true", help="cuML beside it, with both of its starts")
    parser.add_argument("--quick", action="store_true", help="the first three variants only")
    options = parser.parse_args()
    umap = None
    if options.cuml:
        from cuml.manifold import UMAP as umap  # before torch brings CUDA libraries of its own
    params, source = Params(metric=options.metric), open_source(options.data)
    rows = DenseRows(source, options.metric)
    watch = memory.Watch(memory.machine(options.device).device)
    with tempfile.TemporaryDirectory() as name:
        graph, graph_seconds = fuzzy_graph(options.run, partial(_create, Path(name)), params)
        print(
            f"fuzzy graph: {graph.n_rows:,} rows, {graph.n_edges:,} edges, {graph_seconds:.1f} s on the CPU", flush=True
        )
        heaviest = graph.heaviest()
        job = Job(rows, graph, heaviest, options.device, params)
        found = ours(job, VARIANTS[:3] if options.quick else VARIANTS, watch)
    watch.close()
    if umap is not None:
        found += cuml(umap, *(np.load(options.run / f"knn_{name}.npy") for name in ("indices", "distances")))
    parameters = {
        "rows": source.n_rows,
        "features": source.n_features,
        "data": options.data.name,
        "metric": options.metric,
    }
    lines = []
    for (costs, _), values in zip(found, measured(job, [y for _, y in found]), strict=True):
        append("layout", costs | values | {"parameters": parameters | {"n_edges": graph.n_edges}} | facts())
        seconds = [costs.get(name, 0.0) for name in ("start_seconds", "layout_seconds")]
        device = memory.format_bytes(costs["device_bytes"]) if "device_bytes" in costs else ""
        lines.append(
            [
                costs["system"],
                str(costs["epochs"]),
                *(f"{s:.2f}" for s in seconds),
                device,
                *(f"{v:.4f}" for v in values.values()),
            ]
        )
    print_table(["system", "epochs", "start s", "layout s", "device", *values], lines)


def _create(folder: Path, name: str, shape, dtype) -> BlockFile:
    return BlockFile.create(folder / f"{name}.npy", shape, dtype)


if __name__ == "__main__":
    main()
