"""A metric is one object: what its name means everywhere, and that no backend makes up another."""

import re
from dataclasses import fields, replace

import numpy as np
import pytest
from metric_checks import MADE_UP, others_of, searched, unknown
from neighbor_checks import as_csr, check_neighbors, compared, hard_rows, some_others

from streamumap.errors import InputError
from streamumap.neighbors import reference
from streamumap.neighbors.dense import nearest as dense_nearest
from streamumap.neighbors.dense import search as dense
from streamumap.neighbors.metric import COSINE, EUCLIDEAN, METRICS, named
from streamumap.neighbors.metric import compared as compared_under
from streamumap.neighbors.sparse import nearest as sparse_nearest
from streamumap.neighbors.sparse import search as sparse
from streamumap.params import Params
from streamumap.source.views.centered import ComparedView

BACKENDS = {
    "dense": (dense, dense_nearest, {"cell_rows": 200}),
    "packed": (sparse, sparse_nearest, {"query_rows": 50, "batch_rows": 0}),
}


def given(rows, metric, backend):
    return compared(rows, metric, as_csr(rows) if backend == "packed" else None)


def test_the_names_are_those_a_user_may_give():
    assert tuple(METRICS) == {f.name: f for f in fields(Params)}["metric"].metadata["choices"]
    assert named("cosine") is COSINE and named("euclidean") is EUCLIDEAN


def test_another_name_is_refused():
    sentence = re.escape("metric: expected one of euclidean, cosine, found 'manhattan'; choose one of these.")
    for refused in (named, lambda name: Params(metric=name)):
        with pytest.raises(InputError, match=f"^{sentence}$"):
            refused("manhattan")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_metric_that_a_backend_does_not_have_is_refused(backend):
    search, nearest, blocks = BACKENDS[backend]
    rows = replace(given(hard_rows(30), "euclidean", backend), metric=unknown(EUCLIDEAN))
    for entry in (
        lambda: searched(search, rows, 5, blocks),
        lambda: search.count_closer(rows, np.arange(3), np.zeros((3, 2), int), 10),
        lambda: others_of(nearest, rows, hard_rows(30), 5),
    ):
        with pytest.raises(
            InputError, match=f"--neighbors {backend} has \\(euclidean, cosine\\), found 'unknown'; choose"
        ):
            entry()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", MADE_UP)
@pytest.mark.parametrize("negative", [False, True])
def test_a_new_metric_is_one_object(metric, backend, negative, monkeypatch):
    monkeypatch.setitem(METRICS, metric, MADE_UP[metric])
    search, nearest, blocks = BACKENDS[backend]
    negative = negative or backend == "dense"  # a search of dense rows keeps those at a right angle
    rows, sample = hard_rows(150, negative=negative), np.arange(0, 150, 7)
    there = given(rows, metric, backend)
    check_neighbors(searched(search, there, 8, blocks, is_zero=~rows.any(1)), rows, 8, metric)
    others = some_others(rows, sample, 8, "cosine" if MADE_UP[metric].unit else "euclidean")
    plain = given(rows, "cosine" if MADE_UP[metric].unit else "euclidean", backend)
    counts = search.count_closer(there, sample, others, 60)
    assert np.array_equal(counts, search.count_closer(plain, sample, others, 60))
    new = rows[::5].copy()
    expected = reference.nearest(new, rows, 8, metric, not negative)[1]
    np.testing.assert_allclose(others_of(nearest, there, new, 8)[1], expected, rtol=1e-5, atol=1e-5)


def test_rows_that_a_view_brought_to_length_1_are_compared_as_they_are():
    assert compared_under(COSINE, ComparedView(unit=True)) is EUCLIDEAN
    assert compared_under(COSINE, ComparedView()) is COSINE


@pytest.mark.parametrize("metric", METRICS)
def test_squares_become_the_distances_of_the_reference(metric):
    rows = hard_rows(40, negative=True).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    seen = rows / np.where(norms > 0, norms, 1) if named(metric).unit else rows
    squares = ((seen[:, None] - seen[None]) ** 2).sum(2)
    zero = (norms[:, 0] == 0) & named(metric).unit
    squares[np.not_equal.outer(zero, zero)] = 2  # a right angle
    found = named(metric).from_squares(squares, np)
    np.testing.assert_allclose(found, reference.distance_matrix(rows, rows, metric), atol=1e-7)
    assert named(metric).from_squares(np.float32([0, np.inf]), np).tolist() == [0, np.inf]
