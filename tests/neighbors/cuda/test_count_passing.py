"""Ranks in rows without zeros that pass by: those in rows that stay on the device."""

import numpy as np
import pytest
from devices import DEVICE, GPU, METRICS, compared, torch
from neighbor_checks import hard_rows, some_others

from streamumap.machine import gpu
from streamumap.neighbors.cuda import count_passing, passing_sizes, sizes
from streamumap.neighbors.cuda import search as cuda
from streamumap.neighbors.metric import named
from streamumap.neighbors.protocol import ComparedRows
from streamumap.source import open_source
from streamumap.source.sparse.csr_rows import pack

pytestmark = pytest.mark.usefixtures("few_programs")
SAMPLE = np.array([39, 0, 3, 10, 11, 20])


def cases(metric, negative=True):
    rows = hard_rows(40, negative=negative)
    others = some_others(rows, SAMPLE, 5, metric)
    others[0, 0], others[1, 1], others[2, 2] = -1, SAMPLE[1], SAMPLE[3]
    return rows, others


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
@pytest.mark.parametrize("metric", METRICS)
def test_ranks_are_those_in_resident_rows(metric, dtype):
    rows, others = cases(metric, negative=dtype != "bfloat16")
    whole = cuda.count_closer(compared(rows, metric, "packed", dtype), SAMPLE, others, 64)
    for pass_rows, block_rows in ((7, 4), (16, 64), (1000, 13)):
        given = compared(rows, metric, "packed", dtype)
        assert np.array_equal(count_passing.count_closer(given, SAMPLE, others, block_rows, pass_rows), whole)


@pytest.mark.parametrize("metric", METRICS)
def test_others_come_in_parts(metric, monkeypatch):
    rows, others = cases(metric)
    whole = cuda.count_closer(compared(rows, metric, "packed"), SAMPLE, others, 64)
    monkeypatch.setattr(count_passing, "UPLOAD_ROWS", 3)
    ours = count_passing.count_closer(compared(rows, metric, "packed"), SAMPLE, others, 64, 20)
    assert np.array_equal(ours, whole)


@pytest.mark.parametrize("metric", METRICS)
def test_a_row_without_neighbours_counts_all_that_are_near(metric):
    rows, none = hard_rows(24), np.full((3, 2), -1)
    whole = cuda.count_closer(compared(rows, metric, "packed"), np.arange(3), none, 64)
    ours = count_passing.count_closer(compared(rows, metric, "packed"), np.arange(3), none, 64, 10)
    assert np.array_equal(ours, whole)


def test_ticks_are_rows():
    rows, ticks = hard_rows(24), []
    given = compared(rows, "euclidean", "packed")
    count_passing.count_closer(given, np.arange(3), np.full((3, 1), -1), 10, 15, ticks.append)
    assert ticks == [10, 5, 9]


def test_a_block_that_does_not_fit_is_done_in_halves(monkeypatch):
    rows, others = cases("cosine")
    before = count_passing.count_closer(compared(rows, "cosine", "packed"), SAMPLE, others, 64, 20)
    inner = cuda.SparseOnDevice.count_below

    def small_device(*args):
        if args[4] - args[3] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return inner(*args)

    gpu.shrunk()
    monkeypatch.setattr(cuda.SparseOnDevice, "count_below", small_device)
    after = count_passing.count_closer(compared(rows, "cosine", "packed"), SAMPLE, others, 64, 20)
    assert np.array_equal(after, before) and "in halves" in gpu.shrunk()[0]


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU: its memory is measured")
@pytest.mark.parametrize("pass_rows", [20_000, 70_000])
def test_device_bytes_are_within_the_plan(pass_rows):
    n, n_features, sample = 100_000, 2048, np.arange(0, 100_000, 100)
    rng = np.random.default_rng(0)
    rows = np.zeros((n, n_features), np.float16)
    rows[np.arange(n)[:, None], rng.integers(0, n_features, (n, 32))] = rng.random((n, 32)) + 0.1
    csr = pack(open_source(rows), 4096, int(np.count_nonzero(rows)))
    given = ComparedRows(csr, csr, named("cosine"), True, DEVICE)  # no dense form is asked for
    others = rng.integers(0, n, (len(sample), 29))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    count_passing.count_closer(given, sample, others, 16_384, pass_rows)
    used = torch.cuda.max_memory_allocated() - before
    there = passing_sizes.device(n, n_features, csr.n_nonzero, "float16", len(sample), pass_rows)
    assert 0.2 * there < used < there + sizes.count_closer_csr(len(sample), others.shape[1])
