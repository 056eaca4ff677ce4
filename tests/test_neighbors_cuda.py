"""The exhaustive search in torch and Triton: on a GPU where there is one, else in Triton's interpreter.

The interpreter must be switched on before Triton is imported.
"""

import os
import sys

import numpy as np
import pytest
from neighbor_checks import check_counts, check_neighbors, hard_rows, some_others

from streamumap import quality
from streamumap.errors import Stopped
from streamumap.neighbors import reference
from streamumap.source import open_source

torch = pytest.importorskip("torch")
GPU = torch.cuda.is_available()
if not GPU:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("there is no GPU and triton was imported without TRITON_INTERPRET=1", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from streamumap.neighbors import cuda as backend  # noqa: E402

DEVICE = "cuda" if GPU else "cpu"
METRICS = ("euclidean", "cosine")
DTYPES = ("float16", "bfloat16", "float32", "float64", "int8")
N, K, OTHER_ROWS = (300, 12, 64) if GPU else (24, 3, 16)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter takes milliseconds for each pair of rows that is measured."""
    if not GPU:
        monkeypatch.setattr(backend, "MARGIN", 1)


def as_source(rows, dtype="float32"):
    if dtype == "bfloat16":
        return open_source((rows.view(np.uint32) >> 16).astype(np.uint16), "bfloat16")
    return open_source(rows.astype(dtype))


def search(rows, k, metric, dtype="float32", query_rows=1000, other_rows=OTHER_ROWS, **more):
    return backend.search(
        as_source(rows, dtype), k, metric, query_rows=query_rows, other_rows=other_rows, non_negative=bool((rows >= 0).all()),
        is_zero=~rows.any(1), device=DEVICE, **more,
    )  # fmt: skip


def count(rows, sample, others, metric, dtype="float32", other_rows=OTHER_ROWS, **more):
    return backend.count_closer(
        as_source(rows, dtype), sample, others, metric, other_rows=other_rows, device=DEVICE, **more
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
@pytest.mark.parametrize("metric", METRICS)
def test_hard_rows_of_any_dtype(metric, dtype):
    rows = hard_rows(N, negative=dtype == "int8")
    check_neighbors(search(rows, K, metric, dtype), rows, K, metric)


@pytest.mark.parametrize(("query_rows", "dtype"), [(10, "float16"), (N - 1, "bfloat16")])
@pytest.mark.parametrize("metric", METRICS)
def test_queries_in_any_chunks(metric, query_rows, dtype):
    rows = hard_rows(N)
    check_neighbors(search(rows, K, metric, dtype, query_rows), rows, K, metric)


def test_tiles_of_queries_and_poisoned_memory_give_the_same_bytes(monkeypatch):
    rows = hard_rows(N)
    before = [array.tobytes() for array in search(rows, K, "cosine", "float16", 20)]
    empty = torch.empty

    def poisoned(*args, **kwargs):
        return empty(*args, **kwargs).fill_(torch.nan)

    monkeypatch.setattr(torch, "empty", poisoned)
    monkeypatch.setattr(backend, "TILE_ROWS", 9)
    assert [array.tobytes() for array in search(rows, K, "cosine", "float16", 20)] == before


@pytest.mark.parametrize("metric", METRICS)
def test_more_features_than_a_block(metric):
    rows = np.zeros((24, 2100), np.float32)
    rows[:, 1000:1030], rows[:, 2070:] = hard_rows(24, 30), hard_rows(24, 30, seed=1)
    check_neighbors(search(rows, 3, metric), rows, 3, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "k"), [(3, 2), (3, 3), (5, 9)])
def test_more_neighbours_than_rows(metric, n, k):
    rows = np.eye(n, 4, dtype=np.float32) + 1
    check_neighbors(search(rows, k, metric), rows, k, metric)


@pytest.mark.parametrize("negative", [False, True])
def test_zero_rows_are_as_far_as_a_right_angle(negative):
    """Unit rows and zero rows are 1 apart, which is not what a cosine distance of 1 is among unit rows."""
    angle = np.deg2rad(70 if not negative else 100)
    rows = np.array([[1, 0], [np.cos(angle), np.sin(angle)], [0, 0], [0, 0]], np.float32)
    check_neighbors(search(rows, 4, "cosine"), rows, 4, "cosine")
    sample, others = np.arange(4), np.array([[1, 2, -1], [0, 3, -1], [3, 0, -1], [2, 1, -1]])
    check_counts(count(rows, sample, others, "cosine"), rows, sample, others, "cosine", rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:overflow")  # the interpreter counts in NumPy
def test_an_overflowing_column_leaves_no_false_neighbour():
    rows = hard_rows(24)
    rows[:3, 0] = 1e30
    indices, distances = search(rows, 4, "euclidean")
    assert np.array_equal(np.isfinite(distances), indices >= 0)
    assert (indices[3:] >= 3).all()


@pytest.mark.parametrize("n", [3, 9, 40])
@pytest.mark.parametrize("columns", [64, 320, 321, 1024])
def test_largest_is_topk(columns, n):
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(20, columns)).astype(np.float32)).to(DEVICE)
    scores[3, 5:25] = 10.0  # all in two groups
    values, at = backend._largest(scores, n)
    assert torch.equal(values.sort(1).values, scores.topk(n, dim=1).values.sort(1).values)
    assert torch.equal(scores.gather(1, at), values) and all(len(set(row.tolist())) == n for row in at)


def test_the_users_matmul_precision_is_left_alone():
    before = torch.get_float32_matmul_precision()
    other = "medium" if before != "medium" else "highest"
    torch.set_float32_matmul_precision(other)
    rows = hard_rows(24)
    try:
        search(rows, 2, "cosine")
        count(rows, np.arange(3), np.array([[5], [6], [-1]]), "cosine")
        with pytest.raises(Stopped):
            count(rows, np.arange(3), np.array([[5], [6], [-1]]), "cosine", tick=stop)
        assert torch.get_float32_matmul_precision() == other
    finally:
        torch.set_float32_matmul_precision(before)


def stop(n):
    raise Stopped("stop")


@pytest.mark.parametrize("query_rows", [9, 100])
def test_ticks_all_rows_and_stops(query_rows):
    rows, ticks = hard_rows(N), []
    search(rows, 2, "euclidean", query_rows=query_rows, tick=ticks.append)
    assert sum(ticks) == N
    with pytest.raises(Stopped):
        search(rows, 2, "euclidean", query_rows=query_rows, tick=stop)
    ticks.clear()
    count(rows, np.arange(3), np.full((3, 1), -1), "euclidean", tick=ticks.append)
    assert sum(ticks) == N


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_ranks_of_hard_rows(metric, dtype):
    rows = hard_rows(150, negative=dtype == "int8")
    sample = np.arange(1, 150, 2)
    others = some_others(rows, sample, 12, metric)
    first = count(rows, sample, others, metric, dtype)
    check_counts(first, rows, sample, others, metric, rtol=1e-5, atol=1e-5)
    assert np.array_equal(count(rows, sample, others, metric, dtype, 1024), first)


def test_ranks_of_real_codes(codes, monkeypatch):
    monkeypatch.setattr(backend, "TILE_ROWS", 100)
    rows, sample = codes[:200], quality.sample_rows(200, 50, 0)
    found = reference.search(rows, 15, "cosine")[0][sample, 1:]
    counts = count(rows, sample, found, "cosine", "float16", 96)
    check_counts(counts, rows, sample, found, "cosine", rtol=1e-5, atol=1e-5)
    assert quality.recall(counts, found) == 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_found_has_recall_1(metric):
    rows = hard_rows(N) * np.float32(0.1)
    found = search(rows, K, metric)[0][:, 1:]
    assert quality.recall(count(rows, np.arange(N), found, metric), found) == 1.0


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_along_directions(metric, dtype):
    rows, ticks = hard_rows(150, negative=True), []
    directions = np.random.default_rng(0).normal(size=(2, 60)).astype(np.float32).T
    out = backend.project(as_source(rows, dtype), directions, metric, other_rows=32, device=DEVICE, tick=ticks.append)
    norms = np.sqrt((rows.astype(np.float64) ** 2).sum(1, keepdims=True))
    unit = rows / np.where(norms > 0, norms, 1) if metric == "cosine" else rows
    assert out.dtype == np.float32 and np.allclose(out, unit @ directions, rtol=1e-5, atol=1e-4)
    assert sum(ticks) == 150


@pytest.mark.gpu
@pytest.mark.skipif(
    not GPU, reason="needs a GPU: half-precision products with float32 sums are CUDA's, and the interpreter is slow"
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("metric", METRICS)
def test_real_codes(codes, metric, dtype):
    resident = search(codes, 15, metric, dtype, other_rows=320)
    check_neighbors(resident, codes, 15, metric, atol=1e-4)
    streamed = search(codes, 15, metric, dtype, query_rows=250, other_rows=320)
    assert np.array_equal(resident[1], streamed[1])
    assert all(
        a.tobytes() == b.tobytes()
        for a, b in zip(resident, search(codes, 15, metric, dtype, other_rows=320), strict=True)
    )
    true = reference.search(codes, 15, metric)[0]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(resident[0], true, strict=True)]) > 14.99
