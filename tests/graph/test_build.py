"""The graph by every backend, held to the reference, umap-learn and scipy."""

import numpy as np
import pytest
import torch
from graph_checks import (
    BACKENDS,
    DEVICE,
    HALF_A_STEP,
    as_expected,
    content,
    random_knn,
    table,
    to_dense,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from streamumap.errors import Stopped
from streamumap.graph import cpu, reference, smooth_cuda
from streamumap.graph.files import WEIGHT_ONE
from streamumap.neighbors import reference as neighbors
from streamumap.store.blockfile import BlockFile


@pytest.mark.parametrize("local_connectivity", [0.0, 0.5, 1.0, 1.5, 3.0, 100.0])
def test_smooth_knn_is_the_reference(codes_knn, local_connectivity):
    for _, distances in (codes_knn, random_knn(0, 80, 7)):
        n = len(distances)
        mean = float(distances[np.isfinite(distances)].mean())
        rho, sigma = np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
        cpu.smooth_knn(distances, mean, local_connectivity, rho, sigma)
        on_device = smooth_cuda.smooth_knn(torch.from_numpy(distances).to(DEVICE), mean, local_connectivity)
        true_rho, true_sigma = reference.smooth_knn(distances, mean, local_connectivity)
        for ours in ((rho, sigma), [tensor.cpu().numpy() for tensor in on_device]):
            assert np.array_equal(ours[0], true_rho)
            assert np.allclose(ours[1], true_sigma, rtol=1e-5)


@pytest.mark.parametrize("local_connectivity", [1.0, 1.5, 3.0])
@pytest.mark.parametrize("set_op_mix_ratio", [0.0, 0.5, 1.0])
def test_weights_are_umap_learns(built, codes, codes_knn, umap_learn, local_connectivity, set_op_mix_ratio):
    indices, distances = codes_knn
    theirs, _, _ = umap_learn.fuzzy_simplicial_set(
        codes, 15, None, "cosine", knn_indices=indices, knn_dists=distances,
        local_connectivity=local_connectivity, set_op_mix_ratio=set_op_mix_ratio,
    )  # fmt: skip
    graph = built(codes_knn, 100, local_connectivity, set_op_mix_ratio)
    assert np.abs(to_dense(graph) - theirs.toarray()).max() < 1e-4
    slow = reference.fuzzy_graph(indices, distances, local_connectivity, set_op_mix_ratio)
    assert np.abs(slow - theirs.toarray()).max() < 1e-4
    assert abs(graph.n_edges - theirs.nnz) <= (theirs.data < 1e-6).sum()


@pytest.mark.parametrize("set_op_mix_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("local_connectivity", [0.0, 1.0, 2.5])
def test_build_is_the_reference(built, local_connectivity, set_op_mix_ratio):
    knn = random_knn(1, 90, 8)
    ours = to_dense(built(knn, 20, local_connectivity, set_op_mix_ratio))
    true = reference.fuzzy_graph(*knn, local_connectivity, set_op_mix_ratio)
    assert np.abs(ours - as_expected(true)).max() < HALF_A_STEP
    assert np.array_equal(ours, ours.T)


def test_any_block_rows_give_the_same_bytes(built):
    knn = random_knn(2, 41, 6)
    first, *others = (content(built(knn, block_rows)) for block_rows in (41, 1, 7, 46))
    assert all(other == first for other in others)


def test_any_number_of_threads_gives_the_same_bytes(built_by, codes_knn, with_threads):
    one, two = (content(with_threads(n, built_by, "cpu", codes_knn)[0]) for n in (1, 2))
    assert one == two


def test_nothing_is_read_that_was_not_written(built, poison, monkeypatch):
    knn = random_knn(3, 83, 6)
    before = content(built(knn, 20))
    poison()
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(77))
    assert content(built(knn, 20)) == before


def test_blocks_of_a_graph_are_its_rows(built):
    graph = built(random_knn(4, 50, 6), 9)
    whole = graph.block(0, 50)
    for start, stop in ((0, 7), (7, 50), (49, 50), (12, 12)):
        block = graph.block(start, stop)
        edges = slice(whole.indptr[start], whole.indptr[stop])
        assert (block.first_row, block.first_edge) == (start, edges.start)
        assert np.array_equal(block.indptr, whole.indptr[start : stop + 1] - edges.start)
        assert np.array_equal(block.targets, whole.targets[edges]) and np.array_equal(
            block.weights, whole.weights[edges]
        )
        assert (block.indptr.dtype, block.targets.dtype, block.weights.dtype) == (np.int64, np.int32, np.uint16)


@pytest.mark.parametrize("block_rows", [2, 10])
def test_rows_without_neighbours_have_no_edges(built, block_rows):
    indices, distances = random_knn(5, 30, 5, missing=0)
    alone = np.array([0, 1, 2, 3, 9, 29])
    indices[np.isin(indices, alone)] = -1
    indices[alone, 1:] = -1
    distances[indices < 0] = np.inf
    indices[alone, 0], distances[alone, 0] = alone, 0
    graph = built((indices, distances), block_rows)
    degree = np.diff(graph.indptr.read(0, 31))
    assert (degree[alone] == 0).all() and degree.sum() > 0
    assert np.abs(to_dense(graph) - as_expected(reference.fuzzy_graph(indices, distances))).max() < HALF_A_STEP


def test_a_graph_without_any_edge(built):
    indices, distances = np.full((9, 4), -1, np.int32), np.full((9, 4), np.inf, np.float32)
    indices[:, 0], distances[:, 0] = np.arange(9), 0
    graph = built((indices, distances), 4)
    assert graph.n_edges == 0 and graph.n_rows == 9
    assert (graph.indptr.read(0, 10) == 0).all() and len(graph.block(2, 5).targets) == 0


def test_two_neighbours_is_the_least(built):
    knn = table([[0, 1], [1, 2], [2, 0]], [[0, 1], [0, 2], [0, 3]])
    assert np.array_equal(to_dense(built(knn)), 1 - np.eye(3))


@pytest.mark.parametrize("local_connectivity", [1.0, 3.0])
def test_duplicates_by_the_thousand(built, local_connectivity):
    n, k = 1500, 6
    same = np.arange(1000)
    indices = (np.arange(n)[:, None] + np.arange(k)) % n
    distances = np.sort(np.random.default_rng(6).random((n, k)), axis=1)
    distances[:, 0] = 0
    indices[same] = (same[:, None] + np.arange(k)) % 1000
    distances[same] = 0
    knn = table(indices, distances)
    weights = to_dense(built(knn, 700, local_connectivity))
    assert (weights[same[:, None], indices[same, 1:]] == 1).all()
    assert np.abs(weights - as_expected(reference.fuzzy_graph(*knn, local_connectivity))).max() < HALF_A_STEP


def test_all_rows_the_same(built):
    indices = (np.arange(40)[:, None] + np.arange(5)) % 40
    graph = built(table(indices, np.zeros((40, 5))), 11)
    assert (graph.weights.read(0, graph.n_edges) == WEIGHT_ONE).all()


def test_a_hub_keeps_every_edge(built):
    n = 900
    indices, distances = random_knn(7, n, 4, missing=0)
    indices[1:, 1], distances[1:, 1:] = 0, distances[1:, 1:] + distances[1:, [1]]
    indices[1:, 2:] = np.where(indices[1:, 2:] == 0, -1, indices[1:, 2:])
    for row, d in zip(indices, distances, strict=True):
        d[row < 0] = np.inf
    for blocks in (n, 100):
        graph = built((indices, distances), blocks)
        assert np.diff(graph.indptr.read(0, 2))[0] == n - 1
        assert np.abs(to_dense(graph) - as_expected(reference.fuzzy_graph(indices, distances))).max() < HALF_A_STEP


def test_ticks_three_times_all_rows_and_stops(built):
    ticks = []
    built(random_knn(8, 50, 5), 20, advance=ticks.append)
    assert sum(ticks) == 150

    def stop(n):
        raise Stopped("stop")

    with pytest.raises(Stopped):
        built(random_knn(8, 50, 5), 20, advance=stop)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(3, 30), k=st.integers(2, 9), block_rows=st.integers(1, 31),
    local_connectivity=st.floats(0, 10), mix=st.floats(0, 1), scale=st.sampled_from([1e-12, 1.0, 1e12]),
)  # fmt: skip
@example(seed=0, n=3, k=9, block_rows=2, local_connectivity=0.0, mix=1.0, scale=1e-30)
def test_any_table_gives_a_symmetric_graph_of_weights_up_to_1(
    tmp_path_factory, seed, n, k, block_rows, local_connectivity, mix, scale
):
    indices, distances = random_knn(seed, n, k)
    distances *= np.float32(scale)
    folder, made = tmp_path_factory.mktemp("graph"), []

    def create(name, shape, dtype):
        made.append(BlockFile.create(folder / f"{len(made)}.npy", shape, dtype))
        return made[-1]

    knn = [create("knn", array.shape, array.dtype) for array in (indices, distances)]
    for file, array in zip(knn, (indices, distances), strict=True):
        file.write(0, array)
    how = dict(local_connectivity=local_connectivity, set_op_mix_ratio=mix, block_rows=block_rows)
    true = as_expected(reference.fuzzy_graph(indices, distances, local_connectivity, mix))
    sizes = []
    for backend in BACKENDS.values():
        graph, component_sizes = backend(*knn, create=create, **how)
        ours = to_dense(graph)
        assert np.array_equal(ours, ours.T) and ours.max(initial=0) <= 1 and (np.diag(ours) == 0).all()
        assert np.abs(ours - true).max() < HALF_A_STEP + 1e-5
        sizes.append(component_sizes.tolist())
    assert sizes[0] == sizes[1]
    for file in made:
        file.close()


def test_distances_of_rows_that_share_no_feature_are_no_edges(codes):
    rows = codes[:40].copy()
    rows[::2, 1500:] = 0
    rows[1::2, :1500] = 0
    indices, distances = neighbors.search(rows, 30, "cosine")
    weights = reference.fuzzy_graph(indices, distances)
    assert (indices < 0).any() and (weights[::2, 1::2] == 0).all() and (weights > 0).any()


@pytest.mark.parametrize("block_rows", [1, 17, 200])
@pytest.mark.parametrize("k", [2, 3, 6])
def test_components_are_scipys(built_by, backend, k, block_rows):
    graph, sizes = built_by(backend, random_knn(9, 120, k, missing=0.5), block_rows)
    labels = connected_components(csr_array(to_dense(graph)), directed=False)[1]
    assert sizes.dtype == np.int64 and sizes.tolist() == sorted(np.bincount(labels).tolist(), reverse=True)
    assert k > 2 or len(sizes) > 5


def test_components_of_a_chain_and_of_nothing(built_by, backend):
    n = 500
    order = np.random.default_rng(10).permutation(n)
    indices = np.full((n, 2), -1)
    indices[:, 0], indices[order[:-1], 1] = np.arange(n), order[1:]
    distances = np.where(indices < 0, np.inf, [0, 1])
    assert built_by(backend, table(indices, distances), 77)[1].tolist() == [n]
    indices[:, 1], distances[:, 1] = -1, np.inf
    assert built_by(backend, table(indices, distances), 77)[1].tolist() == [1] * n
