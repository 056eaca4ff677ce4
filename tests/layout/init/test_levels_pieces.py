"""The coarse graph of pairs that are sorted in pieces: the bytes of the one that is sorted at once."""

import numpy as np
import pytest
from devices import DEVICE, GPU, torch
from layout_checks import as_blocks, make_settings
from levels_checks import light, many_pieces, on_circle, ring, some_cells
from tensor_bytes import TensorBytes

from streamumap.layout import epochs
from streamumap.layout.init import levels, levels_cuda, levels_sizes
from streamumap.layout.init import levels_pieces_cuda as levels_pieces

BACKEND = epochs.cuda_backend(DEVICE)


def same(ours, theirs):
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def random_keys(n, n_cells, seed=1):
    random = np.random.default_rng(seed)
    one = random.integers(0, n_cells - 1, n)
    other = np.minimum(one + 1 + random.geometric(0.2, n), n_cells - 1)
    other = np.where(other <= one, one + 1, other)
    return (one << 39 | other << 16 | random.integers(1, 65536, n)).astype(np.int64)


def as_runs(keys, length):
    return [np.sort(keys[start : start + length]) for start in range(0, len(keys), length)]


@pytest.mark.parametrize("most", [50, 1000, 7000, 100_000])
def test_pieces_have_the_bytes_of_all_pairs_at_once(most):
    keys = random_keys(20_000, 2000)
    whole = levels_cuda.coarse_graph(torch.from_numpy(keys).to(DEVICE), 2000)
    assert same(levels_pieces.of_runs(as_runs(keys, max(most, 500)), 2000, most, torch.device(DEVICE)), whole)


def test_a_pair_that_most_vertices_have_is_added_up():
    keys = np.full(5000, 3 << 39 | 7 << 16 | 65535, np.int64)
    keys[:100] = random_keys(100, 9)
    whole = levels_cuda.coarse_graph(torch.from_numpy(keys).to(DEVICE), 9)
    assert same(levels_pieces.of_runs(as_runs(keys, 64), 9, 64, torch.device(DEVICE)), whole)


def test_no_pair_is_an_empty_graph():
    indptr, targets, weights = levels_pieces.of_runs([], 4, 10, torch.device(DEVICE))
    assert indptr.tolist() == [0] * 5 and len(targets) == len(weights) == 0


@pytest.mark.parametrize("n_runs", [1, 7])
def test_a_cut_has_at_most_so_many_keys_and_no_pair_is_cut(n_runs):
    keys = random_keys(20_000, 5000)
    cuts = list(levels_pieces._cuts(as_runs(keys, -(-len(keys) // n_runs)), 1000))
    parts = [np.sort(np.concatenate(cut)) for cut in cuts]
    assert np.array_equal(np.concatenate(parts), np.sort(keys))
    most = np.unique(keys >> 16, return_counts=True)[1].max()
    assert max(len(part) for part in parts) <= 1000 + most
    assert all(before[-1] >> 16 < after[0] >> 16 for before, after in zip(parts, parts[1:], strict=False))


@pytest.mark.parametrize("most_pairs", [9, 40, 1000])
@pytest.mark.parametrize("cuts", [(0, 23), (0, 1, 12, 12, 23)])
def test_runs_of_any_blocks_make_the_same_graph(most_pairs, cuts):
    graph = light(ring(23, 3))
    cells = BACKEND.to_device(some_cells(23, 6, 1.0))
    read_blocks = epochs.block_reader(as_blocks(graph, cuts), BACKEND)
    whole = levels._coarse(read_blocks, cells, 23, 6, BACKEND)
    ours = BACKEND.levels.coarse_graph_in_pieces(read_blocks, cells, 6, most_pairs)
    assert same(ours, (whole.indptr, whole.targets, whole.weights))


@pytest.mark.parametrize("coarse_bytes", [100, 2000, 10**9])
def test_coarse_graphs_in_blocks_give_the_same_start(monkeypatch, coarse_bytes):
    monkeypatch.setattr(levels, "TOP", 16)
    graph = many_pieces()
    n = len(graph[0]) - 1

    def started(pieces):
        blocks = as_blocks(graph, (0, n))
        return levels.start(blocks, make_settings(n, seed=4), epochs.cpu_backend(), on_circle(n), top=16, pieces=pieces)

    pieces = levels.Pieces(10**9, coarse_bytes)
    assert started(pieces).positions.tobytes() == started(None).positions.tobytes()


def test_a_start_in_pieces_has_the_bytes_of_the_resident_one(monkeypatch):
    monkeypatch.setattr(levels, "TOP_EPOCHS", 2)
    graph = many_pieces() if GPU else ring(60, 2)
    n = len(graph[0]) - 1

    def started(cuts, pieces):
        return levels.start(
            as_blocks(graph, cuts), make_settings(n, seed=4), BACKEND, on_circle(n), top=8, pieces=pieces
        )

    whole = started((0, n), None)
    for cuts in ((0, n), (0, 17, n)):
        assert started(cuts, levels.Pieces(20, 300)).positions.tobytes() == whole.positions.tobytes()


def test_the_cuts_of_a_coarse_graph_hold_its_bytes():
    graph = levels.CoarseGraph(*many_pieces())
    cuts = graph.cuts(500)
    parts = [graph.rows(start, stop) for start, stop in zip(cuts, cuts[1:], strict=False)]
    assert cuts[0] == 0 and cuts[-1] == 1401 and sum(len(part.targets) for part in parts) == len(graph.targets)
    assert all(part.n_bytes <= 500 or len(part.indptr) == 2 for part in parts)
    assert [part.first_edge for part in parts] == [int(graph.indptr[start]) for start in cuts[:-1]]


@pytest.mark.skipif(GPU, reason="the allocator of a GPU is measured by bench/")
def test_tensors_stay_within_the_formula(monkeypatch):
    monkeypatch.setattr(levels_pieces, "_on_host", lambda keys: keys.numpy().copy())
    n, n_cells, most = 200_000, 20_000, 30_000
    runs = as_runs(random_keys(3 * n, n_cells), most)
    with TensorBytes() as tensors:
        levels_pieces.of_runs(runs, n_cells, most, torch.device(DEVICE))
    pieces = most * levels_sizes.PAIR_DEVICE_BYTES + n_cells * levels_sizes.CELL_DEVICE_BYTES
    assert 0.25 * pieces < tensors.peak < pieces  # a piece has half the keys on average
