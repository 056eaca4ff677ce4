import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from streamumap import quality
from streamumap.neighbors import reference
from streamumap.neighbors.points import Points


def exact_ranks(rows, neighbors, metric="euclidean"):
    """Counts the rows that are closer to row i than row neighbors[i, j]."""
    d = reference.distance_matrix(rows, rows, metric)
    np.fill_diagonal(d, np.inf)
    theirs = np.take_along_axis(d, np.maximum(neighbors, 0), 1)
    theirs[neighbors < 0] = np.inf
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
    neighbors = true.copy()
    assert quality.recall(exact_ranks(rows, neighbors), neighbors) == 1.0
    neighbors[:, 0] = [next(j for j in range(60) if j != i and j not in true[i]) for i in range(60)]
    assert quality.recall(exact_ranks(rows, neighbors), neighbors) == pytest.approx(5 / 6)
    neighbors[:, 1] = -1
    assert quality.recall(exact_ranks(rows, neighbors), neighbors) == pytest.approx(4 / 6)
    assert quality.recall(exact_ranks(rows, np.full((60, 6), -1)), np.full((60, 6), -1)) == 0.0


def test_a_slot_without_a_possible_neighbour_counts_as_right():
    # three rows with two, none and five possible neighbours; k = 4
    neighbors = np.array([[5, 6, -1, -1], [-1, -1, -1, -1], [1, 2, 3, -1]])
    ranks = np.array([[0, 1, 2, 2], [0, 0, 0, 0], [0, 1, 2, 5]])
    assert quality.recall(ranks[:1], neighbors[:1]) == 1.0
    assert quality.recall(ranks[1:2], neighbors[1:2]) == 1.0
    assert quality.recall(ranks[2:], neighbors[2:]) == 0.75
    assert quality.recall(ranks, neighbors) == pytest.approx((1 + 1 + 0.75) / 3)


def test_a_wrong_and_a_missing_neighbour_both_count():
    neighbors = np.array([[9, 8, -1, -1]])  # two neighbours are possible; 9 is one, 8 is not: it is fourth
    assert quality.recall(np.array([[0, 5, 6, 6]]), neighbors) == 0.25
    assert quality.recall(np.array([[0, 1, 6, 6]]), neighbors) == 0.5


def test_a_floor_is_reached_where_the_sample_leaves_no_doubt():
    ranks = np.zeros((400, 2), int)
    neighbors = np.ones((400, 2), int)
    assert quality.reaches(ranks, neighbors, 1.0)
    ranks[::20, 1] = 9  # a twentieth of the rows misses one of two: 0.975, with a standard error of 0.0054
    assert quality.recall(ranks, neighbors) == 0.975
    assert not quality.reaches(ranks, neighbors, 0.975) and not quality.reaches(ranks, neighbors, 0.970)
    assert quality.reaches(ranks, neighbors, 0.969)
    assert quality.reaches(ranks[:1] * 0, neighbors[:1], 0.5)


def test_any_of_equally_near_rows_is_right():
    neighbors = np.array([[7, 8, 9]])
    assert quality.recall(np.zeros((1, 3), int), neighbors) == 1.0


@pytest.mark.parametrize("k", [1, 5, 15])
def test_trustworthiness_is_sklearns(codes, k):
    rows = codes[:200]
    embedding = np.random.default_rng(1).normal(size=(200, 2)) + rows[:, :200:100]
    neighbors = Points(embedding, 1).nearest(np.arange(200), k)
    ours = quality.trusts(exact_ranks(rows, neighbors), 200).mean()
    assert ours == pytest.approx(sklearn_trustworthiness(rows, embedding, n_neighbors=k), abs=1e-12)


def test_trustworthiness_of_the_same_map_is_one_and_of_the_smallest_is_finite():
    rows = np.random.default_rng(2).normal(size=(50, 2))
    neighbors = Points(rows, 1).nearest(np.arange(50), 10)
    assert quality.trusts(exact_ranks(rows, neighbors), 50).mean() == 1.0
    assert np.isfinite(quality.trusts(np.array([[0, 1]]), 3).mean())


def test_preservation_counts_ranks_below_k():
    assert quality.preservations(np.array([[0, 1, 2], [3, 9, 0]])).mean() == pytest.approx(4 / 6)
    rows = np.random.default_rng(3).normal(size=(80, 2))
    neighbors = Points(rows, 1).nearest(np.arange(80), 6)
    assert quality.preservations(exact_ranks(rows, neighbors)).mean() == 1.0


def test_far_share_counts_points_thrown_out():
    embedding = np.random.default_rng(7).normal(size=(200, 2))
    assert quality.far_share(embedding) == 0.0
    embedding[:3] *= 1000
    embedding[3] = np.nan
    assert quality.far_share(embedding) == pytest.approx(3 / 199)
    assert quality.far_share(np.zeros((10, 2))) == 0.0


def map_ranks(embedding, others):
    d = reference.distance_matrix(embedding, embedding, "euclidean")
    np.fill_diagonal(d, np.inf)
    return (d[:, None, :] < np.take_along_axis(d, others, 1)[:, :, None]).sum(2)


@pytest.mark.parametrize("k", [1, 5, 15])
def test_continuity_is_trustworthiness_the_other_way_round(codes, k):
    rows, n = codes[:200], 200
    embedding = np.random.default_rng(1).normal(size=(n, 2)) + rows[:, :200:100]
    true = reference.search(rows, k + 1, "euclidean")[0][:, 1:]
    ranks = Points(embedding, 1).ranks(np.arange(n), true)
    assert np.array_equal(ranks, map_ranks(embedding, true))
    ours = quality.continuities(ranks, np.ones(true.shape, bool), n).mean()
    assert ours == pytest.approx(sklearn_trustworthiness(embedding, rows, n_neighbors=k), abs=1e-12)


def test_continuity_of_what_is_known_stands_for_what_is_missing():
    ranks, all_true = np.array([[0, 40, 40], [0, 40, 7], [5, 5, 5]]), np.ones((3, 3), bool)
    known = np.array([[True, True, False], [True, True, True], [False] * 3])
    whole, part = quality.continuities(ranks, all_true, 100), quality.continuities(ranks, known, 100)
    assert whole[0] == pytest.approx(1 - 2 * (38 + 38) / (3 * 190)) and part[1] == whole[1]
    assert part[0] == pytest.approx(1 - 2 * 19 / 190) and np.isnan(part[2])


@pytest.mark.parametrize("k", [1, 4, 9, 10, 18])
def test_the_worst_map_has_none(k):
    n = 20  # the furthest others, so that they have the last ranks
    last = np.tile(np.arange(n - 1 - k, n - 1), (n, 1))
    assert quality.trusts(last, n) == pytest.approx(np.zeros(n)) or k == n - 2
    assert np.isfinite(quality.trusts(last, n)).all()
    assert quality.continuities(last, np.ones(last.shape, bool), n) == pytest.approx(quality.trusts(last, n))


def test_torn_neighbours_are_further_apart_than_a_quarter_of_the_radius():
    embedding = np.random.default_rng(8).normal(size=(300, 2)).astype(np.float32) + np.float32(1e4)
    others = np.random.default_rng(9).integers(300, size=(300, 6))
    e = embedding.astype(np.float64)
    radius = np.sqrt(((e - e.mean(0)) ** 2).sum(1).mean())
    assert quality.radius(embedding) == pytest.approx(radius, rel=1e-12)
    gaps = np.sqrt(((e[:, None] - e[others]) ** 2).sum(2))
    is_true = np.random.default_rng(10).random(others.shape) < 0.7
    is_true[5] = False
    with np.errstate(invalid="ignore"):
        true = ((gaps > radius / 4) & is_true).sum(1) / is_true.sum(1)
    shares = quality.torn_shares(
        quality.distances(embedding, np.arange(300), others), is_true, quality.radius(embedding)
    )
    assert np.allclose(shares, true, equal_nan=True) and np.isnan(shares[5])
    assert quality.radius(np.zeros((5, 2))) == 0.0


def test_a_sample_says_how_far_it_may_be_off():
    shares = np.random.default_rng(11).random(20_000)
    means = [shares[quality.sample_rows(20_000, 2_000, seed)] for seed in range(300)]
    figures = [quality.figure(part, 15, 20_000) for part in means]
    errors = np.array([f.value for f in figures]) - shares.mean()
    assert figures[0].standard_error == pytest.approx(errors.std(), rel=0.12)
    assert figures[0].to_json() == {
        "value": pytest.approx(means[0].mean()), "standard_error": figures[0].standard_error, "k": 15, "sample_size": 2_000,
    }  # fmt: skip


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_all_rows_leave_no_error(shares):
    figure = quality.figure(np.array(shares), 5, len(shares))
    assert (
        figure.standard_error == 0
        and figure.value == pytest.approx(np.mean(shares))
        and figure.sample_size == len(shares)
    )


def test_rows_without_neighbours_are_not_counted():
    figure = quality.figure(np.array([1.0, np.nan, 0.5]), 5, 100)
    assert figure.value == 0.75 and figure.sample_size == 2
    nothing = quality.figure(np.full(4, np.nan), 5, 100)
    assert nothing.value is None and nothing.standard_error is None and nothing.sample_size == 0
    assert quality.say("torn", nothing.to_json()) == "torn not measured"


def test_a_figure_in_a_few_words():
    assert quality.say("recall", {"value": 0.98765, "standard_error": 0.0042}) == "recall 0.988 ± 0.004"
    assert quality.say("recall", {"value": 0.98765, "standard_error": 1e-5}) == "recall 0.988 ± 0.001"
    assert quality.say("recall", {"value": 1.0, "standard_error": 0.0}) == quality.say("recall", {"value": 1.0})
