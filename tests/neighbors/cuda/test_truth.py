"""Rows that products of rows cannot tell apart: far from the origin, near one direction, near by pairs in a wide country. Lists and
ranks on a GPU are those of float64."""

from dataclasses import replace

import numpy as np
import pytest
from devices import FORMS, GPU, as_source, compared, on_device, part, placed, torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neighbor_checks import search_request

from streamumap import quality
from streamumap.neighbors import reference
from streamumap.neighbors.cuda import search as cuda
from streamumap.neighbors.protocol import NearestRequest

N, D, K = (600, 24, 15) if GPU else (48, 6, 4)


def noise(seed=0, d=D):
    return np.random.default_rng(seed).normal(size=(N, d))


def country(seed=0):
    """Metres: a region of 100 km, far from where it is counted from; every row has another at about 1 m."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.uniform(0, 1e5, (N // 2, 2)), 2, axis=0) + rng.normal(size=(N, 2))
    return rows + [4.5e5, 5.2e6]


def column(value, seed=0):
    rows = noise(seed)
    rows[:, 0] = value
    return rows


FAR = {
    "offset 3,000": lambda: noise() + 3000,
    "offset 1e6": lambda: noise() + 1e6,
    "a constant column": lambda: column(3e5),
    "a column that half of the rows have": lambda: column(np.where(np.arange(N) % 2, 3e5, 0)),
    "blobs far apart": lambda: noise() + 1e6 * (np.arange(N) % 3)[:, None],
    "metres": country,
}
ALIKE = {
    "near one direction": lambda: 1 + 0.01 * noise(),
    "nearer": lambda: 1 + 1e-4 * noise(),
    "two directions": lambda: np.eye(D)[np.arange(N) % 2] + 1e-3 * noise(),
}
CASES = [("euclidean", name, make) for name, make in FAR.items()] + [
    ("cosine", name, make) for name, make in ALIKE.items()
]
cases = pytest.mark.parametrize(("metric", "make"), [c[::2] for c in CASES], ids=[c[1] for c in CASES])


def true_squares(rows, others, metric):
    """float64 (n, m), from differences; for cosine of rows of length 1."""
    rows, others = rows.astype(np.float64), others.astype(np.float64)
    if metric == "cosine":
        rows, others = (x / np.sqrt((x**2).sum(1, keepdims=True)) for x in (rows, others))
    return np.stack([((others - row) ** 2).sum(1) for row in rows])


def check_lists(indices, distances, squares, metric):
    """They are the nearest of these, at their distances: which of several that are as near is free."""
    nearest = np.sort(squares, axis=1)[:, : indices.shape[1]]
    found = np.take_along_axis(squares, indices, 1)
    np.testing.assert_allclose(found, nearest, rtol=1e-5)
    np.testing.assert_allclose(distances, found / 2 if metric == "cosine" else np.sqrt(found), rtol=1e-3)


@cases
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_with_all(metric, make, dtype):
    rows = make().astype(np.float32)
    if dtype == "float16":
        rows = rows.clip(-6e4, 6e4).astype(np.float16).astype(np.float32)
    given, blocks = (
        compared(rows, metric, "streamed", dtype),
        dict(query_rows=N, other_rows=32, chunk_rows=0, group_rows=0, window_rows=0),
    )
    indices, distances = cuda.search(search_request(replace(given, non_negative=False), K, blocks))
    squares = true_squares(rows, rows, metric)
    np.fill_diagonal(squares, np.inf)
    check_lists(indices[:, 1:], distances[:, 1:], squares, metric)


@cases
def test_the_nearest_of_other_rows(metric, make):
    rows = make().astype(np.float32)
    new, others = rows[::3], np.delete(rows, np.s_[::3], axis=0)
    request = NearestRequest(
        replace(compared(others, metric, "streamed"), non_negative=False), as_source(new), K, N, 32
    )
    with part("nearest").open_search(request) as search:
        found = search(0, len(new))
    check_lists(*found, true_squares(new, others, metric), metric)


def true_counts(squares, sample, others, part=1e-6):
    mine = squares[sample]
    mine[np.arange(len(sample)), sample] = np.inf
    theirs = np.take_along_axis(mine, others, 1)
    return (mine[:, None] < theirs[:, :, None] * (1 - part)).sum(2)


@cases
@pytest.mark.parametrize("right", [True, False])
def test_ranks_are_those_of_float64(metric, make, right):
    """Recall is 1 for the true neighbours and low for any rows: what is wrong is not called right."""
    rows = make().astype(np.float32)
    sample = quality.sample_rows(N, 12, 0)
    squares = true_squares(rows, rows, metric)
    if right:
        np.fill_diagonal(squares, np.inf)
        others = np.argsort(squares, axis=1)[sample, :K]
    else:
        others = (sample[:, None] + np.random.default_rng(0).integers(1, N, (len(sample), K))) % N
    counts = cuda.count_closer(compared(rows, metric, "streamed"), sample, others, 32)
    assert np.array_equal(counts, true_counts(squares, sample, others))
    assert quality.recall(counts, others) == 1 if right else quality.recall(counts, others) < 0.6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("metric", "heavy"), [("euclidean", 1e4), ("cosine", 1e3)])
def test_one_heavy_feature(metric, heavy, form):
    """Rows of few features, one of which all have and none of the others is as large: all but parallel."""
    rng = np.random.default_rng(0)
    rows = (rng.random((N, 20)) * (rng.random((N, 20)) < 0.3)).astype(np.float32)
    rows[:, 0] = heavy + rng.normal(size=N) * (metric == "euclidean")
    squares = true_squares(rows, rows, metric)
    sample = np.arange(0, N, 4)
    wrong = (sample[:, None] + np.arange(5, 5 + K)) % N
    counts = cuda.count_closer(compared(rows, metric, form), sample, wrong, 32)
    assert np.array_equal(counts, true_counts(squares.copy(), sample, wrong))


@pytest.mark.parametrize(
    ("make", "needed"),
    [
        (noise, set()),
        (FAR["offset 1e6"], {"_by_float32"}),
        (FAR["a column that half of the rows have"], {"_by_float32"}),
        (lambda: noise() + 1e6 * (1 + np.arange(N) % 2)[:, None], {"_by_float32", "_by_differences"}),
    ],
    ids=["noise", "offset", "column", "two blobs"],
)
def test_it_looks_again_only_where_it_must(make, needed, monkeypatch):
    chunk, used = part("chunk"), set()

    def spied(name):
        inner = getattr(chunk, name)

        def spy(*args, **kwargs):
            used.add(name)
            return inner(*args, **kwargs)

        monkeypatch.setattr(chunk, name, spy)

    spied("_by_float32")
    spied("_by_differences")
    there = on_device(make().astype(np.float32), "euclidean", "streamed", "float32", 32)
    blocks = dict(query_rows=N, other_rows=32, non_negative=False, advance=lambda n: None)
    assert len(list(part("exhaustive").exhaustive(there, K, **blocks))) == 1
    assert used == needed


@given(st.lists(st.floats(-4, 4, width=16), min_size=12, max_size=12), st.sampled_from([0.0, 0.5, 3000.0, 2.0**20]))
@settings(max_examples=15, deadline=None)
def test_ranks_of_any_numbers(values, offset):
    """Ties, duplicates, and what float32 makes of an offset."""
    rows = (np.array(values).reshape(6, 2) + offset).astype(np.float32)
    sample, others = np.arange(6), (np.arange(6)[:, None] + np.arange(1, 4)) % 6
    counts = cuda.count_closer(compared(rows, "euclidean", "streamed"), sample, others, 4)
    assert np.array_equal(counts, true_counts(true_squares(rows, rows, "euclidean"), sample, others))


@given(st.lists(st.floats(-4, 4, width=16), min_size=80, max_size=80), st.sampled_from([0.0, 3000.0, 2.0**20]))
@settings(max_examples=10, deadline=None)
def test_lists_of_any_numbers(values, offset):
    rows = (np.array(values).reshape(40, 2) + offset).astype(np.float32)
    there = on_device(rows, "euclidean", "streamed")
    blocks = dict(query_rows=40, other_rows=40, non_negative=False, advance=lambda n: None)
    ((_, indices, squares),) = part("exhaustive").exhaustive(there, 3, **blocks)
    true = true_squares(rows, rows, "euclidean")
    np.fill_diagonal(true, np.inf)
    np.testing.assert_allclose(squares.cpu(), np.sort(true, axis=1)[:, :2], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(true, indices.cpu().numpy(), 1), squares.cpu(), rtol=1e-5)


def test_whole_numbers_leave_no_doubt_and_others_do():
    apart, closer = part("distances"), part("count_kernels")
    rows = np.array([[1, 2], [4, 6], [1, 2.5], [4096, 0]], np.float32)
    with torch.inference_mode():
        block, squares, scale, whole = apart.centred(placed(rows), placed(np.zeros(2, np.float32)), False)
        assert whole.tolist() == [True, True, False, False]
        side, itself = (squares, scale, whole), torch.full((4,), -1, device=block.device)
        limits = placed(np.full((4, 1), 25.0))
        counts, doubtful = closer.count_sure(block @ block.T, side, side, itself, limits, 0.1, False)
    assert not doubtful[:2, :2].any() and counts[:2, 0].tolist() == [2, 1]
    assert doubtful[2, 1] and doubtful[1, 2]


def test_a_product_of_nothing_but_zeros_is_sharp():
    """At a right angle, as most rows of few features are: not in doubt at the distance of no edge."""
    apart, closer = part("distances"), part("count_kernels")
    with torch.inference_mode():
        block, *side = apart.centred(placed(np.eye(3, dtype=np.float32) / 3), placed(np.zeros(3, np.float32)), True)
        limits = placed(np.full((3, 1), 2 * (1 - 1e-6)))
        _, doubtful = closer.count_sure(
            block @ block.T, tuple(side), tuple(side), placed(np.arange(3)), limits, 1e-5, True
        )
    assert not doubtful.any()


def test_rows_without_a_direction_are_at_a_right_angle_whatever_the_centre():
    rows = (1 + 0.01 * noise()).astype(np.float32)
    rows[[3, 7]] = 0
    sample, others = np.array([3, 5]), np.array([[7, 9], [7, 9]])
    counts = cuda.count_closer(compared(rows, "cosine", "streamed"), sample, others, 32)
    near = reference.distance_matrix(rows[5:6], rows, "cosine")[0]
    closer = int((np.delete(near, 5) < near[9] * (1 - 1e-6)).sum())
    assert counts.tolist() == [[0, 1], [N - 3, closer]]
