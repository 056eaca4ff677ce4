"""Times queries of a map: the lost neighbours of every row, and the nearest points and ranks of sampled rows.

    python bench/points.py [--device cuda] [--rows 3000000] [--map RUN]

The map is that of a run, or a generated one: clumps whose density differs a thousandfold, with mostly near neighbours.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from results import print_table
from tree import ROOT  # noqa: F401

from streamumap import quality
from streamumap.machine import gpu, memory
from streamumap.neighbors.cuda import points_sizes
from streamumap.planning.job import QUALITY_ROWS


def made(n_rows: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions float32 (N, 2) and neighbours int32 (N, k), nine of ten from the same clump."""
    random = np.random.default_rng(0)
    n_clumps = max(8, n_rows // 1_000)
    middles, spread = random.normal(size=(n_clumps, 2)) * 10, np.exp(random.normal(size=n_clumps)) * 0.2
    clump = np.sort(random.integers(n_clumps, size=n_rows))
    positions = middles[clump] + random.normal(size=(n_rows, 2)) * spread[clump, None]
    near = (np.arange(n_rows)[:, None] + random.integers(1, 500, size=(n_rows, k))) % n_rows
    far = random.integers(n_rows, size=(n_rows, k))
    return positions.astype(np.float32), np.where(random.random((n_rows, k)) < 0.9, near, far).astype(np.int32)


def of_run(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "embedding.npy"), np.load(folder / "knn_indices.npy")[:, 1:]


def points_on(device: str, positions: np.ndarray, query_rows: int):
    if device == "cpu":
        from streamumap.neighbors.points import Points

        return Points(positions, memory.n_cores())
    from streamumap.neighbors.cuda.points import Points as OnDevice

    return OnDevice(positions, device, points_sizes.values(query_rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--map", type=Path)
    options = parser.parse_args()
    positions, neighbors = of_run(options.map) if options.map else made(options.rows, 14)
    n, query_rows = len(positions), min(len(positions), 1 << 17 if options.device == "cpu" else 1 << 22)
    sample, lines = quality.sample_rows(n, QUALITY_ROWS, 0), []

    def timed(name: str, work):
        started = time.monotonic()
        result = work()
        lines.append([name, f"{time.monotonic() - started:.2f}"])
        return result

    if options.device != "cpu":
        gpu.load()
        warm = points_on(options.device, positions[:100_000], 100_000)
        warm.lost(np.arange(100_000), neighbors[:100_000] % 100_000)
    there = timed("points", lambda: points_on(options.device, positions, query_rows))
    starts = range(0, n, query_rows)
    blocks = [np.arange(start, min(start + query_rows, n)) for start in starts]
    lost = timed("lost neighbours", lambda: np.concatenate([there.lost(rows, neighbors[rows]) for rows in blocks]))
    timed("nearest", lambda: there.nearest(sample, 15))
    timed("ranks", lambda: there.ranks(sample, neighbors[sample]))
    print_table([f"{n:,} rows on {options.device}", "seconds"], lines)
    print(f"mean distortion {np.nanmean(lost):.4f}")


if __name__ == "__main__":
    main()
