"""Independent components, held to scikit-learn's FastICA; rotations keep distances; runs that stop and continue."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA, FastICA

from streamumap import engine
from streamumap.errors import Stopped
from streamumap.params import Params
from streamumap.reduce import ica
from streamumap.reduce.pca import StreamedPCA
from streamumap.request import Request

BOUNDS = dict(budget="2GB", device="cpu")
SHORT = Params(n_epochs=5, reduce="ica", reduce_dims=6)


def mixed(n_rows=3000, n_sources=8, n_features=12, seed=0):
    """Makes long-tailed sources, and rows that mix them and add an offset."""
    random = np.random.default_rng(seed)
    sources = random.laplace(size=(n_rows, n_sources))
    return sources, (sources @ random.normal(size=(n_sources, n_features)) + 3).astype(np.float32)


def turned(white, seed=42, n_threads=2):
    """Iterates to the end. Returns the last rotation and the number of iterations."""
    turn, last, n = ica.first_turn(white.shape[1], seed), False, 0
    while not last and n < ica.MAX_ITERATIONS:
        turn, last = ica.iteration(white, turn, n_threads)
        n += 1
    return turn, n


def whitened(rows, n_components):
    pca = StreamedPCA(n_components).fit([rows])
    scale = ica.whitening(pca.explained_variance_)
    return pca, scale, pca.transform(rows)[:, : len(scale)] * scale


def independent(rows, n_components):
    pca, scale, white = whitened(rows, n_components)
    return pca.project(rows, ica.directions(pca.components_, scale, turned(white)[0]))


def assert_same_but_for_sign_and_order(found, expected, atol):
    n = found.shape[1]
    alike = np.corrcoef(found.T, expected.T)[:n, n:]
    order = np.abs(alike).argmax(axis=0)
    assert sorted(order) == list(range(n))
    signs = np.sign(alike[order, np.arange(n)])
    np.testing.assert_allclose(found[:, order] * signs, expected, atol=atol)


def test_every_iteration_is_scikit_learns():
    _, _, white = whitened(mixed()[1], 8)
    expected = FastICA(whiten=False, w_init=ica.first_turn(8, 42), max_iter=200, tol=1e-4).fit(white.astype(np.float64))
    turn, n = turned(white)
    assert n == expected.n_iter_
    np.testing.assert_allclose(turn, expected.components_, atol=1e-5)


def test_the_components_are_those_of_fastica_over_pca_and_the_sources():
    sources, rows = mixed()
    found = independent(rows, 8)
    reference = PCA(8, whiten=True, svd_solver="full").fit_transform(rows.astype(np.float64))
    expected = FastICA(whiten=False, random_state=0, max_iter=200).fit_transform(reference)
    assert_same_but_for_sign_and_order(found, expected, atol=0.02)
    assert_same_but_for_sign_and_order(found, (sources - sources.mean(0)) / sources.std(0), atol=0.5)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(n_rows=st.integers(3, 60), n_features=st.integers(1, 9), n_dead=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_turn_changes_no_distance_and_what_has_no_variance_stays_zero(n_rows, n_features, n_dead, seed):
    rows = np.random.default_rng(seed).normal(size=(n_rows, n_features)).astype(np.float32)
    rows = np.concatenate([rows, np.full((n_rows, n_dead), 5, np.float32)], axis=1)
    n_components = min(rows.shape)
    pca, scale, white = whitened(rows, n_components)
    turn, _ = ica.iteration(white, ica.first_turn(len(scale), seed), 2)
    found = pca.project(rows, ica.directions(pca.components_, scale, turn))
    assert found.shape == (n_rows, n_components) and len(scale) <= min(n_features, n_rows - 1)
    assert not found[:, len(scale) :].any()
    np.testing.assert_allclose(turn @ turn.T, np.eye(len(scale)), atol=1e-10)
    for row in (0, n_rows - 1):
        before, after = (np.linalg.norm(x - x[row], axis=1) for x in (white, found))
        np.testing.assert_allclose(after, before, rtol=2e-3, atol=2e-3)


def test_rows_that_are_all_the_same():
    assert not independent(np.full((9, 3), 5, np.float32), 2).any()


def test_the_number_of_threads_does_not_change_the_bits(monkeypatch):
    monkeypatch.setattr(ica, "BAND", 3)
    _, _, white = whitened(mixed()[1], 8)
    assert len({turned(white, n_threads=n)[0].tobytes() for n in (1, 2, 3)}) == 1


@pytest.mark.parametrize("n_rows, n_components", [(20_000, 200), (3000, 300)])
def test_footprint_holds_what_is_allocated(n_rows, n_components):
    first = ica.first_turn(n_components, 0)
    tracemalloc.start()
    try:
        white = np.random.default_rng(0).standard_normal((n_rows, n_components), np.float32)
        ica.iteration(white, first, 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    predicted = ica.footprint(n_rows, n_components, 2)
    assert 0.7 * predicted < peak <= predicted


@pytest.fixture(autouse=True)
def plain_pictures(monkeypatch):
    monkeypatch.setattr("streamumap.show.png.draw", lambda embedding, file, picture: file.write(b"a picture"))


def test_a_run_says_what_it_found(tmp_path):
    sources, rows = mixed(500, 6, 10)
    report = engine.embed(Request(rows, SHORT, **BOUNDS), tmp_path / "run")
    found = report["reduced"]
    assert found.pop("iterations") < 200 and found.pop("variance_share") == pytest.approx(1)
    assert found == {"dims": 6, "sample_rows": 500, "sample_bytes": 500 * 6 * 4, "converged": True}
    reduced = np.load(tmp_path / "run" / "scratch" / "reduced.npy")
    assert_same_but_for_sign_and_order(reduced, (sources - sources.mean(0)) / sources.std(0), atol=2)
    assert report["stages"][1]["backend"] == "numpy + fastica"


def test_a_search_that_does_not_converge_is_said_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(ica, "MAX_ITERATIONS", 2)
    rows = mixed(200, 6, 10)[1]
    for params in (SHORT, replace(SHORT, n_neighbors=9)):
        report = engine.embed(Request(rows, params, **BOUNDS), tmp_path / "run")
        assert report["warnings"][0].startswith(
            "--reduce ica: FastICA did not converge in 2 iterations on 200 sampled rows; fewer --reduce-dims may."
        )
    assert report["reused"] == ["the reduced rows"]


@pytest.mark.parametrize("at", [100, 510, 700, 1040])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(at, tmp_path, monkeypatch):
    monkeypatch.setattr(ica, "TOLERANCE", 0.0)
    monkeypatch.setattr(ica, "MAX_ITERATIONS", 10)
    monkeypatch.setattr("streamumap.reduce.pca.PIECE_ROWS", 100)
    monkeypatch.setenv("STREAMUMAP_FORCE_TINY_BUDGET", "1")
    rows, done = mixed(500, 6, 10)[1], [0]

    def listen(event):
        done[0] = max(done[0], getattr(event, "done", 0) if getattr(event, "stage", "") == "reduce" else 0)

    whole = engine.embed(Request(rows, SHORT, **BOUNDS), tmp_path / "whole", listener=listen)
    assert done[0] == 3 * 500
    done[0] = 0
    with pytest.raises(Stopped, match="reduce"):
        engine.embed(Request(rows, SHORT, **BOUNDS), tmp_path / "run", listener=listen, stopping=lambda: done[0] >= at)
    report = engine.embed(Request(rows, SHORT, **BOUNDS), tmp_path / "run")
    assert report["reused"][0].startswith("the reduced rows") and report["reduced"] == whole["reduced"]
    for name in ("scratch/reduced.npy", "knn_indices.npy", "embedding.npy"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
