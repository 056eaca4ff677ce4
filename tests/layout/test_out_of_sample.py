"""Edge weights and positions of new rows on a map: the fast versions held to the reference."""

import numpy as np
import pytest

from streamumap.graph import cpu as graph
from streamumap.graph import reference as plain_graph
from streamumap.layout import out_of_sample, reference
from streamumap.layout.schedule import LAYOUT_PARAMS, out_of_sample_settings
from streamumap.params import Params


def settings(n_mapped, **changed):
    values = {name: getattr(Params, name) for name in LAYOUT_PARAMS}
    return out_of_sample_settings(n_mapped, **(values | changed))


def some(n_rows=60, n_mapped=100, k=10, n_components=2, seed=0):
    """Makes a map, and neighbours, distances and weights of new rows: the first has no neighbour, the second few, the third is on
    the map."""
    random = np.random.default_rng(seed)
    mapped = random.normal(size=(n_mapped, n_components)).astype(np.float32) * 5
    indices = np.stack([random.choice(n_mapped, k, replace=False) for _ in range(n_rows)]).astype(np.int32)
    distances = np.sort(random.random((n_rows, k)).astype(np.float32), axis=1)
    indices[0], distances[0] = -1, np.inf
    indices[1, 3:], distances[1, 3:] = -1, np.inf
    distances[2, :2] = 0
    return mapped, indices, distances, graph.strengths(distances, 1.0)


@pytest.mark.parametrize("local_connectivity", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("k", [2, 15])
def test_weights_are_the_reference(k, local_connectivity):
    distances = some(k=k)[2]
    weights = graph.strengths(distances, local_connectivity)
    np.testing.assert_allclose(weights, plain_graph.strengths(distances, local_connectivity), rtol=1e-5, atol=1e-7)
    assert (weights[np.isinf(distances)] == 0).all() and (weights[1:, 0] > 0).all()
    assert (np.diff(weights, axis=1) <= 0).all()


def test_weights_are_those_of_umap_learn():
    umap_ = pytest.importorskip("umap.umap_")
    distances = some()[2][3:]
    sigmas, rhos = umap_.smooth_knn_dist(distances, 10.0, local_connectivity=0.0)
    indices = np.arange(distances.size, dtype=np.int32).reshape(distances.shape)
    theirs = umap_.compute_membership_strengths(indices, distances, sigmas, rhos, bipartite=True)[2]
    np.testing.assert_allclose(graph.strengths(distances, 1.0).ravel(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_components", [1, 2, 5])
@pytest.mark.parametrize("n_epochs", [1, 12])
def test_positions_are_the_reference(n_components, n_epochs):
    mapped, *knn = some(n_components=n_components)
    s = settings(100, n_epochs=n_epochs)
    positions, expected = out_of_sample.embed_rows(mapped, *knn, s), reference.embed_rows(mapped, *knn, s)
    assert positions.dtype == np.float32 and positions.shape == (60, n_components)
    np.testing.assert_allclose(positions, expected, atol=2e-3)
    assert np.isnan(positions[0]).all() and np.isfinite(positions[1:]).all()
    assert np.array_equal(positions[2], mapped[knn[0][2, 0]]), "a row of the map keeps its position"


def test_a_position_depends_on_the_row_and_the_map_alone():
    mapped, *knn = some(n_rows=700)
    s = settings(100)
    positions = out_of_sample.embed_rows(mapped, *knn, s)
    order = np.random.default_rng(1).permutation(700)
    again = out_of_sample.embed_rows(mapped, *(part[order] for part in knn), s)
    assert again.tobytes() == positions[order].tobytes()
    part = out_of_sample.embed_rows(mapped, *(part[500:503] for part in knn), s)
    assert part.tobytes() == positions[500:503].tobytes()
    assert not np.array_equal(positions, out_of_sample.embed_rows(mapped, *knn, settings(100, seed=1)), equal_nan=True)


def test_epochs_are_a_third_of_those_of_the_map():
    assert [settings(n).n_epochs for n in (100, 10_001)] == [166, 166]
    assert [settings(100, n_epochs=n).n_epochs for n in (1, 60)] == [1, 20]
