import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from streamumap.errors import InputError
from streamumap.reduce import pca as reduce
from streamumap.reduce.pca import StreamedPCA, footprint

DEVICES = [None, "cpu", *(["cuda"] if torch.cuda.is_available() else [])]  # None: numpy; torch on the host stands in


def rows(n_rows, n_features, seed=0, rank=None):
    """Makes correlated float32 rows with an offset, of this rank about their mean."""
    rng = np.random.default_rng(seed)
    rank = rank or n_features
    scores = rng.normal(size=(n_rows, rank)) * np.geomspace(1, 0.05, rank)
    return (scores @ rng.normal(size=(rank, n_features)) + rng.normal(size=n_features)).astype(np.float32)


def ragged(X, seed=0):
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(X), 5))
    return np.split(X, cuts)


def assert_is_pca(got, X, n_components, atol=2e-4):
    want = PCA(n_components, svd_solver="full").fit(X.astype(np.float64))
    scale = np.sqrt(want.explained_variance_[0])
    np.testing.assert_allclose(got.mean_, want.mean_, atol=1e-5 * scale + 1e-6 * np.abs(want.mean_).max())
    np.testing.assert_allclose(got.explained_variance_, want.explained_variance_, rtol=1e-4, atol=1e-6 * scale**2)
    np.testing.assert_allclose(got.explained_variance_ratio_, want.explained_variance_ratio_, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.components_, want.components_, atol=atol)
    np.testing.assert_allclose(got.transform(X), want.transform(X.astype(np.float64)), atol=atol * scale * 5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_components", [1, 5, 12])
def test_is_scikit_learns_pca_on_ragged_blocks(device, n_components):
    X = rows(500, 12)
    got = StreamedPCA(n_components, device).fit(ragged(X))
    assert got.n_samples_seen_ == 500
    assert got.components_.shape == (n_components, 12) and got.components_.dtype == np.float32
    assert_is_pca(got, X, n_components)


@pytest.mark.parametrize("device", DEVICES)
def test_float16_rows_are_widened_before_they_are_added(device):
    X = (rows(4000, 8) * 3000).astype(np.float16)  # their squares are beyond float16
    assert np.isfinite(X).all()
    assert_is_pca(StreamedPCA(3, device).fit(ragged(X)), X.astype(np.float32), 3)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float64", ">f4"])
def test_any_real_dtype(dtype):
    X = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, (300, 6)).astype(dtype)
    assert_is_pca(StreamedPCA(2).fit(ragged(X)), X.astype(np.float32), 2)


@pytest.mark.parametrize("device", DEVICES)
def test_an_offset_does_not_swallow_the_variance(device):
    X = rows(2000, 6) + np.float32(3000)
    assert_is_pca(StreamedPCA(4, device).fit(ragged(X)), X, 4)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_that_drift(device):
    X = rows(3000, 6)
    X[:10] += 50
    X[2000:] -= 7
    assert_is_pca(StreamedPCA(3, device).fit([X[:10], *ragged(X[10:])]), X, 3)


def test_long_blocks_are_added_in_pieces(monkeypatch):
    X = rows(500, 5)
    monkeypatch.setattr(reduce, "PIECE_ROWS", 64)
    in_pieces = StreamedPCA(3).fit([X])
    by_hand = StreamedPCA(3).fit([X[start : start + 64] for start in range(0, 500, 64)])
    assert_is_pca(in_pieces, X, 3)
    np.testing.assert_array_equal(in_pieces.components_, by_hand.components_)
    np.testing.assert_array_equal(in_pieces.transform(X)[64:128], in_pieces.transform(X[64:128]))


def test_more_components_than_the_rank():
    X = rows(200, 10, rank=3)
    got = StreamedPCA(7).fit(ragged(X))
    want = PCA(7, svd_solver="full").fit(X.astype(np.float64))
    np.testing.assert_allclose(got.components_[:3], want.components_[:3], atol=1e-4)
    assert (got.explained_variance_ >= 0).all()
    assert got.explained_variance_[3:].max() < 1e-5 * got.explained_variance_[0]
    np.testing.assert_allclose(got.components_ @ got.components_.T, np.eye(7), atol=1e-5)
    np.testing.assert_allclose(got.transform(X)[:, 3:], 0, atol=1e-4)


def test_one_feature():
    X = rows(50, 1)
    got = StreamedPCA(1).fit([X])
    np.testing.assert_allclose(got.transform(X), X - X.mean(), atol=1e-5)
    assert got.components_.item() == 1.0 and got.explained_variance_ratio_.item() == pytest.approx(1)


def test_rows_that_are_all_the_same():
    got = StreamedPCA(2).fit([np.full((9, 3), 5, np.float32)])
    assert not got.explained_variance_.any() and not got.explained_variance_ratio_.any()
    assert not got.transform(np.full((2, 3), 5)).any()


@settings(max_examples=40, deadline=None)
@given(
    n_rows=st.integers(2, 60),
    n_features=st.integers(1, 9),
    seed=st.integers(0, 99),
    cut=st.integers(0, 60),
    offset=st.integers(-99, 99),
)
def test_keeps_all_the_variance_and_the_distances(n_rows, n_features, seed, cut, offset):
    X = rows(n_rows, n_features, seed) + np.float32(offset)
    n_components = min(n_rows, n_features)
    got = StreamedPCA(n_components).fit([X[:cut], X[cut:]])
    assert got.explained_variance_ratio_.sum() == pytest.approx(1, abs=1e-5)
    assert got.explained_variance_.sum() == pytest.approx(X.var(axis=0, ddof=1, dtype=np.float64).sum(), rel=1e-4)
    Z = got.transform(X)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(Z - Z[0], axis=1), np.linalg.norm(X - X[0], axis=1), atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_goes_on_from_a_checkpoint_to_the_same_bits(device, tmp_path):
    X = rows(300, 7)
    whole = StreamedPCA(3, device).fit([X[:100], X[100:250], X[250:]])
    np.savez(tmp_path / "pca.npz", **StreamedPCA(3, device).fit([X[:100], X[100:250]]).state())
    with np.load(tmp_path / "pca.npz", allow_pickle=False) as state:
        again = StreamedPCA.from_state(3, state, device).partial_fit(X[250:])
    assert again.n_samples_seen_ == 300
    np.testing.assert_array_equal(again.transform(X), whole.transform(X))
    np.testing.assert_array_equal(again.explained_variance_, whole.explained_variance_)


def test_a_checkpoint_before_the_first_row_and_one_that_is_not_shared():
    X = rows(300, 7)
    assert StreamedPCA.from_state(2, StreamedPCA(2).state()).n_samples_seen_ == 0
    first = StreamedPCA(2).fit([X[:150]])
    StreamedPCA.from_state(2, first.state()).partial_fit(X[150:])
    assert_is_pca(first, X[:150], 2)


def test_results_follow_new_rows_and_empty_blocks_change_nothing():
    X = rows(200, 4)
    pca = StreamedPCA(2).partial_fit(X[:0]).partial_fit(X[:100])
    before = pca.components_
    assert pca.partial_fit(X[:0]).components_ is before
    assert_is_pca(pca.partial_fit(X[100:]), X, 2)
    assert pca.transform(X[:0]).shape == (0, 2)


def test_torch_and_numpy_agree_when_the_process_allows_tensor_float_32():
    X = rows(400, 9)
    torch.set_float32_matmul_precision("medium")
    try:
        got = StreamedPCA(4, "cpu").fit([X])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_allclose(got.transform(X), StreamedPCA(4).fit([X]).transform(X), atol=1e-4)


@pytest.mark.parametrize(
    "bad, found",
    [
        (np.zeros((4, 3)), "(4, 3)"),
        (np.zeros(5), "(5,)"),
        (np.zeros((2, 2, 5)), "(2, 2, 5)"),
        (np.zeros((4, 5), complex), "complex128"),
        (np.array([["a"] * 5]), "<U1"),
        (np.float32(3), "()"),
    ],
)
def test_refuses_other_blocks(bad, found):
    pca = StreamedPCA(2).fit([rows(20, 5)])
    for refuse in (pca.partial_fit, pca.transform):
        with pytest.raises(InputError, match="expected a block of numbers of shape") as e:
            refuse(bad)
        assert found in str(e.value)
    assert pca.n_samples_seen_ == 20


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("first", [0, 10])
def test_refuses_values_that_are_not_finite_and_names_the_feature(device, value, first):
    X = rows(20, 5).astype(np.float64)
    X[15, 3] = value
    pca = StreamedPCA(2, device).partial_fit(X[:first])
    with pytest.raises(InputError, match=f"rows {first} to 19, feature 3: expected finite values"):
        pca.partial_fit(X[first:])
    assert pca.n_samples_seen_ == first


def test_refuses_more_components_than_rows_or_features():
    with pytest.raises(InputError, match="expected at least 1, found 0"):
        StreamedPCA(0)
    with pytest.raises(InputError, match=r"at most 5 \(20 rows x 5 features\), found 6"):
        StreamedPCA(6).fit([rows(20, 5)]).components_  # noqa: B018
    with pytest.raises(InputError, match=r"at most 3 \(3 rows x 5 features\), found 4"):
        StreamedPCA(4).fit([rows(3, 5)]).transform(rows(3, 5))
    with pytest.raises(InputError, match="at least 2, found 1"):
        StreamedPCA(1).fit([rows(1, 5)]).mean_  # noqa: B018
    with pytest.raises(InputError, match="found none"):
        StreamedPCA(1).transform(rows(2, 2))


@pytest.mark.parametrize("n_features, n_components, block_rows", [(900, 20, 100), (300, 300, 100), (64, 8, 20_000)])
def test_footprint_holds_what_is_allocated(n_features, n_components, block_rows):
    X = rows(block_rows, n_features).astype(np.float16)
    StreamedPCA(1).fit([rows(9, 3)]).transform(rows(9, 3))  # imports scipy
    tracemalloc.start()
    try:
        StreamedPCA(n_components).fit([X, X, X]).transform(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    predicted = footprint(n_features, n_components, block_rows) - reduce.BLAS_BYTES
    assert 0.7 * predicted < peak <= predicted * 1.01 + 200_000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("n_features, n_components, block_rows", [(3072, 512, 8192), (4096, 64, 300)])
def test_device_footprint_holds_what_is_reserved(n_features, n_components, block_rows):
    X = rows(block_rows, n_features).astype(np.float16)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    StreamedPCA(n_components, "cuda").fit([X, X]).transform(X)
    predicted = reduce.device_footprint(n_features, n_components, block_rows, X.itemsize)
    assert 0.5 * predicted < torch.cuda.max_memory_reserved() <= predicted


def test_the_number_of_threads_does_not_change_the_bits(tmp_path):
    np.save(tmp_path / "rows.npy", rows(3000, 300))
    code = (
        "import sys, hashlib, numpy as np; from streamumap.reduce.pca import StreamedPCA; X = np.load(sys.argv[1]);"
        "print(hashlib.sha256(StreamedPCA(40).fit([X[:1000], X[1000:]]).transform(X)).hexdigest())"
    )
    bits = set()
    for threads in "1", "2", "3":
        settings = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", code, str(tmp_path / "rows.npy")]
        bits.add(subprocess.run(command, env=settings, capture_output=True, text=True, check=True).stdout)
    assert len(bits) == 1


def test_importing_it_is_light():
    code = "import sys, streamumap.reduce.pca; print({'torch', 'scipy', 'sklearn', 'numba'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
