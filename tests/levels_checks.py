"""Checks for the passes of every levels backend. `backend` is an `epochs.Backend`."""

import numpy as np
from layout_checks import as_blocks, make_graph, make_positions, make_settings, symmetric

from streamumap.layout import epochs
from streamumap.layout.init import levels
from streamumap.layout.init import levels_reference as reference

CPU = epochs.cpu_backend()


def graph_blocks(graph, cuts):
    """Yields (first_row, indptr, targets, weights) of the blocks between the cuts."""
    indptr, targets, weights = graph
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        first, last = indptr[start], indptr[stop]
        yield start, indptr[start : stop + 1] - first, targets[first:last], weights[first:last]


def passed(backend, function, values, graph, cuts):
    old = backend.to_device(values)
    new = backend.empty_like(old)
    for first_row, *block in graph_blocks(graph, cuts):
        function(old, new, first_row, *(backend.to_device(a) for a in block))
    return np.array(backend.to_host(new))


def some_cells(n, n_cells, share, seed=3):
    random = np.random.default_rng(seed)
    return np.where(random.random(n) < share, random.integers(0, n_cells, n), -1).astype(np.int32)


def light(graph, seed=4):
    """Gives a graph few different weights, so that some are equal."""
    indptr, targets, weights = graph
    return (
        indptr,
        targets,
        np.random.default_rng(seed).choice([1, 2, 32767, 32768, 65535], len(weights)).astype(np.uint16),
    )


def check_join_cells(backend, n=40):
    for graph in (make_graph(n), light(make_graph(n))):
        for share in (0.0, 0.1, 0.6):
            cells = some_cells(n, 2**23, share)
            true = reference.join_cells(cells, *graph)
            for cuts in ((0, n), (0, 1, n // 2, n // 2, n)):
                assert np.array_equal(passed(backend, backend.levels.join_cells, cells, graph, cuts), true)
            assert share == 0 or (true >= 0).sum() > (cells >= 0).sum()


def check_join_roots(backend, n=40):
    graph = make_graph(n)
    lost = np.random.default_rng(5).random(n) < 0.5
    roots = np.array(backend.to_host(backend.levels.own_numbers(backend.to_device(lost))))
    assert roots.dtype == np.int32 and np.array_equal(roots, np.where(lost, np.arange(n), -1))
    true = reference.join_roots(roots, *graph)
    for cuts in ((0, n), (0, 3, n)):
        assert np.array_equal(passed(backend, backend.levels.join_roots, roots, graph, cuts), true)


def check_scattered(backend):
    """Checks that vertices of one root stay together and roots spread over all cells."""
    cells = np.full(3000, -1, np.int32)
    cells[:10] = 7
    roots = np.where(cells < 0, np.arange(3000) // 3 * 3, -1).astype(np.int32)
    out = np.array(backend.to_host(backend.levels.scattered(backend.to_device(cells), backend.to_device(roots), 20)))
    assert out.dtype == np.int32 and (out[:10] == 7).all() and out.min() == 0 and out.max() == 19
    assert (out[12:].reshape(-1, 3) == out[12::3, None]).all()
    assert np.bincount(out[12::3], minlength=20).min() > 20


def check_coarse_graph(backend, n=60, n_cells=9, n_kept=3):
    for graph in (make_graph(n), light(make_graph(n, (0, 1, 33, 6)))):
        for cells in (some_cells(n, n_cells, 1.0), np.full(n, 4, np.int32)):
            true_pairs = reference.heaviest(cells, *graph, n_kept)
            pairs = backend.levels.no_pairs(backend.to_device(cells), n, n_kept)
            for first_row, *block in graph_blocks(graph, (0, 1, n // 2, n)):
                on_device = [backend.to_device(a) for a in (cells, *block)]
                backend.levels.heaviest(on_device[0], pairs[first_row:], first_row, *on_device[1:])
            keys = np.array(backend.to_host(pairs))
            keys = keys[keys >= 0]
            assert sorted(zip(keys >> 39, keys >> 16 & (2**23 - 1), keys & 65535, strict=True)) == true_pairs
            indptr, targets, weights = backend.levels.coarse_graph(pairs, n_cells)
            assert (indptr.dtype, targets.dtype, weights.dtype) == (np.int64, np.int32, np.uint16)
            dense = np.zeros((n_cells, n_cells), np.uint16)
            dense[np.repeat(np.arange(n_cells), np.diff(indptr)), targets] = weights
            assert np.abs(dense.astype(int) - reference.coarse_graph(true_pairs, n_cells)).max() <= 1
            assert np.array_equal(dense, dense.T) and len(targets) == np.count_nonzero(dense)


def check_smooth(backend, n_components, n=40):
    for graph in (make_graph(n), light(make_graph(n))):
        positions = make_positions(n, n_components)
        true = reference.smooth(positions, *graph)
        for cuts in ((0, n), (0, 7, n)):
            new = passed(backend, backend.levels.smooth, positions, graph, cuts)
            assert new.dtype == np.float32 and np.abs(new - true).max() < 1e-5


def ring(n, reach=3):
    return symmetric([(i, (i + d) % n, 65535 // d) for i in range(n) for d in range(1, reach + 1)], n)


def on_circle(n):
    def top_positions(numbers):
        turn = 2 * np.pi * numbers / n
        return (10 * np.stack([np.cos(turn), np.sin(turn)], 1)).astype(np.float32)

    return top_positions


def started(graph, cuts=None, seed=42, top_positions=None, ticks=None, backend=CPU):
    n = len(graph[0]) - 1
    s = make_settings(n, seed=seed)
    advance = (lambda _: None) if ticks is None else ticks.append
    return levels.start(as_blocks(graph, cuts or (0, n)), s, backend, top_positions or on_circle(n), advance)


def many_pieces():
    """Makes a ring of 900, 60 triangles, 20 isolated vertices, and a hub with 300 leaves."""
    pairs = [(i, (i + d) % 900, 65535 // d) for i in range(900) for d in (1, 2)]
    pairs += [(900 + 3 * t + i, 900 + 3 * t + (i + 1) % 3, 500) for t in range(60) for i in range(3)]
    pairs += [(1100, 1100 + leaf, 900) for leaf in range(1, 301)]
    return symmetric(pairs, 1401)
