"""The epoch in numba, held to the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layout_checks import (
    check_blocks,
    check_epoch,
    check_equal_positions,
    check_many_vertices,
    check_step_limit,
    check_which_edges_fire,
    make_graph,
    make_positions,
    make_settings,
)

from streamumap.layout import cpu


def epoch(old, first_row, indptr, targets, weights, first_edge, number, s):
    new = np.full_like(old, np.nan)
    cpu.epoch(old, new, first_row, indptr, targets, weights, first_edge, number, s)
    rows = slice(first_row, first_row + len(indptr) - 1)
    assert np.isfinite(new[rows]).all()
    new[rows], left = old[rows], new[rows].copy()
    assert np.isnan(np.delete(new, np.r_[rows], axis=0)).all()
    new[rows] = left
    return new


@pytest.mark.parametrize("n_components", [1, 2, 3, 10])
def test_epoch_is_the_reference(n_components):
    check_epoch(epoch, n_components, n=100)


@pytest.mark.parametrize("changes", [dict(negative_sample_rate=0), dict(repulsion_strength=0.0), dict(min_dist=0.9)])
def test_epoch_is_the_reference_whatever_the_parameters(changes):
    for n_components in (2, 3):
        check_epoch(epoch, n_components, n=60, **changes)


@pytest.mark.parametrize("first_edge", [0, 2**31 - 100, 2**32 - 100, 2**33 + 5])
def test_the_same_edges_fire(first_edge):
    check_which_edges_fire(epoch, 301, range(0, 200, 11), first_edge)


@pytest.mark.parametrize("changes", [dict(n_epochs=2), dict(max_weight=40_000), dict(seed=2**63 - 1)])
def test_the_same_edges_fire_whatever_the_parameters(changes):
    check_which_edges_fire(epoch, 300, range(2), 12345, **changes)


def test_pushes_come_from_all_vertices():
    check_many_vertices(epoch)


@pytest.mark.parametrize("n_components", [2, 3])
def test_any_blocks_give_the_same_bytes(n_components):
    check_blocks(epoch, 600, n_components)


@pytest.mark.parametrize("n_components", [1, 2, 10])
def test_no_vertex_moves_further_than_the_limit(n_components):
    check_step_limit(epoch, n_components)


@pytest.mark.parametrize("n_components", [1, 2, 10])
def test_equal_positions_stay(n_components):
    check_equal_positions(epoch, n_components)


@given(st.floats(2.0**-39, 2.0**39, width=32), st.floats(0.125, 3.0, width=32))
def test_pow_is_as_right_as_it_says(x, b):
    true = float(x) ** float(b)
    if 1e-37 < true < 1e37:
        assert float(cpu.power(np.float32(x), np.float32(b))) == pytest.approx(true, rel=1e-4 * max(1.0, b))


def test_the_seed_changes_the_map():
    graph, start = make_graph(50), make_positions(50, 2)
    maps = [epoch(start, 0, *graph, 0, 3, make_settings(50, seed=seed)).tobytes() for seed in (0, 1, 2**32, 2**33)]
    assert len(set(maps)) == 4
