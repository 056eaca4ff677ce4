"""Rows whose squared norms swallow what is between them, on a CPU: lists and ranks by float64 differences of the stored values."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from neighbor_checks import as_csr, compared, search_request

from streamumap import engine
from streamumap.neighbors import reference
from streamumap.neighbors.dense import search as dense
from streamumap.neighbors.sparse import search as sparse
from streamumap.neighbors.sparse.measure import pair
from streamumap.params import Params
from streamumap.request import Request

N, D, K = 600, 8, 15


def normal(seed=0, n=N):
    return np.random.default_rng(seed).normal(size=(n, D))


def places(n=N):
    """Metres: places a few metres from each other, in a region of 100 km."""
    random = np.random.default_rng(1)
    return random.uniform(0, 1e5, (n // 20, 2))[random.integers(0, n // 20, n)] + random.normal(0, 3, (n, 2))


def directions():
    random = np.random.default_rng(2)
    return random.normal(size=(5, D))[random.integers(0, 5, N)] + 1e-4 * normal()


DENSE = {
    "far": (normal() + 1000, "euclidean"),
    "column": (normal() + 1e5 * (np.arange(D) == 3), "euclidean"),
    "column in half": (normal() + 1e5 * (np.arange(D) == 3) * (np.arange(N)[:, None] % 2), "euclidean"),
    "places": (places(), "euclidean"),
    "two": (normal() + 1e6 * (np.arange(N)[:, None] % 2), "euclidean"),
    "directions": (directions(), "cosine"),
}


def truth(rows, metric):
    """Squared distances float64 (N, N) of the rows, for cosine of length 1, infinite from each to itself."""
    rows = rows.astype(np.float64)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    squares = np.stack([((rows - row) ** 2).sum(1) for row in rows])
    np.fill_diagonal(squares, np.inf)
    return squares


def true_recall(rows, metric, others):
    squares = truth(rows, metric)
    last = np.sort(squares, axis=1)[:, [others.shape[1] - 1]]
    return (np.take_along_axis(squares, others.astype(np.int64), 1) <= last * (1 + 1e-6)).mean()


def search(rows, metric, cell_rows=200, **options):
    """`reached`, where it is given, is asked about the neighbours of all rows."""
    options = dict(seed=3, n_threads=2, sample=np.arange(len(rows))) | options
    return dense.search(search_request(compared(rows, metric), K, {"cell_rows": cell_rows}, **options))


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("cell_rows", [200, N])
def test_all_with_all_finds_those_that_differences_say(name, cell_rows):
    rows, metric = DENSE[name][0].astype(np.float32), DENSE[name][1]
    indices, distances = search(rows, metric, exhaustive=True, cell_rows=cell_rows)
    assert true_recall(rows, metric, indices[:, 1:]) > 0.995
    again = search(rows, metric, exhaustive=True, cell_rows=cell_rows, n_threads=1)
    assert indices.tobytes() == again[0].tobytes() and distances.tobytes() == again[1].tobytes()


@pytest.mark.parametrize("name", DENSE)
def test_joins_never_make_lists_worse(name, monkeypatch):
    """And go on while they find more, where sketches tell nothing."""
    monkeypatch.setattr(dense, "all_with_all_is_cheaper", lambda n_rows, n_features: False)
    rows, metric = DENSE[name][0].astype(np.float32), DENSE[name][1]
    seen = []

    def reached(indices):
        seen.append(true_recall(rows, metric, np.maximum(indices, 0)))
        return seen[-1] >= 0.97

    indices, _ = search(rows, metric, reached=reached)
    assert seen == sorted(seen) and true_recall(rows, metric, indices[:, 1:]) >= 0.97


@pytest.mark.parametrize("name", DENSE)
def test_ranks_are_those_of_differences(name):
    rows, metric = DENSE[name][0].astype(np.float32), DENSE[name][1]
    squares, sample = truth(rows, metric), np.arange(0, N, 7)
    order = np.argsort(squares, axis=1)[sample]
    others = order[:, [0, 3, 14, 60]].astype(np.int32)
    counts = dense.count_closer(compared(rows, metric), sample, others, 100)
    off = np.abs(counts - [0, 3, 14, 60])
    assert off[:, :3].max() <= 1 and (off[:, :3] > 0).mean() < 0.02
    wrong = np.random.default_rng(0).integers(0, N, (len(sample), 4))
    limits = squares[sample[:, None], wrong][:, :, None]
    least, most = ((squares[sample][:, None] < limits * part).sum(2) for part in (1 - 2e-6, 1))
    counts = dense.count_closer(compared(rows, metric), sample, wrong, 100)
    right = (least - 3 <= counts) & (counts <= most + 3)
    assert right[wrong != sample[:, None]].all()


def sparse_rows(kind):
    random, rows = np.random.default_rng(5), np.zeros((N, 150), np.float32)
    if kind == "parallel":
        which = random.integers(0, 5, N)
        for row, first in enumerate(7 * which):
            rows[row, first : first + 7] = 1 + 0.1 * np.arange(7) + 1e-5 * random.normal(size=7)
        return rows, "cosine"
    np.put_along_axis(rows, 1 + random.integers(0, 140, (N, 1)) + np.arange(7), random.normal(size=(N, 7)), 1)
    share = 1 if kind == "heavy" else 0.5
    rows[random.random(N) < share, 0] = 1e4
    rows[:, 0] += (rows[:, 0] > 0) * random.normal(size=N)
    return rows, "euclidean"


@pytest.mark.parametrize("kind", ["heavy", "heavy in half", "parallel"])
def test_packed_rows_are_found_and_ranked_by_differences(kind):
    rows, metric = sparse_rows(kind)
    kept, sample = replace(compared(rows, metric, as_csr(rows)), non_negative=False), np.arange(0, N, 7)
    blocks = dict(query_rows=70, batch_rows=0)
    indices, _ = sparse.search(search_request(kept, K, blocks, is_zero=~rows.any(1), sample=sample, seed=1))
    assert true_recall(rows, metric, indices[:, 1:]) > 0.995
    order = np.argsort(truth(rows, metric), axis=1)[sample]
    counts = sparse.count_closer(kept, sample, order[:, [0, 3, 14, 60]].astype(np.int32), 100)
    assert np.abs(counts - [0, 3, 14, 60])[:, :3].max() <= 1


def test_the_distance_of_nearly_parallel_rows_has_its_digits():
    features, one = np.arange(7, dtype=np.uint16), 1 + 0.1 * np.arange(7)
    for size in (1e-1, 1e-3, 1e-6):
        other = 3 * (one + size * np.array([1, -1, 0, 2, 0, 0, 1.0]))
        unit = one / np.linalg.norm(one) - other / np.linalg.norm(other)
        right = (unit**2).sum() / 2
        assert pair(features, one, features, other, True) == pytest.approx(right, rel=1e-8)
    assert pair(features, one, features, 2 * one, True) == 0
    lacking = pair(features, one, features[1:], one[1:] * 1e9, True)
    assert lacking == pytest.approx(reference.distance_matrix(one[None], np.r_[0, one[1:]][None], "cosine")[0, 0])


def made(rows, tmp_path, metric="euclidean", **options):
    done = engine.embed(
        Request(rows, Params(metric=metric, n_epochs=2), device="cpu", budget="2GB", **options), tmp_path
    )
    return done["quality"]["knn_recall"]["value"], done["warnings"], np.load(tmp_path / "knn_indices.npy")


def test_what_stored_values_do_not_tell_apart_is_said(tmp_path):
    rows = (normal() + 3000).astype(np.float16)  # 2 apart
    said, warnings, indices = made(rows, tmp_path)
    assert said == 1.0 == true_recall(rows, "euclidean", indices[:, 1:])
    assert (
        len(warnings) == 1 and "of the sampled rows are tied" in warnings[0] and "float16 values so far" in warnings[0]
    )


def test_what_float32_does_not_tell_apart_is_said(tmp_path):
    rows = normal() + 1e9 * (np.arange(N)[:, None] % 2)
    _, warnings, _ = made(rows, tmp_path)
    assert any("differ from an earlier row only below the precision of float32" in text for text in warnings)
    _, warnings, _ = made(normal() + 3e6 * (np.arange(N)[:, None] % 2), tmp_path, fresh=True)
    assert any("float32, in which rows are compared, changes distances" in text for text in warnings)


@pytest.mark.parametrize("rows", [normal(), normal() + 1e9, scipy.sparse.csr_matrix(np.maximum(normal(), 0))])
def test_nothing_is_said_of_rows_that_are_told_apart(rows, tmp_path):
    assert made(rows, tmp_path)[:2] == (1.0, [])


def test_rows_that_differ_below_float32_alone_are_no_repetitions(tmp_path):
    """600 different rows were 598 that repeat an earlier one."""
    done = engine.embed(Request(1 + 1e-12 * normal(), Params(n_epochs=2), device="cpu", budget="2GB"), tmp_path)
    assert done["input"]["duplicate_rows"] == 0 and done["warnings"] == []
