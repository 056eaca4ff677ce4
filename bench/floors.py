"""Compares the seconds of each stage of a GPU run with the least that this machine needs: the bytes and products that the stage
needs, divided by the measured rates of the machine.

    python bench/floors.py ROWS.npy --budget 40GB [--features D] [--metric cosine] [--out DIR]

ROWS are mapped twice in this process, so that nothing compiles in the run that counts. That run also counts what the k-NN search
inspects. A stage's floor is the time of its slowest way (file, host to device, device memory, file again, products), as if all the
others ran at the same time. Only what the method needs is counted: what it inspects, measures, sorts or writes. The result is a line
of bench/results/floors.jsonl.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from results import RESULTS, append, facts, print_table

from streamumap import engine
from streamumap.neighbors.cuda.sizes import SKETCH
from streamumap.params import Params
from streamumap.request import Request
from streamumap.source import Reading

PART_BYTES, READERS, READ_BYTES = 16 << 20, 8, 4 << 30
EDGE_BYTES = 4 + 2
START_PASSES = 10
"""Passes over the whole graph: about seven in which vertices join cells, one that adds up the cells' edges, two that smooth."""

SORTED_DIGITS = 8
"""Digits of a 64-bit key: a sort goes byte by byte, and each byte reads and writes all keys and weights once."""

WAYS = ("file", "to_device", "memory", "to_file", "products")


@dataclass(frozen=True)
class Work:
    """The work of a stage: bytes read from a file (the page cache), copied to the device, read and written in its memory, and
    written to files; and multiplications and additions of bytes on its tensor cores."""

    file: float = 0
    to_device: float = 0
    memory: float = 0
    to_file: float = 0
    products: float = 0


def rates(path: Path, folder: Path) -> dict[str, float]:
    """The rate of each of the WAYS, per second: the best of a few trials."""
    import torch

    def timed(work: Callable[[], object], repeats: int = 5) -> float:
        found = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            started = time.perf_counter()
            work()
            torch.cuda.synchronize()
            found.append(time.perf_counter() - started)
        return min(found)

    n_bytes = min(READ_BYTES, path.stat().st_size)
    host = torch.empty(256 << 20, dtype=torch.uint8).random_().pin_memory()
    there = host.cuda()
    big, other = (torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_() for _ in range(2))
    a, b = (torch.randint(-128, 128, (8192, 8192), dtype=torch.int8, device="cuda") for _ in range(2))
    return {
        "file": n_bytes / timed(lambda: _read(path, n_bytes), 3),
        "to_device": len(host) / timed(lambda: there.copy_(host)),
        "memory": 2 * len(big) / timed(lambda: big.copy_(other)),
        "to_file": len(host) / timed(lambda: _write(folder / "written", host.numpy()), 3),
        "products": 2 * 8192**3 / timed(lambda: torch._int_mm(a, b.t())),
    }


def _read(path: Path, n_bytes: int) -> None:
    """Reads with several threads, each into one reused buffer."""
    file = os.open(path, os.O_RDONLY)
    buffers = [bytearray(PART_BYTES) for _ in range(READERS)]

    def some(reader: int) -> None:
        for at in range(reader * PART_BYTES, n_bytes, READERS * PART_BYTES):
            os.preadv(file, [buffers[reader]], at)

    with ThreadPoolExecutor(READERS) as readers:
        list(readers.map(some, range(READERS)))
    os.close(file)


def _write(path: Path, values: np.ndarray) -> None:
    with open(path, "wb") as file:
        file.write(values.data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def counted() -> Iterator[Counter]:
    """Counts what searches inspect inside the block: tiles, pairs of tiles, and candidates `measured`."""
    from streamumap.neighbors.cuda import look, sketch, sparse_rows, tiles

    counts: Counter = Counter()

    def lists(listed: tiles.Tiles, *given) -> Iterator:
        counts["tiles"] += len(listed)
        for here, near, lengths in tiles.lists(listed, *given):
            counts["pairs_of_tiles"] += int(lengths.sum())
            yield here, near, lengths

    def counting(measure):
        def measured(rows, queries, candidates):
            counts["measured"] += len(queries) * candidates.shape[-1]
            return measure(rows, queries, candidates)

        return measured

    with (
        mock.patch.object(look, "lists", lists),
        mock.patch.object(sparse_rows.SparseOnDevice, "measure", counting(sparse_rows.SparseOnDevice.measure)),
        mock.patch.object(sketch.Sketches, "measure", counting(sketch.Sketches.measure)),
    ):
        yield counts


def work_of(report: dict, counts: Counter, file_bytes: int) -> dict[str, Work]:
    """The work of each stage, for sparse rows."""
    rows, k = report["input"]["rows"], report["params"]["n_neighbors"]
    features, n_edges = report["input"]["features"], report["graph"]["edges"]
    pairs = rows * features * report["input"]["density"]
    row_bytes = pairs / rows * 4 + 24  # 16 bit each of feature and value; where the row is, and its norm
    tile_rows, cell_rows, n_sampled = 64, 128, report["quality"]["trustworthiness"]["sample_size"]
    graph_bytes = n_edges * EDGE_BYTES + rows * 8
    epochs = 200 if report["params"]["n_epochs"] is None else report["params"]["n_epochs"]
    positions = rows * report["params"]["n_components"] * 4
    return {
        "read": Work(file=file_bytes, to_device=file_bytes, memory=file_bytes),
        "neighbors": Work(
            to_device=pairs * 4,
            memory=counts["measured"] * row_bytes + n_sampled * pairs * 4,
            to_file=rows * k * 8,
            products=2.0 * SKETCH * (counts["pairs_of_tiles"] * tile_rows**2 + 2 * rows * (rows / cell_rows)),
        ),
        "graph": Work(
            file=rows * k * 8,
            to_device=rows * k * 8,
            memory=2 * (k - 1) * rows * (8 + 4) * 2 * SORTED_DIGITS,
            to_file=graph_bytes,
        ),
        "start": Work(file=graph_bytes, to_device=graph_bytes, memory=START_PASSES * graph_bytes),
        "layout": Work(memory=epochs * (n_edges * 2 + rows * 8 + 2 * positions), to_file=positions),
        "quality": Work(to_device=pairs * 4, memory=n_sampled * pairs * 4),
        "write": Work(file=positions, to_file=2 * positions + rows * 9),
    }


def floor(work: Work, rate: dict[str, float]) -> tuple[float, str]:
    """(least seconds, the way that limits them)."""
    return max((getattr(work, way) / rate[way], way) for way in WAYS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--features", type=int, help="the width of pairs")
    parser.add_argument("--budget", default="40GB")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "euclidean"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    reading, params = Reading(n_features=options.features), Params(metric=options.metric)
    with tempfile.TemporaryDirectory() as name:
        request = Request(str(options.rows), params, options.budget, device="cuda", reading=reading)
        engine.embed(request, Path(name) / "0")
        with counted() as counts:
            report = engine.embed(request, Path(name) / "1")
        found = rates(options.rows, Path(name))
    values = options.rows.with_name(options.rows.name.replace("_indices", "_values"))
    file_bytes = sum(path.stat().st_size for path in {options.rows, values})
    stages, lines = [], []
    for stage in report["stages"]:
        work = work_of(report, counts, file_bytes)[stage["stage"]]
        least, way = floor(work, found)
        stages.append({"stage": stage["stage"], "seconds": stage["seconds"], "floor": least, "way": way} | vars(work))
        moved = [f"{getattr(work, w) / 1e9:.1f}" if getattr(work, w) else "" for w in WAYS[:4]]
        shares = [f"{least:.2f}", way, f"{stage['seconds'] / least:.1f}"]
        lines.append([stage["stage"], f"{stage['seconds']:.2f}", *moved, f"{work.products / 1e12:.0f}", *shares])
    parameters = {"rows": report["input"]["rows"], "features": report["input"]["features"], "data": options.rows.name}
    record = {"rates": found, "stages": stages, "counts": dict(counts), "seconds": report["seconds"]}
    append("floors", record | {"budget": options.budget, "parameters": parameters} | facts(), options.out)
    print({way: f"{found[way]:.3g}/s" for way in WAYS})
    print_table(["stage", "seconds", *(f"{w}, GB" for w in WAYS[:4]), "10^12 products", "floor", "by", "ratio"], lines)


if __name__ == "__main__":
    main()
