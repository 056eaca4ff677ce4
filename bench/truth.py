"""Checks the recall in run.json on rows that squared distances in float32 hardly distinguish: far from the origin, near one
direction, in clusters far apart, with one heavy feature.

    python bench/truth.py --device cuda
    python bench/truth.py --only "gps|float64" --rows 2000 --quick

Each cell is a kind of rows, and prints a line: the recall against neighbours by float64 differences of the stored values (rows at
the distance of the last neighbour count as right), the recall in run.json, their difference, seconds, and the first warning. A cell is
marked wrong if they differ by more than 0.01, or if the recall is below 0.95 without a warning. Only reading and the search run. Exit
code 1 means that a cell is wrong.
"""

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from results import append, facts, print_table

from streamumap.events import ignore
from streamumap.machine import gpu, memory
from streamumap.neighbors.cuda import sizes
from streamumap.params import Params
from streamumap.request import Request
from streamumap.run.dispatch import Rows
from streamumap.run.inputs import open_inputs
from streamumap.run.keys import keys_of
from streamumap.run.prepare import budget_for, first_plan
from streamumap.run.run import Run
from streamumap.run.stages.neighbors import neighbors
from streamumap.run.stages.read import read
from streamumap.store.workdir import Workdir

FEW, MANY = 12_000, 400_000
"""Numbers of rows for an exhaustive and for an approximate search."""

FEATURES, SPARSE_FEATURES, ACTIVE = 24, 160, 7
CLUSTER_ROWS = 50
LARGEST_GAP, LEAST_RECALL = 0.01, 0.95
SAME = 1e-12
DIFFERENCES = 1 << 26
"""float64 differences on a GPU at a time."""

Make = Callable[[np.random.Generator, int], np.ndarray]


@dataclass(frozen=True)
class Cell:
    """A kind of rows: `make(random, n)` returns float64 rows (n, D), stored as `dtype`."""

    name: str
    dtype: str
    metric: str
    make: Make


@dataclass(frozen=True)
class Line:
    cell: str
    dtype: str
    metric: str
    rows: int
    true: float
    said: float
    seconds: float
    warnings: list[str]

    @property
    def is_wrong(self) -> bool:
        return abs(self.said - self.true) > LARGEST_GAP or (self.true < LEAST_RECALL and not self.warnings)


def cells() -> Iterator[Cell]:
    for offset in (0, 300, 1_000, 3_000, 10_000, 1_000_000):
        for dtype in ("float16", "float32", "float64"):
            if dtype != "float16" or offset < 60_000:
                yield Cell(f"offset {offset:,}", dtype, "euclidean", partial(_offset, offset=offset))
    yield Cell("offset 1e9", "float64", "euclidean", partial(_offset, offset=1e9))
    for dtype in ("float32", "float64"):
        for height in (1e5, 3e5):
            yield Cell(f"column of {height:g}", dtype, "euclidean", partial(_column, height=height, share=1))
        yield Cell("column of 1e5 in half", dtype, "euclidean", partial(_column, height=1e5, share=0.5))
        yield Cell("gps", dtype, "euclidean", _gps)
    yield Cell("two clusters 1e6 apart", "float32", "euclidean", _two)
    for dtype in ("float16", "float32", "float64"):
        yield Cell("clusters + 10,000", dtype, "euclidean", _clusters)
        yield Cell("every direction", dtype, "cosine", partial(_offset, offset=0))
        yield Cell("near one direction", dtype, "cosine", _near_one)
        yield Cell("sparse", dtype, "euclidean", partial(_sparse, height=0))
        yield Cell("sparse, every direction", dtype, "cosine", partial(_sparse, height=0))
    for dtype in ("float32", "float64"):
        yield Cell("near some directions", dtype, "cosine", _near_some)
        yield Cell("sparse, one heavy", dtype, "euclidean", partial(_sparse, height=1e4))
        yield Cell("sparse, one heavy in half", dtype, "euclidean", partial(_sparse, height=1e4, share=0.5))
        yield Cell("sparse, near some directions", dtype, "cosine", _sparse_near_some)


def _offset(random, n, offset):
    return random.normal(size=(n, FEATURES)) + offset


def _column(random, n, height, share):
    rows = random.normal(size=(n, FEATURES))
    rows[random.random(n) < share, 3] = height
    return rows


def _gps(random, n):
    """East and north in metres: points a few metres from each other, in a region of 100 km."""
    places = random.uniform(0, 1e5, (max(1, n // CLUSTER_ROWS), 2)) + [5e5, 5.4e6]
    return places[random.integers(0, len(places), n)] + random.normal(0, 3, (n, 2))


def _two(random, n):
    return random.normal(size=(n, FEATURES)) + 1e6 * (random.random((n, 1)) < 0.5)


def _clusters(random, n):
    return random.normal(size=(n, FEATURES)) + 8 * _some(random, n) + 10_000


def _near_one(random, n):
    return 1 + 0.01 * random.normal(size=(n, FEATURES))


def _near_some(random, n):
    return _some(random, n) * random.uniform(0.1, 10, (n, 1)) + 1e-4 * random.normal(size=(n, FEATURES))


def _some(random, n):
    return random.normal(size=(5, FEATURES))[random.integers(0, 5, n)]


def _sparse(random, n, height, share=1):
    """Sparse rows with ACTIVE non-zero features, and one more that all rows, or a share of them, have."""
    rows = np.zeros((n, SPARSE_FEATURES))
    chosen = 1 + np.arange(ACTIVE) + (ACTIVE * random.integers(0, (SPARSE_FEATURES - 1) // ACTIVE, (n, 1)))
    np.put_along_axis(rows, chosen, random.normal(size=(n, ACTIVE)), 1)
    if height:
        heavy = random.random(n) < share
        rows[heavy, 0] = height + random.normal(size=int(heavy.sum()))
    return rows


def _sparse_near_some(random, n):
    rows = np.zeros((n, SPARSE_FEATURES))
    which = random.integers(0, (SPARSE_FEATURES - 1) // ACTIVE, (n, 1))
    directions = random.uniform(1, 2, (int(which.max()) + 1, ACTIVE))[which[:, 0]]
    np.put_along_axis(rows, ACTIVE * which + np.arange(ACTIVE), directions + 1e-5 * random.normal(size=(n, ACTIVE)), 1)
    return rows


def measured(cell: Cell, n: int, device: str, n_sample: int) -> Line:
    random = np.random.default_rng(0)
    rows = cell.make(random, n).astype(cell.dtype)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with as_if_many(n):
            graph, said, warnings = searched(rows, cell.metric, device, Path(folder) / "run")
        seconds = time.perf_counter() - started
    sample = np.sort(random.choice(n, min(n, n_sample), replace=False))
    gpu.release()
    true = true_recall(rows, cell.metric, graph, sample, device)
    return Line(cell.name, cell.dtype, cell.metric, n, true, said, seconds, warnings)


@contextmanager
def as_if_many(n: int) -> Iterator[None]:
    """Makes a GPU search MANY rows approximately, which it would otherwise do only for millions of such narrow rows."""
    if n < MANY:
        yield
        return
    with mock.patch.object(sizes, "is_exhaustive", lambda *_: False):
        yield


def searched(rows: np.ndarray, metric: str, device: str, out: Path) -> tuple[np.ndarray, float, list[str]]:
    """Runs up to the k-NN graph. Returns it, int32 (N, k), the recall for run.json, and the warnings."""
    request, machine = Request(rows, Params(metric=metric)), memory.machine(device)
    inputs = open_inputs(request)
    source = inputs.source
    plan = first_plan(source, inputs.job(False), request.params, budget_for(machine, None, None), machine)
    with closing(Workdir(out, source.fingerprint, "", True)) as work:
        run = Run(request, inputs, plan, work, ignore, lambda: False)
        with closing(run):
            found = read(run)
            searched = Rows(run.source, run.source, run.csr, found, run.view, metric)
            neighbors(run, searched, keys_of(run).knn)
            said = work.facts("neighbors")["knn_recall"]["value"]
        return np.load(out / "knn_indices.npy"), said, run.measured["warnings"]


def true_recall(rows: np.ndarray, metric: str, graph: np.ndarray, sample: np.ndarray, device: str) -> float:
    """Recall by squared float64 differences of the stored values, for cosine of rows divided by their norms."""
    rows = rows.astype(np.float64)
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    others = graph[sample, 1:]
    right = (_right_on_gpu if device.startswith("cuda") else _right_on_cpu)(rows, sample, others)
    return right / others.size


def _right_on_cpu(rows: np.ndarray, sample: np.ndarray, others: np.ndarray) -> int:
    k = others.shape[1]

    def right(at: int) -> int:
        squares = np.zeros(len(rows))
        for column in columns:
            step = column - column[sample[at]]
            squares += step * step
        squares[sample[at]] = np.inf
        last = np.partition(squares, k - 1)[k - 1] * (1 + SAME)
        return int((squares[others[at][others[at] >= 0]] <= last).sum())

    columns = np.ascontiguousarray(rows.T)
    with ThreadPoolExecutor(memory.n_cores()) as pool:
        return sum(pool.map(right, range(len(sample))))


def _right_on_gpu(rows: np.ndarray, sample: np.ndarray, others: np.ndarray) -> int:
    import torch

    k, right = others.shape[1], 0
    there = torch.from_numpy(rows).cuda()
    step = max(1, DIFFERENCES // rows.size)
    for start in range(0, len(sample), step):
        own = torch.from_numpy(sample[start : start + step]).cuda()
        squares = ((there[None] - there[own][:, None]) ** 2).sum(2)
        squares.scatter_(1, own[:, None], torch.inf)
        last = squares.topk(k, largest=False).values[:, -1:] * (1 + SAME)
        near = torch.from_numpy(others[start : start + step].astype(np.int64)).cuda()
        right += int(((squares.gather(1, near.clamp_min(0)) <= last) & (near >= 0)).sum())
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--rows", type=int, nargs="+", default=[FEW, MANY], help="numbers of rows (%(default)s)")
    parser.add_argument("--only", default="", help="only cells whose name, dtype or metric matches this pattern")
    parser.add_argument("--quick", action="store_true", help="100 sampled rows instead of 1,000")
    parser.add_argument("--no-record", action="store_true", help="append nothing to bench/results/truth.jsonl")
    options = parser.parse_args()
    machine = memory.machine(options.device)
    device = machine.device.label if machine.device else "cpu"
    lines = []
    for cell in cells():
        if not re.search(options.only, f"{cell.name} {cell.dtype} {cell.metric}"):
            continue
        for n in options.rows:
            line = measured(cell, n, device, 100 if options.quick else 1_000)
            lines.append(line)
            print(f"{line.cell}, {line.dtype}, {n:,} rows: {line.seconds:.1f} s", file=sys.stderr, flush=True)
            if not options.no_record:
                append("truth", asdict(line) | facts() | {"device": device})
    header = ["cell", "dtype", "metric", "rows", "true", "reported", "difference", "s", "wrong", "warning"]
    print_table(header, [_shown(line) for line in lines])
    sys.exit(1 if any(line.is_wrong for line in lines) else 0)


def _shown(line: Line) -> list[str]:
    numbers = f"{line.true:.4f}", f"{line.said:.4f}", f"{line.said - line.true:+.4f}", f"{line.seconds:.1f}"
    first = (line.warnings or [""])[0]
    return [line.cell, line.dtype, line.metric, f"{line.rows:,}", *numbers, "WRONG" if line.is_wrong else "", first]


if __name__ == "__main__":
    main()
