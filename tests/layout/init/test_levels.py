import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layout_checks import make_settings, symmetric
from levels_checks import (
    check_coarse_graph,
    check_join_cells,
    check_join_roots,
    check_scattered,
    check_smooth,
    many_pieces,
    on_circle,
    ring,
    started,
)

from streamumap.layout import epochs
from streamumap.layout.init import levels
from streamumap.layout.init.levels_sizes import FEW, RATIO, host

CPU = epochs.cpu_backend()


def test_cells_are_the_reference():
    check_join_cells(CPU)


def test_roots_are_the_reference():
    check_join_roots(CPU)
    check_scattered(CPU)


def test_the_coarse_graph_is_the_reference():
    check_coarse_graph(CPU)


@pytest.mark.parametrize("n_components", [1, 2, 3, 10])
def test_smoothing_is_the_reference(n_components):
    check_smooth(CPU, n_components)


@pytest.mark.parametrize(("n", "n_cells"), [(9000, 4096), (100_003, 10_000), (5, 5), (7, 3)])
def test_seeds_are_spread_and_change_with_seed_and_level(n, n_cells):
    seeds = levels.choose_seeds(n, n_cells, 1, 0)
    assert seeds.dtype == np.int64 and len(seeds) == n_cells and (np.diff(seeds) > 0).all()
    assert seeds[0] >= 0 and seeds[-1] < n and np.diff(seeds).max(initial=0) <= 2 * -(-n // n_cells)
    if n > n_cells:
        for other in ((2, 0), (1, 1)):
            assert not np.array_equal(seeds, levels.choose_seeds(n, n_cells, *other)) or n < 10


@given(st.integers(3, 3 * 10**9), st.sampled_from([levels.TOP, levels.RANDOM_TOP, 16]))
def test_levels_shrink_about_tenfold_to_the_coarsest(n, top):
    sizes = [n]
    while n_cells := levels._n_cells(sizes[-1], len(sizes) == 1, top):
        sizes.append(n_cells)
    assert all(coarse <= levels.MOST_CELLS for coarse in sizes[1:])
    assert all(fine // RATIO <= coarse < fine for fine, coarse in pairwise(sizes) if coarse < levels.MOST_CELLS)
    assert all(coarse in (fine // RATIO, top, levels.MOST_CELLS) for fine, coarse in pairwise(sizes))
    assert sizes[-1] <= 2 * top and (len(sizes) > 1) == (n >= FEW or n > 2 * top)


def test_a_graph_of_many_rows_has_a_coarser_level_and_one_of_few_has_none():
    whole = [levels._n_cells(n, True, levels.TOP) for n in (511, 512, 8192, 8193, 100_000, 10**9)]
    assert whole == [0, 51, 819, 4096, 10_000, levels.MOST_CELLS]
    assert [levels._n_cells(n, False, levels.TOP) for n in (512, 8192, 8193)] == [0, 0, 4096]


def test_a_level_is_laid_out_warmer_and_small_ones_less_repelled():
    s = make_settings(10**6, max_weight=40_000, learning_rate=0.5, repulsion_strength=1.5)
    small, large = levels._on_level(s, 819, 900), levels._on_level(s, 100_000, 300)
    assert (small.n_vertices, small.n_epochs, large.n_vertices, large.n_epochs) == (819, 900, 100_000, 300)
    assert small.learning_rate == large.learning_rate == 0.5 * levels.HEAT
    assert small.repulsion_strength == pytest.approx(1.5 * 819 / levels.FULL_REPULSION)
    assert large.repulsion_strength == 1.5 == levels._on_level(s, levels.FULL_REPULSION, 900).repulsion_strength
    assert (small.rate_scale, small.least_weight, large.least_weight) == (65537, 73, 219), "its heaviest edge is 65535"
    assert (small.a, small.b, small.seed) == (s.a, s.b, s.seed)


@pytest.fixture
def small_top(monkeypatch):
    monkeypatch.setattr(levels, "TOP", 16)


def test_levels_shrink_tenfold_and_the_last_is_placed_by_its_own_vertices(small_top):
    asked = []

    def top_positions(numbers):
        asked.append(numbers)
        return on_circle(3000)(numbers)

    ticks = []
    begun = started(ring(3000), top_positions=top_positions, ticks=ticks)
    assert begun.level_sizes == (3000, 300, 30) and begun.n_unreached == 0
    assert len(asked) == 1 and len(asked[0]) == 30 and (np.diff(asked[0]) > 0).all() and asked[0].max() > 2500
    assert begun.positions.shape == (3000, 2) and begun.positions.dtype == np.float32
    assert len(ticks) > 100 and sum(ticks) == 3000


def test_neighbours_start_together(small_top):
    positions = started(ring(3000)).positions
    near = np.sqrt(((positions - np.roll(positions, 1, axis=0)) ** 2).sum(1))
    far = np.sqrt(((positions - np.roll(positions, 1500, axis=0)) ** 2).sum(1))
    assert np.median(near) < 0.02 * np.median(far)


def test_a_small_graph_starts_where_the_caller_says(small_top):
    ticks = []
    begun = started(ring(32), ticks=ticks)
    assert (
        sum(ticks) == 32
        and begun.level_sizes == (32,)
        and np.array_equal(begun.positions, on_circle(32)(np.arange(32)))
    )


def test_the_start_does_not_depend_on_blocks_or_threads(small_top, with_threads):
    graph = ring(1500)
    first = with_threads(1, started, graph).positions.tobytes()
    assert with_threads(2, started, graph).positions.tobytes() == first
    assert started(graph, (0, 1, 700, 700, 1500)).positions.tobytes() == first
    assert started(graph, seed=7).positions.tobytes() != first


def test_pieces_without_a_seed_stay_whole_and_are_counted(small_top):
    graph = many_pieces()
    seeds = levels.choose_seeds(1401, 140, 42, 1)
    begun = started(graph)
    alone = ~np.isin(np.arange(900, 1080) // 3, seeds // 3).reshape(-1, 3)[:, 0]
    isolated = ~np.isin(np.arange(1080, 1100), seeds)
    assert begun.n_unreached == 3 * alone.sum() + isolated.sum() > 20
    triangles = begun.positions[900:1080].reshape(-1, 3, 2)[alone]
    assert np.isfinite(begun.positions).all() and np.ptp(triangles, axis=1).max() < 1e-5
    assert np.abs(begun.positions).max() < 200


@pytest.mark.parametrize("n", [33, 400])
def test_a_graph_without_an_edge_starts_somewhere(small_top, n):
    begun = started((np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint16)))
    assert begun.positions.shape == (n, 2) and np.isfinite(begun.positions).all()
    assert begun.n_unreached == n - begun.level_sizes[1]


def test_a_chain_longer_than_the_passes_ends(small_top):
    n = 4000
    graph = symmetric([(i, i + 1, 1 + i % 7) for i in range(n - 1)], n)
    begun = started(graph)
    assert np.isfinite(begun.positions).all() and begun.n_unreached < n // 10


def test_three_dimensions(small_top):
    begun = started(
        ring(500),
        top_positions=lambda numbers: np.random.default_rng(0).normal(size=(len(numbers), 3)).astype(np.float32),
    )
    assert begun.positions.shape == (500, 3) and np.isfinite(begun.positions).all()


def peak_and_planned(targets, n_blocks, n_components=2):
    """Runs a start on a graph with these neighbours, (N, degree). Returns its bytes at the peak, those planned, and those of its
    edges, which exist before."""
    n, degree = targets.shape
    weights = np.random.default_rng(0).integers(1, 65536, targets.size).astype(np.uint16)
    graph = np.arange(n + 1, dtype=np.int64) * degree, targets.astype(np.int32).ravel(), weights
    cuts = tuple(np.linspace(0, n, n_blocks + 1).astype(int))

    def top_positions(numbers):
        return np.random.default_rng(0).normal(size=(len(numbers), n_components)).astype(np.float32)

    for _ in range(2):  # the first may compile
        tracemalloc.start()
        started(graph, cuts, top_positions=top_positions)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    planned, others = (host(n, n_components, n // n_blocks, n_edges) for n_edges in (targets.size, 0))
    return peak + planned - others, planned, planned - others


@pytest.mark.parametrize("n_components", [2, 5])
@pytest.mark.parametrize("n_blocks", [1, 8])
def test_bytes_are_as_planned(n_blocks, n_components):
    """Checks a graph in which hardly any two vertices have the same pair of cells."""
    targets = np.random.default_rng(1).integers(0, 100_000, (100_000, 20))
    peak, planned, edges = peak_and_planned(targets, n_blocks, n_components)
    assert 0.88 * (planned - edges) < peak - edges < planned - edges, (peak, planned, edges)


def test_bytes_are_not_far_from_planned_where_neighbours_share_their_cells():
    """Checks a graph like real ones, in which many vertices have the same pair of cells."""
    targets = np.add.outer(np.arange(100_000), [*range(-10, 0), *range(1, 11)]) % 100_000
    peak, planned, _ = peak_and_planned(targets, 1)
    assert 0.75 * planned < peak < planned, (peak, planned)
