import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbor_checks import as_csr, check_counts, check_neighbors, compared, hard_rows, search_request, some_others

from streamumap import quality
from streamumap.errors import Stopped
from streamumap.neighbors import reference, zero
from streamumap.neighbors.sparse import exhaustive, lists
from streamumap.neighbors.sparse import search as backend

METRICS = ("euclidean", "cosine")


def search(rows, k, metric, query_rows=100, **more):
    given, blocks = compared(rows, metric, as_csr(rows)), dict(query_rows=query_rows, batch_rows=0)
    return backend.search(search_request(given, k, blocks, is_zero=~rows.any(1), **more))


def as_bytes(found):
    return tuple(array.tobytes() for array in found)


@pytest.mark.parametrize("metric", METRICS)
def test_real_codes(codes, metric):
    rows = codes[:200]
    check_neighbors(search(rows, 15, metric), rows, 15, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("negative", [False, True])
def test_hard_rows(metric, negative):
    rows = hard_rows(negative=negative)
    check_neighbors(search(rows, 12, metric), rows, 12, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("negative", [False, True])
def test_several_indexes_give_the_same_neighbours(monkeypatch, metric, negative):
    rows = hard_rows(300, negative=negative)
    whole = search(rows, 12, metric)
    for corpus_rows in (64, 100, 299):
        monkeypatch.setattr(exhaustive, "CORPUS_ROWS", corpus_rows)
        parts = search(rows, 12, metric, 70)
        check_neighbors(parts, rows, 12, metric)
        assert np.array_equal(parts[1], whole[1])


@pytest.mark.parametrize("metric", METRICS)
def test_any_query_rows_and_threads_give_the_same_bytes(codes, metric, with_threads):
    first = as_bytes(with_threads(1, search, codes, 15, metric, 600))
    assert as_bytes(with_threads(2, search, codes, 15, metric, 600)) == first
    for query_rows in (77, 605):
        assert as_bytes(search(codes, 15, metric, query_rows)) == first
    rows = hard_rows(40)
    assert as_bytes(search(rows, 9, metric, 1)) == as_bytes(search(rows, 9, metric))


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_is_read_that_was_not_written(poison, metric):
    rows = hard_rows()
    sample = np.arange(0, 150, 3)
    others = some_others(rows, sample, 6, metric)

    def both():
        given = compared(rows, metric, as_csr(rows))
        return as_bytes((*search(rows, 12, metric, 40), backend.count_closer(given, sample, others, 40)))

    before = both()
    poison()
    assert both() == before


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "k"), [(3, 2), (3, 3), (5, 9), (4, 200)])
def test_more_neighbours_than_rows(metric, n, k):
    rows = np.eye(n, 4, dtype=np.float32) + 1
    check_neighbors(search(rows, k, metric), rows, k, metric)


@pytest.mark.parametrize("k", [2, 50])
def test_rows_that_share_no_feature_are_no_neighbours(k):
    rows = np.eye(60, 60, dtype=np.float32) * 2
    rows[30:, :30] = np.eye(30)
    indices, distances = search(rows, k, "cosine")
    check_neighbors((indices, distances), rows, k, "cosine")
    assert (indices[:30, 1] == np.arange(30, 60)).all() and (indices[:, 2:] == -1).all()


def test_rows_with_negative_values_are_neighbours_at_any_angle():
    rows = np.array([[1, 0], [-1, 0], [0, 1], [2, 0]], np.float32)
    indices, distances = search(rows, 4, "cosine")
    assert indices[0].tolist() == [0, 3, 2, 1] and np.allclose(distances[0], [0, 0, 1, 2])


@pytest.mark.parametrize("metric", METRICS)
def test_duplicates_by_the_thousand(metric):
    rows = hard_rows(1200, 30)
    rows[150:1150] = rows[150]
    indices, distances = search(rows, 8, metric)
    assert (distances[150:1150] == 0).all()
    check_neighbors((indices, distances), rows, 8, metric)


@pytest.mark.parametrize("n_zero", [0, 1, 2, 5, 40])
def test_zero_rows_are_each_others_neighbours(n_zero):
    rows = hard_rows()[50:100] + np.float32(1)
    rows[:n_zero] = 0
    indices, distances = search(rows, 6, "cosine")
    check_neighbors((indices, distances), rows, 6, "cosine")
    assert (indices[n_zero:] >= n_zero).all()
    if n_zero > 6:  # a ring: nobody is everybody's neighbour
        assert np.bincount(indices[:n_zero].ravel()).max() == 6


def test_join_zero_rows_leaves_the_others():
    indices, distances = np.full((6, 3), 7, np.int32), np.full((6, 3), 0.5, np.float32)
    zero.join_zero_rows(indices, distances, np.array([1, 4], np.int32))
    assert indices.tolist() == [[7] * 3, [1, 4, -1], [7] * 3, [7] * 3, [4, 1, -1], [7] * 3]
    assert distances[1].tolist() == [0, 0, np.inf] and (distances[[0, 2, 3, 5]] == 0.5).all()


def test_more_features_than_uint16_counts(monkeypatch):
    for name in ("_score", "measure"):  # as plain Python: compiling them for uint32 takes seconds
        monkeypatch.setattr(exhaustive, name, getattr(exhaustive, name).py_func)
    rows = np.zeros((24, 70_000), np.float16)
    rows[:, 69_990:] = hard_rows(24, 10)
    for metric in METRICS:
        check_neighbors(search(rows, 6, metric), rows.astype(np.float32), 6, metric)


def test_ticks_what_it_says_and_stops(monkeypatch):
    rows, ticks = hard_rows(), []
    monkeypatch.setattr(exhaustive, "CORPUS_ROWS", 100)
    search(rows, 5, "cosine", 40, advance=ticks.append)
    assert sum(ticks) == 3 * 150

    def stop(n):
        raise Stopped("stop")

    with pytest.raises(Stopped):
        search(rows, 5, "cosine", advance=stop)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(24, 150), k=st.integers(2, 20), n_features=st.integers(3, 40),
    negative=st.booleans(), metric=st.sampled_from(METRICS),
)  # fmt: skip
def test_any_rows(seed, n, k, n_features, negative, metric):
    rows = hard_rows(n, n_features, negative, seed)
    check_neighbors(search(rows, k, metric), rows, k, metric)


# --- exact ranks


def count(csr, rows, sample, others, metric, block_rows=60, **more):
    return backend.count_closer(compared(rows, metric, csr(rows)), sample, others, block_rows, **more)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("negative", [False, True])
def test_ranks_of_hard_rows(csr, metric, negative):
    rows = hard_rows(negative=negative)
    sample = np.arange(150)
    others = some_others(rows, sample, 12, metric)
    check_counts(count(csr, rows, sample, others, metric), rows, sample, others, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_ranks_of_real_codes(csr, codes, metric, with_threads):
    rows, sample = codes[:200], np.arange(3, 200, 5)
    others = some_others(rows, sample, 15, metric)
    counts = with_threads(1, count, csr, rows, sample, others, metric)
    check_counts(counts, rows, sample, others, metric)
    for block_rows in (7, 205):
        assert np.array_equal(with_threads(2, count, csr, rows, sample, others, metric, block_rows), counts)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_found_has_recall_1(csr, metric, negative):
    rows = hard_rows(negative=negative) * np.float32(0.1)  # no longer whole numbers: sums are rounded
    found = search(rows, 12, metric)[0][:, 1:]
    assert quality.recall(count(csr, rows, np.arange(150), found, metric), found) == 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_a_duplicate_is_never_closer_than_another(csr, metric):
    rng = np.random.default_rng(0)
    rows = (rng.random((60, 50)) * (rng.random((60, 50)) < 0.5)).astype(np.float32)
    rows[20:] = rows[20]
    rows[40:] *= np.float32(1 if metric == "euclidean" else 0.3)
    sample, others = np.arange(20, 60), np.tile(np.arange(20, 60), (40, 1))
    others[others == sample[:, None]] = 20
    others[0, 0] = 21
    assert not count(csr, rows, sample, others, metric).any()


def test_lists_of_more_rows_than_uint16_counts():
    n = 70_000
    indptr, features = np.arange(n + 1), (np.arange(n) % 3).astype(np.uint16)
    bounds, owner, amount = lists.invert(indptr, features, np.arange(n, dtype=np.float32), 4)
    assert bounds.tolist() == [0, 23_334, 46_667, n, n]
    assert np.array_equal(owner, amount) and np.array_equal(owner[: bounds[1]], np.arange(0, n, 3))
    assert lists.invert(indptr[:65_537], features[:65_536], features[:65_536], 3)[1].dtype == np.uint16


def test_ranks_tick_all_rows(csr):
    rows, ticks = hard_rows(), []
    count(csr, rows, np.arange(5), np.full((5, 2), -1), "euclidean", advance=ticks.append)
    assert sum(ticks) == 150


@pytest.mark.parametrize("metric", METRICS)
def test_the_reference_itself(metric):
    rows = np.array([[0, 0], [3, 4], [6, 8], [0, 0], [4, -3]], np.float32)
    d = reference.distance_matrix(rows, rows, metric)
    expected = {
        "euclidean": [
            [0, 5, 10, 0, 5],
            [5, 0, 5, 5, 50**0.5],
            [10, 5, 0, 10, 125**0.5],
            [0, 5, 10, 0, 5],
            [5, 50**0.5, 125**0.5, 5, 0],
        ],
        "cosine": [[0, 1, 1, 0, 1], [1, 0, 0, 1, 1], [1, 0, 0, 1, 1], [0, 1, 1, 0, 1], [1, 1, 1, 1, 0]],
    }
    assert np.allclose(d, expected[metric])
    assert (
        reference.search(rows, 2, metric)[0][:, 1].tolist()
        == {"euclidean": [3, 0, 1, 0, 0], "cosine": [3, 2, 1, 0, 0]}[metric]
    )


def test_an_overflowing_column_leaves_no_false_neighbour():
    rows = hard_rows()
    rows[:3, 0] = 1e30
    indices, distances = search(rows, 6, "euclidean")
    assert np.isfinite(distances).all() and (indices[3:] >= 3).all()
    assert (np.isin(indices[:3, 1:3], [0, 1, 2])).all()
