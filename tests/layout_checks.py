"""Checks for the epoch of every layout backend, as `epoch(old, first_row, indptr, targets, weights, first_edge, number, settings)`,
which returns the new positions."""

import dataclasses

import numpy as np

from streamumap.graph.files import GraphBlock
from streamumap.layout import reference, schedule

DEGREES = (0, 1, 2, 5, 31, 32, 33, 65, 130)


def make_settings(n_vertices, max_weight=65535, **changes):
    values = dict(
        n_epochs=200,
        min_dist=0.1,
        spread=1.0,
        learning_rate=1.0,
        repulsion_strength=1.0,
        negative_sample_rate=5,
        seed=42,
    )
    return schedule.layout_settings(n_vertices, max_weight, **values | changes)


def make_graph(n, degrees=DEGREES, seed=0):
    """Makes a CSR graph with rows of these degrees, in turn, and any uint16 weights. It is not symmetric."""
    rng = np.random.default_rng(seed)
    indptr = np.concatenate([[0], np.cumsum(np.resize(degrees, n))]).astype(np.int64)
    weights = rng.integers(1, 65536, indptr[-1]).astype(np.uint16)
    weights[:1] = 65535
    return indptr, rng.integers(0, n, indptr[-1]).astype(np.int32), weights


def make_positions(n, n_components, seed=1):
    return np.random.default_rng(seed).uniform(-3, 3, (n, n_components)).astype(np.float32)


def check_epoch(epoch, n_components, n=40, numbers=(0, 50, 90, 150), **changes):
    """Checks the whole graph in one block, in epochs with 1, 2, 4 and 5 pushes for a pull. A move of up to 4 is right to a few
    thousandths, because of float32 and the polynomial for pow."""
    indptr, targets, weights = make_graph(n)
    old = make_positions(n, n_components)
    s = make_settings(n, **changes)
    for number in numbers:
        new = epoch(old, 0, indptr, targets, weights, 0, number, s)
        true = reference.epoch(old, indptr, targets, weights, number, s)
        assert new.dtype == np.float32 and np.abs(true - old).max() > 0.1
        assert np.abs(new - true).max() < 2e-3


def check_which_edges_fire(epoch, n, numbers, first_edge, **changes):
    """Checks with one edge a vertex and no pushes that a vertex moves when its edge fires."""
    s = dataclasses.replace(make_settings(n, **changes), negative_sample_rate=0)
    indptr, targets, weights = make_graph(n, (1,))
    weights = np.minimum(weights, changes.get("max_weight", 65535))
    targets[:] = (np.arange(n) + 1) % n
    old = np.stack([np.arange(n) % 2, np.zeros(n)], axis=1).astype(np.float32)
    if n % 2:
        old[-1, 0] = 2
    fired = 0
    for number in numbers:
        moved = (epoch(old, 0, indptr, targets, weights, first_edge, number, s) != old).any(1)
        true = [reference.fires(first_edge + e, int(weights[e]), number, s) for e in range(n)]
        assert moved.tolist() == true
        fired += sum(true)
    assert 0 < fired < n * len(numbers)


def check_many_vertices(epoch, n=40_001, n_rows=20):
    """Checks that random rows are drawn from all `n`, and that a block may start at any row."""
    indptr, targets, weights = make_graph(n_rows, (1, 4, 7))
    targets[:] = np.random.default_rng(2).integers(0, n, len(targets))
    old = make_positions(n, 2)
    whole = np.concatenate([np.zeros(n - n_rows, np.int64), indptr])
    for number, seed in ((0, 1), (3, 2**63 - 1)):
        s = make_settings(n, seed=seed)
        new = epoch(old, n - n_rows, indptr, targets, weights, 0, number, s)
        true = reference.epoch(old, whole, targets, weights, number, s)
        assert np.abs(new - true)[-n_rows:].max() < 2e-3
        assert np.abs(new - old)[-n_rows:].max() > 0.1


def check_blocks(epoch, n=30, n_components=2):
    """Checks that any blocks give the same bytes, and that rows of other blocks stay."""
    indptr, targets, weights = make_graph(n, (0, 1, 5, 40))
    old = make_positions(n, n_components)
    s = make_settings(n)
    whole = epoch(old, 0, indptr, targets, weights, 0, 5, s)
    for cuts in ((0, 1, 7, n), (0, n // 2, n // 2, n)):
        for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
            first, last = indptr[start], indptr[stop]
            part = epoch(
                old, start, indptr[start : stop + 1] - first, targets[first:last], weights[first:last], int(first), 5, s
            )
            assert part[start:stop].tobytes() == whole[start:stop].tobytes()


def check_step_limit(epoch, n_components, n=40):
    indptr, targets, weights = make_graph(n, (130, 3))
    old = make_positions(n, n_components) * 5
    new = epoch(old, 0, indptr, targets, weights, 0, 0, make_settings(n, learning_rate=100.0))
    lengths = np.sqrt(((new.astype(np.float64) - old) ** 2).sum(1))
    assert lengths.max() <= schedule.STEP_LIMIT * (1 + 1e-5) and (lengths > 0.99 * schedule.STEP_LIMIT).any()


def check_equal_positions(epoch, n_components, n=20):
    """Checks that vertices at one point do not move: there is no direction, and no NaN."""
    indptr, targets, weights = make_graph(n)
    old = np.full((n, n_components), 1.5, np.float32)
    assert np.array_equal(epoch(old, 0, indptr, targets, weights, 0, 0, make_settings(n)), old)


def as_blocks(graph, cuts):
    indptr, targets, weights = graph

    def reader(start, stop):
        first, last = indptr[start], indptr[stop]
        return lambda: GraphBlock(
            start, int(first), indptr[start : stop + 1] - first, targets[first:last], weights[first:last]
        )

    return [reader(start, stop) for start, stop in zip(cuts[:-1], cuts[1:], strict=True)]


def symmetric(pairs, n):
    dense = np.zeros((n, n), np.uint16)
    for i, j, weight in pairs:
        dense[i, j] = dense[j, i] = weight
    rows, targets = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))]).astype(np.int64)
    return indptr, targets.astype(np.int32), dense[rows, targets]
