"""Builds the fuzzy graph of a random k-NN graph with hubs, on the CPU and on a GPU: seconds of each part, device bytes against
the plan's formula, and the differences between both graphs.

    python bench/graph.py --rows 3000000 --device cuda

`--device cpu` runs the GPU's code without a GPU. Each build runs `--times` times; the first may compile. Lines go to
bench/results/graph.jsonl, unless `--try` is given.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from results import append, facts, print_table

from streamumap.graph import build, cuda
from streamumap.graph import sizes as footprint
from streamumap.graph.files import Graph
from streamumap.machine.memory import format_bytes
from streamumap.store.blockfile import BlockFile

LOCAL, HUB_SHARE = 40, 0.1
"""Neighbours are at most LOCAL rows away, except a share of hubs."""

CHUNK_ROWS = 1 << 18
PARTS = ("read", "weigh", "merge")
HOW = dict(local_connectivity=1.0, set_op_mix_ratio=1.0)


def make_knn(n: int, k: int, device: str, create: Callable) -> tuple[BlockFile, BlockFile]:
    """Writes indices int32 (N, k), -1 for none, and ascending distances float32 (N, k)."""
    files = create("knn_indices", (n, k), np.int32), create("knn_distances", (n, k), np.float32)
    generator = torch.Generator(device).manual_seed(0)
    for start in range(0, n, CHUNK_ROWS):
        own = torch.arange(start, min(start + CHUNK_ROWS, n), device=device)[:, None]
        shape = len(own), k
        near = own + torch.randint(-LOCAL, LOCAL + 1, shape, device=device, generator=generator)
        hubs = (torch.rand(shape, device=device, generator=generator) ** 3 * n).long()
        is_hub = torch.rand(shape, device=device, generator=generator) < HUB_SHARE
        near = torch.where(is_hub, hubs, near).remainder_(n).sort(1).values
        distances = torch.rand(shape, device=device, generator=generator) + 0.1
        gone = torch.zeros_like(near, dtype=torch.bool)
        gone[:, 1:] = near[:, 1:] == near[:, :-1]
        gone |= near == own
        near, distances = near.masked_fill(gone, -1), distances.masked_fill(gone, torch.inf)
        near[:, :1], distances[:, :1] = own, 0.0
        distances, order = distances.sort(1)
        again = (near == own) & (torch.arange(k, device=device) > 0)
        files[0].write(start, near.masked_fill(again, -1).gather(1, order).int().cpu().numpy())
        files[1].write(start, distances.cpu().numpy())
    return files


def timed(work: Callable, n: int) -> tuple[dict[str, float], tuple[Graph, np.ndarray]]:
    """Seconds of the parts (each advances over all rows) and in all, and the result of `work(advance)`."""
    began, rows, at = time.perf_counter(), 0, []

    def advance(n_rows: int) -> None:
        nonlocal rows
        rows += n_rows
        while len(at) < rows // n:
            at.append(time.perf_counter() - began)

    made = work(advance)
    seconds = dict(zip(PARTS, np.diff([0.0, *at]).tolist(), strict=True))
    return seconds | {"all": time.perf_counter() - began}, made


def differences(one: Graph, other: Graph) -> dict[str, int]:
    """Counts the row ends, targets and weights that differ, and the largest difference of weights in steps."""
    found = {
        "n_other_ends": 0,
        "n_other_targets": abs(one.n_edges - other.n_edges),
        "most_steps": 0,
        "n_other_weights": 0,
    }
    for start in range(0, one.n_rows, CHUNK_ROWS):
        ours, theirs = (graph.block(start, min(start + CHUNK_ROWS, one.n_rows)) for graph in (one, other))
        found["n_other_ends"] += int((ours.indptr != theirs.indptr).sum())
        if len(ours.targets) == len(theirs.targets):
            steps = np.abs(ours.weights.astype(int) - theirs.weights)
            found["n_other_targets"] += int((ours.targets != theirs.targets).sum())
            found["n_other_weights"] += int((steps > 0).sum())
            found["most_steps"] = max(found["most_steps"], int(steps.max(initial=0)))
    return found


def on_gpu(knn, create, block_edges: int, device: str, advance) -> tuple[tuple[Graph, np.ndarray], int]:
    """The graph and its components, and the peak of device bytes."""
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if gpu else 0
    made = cuda.build(*knn, create, device=device, block_edges=block_edges, advance=advance, **HOW)
    return made, torch.cuda.max_memory_allocated() - before if gpu else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--neighbors", type=int, default=15)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--block-edges", type=int, nargs="+", default=[footprint.MOST_EDGES])
    parser.add_argument("--try", dest="tried", action="store_true", help="write no line")
    options = parser.parse_args()
    n, k, lines = options.rows, options.neighbors, []
    with tempfile.TemporaryDirectory() as name:
        create = partial(_create, Path(name))
        knn = make_knn(n, k, options.device, create)
        by_cpu = lambda advance: build.build(*knn, partial(create, "cpu"), block_rows=n, advance=advance, **HOW)  # noqa: E731
        for _ in range(options.times):
            seconds, (graph, sizes) = timed(by_cpu, n)
        print(f"{n:,} rows, {graph.n_edges:,} edges, {len(sizes):,} components, the largest of {sizes[0]:,} rows")
        lines.append(["cpu (weigh, count, merge)", *(f"{s:.2f}" for s in seconds.values()), "", "", ""])
        for block_edges in options.block_edges:
            by_gpu = partial(on_gpu, knn, partial(create, "cuda"), block_edges, options.device)
            for _ in range(options.times):
                seconds, ((other, its_sizes), n_bytes) = timed(by_gpu, n)
            formula, apart = footprint.cuda(n, k, block_edges), differences(graph, other)
            apart |= {"same_components": np.array_equal(sizes, its_sizes)}
            measured = {
                "seconds": seconds,
                "device_bytes": n_bytes,
                "predicted_bytes": formula,
                "block_edges": block_edges,
            }
            lines.append(
                [f"{options.device}, {block_edges:,} edges", *(f"{s:.2f}" for s in seconds.values()),
                 format_bytes(n_bytes), f"{n_bytes / formula:.2f}", str(apart)]
            )  # fmt: skip
            if not options.tried:
                append(
                    "graph", {"rows": n, "k": k, "edges": graph.n_edges} | measured | {"against_cpu": apart} | facts()
                )
    print_table(["", *PARTS, "all", "peak", "of the formula", "against the CPU"], lines)


def _create(folder: Path, *name_and_more) -> BlockFile:
    *names, shape, dtype = name_and_more
    return BlockFile.create(folder / f"{'_'.join(names)}.npy", shape, dtype)


if __name__ == "__main__":
    main()
