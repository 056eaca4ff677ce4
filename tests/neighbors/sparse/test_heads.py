import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbor_checks import hard_rows

from streamumap.neighbors.sparse import heads
from streamumap.neighbors.sparse.measure import measure, measure_lists


def csr_of(rows):
    there = rows != 0
    indptr = np.concatenate([[0], np.cumsum(there.sum(1))])
    return indptr, np.nonzero(there)[1].astype(np.uint16), rows[there].astype(np.float32)


def test_a_head_is_the_strongest_of_a_row():
    rows = np.zeros((3, 20), np.float32)
    rows[0, [3, 5, 7, 11, 13]] = 1, -9, 2, 3, -4
    rows[1, 19] = 6
    features, values = heads.heads(*csr_of(rows), np.array([1, 0.5, 1], np.float32), 4)
    assert features.reshape(3, 4).tolist() == [[5, 13, 11, 7], [19, 0, 0, 0], [0, 0, 0, 0]]
    assert values.reshape(3, 4).tolist() == [[-9, -4, 3, 2], [3, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(("weakest", "expected"), [(0.1, True), (1, False)])
def test_heads_of_about_equal_features_do_not_tell(weakest, expected):
    rows = np.zeros((50, 60), np.float32)
    rows[:, :24] = weakest
    rows[:, 24:32] = 1
    csr, scale = csr_of(rows), np.full(50, 0.5, np.float32)
    assert heads.tell(csr[0], csr[2], scale, heads.heads(*csr, scale, 8)[1]) == expected


def lowest(keys, n_kept):
    numbers = np.arange(100, 100 + len(keys), dtype=np.int32)
    ends, counts = (keys.min(), keys.max()), np.empty(heads.BINS, np.int32)
    return numbers[: heads._lowest(keys, numbers, n_kept, *ends, counts)] - 100


@settings(max_examples=60)
@given(n=st.integers(2, 400), share=st.floats(0, 1), spread=st.integers(0, 12), seed=st.integers(0, 2**32 - 1))
def test_the_lowest_keys_are_kept(n, share, spread, seed):
    keys = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    keys = np.exp(spread * keys).astype(np.float32).clip(-heads.FAR, heads.FAR)
    n_kept = 1 + int(share * (n - 2))
    found = lowest(keys, n_kept)
    assert len(found) == len(set(found.tolist())) == n_kept
    most = np.sort(keys)[n_kept - 1]
    close = most + (keys.max() - keys.min()) / heads.BINS
    assert (keys[found] <= close).all()


@pytest.mark.parametrize("n_kept", [1, 7, 40, 99])
def test_one_far_key_and_equal_ones_do_not_hide_the_lowest(n_kept):
    keys = np.full(100, 2, np.float32)
    keys[60:80] = np.arange(20) / 100
    keys[99] = heads.FAR
    found = lowest(keys, n_kept)
    assert len(found) == n_kept and len(set(found.tolist())) == n_kept
    assert (keys[found] <= 2).all()
    assert lowest(np.full(50, 3, np.float32), 20).tolist() == list(range(20))


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("k", [2, 12, 40])
def test_lists_are_measured_as_all_their_rows_would_be(unit, negative, k):
    rows = hard_rows(200, negative=negative).astype(np.float32)
    csr, n, width = csr_of(rows), len(rows), 30
    random = np.random.default_rng(0)
    squares = (rows.astype(np.float64) ** 2).sum(1)
    scale = np.where(squares > 0, squares, 1) ** -0.5 if unit else np.ones(n)
    half = np.zeros(n) if unit else squares / 2
    lists, keys = np.full((n, width), -1, np.int32), np.full((n, width), np.inf, np.float32)
    for i in range(n):
        others = random.choice(np.delete(np.arange(n), i), random.integers(0, width + 1), replace=False)
        key = (half[i] + half[others] - scale[i] * scale[others] * (rows[others] @ rows[i])).astype(np.float32)
        order = np.lexsort((others, key))
        lists[i, : len(others)], keys[i, : len(others)] = others[order], key[order]
    results = []
    for few in (False, True):
        found, far = np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32)
        row_ids = np.arange(n, dtype=np.int32)
        if few:
            measure_lists(0, *csr, half.astype(np.float32), row_ids, lists, keys, unit, rows.shape[1], found, far)
        else:
            measure(row_ids, *csr, *csr, lists, lists, unit, found, far)
        results.append((found.tobytes(), far.tobytes()))
    assert results[0] == results[1]
