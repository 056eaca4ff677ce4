"""Rows far from the origin, or near one direction, as all backends compare them."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from streamumap import engine, transform
from streamumap.neighbors import reference
from streamumap.neighbors.metric import COSINE, EUCLIDEAN, compared
from streamumap.params import Params
from streamumap.request import Request
from streamumap.source import SparseSource, open_source
from streamumap.source.scan.cpu import scan
from streamumap.source.sparse.csr_block import fill_in
from streamumap.source.views.centered import ComparedView, find_view, rebuild_view, sample_bytes

N, D = 500, 12


def unit_variance(offset, dtype="float64", n=N):
    return (np.random.default_rng(0).normal(size=(n, D)) + offset).astype(dtype)


def view_of(rows, metric="euclidean"):
    source = open_source(rows)
    found = scan(source, 100)
    return find_view(source, np.array([found.feature_low, found.feature_high], np.float64), unit=metric == "cosine")


@pytest.mark.parametrize(
    "rows",
    [
        unit_variance(0, "float16"),
        unit_variance(25),
        np.maximum(unit_variance(0), 0),
        np.zeros((N, D), np.float32),
        np.where(np.arange(N)[:, None] % 3, unit_variance(0), 1e6),
        np.where(np.arange(N)[:, None] % 3, unit_variance(1e6), unit_variance(0)),
    ],
)
def test_rows_near_the_origin_are_searched_as_they_are_stored(rows):
    assert view_of(rows) is None
    assert view_of(unit_variance(1), "cosine") is None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("offset", [300, 3000, 1e6, 1e9])
def test_what_is_left_of_rows_less_their_centre_is_what_was_stored(offset, dtype):
    if dtype == "float16" and offset > 6e4:
        return
    rows = unit_variance(offset, dtype)
    view = view_of(rows)
    seen = view.of(open_source(rows))
    wanted = (rows.astype(np.float64) - view.centre).astype(np.float32)
    if dtype != "float64":
        np.testing.assert_array_equal(wanted + view.centre, rows.astype(np.float64))
    np.testing.assert_array_equal(seen.read(0, N), wanted)
    np.testing.assert_array_equal(seen.take(np.array([3, 77])), wanted[[3, 77]])
    out = np.empty((N, D), np.float32)
    assert seen.read(5, 9, out).base is out and (out[:4] == wanted[5:9]).all()
    assert seen.dtype == "float32" and (seen.n_rows, seen.n_features) == (N, D)


def test_differences_too_small_for_squares_are_made_larger():
    rows = 1e-3 + 1e-14 * unit_variance(0)
    view = view_of(rows)
    seen = view.of(open_source(rows)).read(0, N)
    assert -60 < view.exponent < -24 and 1e-8 < np.abs(seen).max() < 1
    wanted = reference.search(rows, 6, "euclidean")
    found = reference.search(seen, 6, "euclidean")
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(view.unscale(found[1], unit=False), wanted[1], rtol=1e-5)
    np.testing.assert_array_equal(view.scale(view.unscale(found[1], unit=False), unit=False), found[1])


def parallel(n_zero=3, size=1e-2):
    rows = 1 + size * unit_variance(0)
    rows *= np.random.default_rng(1).uniform(0.1, 10, (N, 1))
    rows[5 : 5 + n_zero] = 0
    rows[-1] *= -1
    return rows


@pytest.mark.parametrize("size", [1e-2, 1e-6])
def test_rows_near_one_direction_are_compared_by_differences(size):
    rows = parallel(size=size)
    view = view_of(rows, "cosine")
    assert view.unit and compared(COSINE, view) is EUCLIDEAN
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    right = np.stack([((unit - row) ** 2).sum(1) / 2 for row in unit])
    zero = ~rows.any(1)
    right[np.not_equal.outer(zero, zero)] = np.inf
    others = np.tile(np.arange(N, dtype=np.int32), (N, 1))
    seen = view.of(open_source(rows)).read(0, N)
    indices, distances = view.to_asked_metric(
        others.copy(), reference.distance_matrix(seen, seen, "euclidean"), lambda squares: squares / 2
    )
    np.testing.assert_allclose(distances, right, rtol=1e-4, atol=1e-6 * size**2)
    np.testing.assert_array_equal(indices, np.where(np.isinf(right), -1, others))


def test_a_view_is_made_again_from_what_a_run_keeps_of_it():
    for rows, metric in ((unit_variance(1e5), "euclidean"), (parallel(), "cosine")):
        view = view_of(rows, metric)
        again = rebuild_view(open_source(rows), view.exponent, True, unit=metric == "cosine")
        np.testing.assert_array_equal(again.centre, view.centre)
        assert (again.unit, again.exponent) == (view.unit, view.exponent)
    assert rebuild_view(open_source(rows), 3, False, unit=True).centre is None
    assert ComparedView(0).of(source := open_source(rows)) is source


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 10**7), st.integers(1, 10**5))
def test_the_sample_is_small(n_rows, n_features):
    assert sample_bytes(n_rows, n_features) <= 24 * max(2**18, 16 * n_features)


def heavy():
    """Mostly zeros, and one feature that all rows have."""
    rows = np.zeros((N, 300), np.float32)
    rows[:, 20:32] = unit_variance(0) * (np.random.default_rng(2).random((N, D)) < 0.5)
    rows[:, 7] = 1e4 + np.random.default_rng(3).normal(size=N)
    return rows


CASES = {
    "offset": (unit_variance(3000), "euclidean", 0),
    "float16": (unit_variance(1000, "float16"), "euclidean", 0),
    "float64": (unit_variance(1e9), "euclidean", 0),
    "integers": ((1000 * unit_variance(0)).astype(np.int64) + 10**12, "euclidean", 0),
    "padded": (np.where(np.arange(N)[:, None] % 3, unit_variance(1e6), 0), "euclidean", 167),
    "column": (unit_variance(0) + 3e5 * (np.arange(D) == 4), "euclidean", 0),
    "csr": (scipy.sparse.csr_matrix(unit_variance(1000, "float32")), "euclidean", 0),
    "direction": (parallel(20), "cosine", 20),
    "heavy": (heavy(), "euclidean", 0),
    "heavy csr": (scipy.sparse.csr_matrix(heavy()), "euclidean", 0),
    "direction csr": (scipy.sparse.csr_matrix(np.pad(parallel(20), [(0, 0), (0, 300)])), "cosine", 20),
}


@pytest.mark.parametrize("name", CASES)
def test_neighbors_are_those_of_the_rows_as_they_are_stored(name, tmp_path):
    rows, metric, n_zero = CASES[name]
    run = embed(rows, tmp_path / "run", metric)
    dense = rows.toarray() if scipy.sparse.issparse(rows) else rows
    stored = dense.astype(np.float64)
    zero = ~stored.any(1)
    if metric == "cosine":
        stored = stored / np.where(zero, 1, np.linalg.norm(stored, axis=1))[:, None]
    squares = np.stack([((stored - row) ** 2).sum(1) for row in stored])
    squares[np.not_equal.outer(zero, zero)] = np.inf
    right = np.sort(squares / 2 if metric == "cosine" else np.sqrt(squares), axis=1)[:, :15]
    np.testing.assert_allclose(np.load(tmp_path / "run" / "knn_distances.npy"), right, rtol=2e-4, atol=1e-9)
    assert run["quality"]["knn_recall"]["value"] == 1.0 and run["input"]["centred"]
    assert run["input"]["dtype"] == str(dense.dtype) and run["input"]["zero_rows"] == n_zero


@pytest.mark.parametrize("reduce", ["none", "pca"])
@pytest.mark.parametrize("name", ["offset", "direction", "heavy"])
def test_rows_of_the_map_are_placed_where_they_are(name, reduce, tmp_path):
    rows, metric, _ = CASES[name]
    np.save(tmp_path / "rows.npy", rows)
    params = dict(metric=metric, reduce=reduce, reduce_dims=D)
    embed(str(tmp_path / "rows.npy"), tmp_path / "run", **params)
    chosen = np.arange(40, 400, 9)
    transform.transform(tmp_path / "run", Request(rows[chosen], device="cpu", budget="2GB"), tmp_path / "new")
    placed, there = (np.load(tmp_path / name / "embedding.npy") for name in ("new", "run"))
    np.testing.assert_allclose(placed, there[chosen], atol=1e-3)


def test_pairs_of_centred_rows_are_those_of_the_filled_in():
    rows = heavy()
    for metric in ("euclidean", "cosine"):
        view = view_of(rows, metric)
        dense, sparse = view.of(open_source(rows)), view.of(open_source(scipy.sparse.csr_matrix(rows)))
        found = sparse.pairs(3, 400)
        assert isinstance(sparse, SparseSource) and np.count_nonzero(view.centre) < 20
        np.testing.assert_array_equal(fill_in(found, 300, "float32"), dense.read(3, 400))
        assert len(found.values) == np.count_nonzero(dense.read(3, 400)) and sparse.pairs(4, 4).n_rows == 0
        spans = list(sparse.spans(1000))
        assert spans[0][0] == 0 and spans[-1][1] == N and len(spans) > 3


def test_rows_beside_a_sample_are_seen_as_those_of_the_map(tmp_path):
    rows = unit_variance(1e9)
    rows[250:] = rows[:250]
    sample = tmp_path / "sample.txt"
    sample.write_text("".join(f"{row}\n" for row in range(250)))
    embed(rows, tmp_path / "run", stratify=sample, place_rest=True)
    positions = np.load(tmp_path / "run" / "embedding.npy")
    np.testing.assert_allclose(positions[250:], positions[:250], atol=1e-3)


def embed(rows, out, metric="euclidean", reduce="none", reduce_dims=50, **options):
    p = Params(metric=metric, n_epochs=5, reduce=reduce, reduce_dims=reduce_dims)
    return engine.embed(Request(rows, p, device="cpu", budget="2GB", **options), out)
