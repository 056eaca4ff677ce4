"""What is ours in the cuVS backend: what cuVS is given, what is made of its answer. cuVS itself needs a GPU; a stand-in
answers here. The kernels that measure run in Triton's interpreter where there is no GPU, switched on before the import.
"""

import sys
from contextlib import nullcontext
from importlib.util import find_spec
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from devices import GPU, METRICS, compared, torch
from neighbor_checks import check_neighbors, hard_rows, search_request

from streamumap import quality
from streamumap.errors import InputError
from streamumap.neighbors import cuvs, cuvs_sizes, reference
from streamumap.neighbors.cuda.device_rows import on_device
from streamumap.params import Params
from streamumap.run import dispatch


class StandIn:
    """Exact squared euclidean neighbours, each row itself among them or not, wrong numbers and repetitions between."""

    def __init__(self, with_self):
        self.with_self, self.calls = with_self, []

    def AllNeighborsParams(self, **given):
        return SimpleNamespace(**given)

    def IndexParams(self, **given):
        assert given["graph_degree"] % 32 == 0 and given["intermediate_graph_degree"] > given["graph_degree"]
        return SimpleNamespace(**given)

    def build(self, matrix, k, params, *, indices):
        self.calls.append((matrix.copy(), params))
        assert (matrix.dtype, indices.shape, indices.dtype) == (np.float32, (len(matrix), k), torch.int64)
        squares = reference.distance_matrix(matrix, matrix, "euclidean") ** 2
        if not self.with_self:
            np.fill_diagonal(squares, np.inf)
        order = np.argsort(squares, axis=1, kind="stable")[:, :k]
        order[1, -1], order[2, -1], order[3, -1] = 2**31 - 1, -1, order[3, 1]
        indices.copy_(torch.from_numpy(order))


@pytest.fixture
def stand_in(monkeypatch):
    def install(with_self=True):
        library = StandIn(with_self)
        monkeypatch.setattr(cuvs, "_library", lambda: (library, library))
        if not GPU:
            monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
            monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        return library

    return install


def exactly(rows, metric, candidates):
    """`cuvs.measure`, in plain NumPy."""
    d = np.take_along_axis(reference.distance_matrix(rows, rows, metric), np.maximum(candidates, 0), 1)
    d[candidates < 0] = np.inf
    if metric == "cosine" and (rows >= 0).all():
        d[d >= 1] = np.inf
    for row, numbers in enumerate(candidates):
        d[row, [place for place, j in enumerate(numbers) if j in numbers[:place]]] = np.inf
    order = np.lexsort((candidates, d), axis=1)
    near, far = np.take_along_axis(candidates, order, 1), np.take_along_axis(d, order, 1)
    return np.where(np.isinf(far), -1, near), far.astype(np.float32)


def search(rows, k, metric, reached=lambda neighbors: True, **more):
    given, blocks = compared(rows, metric, "streamed"), dict(query_rows=1000, other_rows=64)
    options = dict(is_zero=~rows.any(1), sample=np.arange(len(rows)), reached=reached) | more
    with mock.patch.object(cuvs, "measure", lambda there, candidates, *_: exactly(rows, metric, candidates)):
        return cuvs.search(search_request(given, k, blocks, **options))


@pytest.mark.parametrize("with_self", [True, False])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_hard_rows(metric, negative, with_self, stand_in):
    rows = hard_rows(60, negative=negative)
    library = stand_in(with_self)
    check_neighbors(search(rows, 8, metric), rows, 8, metric)
    matrix, params = library.calls[0]
    assert len(library.calls) == 1 and params.metric == "sqeuclidean" and params.algo == "brute_force"
    if metric == "cosine":  # zero rows would be close to all
        assert len(matrix) == rows.any(1).sum() and np.allclose(np.linalg.norm(matrix, axis=1), 1)


@pytest.mark.parametrize(("n", "k"), [(3, 2), (3, 3), (5, 9)])
@pytest.mark.parametrize("metric", METRICS)
def test_more_neighbours_than_rows(metric, n, k, stand_in, monkeypatch):
    library = stand_in()
    monkeypatch.setattr(
        library, "build", lambda matrix, k, params, *, indices: indices.copy_(torch.arange(n).expand(n, k) % n)
    )
    rows = np.eye(n, 4, dtype=np.float32) + 1
    check_neighbors(search(rows, min(k, n), metric), rows, min(k, n), metric)


def test_a_second_try_is_harder_and_the_last(stand_in, monkeypatch):
    monkeypatch.setattr(cuvs, "SMALL_ROWS", 10)
    rows = hard_rows(60)
    library, seen, ticks = stand_in(), [], []

    def reached(neighbors):
        seen.append(neighbors.shape)
        return False

    found = search(rows, 8, "euclidean", reached, advance=ticks.append)
    check_neighbors(found, rows, 8, "euclidean")
    first, second = (params.nn_descent_params for _, params in library.calls)
    assert seen == [(60, 7)] * 2 and ticks == [60, 60]
    assert second.intermediate_graph_degree > first.intermediate_graph_degree
    assert second.max_iterations > first.max_iterations and {p.algo for _, p in library.calls} == {"nn_descent"}


def test_large_values_are_scaled_into_float16(stand_in):
    rows = hard_rows(60) * np.float32(1e6)
    library = stand_in()
    check_neighbors(search(rows, 8, "euclidean"), rows, 8, "euclidean")
    matrix = library.calls[0][0]
    assert matrix.max() <= cuvs.LARGEST and np.log2(rows.max() / matrix.max()) % 1 == 0


@pytest.mark.parametrize("form", ["packed", "dense in one chunk", "dense in chunks"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_rows_decide(metric, form):
    rows = hard_rows(24)
    given = compared(rows, metric, "packed" if form == "packed" else "streamed")
    rng = np.random.default_rng(0)
    candidates = np.argsort(rng.random((24, 24)), axis=1)[:, :6].astype(np.int32)
    candidates[candidates == np.arange(24)[:, None]] = -1
    candidates[:, 5] = candidates[:, 0]
    with on_device(given, 16) as there:
        near, far = cuvs.measure(there, candidates, True, 24 if form == "dense in one chunk" else 10, 16)
    expected_near, expected_far = exactly(rows, metric, candidates)
    assert (near.dtype, far.dtype) == (np.int32, np.float32)
    assert np.allclose(far, expected_far, rtol=1e-5, atol=1e-5) and np.array_equal(near < 0, expected_near < 0)
    true = np.take_along_axis(reference.distance_matrix(rows, rows, metric), np.maximum(near, 0), 1)
    assert np.allclose(far[near >= 0], true[near >= 0], rtol=1e-5, atol=1e-5)


def test_without_cuvs(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuvs", None)
    monkeypatch.setitem(sys.modules, "cuvs.neighbors", None)
    with pytest.raises(InputError, match="^--neighbors: expected cuVS, found none that loads .*; pip install"):
        cuvs._library()
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    for option, package in (("neighbors", "cuvs"), ("layout", "cuml")):
        with pytest.raises(InputError, match=f"^--{option}: expected {package} to be installed"):
            dispatch.check_installed(Params(**{option: package}))
    dispatch.check_installed(Params())


@pytest.mark.parametrize(("n_rows", "measured"), [(500_000, 4.6e9), (3_000_000, 21.6e9)])
def test_bytes_on_the_device_are_those_that_were_measured(n_rows, measured):
    """With cuML 26.10, 3,072 features, on one H200; the process had a context besides."""
    assert abs(cuvs_sizes.device(n_rows, 3072, 15) + 1.1 * 2**30 - measured) < 0.05 * measured


@pytest.mark.gpu
@pytest.mark.skipif(not GPU or find_spec("cuvs") is None, reason="needs a GPU and cuVS")
@pytest.mark.parametrize("n", [60, 20_000])
@pytest.mark.parametrize("metric", METRICS)
def test_cuvs_itself(metric, n):
    rows = hard_rows(60) if n == 60 else np.random.default_rng(0).random((n, 32)).astype(np.float32)
    given, k, blocks = compared(rows, metric, "streamed"), 8, dict(query_rows=n, other_rows=4096)
    found = cuvs.search(search_request(given, k, blocks, is_zero=~rows.any(1), sample=np.arange(0, n, 200)))
    if n == 60:
        return check_neighbors(found, rows, k, metric)
    sample = np.arange(0, n, 200)
    ranks = cuvs.count_closer(given, sample, found[0][sample, 1:], 4096)
    assert quality.recall(ranks, found[0][sample, 1:]) > 0.95
