"""Nearest points and ranks on a map, on a CPU and on a GPU, held to all distances of all pairs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamumap
from streamumap import quality
from streamumap.neighbors import points_sizes
from streamumap.neighbors.cuda import points_sizes as device_sizes
from streamumap.neighbors.cuda.points_sizes import TILE
from streamumap.neighbors.points import Points as OnCpu


def on_device(positions):
    from devices import DEVICE

    from streamumap.neighbors.cuda.points import Points

    return Points(positions, DEVICE, values=1 << 14)


BACKENDS = {"cpu": (lambda positions: OnCpu(positions, 2), np.float64), "cuda": (on_device, np.float32)}


@pytest.fixture(params=BACKENDS)
def backend(request):
    """(positions -> Points, the dtype of its distances)."""
    return BACKENDS[request.param]


def all_squares(positions, dtype=np.float64):
    """(N, N), inf for a row and itself and where one has no place."""
    p = positions.astype(dtype)
    squares = sum((axis[:, None] - axis[None]) ** 2 for axis in p.T)
    np.fill_diagonal(squares, np.inf)
    return np.where(np.isfinite(squares), squares, np.inf)


def true_ranks(positions, sample, others, dtype):
    squares = all_squares(positions, dtype)[sample]
    theirs = np.where(others >= 0, np.take_along_axis(squares, np.maximum(others, 0), 1), np.inf)
    tie = 1e-11 if dtype == np.float64 else 0
    return (squares[:, None, :] < theirs[:, :, None] * (1 - tie)).sum(2)


def true_lost(positions, neighbors, dtype):
    ranks, wanted = true_ranks(positions, np.arange(len(positions)), neighbors, dtype), (neighbors >= 0).sum(1)
    placed = np.isfinite(positions).all(1)
    kept = (ranks < wanted[:, None]) & (neighbors >= 0) & placed[np.maximum(neighbors, 0)]
    out = 1 - kept.sum(1) / np.maximum(wanted, 1)
    return np.where((wanted > 0) & placed, out, np.nan).astype(np.float32)


def some_neighbors(n, k, random, missing=0.1):
    """Any k rows other than each row itself, some of them missing."""
    out = (np.arange(n)[:, None] + 1 + np.argsort(random.random((n, n - 1)), axis=1)[:, :k]) % n
    return np.where(random.random((n, k)) < missing, -1, out).astype(np.int32)


def clumps(n, n_components=2, seed=0):
    """Points whose density differs a thousandfold from place to place, and one far out."""
    random = np.random.default_rng(seed)
    spread = np.exp(random.normal(size=8) * 2)
    which = random.integers(8, size=n)
    out = (
        random.normal(size=(8, n_components))[which] * 20 + random.normal(size=(n, n_components)) * spread[which, None]
    )
    out[n // 2] = 1e4
    return out.astype(np.float32)


MAPS = {
    "clumps": clumps(700),
    "line": clumps(500, 1),
    "solid": clumps(500, 3),
    "wide": clumps(300, 40),
    "one place": np.full((300, 2), 3, np.float32),
    "copies": np.concatenate([np.full((400, 2), 0.25, np.float32), clumps(200)]),
    "grid": np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2).astype(np.float32),
    "three": clumps(3),
}


@pytest.mark.parametrize("name", MAPS)
def test_nearest_are_those_of_all_pairs(name, backend):
    (points, _), positions = backend, MAPS[name]
    n, sample = len(positions), np.arange(0, len(positions), 7)
    k = min(15, n - 2)
    found = points(positions).nearest(sample, k)
    assert found.shape == (len(sample), k) and found.dtype == np.int64
    assert (found != sample[:, None]).all() and all(len(set(row)) == k for row in found.tolist())
    d = all_squares(positions)[sample]
    assert np.allclose(np.sort(np.take_along_axis(d, found, 1)), np.sort(d)[:, :k], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", MAPS)
def test_ranks_are_those_of_all_pairs(name, backend):
    (points, dtype), positions, random = backend, MAPS[name], np.random.default_rng(1)
    n, sample = len(positions), np.arange(0, len(positions), 5)
    others = some_neighbors(n, min(15, n - 1), random, missing=0)[sample]
    ranks = points(positions).ranks(sample, others)
    assert ranks.dtype == np.int64 and np.array_equal(ranks, true_ranks(positions, sample, others, dtype))


@pytest.mark.parametrize("name", MAPS)
def test_lost_neighbours_are_those_of_all_pairs(name, backend):
    (points, dtype), positions, random = backend, MAPS[name], np.random.default_rng(2)
    n = len(positions)
    d = all_squares(positions)
    near = np.argsort(d, axis=1)[:, : min(30, n - 1)]
    picked = np.argsort(random.random(near.shape), axis=1)[:, : min(14, n - 1)]
    neighbors = np.where(random.random(picked.shape) < 0.1, -1, np.take_along_axis(near, picked, 1)).astype(np.int32)
    neighbors[n // 3] = -1
    lost = points(positions).lost(np.arange(n), neighbors)
    assert lost.dtype == np.float32 and np.array_equal(lost, true_lost(positions, neighbors, dtype), equal_nan=True)


def test_rows_without_a_place_are_nobodys_neighbours(backend):
    points, dtype = backend
    positions = clumps(2 * TILE)
    positions[::4] = np.nan
    sample, n = np.arange(1, 2 * TILE, 4), 2 * TILE
    there = points(positions)
    assert (there.nearest(sample, 5) % 4 != 0).all()
    neighbors = some_neighbors(n, 6, np.random.default_rng(3))
    assert np.array_equal(there.lost(np.arange(n), neighbors), true_lost(positions, neighbors, dtype), equal_nan=True)
    lost = there.ranks(sample, np.tile([-1, 4], (len(sample), 1)))
    assert (lost == np.isfinite(positions[:, 0]).sum() - 1).all(), "as far as can be"


def test_parts_of_the_rows_are_as_all_of_them(backend):
    points, dtype = backend
    positions, neighbors = clumps(700), some_neighbors(700, 14, np.random.default_rng(4))
    there = points(positions)
    parts = [there.lost(np.arange(i, min(i + 90, 700)), neighbors[i : i + 90]) for i in range(0, 700, 90)]
    assert np.array_equal(np.concatenate(parts), there.lost(np.arange(700), neighbors), equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 40), st.integers(1, 3), st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 1000]))
def test_any_small_map(n, n_components, seed, steps):
    """On few steps many points are equal, and as many distances."""
    random = np.random.default_rng(seed)
    positions = random.integers(0, steps, size=(n, n_components)).astype(np.float32)
    neighbors, rows = some_neighbors(n, min(14, n - 1), random), np.arange(n)
    for make, dtype in BACKENDS.values():
        there = make(positions)
        assert np.array_equal(there.lost(rows, neighbors), true_lost(positions, neighbors, dtype), equal_nan=True)
        others = np.maximum(neighbors, (rows[:, None] + 1) % n)
        assert np.array_equal(there.ranks(rows, others), true_ranks(positions, rows, others, dtype))


def test_a_hundred_thousand_copies_take_no_time():
    """Every one of them would look at all others, one after the other."""
    positions = np.full((100_000, 2), 0.5, np.float32)
    positions[:10] = np.arange(10)[:, None]
    neighbors = np.tile(np.array([[5, 20_000, 30_000]], np.int32), (100_000, 1))
    lost = OnCpu(positions, 2).lost(np.arange(100_000), neighbors)
    assert np.allclose(lost[10:], 1 / 3) and quality.distances(
        positions, np.array([20]), np.array([[30, -1]])
    ).tolist() == [[0, np.inf]]


@pytest.mark.parametrize("name", MAPS)
def test_the_order_of_points_does_not_depend_on_ranges(name, monkeypatch):
    from devices import placed

    from streamumap.neighbors.cuda import curve

    positions = np.concatenate([MAPS[name], np.full((3, MAPS[name].shape[1]), np.nan, np.float32), MAPS[name][:50]])
    whole = curve.order(placed(positions)).tolist()
    assert sorted(whole) == np.flatnonzero(np.isfinite(positions).all(1)).tolist()
    monkeypatch.setattr(curve, "SORTED_ROWS", 40)
    monkeypatch.setattr(curve, "CHUNK_ROWS", 70)
    sizes = []
    within = curve._within
    monkeypatch.setattr(curve, "_within", lambda *args: sizes.append(found := within(*args)) or found)
    assert curve.order(placed(positions)).tolist() == whole
    assert len(sizes) == -(-len(whole) // 30) if len(whole) > 40 else len(sizes) == 1


# Bytes

N, K, QUERY_ROWS = 400_000, 15, 1 << 17

LOOK = f"""
import numpy as np
from streamumap.machine import memory
from streamumap.neighbors.points import Points

def look(positions):
    n, random = len(positions), np.random.default_rng(1)
    there, block = Points(positions, 2), min(n, {QUERY_ROWS})
    neighbors = random.integers(n, size=(block, {K - 1})).astype(np.int32)
    there.lost(np.arange(block), neighbors)
    sample = np.arange(min(n, 3000))
    there.ranks(sample, there.nearest(sample, 15))

random = np.random.default_rng(0)
look(random.normal(size=(1000, 2)).astype(np.float32))
positions = random.normal(size=({N}, 2)).astype(np.float32)
watch = memory.Watch()
watch.lap()
before = memory.anonymous_bytes()
look(positions)
print(watch.lap()[0] - before)
"""


@pytest.mark.sizes
def test_the_host_bytes_that_plans_are_made_of_are_enough():
    environment = {**os.environ, "PYTHONPATH": str(Path(streamumap.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    predicted = points_sizes.tree(N, 2) + points_sizes.host(N, K, 2, QUERY_ROWS)
    assert predicted / 2.5 <= int(done.stdout) <= predicted


@pytest.mark.gpu
def test_the_device_bytes_that_plans_are_made_of_are_enough():
    from devices import DEVICE, GPU, torch

    if not GPU:
        pytest.skip("needs a GPU: its memory is measured")
    from streamumap.neighbors.cuda.points import Points

    positions, random = clumps(3_000_000), np.random.default_rng(1)
    neighbors = random.integers(len(positions), size=(len(positions), K - 1)).astype(np.int32)
    sample = np.arange(0, len(positions), 1000)
    for query_rows in (1 << 20, 1 << 14):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        there = Points(positions, DEVICE, device_sizes.values(query_rows))
        there.lost(np.arange(query_rows), neighbors[:query_rows])
        there.nearest(sample, 15)
        there.ranks(sample, neighbors[sample])
        peak = torch.cuda.max_memory_allocated() - before
        assert peak <= device_sizes.device(len(positions), K, 2, query_rows)
        del there
