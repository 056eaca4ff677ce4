"""Times and measures first positions and layout alone, on the k-NN graph of a finished GPU run: variants of ours, and cuML.

    python bench/layout_at_scale.py --run RUN --data ROWS.npy [--features D] [--cuml] [--quick]

The k-NN graph comes from the run's folder. Fuzzy graph, start and epochs use the calls of a run; measures.py measures the maps.
Each variant of ours runs once cold (Triton compiles), stopped and continued on the way, and RUNS times warm, of which the median
counts. All these maps must have the same bytes; each line says whether they do. cuML makes its own fuzzy graph from the same k-NN
arrays and is timed as often. Lines go to bench/results/layout.jsonl.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from measures import Data, measure, open_data, sizes
from results import append, facts, print_table

from streamumap.events import no_advance
from streamumap.graph.files import Graph
from streamumap.layout import epochs, schedule
from streamumap.layout.init import levels
from streamumap.machine import memory
from streamumap.params import Params
from streamumap.planning.planner import with_edges
from streamumap.run.initialize import GraphBlocks, first_positions, layout_backend
from streamumap.store.blockfile import BlockFile

RUNS = 3
STOPS = (50, 101, 150)


@dataclass(frozen=True)
class Variant:
    """Our layout with other constants: each of `changes` is (module, constant, value)."""

    name: str
    n_epochs: int
    changes: tuple[tuple, ...] = ()


VARIANTS = [
    Variant("default", schedule.DEFAULT_EPOCHS),
    Variant("default", 200),
    Variant("whole repulsion throughout", schedule.DEFAULT_EPOCHS, ((schedule, "FIRST_REPULSION", 1.0),)),
    Variant("widening 0.4", schedule.DEFAULT_EPOCHS, ((levels, "WIDENING", 0.4),)),
    Variant("widening 0.2", schedule.DEFAULT_EPOCHS, ((levels, "WIDENING", 0.2),)),
    Variant("level epochs 900", schedule.DEFAULT_EPOCHS, ((levels, "LEVEL_EPOCHS", 900),)),
    Variant("step power 1", schedule.DEFAULT_EPOCHS, ((schedule, "STEP_POWER", 1),)),
]


def lay_out(
    data: Data, graph: Graph, n_epochs: int, stops: tuple[int, ...] = ()
) -> tuple[np.ndarray, dict[str, float]]:
    """Returns the map and the seconds of start and layout, from the graph's files on."""
    p, backend = replace(data.params, n_epochs=n_epochs), layout_backend(data.plan)
    s = schedule.layout_settings(
        graph.n_rows, graph.heaviest(), **{name: getattr(p, name) for name in schedule.LAYOUT_PARAMS}
    )
    began = time.perf_counter()
    blocks = GraphBlocks(graph, backend)
    positions, _ = first_positions(data.rows, data.plan, p, blocks, s, no_advance, print)
    between = time.perf_counter()
    state, in_blocks = epochs.LayoutState(positions), blocks.of(data.plan["layout"].blocks["block_rows"])
    for until in (*stops, n_epochs):
        state = epochs.run(state, until, in_blocks, s, backend)
    return state.positions, {"start_seconds": between - began, "layout_seconds": time.perf_counter() - between}


def ours(data: Data, graph: Graph, variants: list[Variant], watch: memory.Watch) -> list[tuple[dict, np.ndarray]]:
    """The costs and the map of each variant."""
    import torch

    found = []
    for variant in variants:
        with ExitStack() as changed:
            for module, name, value in variant.changes:
                changed.enter_context(mock.patch.object(module, name, value))
            continued = lay_out(data, graph, variant.n_epochs, STOPS)[0]
            watch.lap()
            torch.cuda.empty_cache()
            maps, seconds = zip(*(lay_out(data, graph, variant.n_epochs) for _ in range(RUNS)), strict=True)
        same = all(continued.tobytes() == positions.tobytes() for positions in maps)
        costs = {name: float(np.median([s[name] for s in seconds])) for name in seconds[0]}
        costs |= {"device_bytes": watch.lap()[1], "runs": RUNS, "same_bytes": same}
        found.append(({"system": f"streamumap, {variant.name}", "epochs": variant.n_epochs} | costs, maps[0]))
        print(json.dumps(found[-1][0]), file=sys.stderr, flush=True)
    torch.cuda.empty_cache()
    return found


def cuml(umap, indices, distances) -> list[tuple[dict, np.ndarray]]:
    """The costs and the maps of cuML from both of its starts: its own fuzzy graph, 200 epochs, one cold run each."""
    found = []
    for start in ("random", "spectral"):
        model = umap(
            n_neighbors=indices.shape[1], n_epochs=200, init=start, precomputed_knn=(indices.astype(np.int64), distances),
            output_type="numpy",
        )  # fmt: skip
        seconds = []
        for _ in range(1 + RUNS):
            began = time.perf_counter()
            positions = np.asarray(model.fit_transform(np.zeros((len(indices), 2), np.float32)))
            seconds.append(time.perf_counter() - began)
        costs = {"layout_seconds": float(np.median(seconds[1:])), "runs": RUNS}
        found.append(({"system": f"cuML, {start}", "epochs": 200} | costs, positions))
        print(json.dumps(found[-1][0]), file=sys.stderr, flush=True)
        gc.collect()
    return found


def fuzzy_graph(folder: Path, scratch: Path, data: Data) -> Graph:
    """Builds the fuzzy graph as a run does."""
    from streamumap.graph import cuda

    files = [BlockFile.open(folder / f"knn_{name}.npy") for name in ("indices", "distances")]
    p, planned = data.params, data.plan["graph"]
    chosen = dict(local_connectivity=p.local_connectivity, set_op_mix_ratio=p.set_op_mix_ratio, **planned.blocks)
    return cuda.build(*files, partial(_create, scratch), device=data.plan.device, **chosen)[0]


def _create(folder: Path, name: str, shape, dtype) -> BlockFile:
    return BlockFile.create(folder / f"{name}.npy", shape, dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder with knn_indices.npy and knn_distances.npy")
    parser.add_argument("--data", type=Path, required=True, help="the rows, a .npy file")
    parser.add_argument("--features", type=int, help="the width of pairs")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "euclidean"])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--cuml", action="store_true", help="cuML beside it, with both of its starts")
    parser.add_argument("--quick", action="store_true", help="the default only")
    options = parser.parse_args()
    umap = None
    if options.cuml:
        from cuml.manifold import UMAP as umap  # before torch brings CUDA libraries of its own
    data = open_data(str(options.data), Params(metric=options.metric), None, options.device, options.features)
    watch = memory.Watch(memory.machine(options.device).device)
    with tempfile.TemporaryDirectory() as name:
        graph = fuzzy_graph(options.run, Path(name), data)
        data = replace(data, plan=with_edges(data.plan, data.params, graph.n_edges))
        found = ours(data, graph, VARIANTS[:1] if options.quick else VARIANTS, watch)
    watch.close()
    indices, distances = (np.load(options.run / f"knn_{name}.npy") for name in ("indices", "distances"))
    if umap is not None:
        found += cuml(umap, indices, distances)
    source = data.rows.original
    parameters = {
        "rows": source.n_rows, "features": source.n_features, "data": options.data.name, "metric": options.metric,
        "n_edges": graph.n_edges,
    }  # fmt: skip
    lines, shown = [], []
    for costs, positions in found:
        values = measure(positions, data, indices)
        append("layout", costs | values | {"parameters": parameters, "measured_on": sizes(data)} | facts())
        shown = [name for name in values if not name.endswith("_error")]
        seconds = [costs.get(name, 0.0) for name in ("start_seconds", "layout_seconds")]
        device = memory.format_bytes(costs["device_bytes"]) if "device_bytes" in costs else ""
        lines.append(
            [costs["system"], str(costs["epochs"]), *(f"{s:.2f}" for s in seconds), device, *(f"{values[name]:.4f}" for name in shown)]
        )  # fmt: skip
    print_table(["system", "epochs", "start s", "layout s", "device", *shown], lines)


if __name__ == "__main__":
    main()
