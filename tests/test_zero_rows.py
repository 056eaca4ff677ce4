"""Rows without a direction, under cosine: whom they name, and what the map makes of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamumap import engine
from streamumap.neighbors import reference
from streamumap.neighbors.copies import join_copies
from streamumap.neighbors.zero import next_zero_rows, offsets
from streamumap.params import Params
from streamumap.request import Request

BOUNDS = dict(budget="1GB", device="cpu")


@given(st.integers(0, 2**31 - 1), st.integers(0, 120))
def test_offsets_differ_and_none_leads_back(n_rows, n):
    found = offsets(n_rows, n)
    assert found.dtype == np.int64 and len(found) == len(set(found.tolist())) == max(min(n, n_rows - 1), 0)
    assert ((found >= 1) & (found < n_rows)).all()


@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_each_zero_row_names_as_many_as_name_it(n_zero, n, seed):
    zero_rows = np.sort(np.random.default_rng(seed).choice(1000, n_zero, replace=False)).astype(np.int32)
    found = next_zero_rows(zero_rows, zero_rows, n)
    assert found.dtype == np.int32 and found.shape == (n_zero, n)
    there = found[:, : min(n, n_zero - 1)]
    assert (found[:, there.shape[1] :] == -1).all() and not (found == zero_rows[:, None]).any()
    assert all(len(set(row.tolist())) == len(row) for row in there)
    assert np.isin(there, zero_rows).all()
    assert (np.bincount(np.searchsorted(zero_rows, there).ravel(), minlength=n_zero) == there.shape[1]).all()
    some = zero_rows[::3]
    np.testing.assert_array_equal(next_zero_rows(zero_rows, some, n), found[::3])


@pytest.mark.parametrize("n_rows", [200, 1600, 100_000, 3_000_000])
def test_the_graph_of_zero_rows_mixes_fast(n_rows):
    """The second eigenvalue of a circulant: where each names the next 14, 1 - 6e-4 at 1,600, 1 - 2e-10 at 3,000,000."""
    waves = 2 * np.pi * np.arange(1, n_rows) / n_rows
    assert np.mean([np.cos(waves * step) for step in offsets(n_rows, 14)], axis=0).max() < 0.95


def blob(map_of_all, rows):
    """Measures how wide these rows lie, as a part of the map's width, and how much longer than wide."""
    lying = map_of_all[rows].astype(np.float64)
    spread = np.linalg.eigvalsh(np.cov(lying.T))
    return np.ptp(lying, axis=0).max() / np.ptp(map_of_all, axis=0).max(), np.sqrt(spread[1] / spread[0])


def some_rows(form, n=1500, n_features=40):
    random = np.random.default_rng(0)
    x = random.normal(size=(n, n_features)) + 3 * random.normal(size=(9, n_features))[random.integers(0, 9, n)]
    if form == "packed":
        x = np.abs(x) * (random.random(x.shape) < 0.15)
    return x.astype(np.float32), random.permutation(n)[: n * 2 // 5]


@pytest.mark.parametrize("form", ["dense", "packed"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("alike", ["zeros", "copies"])
def test_rows_that_are_alike_lie_in_a_blob(alike, metric, form, tmp_path):
    x, rows = some_rows(form)
    x[rows] = 0 if alike == "zeros" else x[rows[0]]
    engine.embed(Request(x, Params(metric=metric, n_epochs=200), **BOUNDS), tmp_path)
    width, aspect = blob(np.load(tmp_path / "embedding.npy"), rows)
    assert width < 0.4 and aspect < 1.3  # zero rows in a ring: 0.6, 1.4


def searched(x, k):
    """Exact neighbours, Euclidean, and which row each row repeats."""
    _, first, inverse = np.unique(x, axis=0, return_index=True, return_inverse=True)
    first = first[inverse.ravel()]
    return *reference.search(x, k, "euclidean"), np.where(first == np.arange(len(x)), -1, first)


def test_copies_by_the_dozen_name_one_another():
    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    many, few, more = np.arange(5, 90, 2), np.array([0, 50, 100]), np.arange(101, 113)
    for rows in (many, few, more):
        x[rows] = x[rows[0]]
    indices, distances, duplicate_of = searched(x, 8)
    before = indices.copy(), distances.copy()
    join_copies(indices, distances, duplicate_of)
    for rows in (many, more):
        assert np.isin(indices[rows], rows).all() and (distances[rows] == 0).all()
        assert np.array_equal(indices[rows, 0], rows) and all(len(set(row.tolist())) == 8 for row in indices[rows])
        assert (np.bincount(indices[rows].ravel())[rows] == 8).all()
    others = np.setdiff1d(np.arange(120), np.concatenate([many, more]))
    assert all(np.array_equal(a[others], b[others]) for a, b in zip((indices, distances), before, strict=True))


def test_what_was_searched_as_different_rows_stays():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    indices, distances, _ = searched(x, 8)
    before = indices.copy()
    join_copies(indices, distances, np.where(np.arange(60) > 0, 0, -1))
    assert np.array_equal(indices, before)


def test_without_copies_nothing_is_done():
    for n in (3, 60):
        indices, distances, duplicate_of = searched(np.random.default_rng(0).normal(size=(n, 3)), 3)
        before = indices.copy()
        join_copies(indices, distances, duplicate_of)
        assert np.array_equal(indices, before)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("form", ["dense", "packed"])
def test_copies_found_by_an_approximate_search_lie_in_a_blob(form, metric, tmp_path, monkeypatch):
    monkeypatch.setattr("streamumap.neighbors.dense.search.all_with_all_is_cheaper", lambda n_rows, n_features: False)
    monkeypatch.setenv("STREAMUMAP_FORCE_TINY_BUDGET", "1")
    x, rows = some_rows(form, n=3000)
    x[rows] = x[rows[0]]
    engine.embed(Request(x, Params(metric=metric, n_epochs=200), **BOUNDS), tmp_path)
    width, aspect = blob(np.load(tmp_path / "embedding.npy"), rows)
    assert width < 0.4 and aspect < 1.3
