"""Exact ranks and projections, of rows in both forms."""

import numpy as np
import pytest
from devices import FORMS, METRICS, compared, part, torch
from neighbor_checks import check_counts, hard_rows, some_others

from streamumap import quality
from streamumap.errors import Stopped
from streamumap.machine import gpu
from streamumap.neighbors import reference
from streamumap.neighbors.cuda import search as cuda

pytestmark = [pytest.mark.usefixtures("few_programs"), pytest.mark.parametrize("form", FORMS)]

DTYPES = ("float16", "bfloat16", "float32", "float64", "int8")


def count(rows, sample, others, metric, form, dtype="float32", other_rows=64, **more):
    return cuda.count_closer(compared(rows, metric, form, dtype), sample, others, other_rows, **more)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_ranks_of_hard_rows(metric, dtype, form):
    n = 150 if form == "streamed" else 40
    rows = hard_rows(n, negative=dtype == "int8")
    sample = np.arange(1, n, n // 16)
    others = some_others(rows, sample, 12, metric)
    counts = count(rows, sample, others, metric, form, dtype)
    check_counts(counts, rows, sample, others, metric, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_ranks_do_not_depend_on_the_blocks(metric, form):
    rows, sample = hard_rows(40, negative=True), np.array([0, 3, 10, 11, 20, 39])
    others = some_others(rows, sample, 5, metric)
    counts = [count(rows, sample, others, metric, form, other_rows=size) for size in (1000, 7)]
    assert np.array_equal(*counts)


@pytest.mark.parametrize("metric", METRICS)
def test_others_in_any_order_of_memory(metric, form):
    rows, sample = hard_rows(24, negative=True), np.array([0, 3, 10, 11])
    others = some_others(rows, sample, 5, metric)
    turned = np.asfortranarray(others)
    assert np.array_equal(count(rows, sample, turned, metric, form), count(rows, sample, others, metric, form))


@pytest.mark.parametrize("metric", METRICS)
def test_rows_at_the_same_distance_are_not_closer(metric, form):
    """Duplicates, multiples (cosine), and rows on a circle (euclidean), none of them a whole number."""
    rows = np.tile(np.linspace(0.1, 0.7, 8, dtype=np.float32), (12, 1))
    if metric == "cosine":
        rows[1:] *= np.linspace(0.3, 9, 11, dtype=np.float32)[:, None]
    else:
        rows[4:] += np.float32(0.3) * np.eye(8, dtype=np.float32)
    sample = np.arange(3)
    others = np.array([[1, 2, 4, 11], [0, 2, 5, 10], [0, 1, 6, 9]])
    counts = count(rows, sample, others, metric, form)
    assert np.array_equal(counts, np.zeros((3, 4)) if metric == "cosine" else [[0, 0, 3, 3]] * 3)


@pytest.mark.parametrize("negative", [False, True])
def test_no_neighbour_is_at_the_distance_of_no_edge(negative, form):
    """cosine: 1. Rows that share no feature and zero rows are at 1 sharp, so they are not closer."""
    rows = np.zeros((9, 6), np.float32)
    rows[:4, :2], rows[4:7, 3:] = [[1, 0.3]] * 4, [[0.1, 0.2, 0.3]] * 3
    if negative:
        rows[1] *= -1
    sample, none = np.arange(9), np.full((9, 1), -1)
    expected = [2, 0, 2, 2, 2, 2, 2, 1, 1] if negative else [3, 3, 3, 3, 2, 2, 2, 1, 1]
    assert count(rows, sample, none, "cosine", form).ravel().tolist() == expected
    assert count(rows, sample, none, "euclidean", form).ravel().tolist() == [8] * 9


@pytest.mark.parametrize("metric", METRICS)
def test_ranks_of_real_codes(metric, codes, form, monkeypatch):
    monkeypatch.setattr(part("count"), "TILE_ROWS", 100)
    n = 200 if form == "streamed" else 60
    rows, sample = codes[:n], quality.sample_rows(n, 20, 0)
    found = reference.search(rows, 15, metric)[0][sample, 1:]
    counts = count(rows, sample, found, metric, form, "float16", 96)
    check_counts(counts, rows, sample, found, metric, rtol=1e-5, atol=1e-5)
    assert quality.recall(counts, found) == 1.0


def test_the_users_precision_of_products_is_left_alone(form):
    before = torch.get_float32_matmul_precision()
    other = "medium" if before != "medium" else "highest"
    torch.set_float32_matmul_precision(other)
    rows, others = hard_rows(24), np.array([[5], [6], [-1]])
    try:
        count(rows, np.arange(3), others, "cosine", form)
        with pytest.raises(Stopped):
            count(rows, np.arange(3), others, "cosine", form, advance=stop)
        assert torch.get_float32_matmul_precision() == other
    finally:
        torch.set_float32_matmul_precision(before)


def stop(n):
    raise Stopped("stop")


def test_ticks_are_rows(form):
    rows, ticks = hard_rows(24), []
    count(rows, np.arange(3), np.full((3, 1), -1), "euclidean", form, other_rows=10, advance=ticks.append)
    assert ticks == [10, 10, 4]


@pytest.mark.parametrize("metric", METRICS)
def test_a_block_that_does_not_fit_is_done_in_halves(metric, form, monkeypatch):
    rows, sample = hard_rows(40, negative=True), np.array([0, 3, 10, 11, 20, 39])
    others = some_others(rows, sample, 5, metric)
    before = count(rows, sample, others, metric, form)
    owner, name, n_rows_of = {
        "packed": (cuda.SparseOnDevice, "count_below", lambda args: args[4] - args[3]),
        "streamed": (part("count"), "count_sure", lambda args: args[0].shape[1]),
    }[form]
    inner = getattr(owner, name)

    def small_device(*args):
        if n_rows_of(args) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return inner(*args)

    gpu.shrunk()
    monkeypatch.setattr(owner, name, small_device)
    assert np.array_equal(count(rows, sample, others, metric, form), before)
    assert "a block of 40 rows was done in halves" in gpu.shrunk()[0]
