import numpy as np
import pytest
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from streamumap import quality
from streamumap.neighbors import reference


def exact_ranks(rows, found, metric="euclidean"):
    """How many rows are closer to row i than row found[i, j] is."""
    d = reference.distance_matrix(rows, rows, metric)
    np.fill_diagonal(d, np.inf)
    theirs = np.take_along_axis(d, np.maximum(found, 0), 1)
    theirs[found < 0] = np.inf
    return (d[:, None, :] < theirs[:, :, None]).sum(2)


def test_sampled_rows_are_ascending_and_repeat_with_the_seed():
    sample = quality.sample_rows(1000, 100, 5)
    assert sample.dtype == np.int64 and len(sample) == 100 and (np.diff(sample) > 0).all()
    assert sample[0] >= 0 and sample[-1] < 1000
    assert np.array_equal(sample, quality.sample_rows(1000, 100, 5))
    assert not np.array_equal(sample, quality.sample_rows(1000, 100, 6))
    assert np.array_equal(quality.sample_rows(30, 100, 5), np.arange(30))


def test_recall_is_the_share_of_the_true_neighbours():
    rows = np.random.default_rng(0).normal(size=(60, 5))
    true = reference.search(rows, 7, "euclidean")[0][:, 1:]
    found = true.copy()
    assert quality.recall(exact_ranks(rows, found), found) == 1.0
    found[:, 0] = [next(j for j in range(60) if j != i and j not in true[i]) for i in range(60)]
    assert quality.recall(exact_ranks(rows, found), found) == pytest.approx(5 / 6)
    found[:, 1] = -1
    assert quality.recall(exact_ranks(rows, found), found) == pytest.approx(4 / 6)
    assert quality.recall(exact_ranks(rows, np.full((60, 6), -1)), np.full((60, 6), -1)) == 0.0


def test_a_slot_without_a_possible_neighbour_counts_as_right():
    # three rows: two, none and five others are closer than an edge may be; k = 4
    found = np.array([[5, 6, -1, -1], [-1, -1, -1, -1], [1, 2, 3, -1]])
    ranks = np.array([[0, 1, 2, 2], [0, 0, 0, 0], [0, 1, 2, 5]])
    assert quality.recall(ranks[:1], found[:1]) == 1.0
    assert quality.recall(ranks[1:2], found[1:2]) == 1.0
    assert quality.recall(ranks[2:], found[2:]) == 0.75
    assert quality.recall(ranks, found) == pytest.approx((1 + 1 + 0.75) / 3)


def test_a_wrong_and_a_missing_neighbour_both_count():
    found = np.array([[9, 8, -1, -1]])  # two others are allowed; one found is among them, 8 cannot be: it is fourth
    assert quality.recall(np.array([[0, 5, 6, 6]]), found) == 0.25
    assert quality.recall(np.array([[0, 1, 6, 6]]), found) == 0.5


def test_a_floor_is_reached_where_the_sample_leaves_no_doubt():
    ranks = np.zeros((400, 2), int)
    found = np.ones((400, 2), int)
    assert quality.reaches(ranks, found, 1.0)
    ranks[::20, 1] = 9  # a twentieth of the rows misses one of two: 0.975, with a standard error of 0.0054
    assert quality.recall(ranks, found) == 0.975
    assert not quality.reaches(ranks, found, 0.975) and not quality.reaches(ranks, found, 0.970)
    assert quality.reaches(ranks, found, 0.969)
    assert quality.reaches(ranks[:1] * 0, found[:1], 0.5)


def test_any_of_equally_near_rows_is_right():
    found = np.array([[7, 8, 9]])
    assert quality.recall(np.zeros((1, 3), int), found) == 1.0


@pytest.mark.parametrize("k", [1, 5, 15])
def test_trustworthiness_is_sklearns(codes, k):
    rows = codes[:200]
    embedding = np.random.default_rng(1).normal(size=(200, 2)) + rows[:, :200:100]
    found = quality.nearest_on_map(embedding, np.arange(200), k)
    ours = quality.trustworthiness(exact_ranks(rows, found), 200)
    assert ours == pytest.approx(sklearn_trustworthiness(rows, embedding, n_neighbors=k), abs=1e-12)


def test_trustworthiness_of_the_same_map_is_one_and_of_the_smallest_is_finite():
    rows = np.random.default_rng(2).normal(size=(50, 2))
    found = quality.nearest_on_map(rows, np.arange(50), 10)
    assert quality.trustworthiness(exact_ranks(rows, found), 50) == 1.0
    assert np.isfinite(quality.trustworthiness(np.array([[0, 1]]), 3))


def test_preservation_counts_ranks_below_k():
    assert quality.preservation(np.array([[0, 1, 2], [3, 9, 0]])) == pytest.approx(4 / 6)
    rows = np.random.default_rng(3).normal(size=(80, 2))
    found = quality.nearest_on_map(rows, np.arange(80), 6)
    assert quality.preservation(exact_ranks(rows, found)) == 1.0


@pytest.mark.parametrize("n_components", [1, 2, 3])
def test_nearest_on_map_is_brute_force(n_components):
    embedding = np.random.default_rng(4).normal(size=(90, n_components)).astype(np.float32)
    sample = np.array([0, 17, 89])
    found = quality.nearest_on_map(embedding, sample, 8)
    assert found.dtype == np.int64
    assert np.array_equal(found, reference.search(embedding, 9, "euclidean")[0][sample, 1:])


@pytest.mark.parametrize("n_same", [2, 10, 500])
def test_nearest_on_map_never_names_the_row_itself(n_same):
    embedding = np.random.default_rng(5).normal(size=(600, 2)).astype(np.float32)
    embedding[:n_same] = 0.25
    sample = np.arange(0, 600, 7)
    found = quality.nearest_on_map(embedding, sample, 5)
    assert found.shape == (len(sample), 5) and (found != sample[:, None]).all()
    assert all(len(set(row)) == 5 for row in found.tolist())
    distance = np.sqrt(((embedding[found] - embedding[sample][:, None]) ** 2).sum(2))
    true = np.sort(reference.distance_matrix(embedding[sample], embedding, "euclidean"), axis=1)[:, 1:6]
    assert np.allclose(np.sort(distance, axis=1), true, atol=1e-6)


def test_rows_without_a_place_are_nobodys_neighbours():
    embedding = np.random.default_rng(6).normal(size=(40, 2)).astype(np.float32)
    embedding[::4] = np.nan
    sample = np.arange(1, 40, 4)
    found = quality.nearest_on_map(embedding, sample, 5)
    assert (found % 4 != 0).all()
    placed = np.flatnonzero(np.arange(40) % 4)
    true = placed[reference.search(embedding[placed], 6, "euclidean")[0]]
    assert np.array_equal(found, true[np.isin(placed, sample), 1:])


def test_far_share_counts_points_thrown_out():
    embedding = np.random.default_rng(7).normal(size=(200, 2))
    assert quality.far_share(embedding) == 0.0
    embedding[:3] *= 1000
    embedding[3] = np.nan
    assert quality.far_share(embedding) == pytest.approx(3 / 199)
    assert quality.far_share(np.zeros((10, 2))) == 0.0
