"""The whole search on a GPU: all with all, and the way around it."""

import numpy as np
import pytest
from devices import FORMS, GPU, METRICS, compared, part, placed, torch
from neighbor_checks import check_neighbors, hard_rows, search_request
from search_checks import Floor, check_graph, group_rows, same_bytes, true_recall

from streamumap import demo, quality
from streamumap.errors import Stopped
from streamumap.neighbors import reference
from streamumap.neighbors.cuda import search as cuda

pytestmark = pytest.mark.usefixtures("few_programs")

N, K, OTHER_ROWS = (300, 12, 64) if GPU else (24, 3, 16)


def never(lists):
    return False


def search(
    rows, k, metric, form="streamed", dtype="float32", *, query_rows=1000, other_rows=OTHER_ROWS, chunk_rows=0, seed=0,
    sample=None, reached=never, **more,
):  # fmt: skip
    """`chunk_rows` 0: all with all."""
    blocks = dict(query_rows=query_rows, other_rows=other_rows, chunk_rows=chunk_rows, group_rows=0, window_rows=0)
    sample = np.arange(len(rows)) if sample is None else sample
    options = dict(is_zero=~rows.any(1), seed=seed, sample=sample, reached=reached) | more
    return cuda.search(search_request(compared(rows, metric, form, dtype), k, blocks, **options))


def stop(n):
    raise Stopped("stop")


# All with all


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        *(("streamed", dtype) for dtype in ("float16", "bfloat16", "float32", "int8")),
        ("packed", "bfloat16"),
        ("packed", "int8"),
    ],
)
@pytest.mark.parametrize("metric", METRICS)
def test_hard_rows_of_any_dtype(metric, form, dtype):
    rows = hard_rows(N, negative=dtype == "int8")
    check_neighbors(search(rows, K, metric, form, dtype), rows, K, metric)


@pytest.mark.parametrize(
    ("form", "query_rows", "dtype"),
    [("streamed", 10, "float16"), ("streamed", N - 1, "bfloat16"), ("packed", 10, "float16")],
)
@pytest.mark.parametrize("metric", METRICS)
def test_queries_in_any_chunks(metric, form, query_rows, dtype):
    rows = hard_rows(N)
    check_neighbors(search(rows, K, metric, form, dtype, query_rows=query_rows), rows, K, metric)


def test_tiles_of_queries_and_poisoned_memory_give_the_same_bytes(monkeypatch):
    rows = hard_rows(N)
    before = search(rows, K, "cosine", dtype="float16", query_rows=20)
    empty = torch.empty

    def poisoned(*args, **kwargs):
        array = empty(*args, **kwargs)
        return array.fill_(torch.nan) if array.is_floating_point() else array.fill_(77)

    monkeypatch.setattr(torch, "empty", poisoned)
    monkeypatch.setattr(part("chunk"), "TILE_ROWS", 9)
    assert same_bytes(search(rows, K, "cosine", dtype="float16", query_rows=20), before)


@pytest.mark.parametrize("metric", METRICS)
def test_more_features_than_a_block(metric):
    rows = np.zeros((24, 2100), np.float32)
    rows[:, 1000:1030], rows[:, 2070:] = hard_rows(24, 30), hard_rows(24, 30, seed=1)
    check_neighbors(search(rows, 3, metric), rows, 3, metric)


@pytest.mark.parametrize("chunk_rows", [0, 100])
@pytest.mark.parametrize(("form", "n", "k"), [("streamed", 3, 2), ("packed", 3, 3), ("streamed", 5, 9)])
def test_more_neighbours_than_rows(n, k, form, chunk_rows):
    rows = np.eye(n, 4, dtype=np.float32) + 1
    found = search(rows, k, "cosine", form, chunk_rows=chunk_rows, reached=lambda lists: True)
    check_neighbors(found, rows, k, "cosine")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("negative", [False, True])
def test_zero_rows_are_as_far_as_a_right_angle(negative, form):
    """Unit rows and zero rows are 1 apart, which is not what a cosine distance of 1 is among unit rows."""
    angle = np.deg2rad(70 if not negative else 100)
    rows = np.array([[1, 0], [np.cos(angle), np.sin(angle)], [0, 0], [0, 0]], np.float32)
    check_neighbors(search(rows, 4, "cosine", form), rows, 4, "cosine")


@pytest.mark.filterwarnings("ignore:overflow")  # the interpreter counts in NumPy
@pytest.mark.parametrize("chunk_rows", [0, 100])
def test_an_overflowing_column_leaves_no_false_neighbour(chunk_rows):
    rows = hard_rows(24)
    rows[:3, 0] = 1e30
    indices, distances = search(rows, 4, "euclidean", chunk_rows=chunk_rows, reached=lambda lists: True)
    assert np.array_equal(np.isfinite(distances), indices >= 0)
    assert (indices[3:] >= 3).all()


@pytest.mark.parametrize("n", [3, 9, 40])
@pytest.mark.parametrize("columns", [64, 320, 321, 1024])
def test_largest_is_topk(columns, n):
    scores = placed(np.random.default_rng(0).normal(size=(20, columns)).astype(np.float32))
    scores[3, 5:25] = 10.0  # all in two groups
    values, at = part("chunk")._largest(scores, n)
    assert torch.equal(values.sort(1).values, scores.topk(n, dim=1).values.sort(1).values)
    assert torch.equal(scores.gather(1, at), values) and all(len(set(row.tolist())) == n for row in at)


@pytest.mark.parametrize("chunk_rows", [0, 100])
def test_the_users_precision_of_products_is_left_alone(chunk_rows):
    before = torch.get_float32_matmul_precision()
    other = "medium" if before != "medium" else "highest"
    torch.set_float32_matmul_precision(other)
    rows = hard_rows(24)[:12]
    try:
        search(rows, 2, "cosine", chunk_rows=chunk_rows, reached=lambda lists: True)
        with pytest.raises(Stopped):
            search(rows, 2, "cosine", chunk_rows=chunk_rows, advance=stop)
        assert torch.get_float32_matmul_precision() == other
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("query_rows", [9, 100])
def test_all_with_all_ticks_rows(query_rows):
    ticks = []
    search(hard_rows(N), 2, "euclidean", query_rows=query_rows, advance=ticks.append)
    assert sum(ticks) == N


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_what_is_found_has_recall_1(metric, form):
    rows = hard_rows(N) * np.float32(0.1)
    found = search(rows, K, metric, form)[0][:, 1:]
    counts = cuda.count_closer(compared(rows, metric, form), np.arange(N), found, 64)
    assert quality.recall(counts, found) == 1.0


# By sketches


@pytest.mark.parametrize(("form", "dtype"), [("streamed", "float32"), ("packed", "float16")])
@pytest.mark.parametrize("metric", METRICS)
def test_sketches_find_the_recall_that_is_asked_for(metric, form, dtype):
    rows = group_rows(10 * N if GPU else 40).astype(dtype).astype(np.float32)
    floor = Floor(rows, metric, 0.95)
    found = search(rows, 5, metric, form, dtype, chunk_rows=512 if GPU else 16, reached=floor)
    check_graph(found, rows, 5, metric, 0.95)
    assert len(floor.recalls) <= 2 and floor.recalls[-1] == true_recall(rows, found[0][:, 1:], floor.sample, metric)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_hard_rows_by_sketches(metric, form):
    """Whatever the first lists are, neighbours of neighbours and the next rounds make them better, never worse."""
    rows = hard_rows(N, negative=True)
    floor = Floor(rows, metric, 0.9)
    found = search(rows, 5, metric, form, "int8", chunk_rows=16, query_rows=10, reached=floor)
    check_graph(found, rows, 5, metric, 0.9)
    assert floor.recalls == sorted(floor.recalls)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_all_with_all_where_nothing_is_enough(metric, form):
    rows, asked = group_rows(N if GPU else 16), []
    sample = np.array([2, 3, 13])

    def reached(lists):
        asked.append(lists.shape)
        return False

    found = search(rows, 4, metric, form, chunk_rows=16, sample=sample, reached=reached)
    assert asked == [(3, 3)] * len(part("approximate").SHARES)
    assert same_bytes(found, search(rows, 4, metric, form))


@pytest.mark.parametrize("form", FORMS)
def test_sketches_give_the_same_bytes_and_tick_each_pass(form):
    rows, ticks = group_rows(N if GPU else 16), []
    found = [
        search(rows, 4, "cosine", form, chunk_rows=16, seed=7, reached=lambda lists: True, advance=ticks.append)
        for _ in range(2)
    ]
    assert same_bytes(*found)
    passes = 1 + 1 + part("approximate").JOINS + (form == "streamed")
    assert sum(ticks) == 2 * passes * len(rows)


@pytest.mark.parametrize("passes", [0, 1, 2, 4])
def test_sketches_may_be_stopped_after_any_pass(passes):
    rows, ticks = group_rows(24), []

    def advance(n):
        ticks.append(n)
        if sum(ticks) > 24 * passes:
            raise Stopped("stop")

    with pytest.raises(Stopped):
        search(rows, 4, "cosine", chunk_rows=100, reached=lambda lists: True, advance=advance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_duplicates_and_zero_rows_by_the_thousand(metric, form):
    """They are nearest to each other, found without all with all, and hide nobody."""
    n = 6000 if GPU else 32
    rows = group_rows(n, seed=1)
    rows[n // 8 : n // 2], rows[n // 2 : n * 3 // 4] = rows[4], 0
    rows = rows[np.random.default_rng(0).permutation(n)]
    sample = quality.sample_rows(n, 300, 0)
    floor = Floor(rows, metric, 0.95, sample)
    found = search(rows, 5, metric, form, chunk_rows=1024 if GPU else 16, sample=sample, reached=floor)
    assert floor.recalls[-1] >= 0.95
    check_graph(found, rows, 5, metric, 0.94)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU: half-precision products with float32 sums are CUDA's")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_real_codes(codes, metric, form, dtype):
    resident = search(codes, 15, metric, form, dtype, other_rows=320)
    check_neighbors(resident, codes, 15, metric, atol=1e-4)
    streamed = search(codes, 15, metric, form, dtype, query_rows=250, other_rows=320)
    assert np.array_equal(resident[1], streamed[1])
    assert same_bytes(resident, search(codes, 15, metric, form, dtype, other_rows=320))
    true = reference.search(codes, 15, metric)[0]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(resident[0], true, strict=True)]) > 14.99


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU: ten thousand rows take hours in Triton's interpreter")
@pytest.mark.parametrize("query_rows", [10_000, 3000])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_ten_thousand_real_codes_by_sketches(metric, form, query_rows):
    rows = demo.dense(demo.load()).astype(np.float32)
    sample = quality.sample_rows(len(rows), 500, 0)
    floor = Floor(rows, metric, 0.95, sample)
    wanted = dict(dtype="float16", query_rows=query_rows, other_rows=1024, chunk_rows=1024, sample=sample)
    found = search(rows, 15, metric, form, reached=floor, **wanted)
    assert floor.recalls[-1] >= 0.95 and len(floor.recalls) < len(part("approximate").SHARES)
    assert same_bytes(found, search(rows, 15, metric, form, reached=lambda lists: floor(lists), **wanted))
    exact = search(rows, 15, metric, form, **{**wanted, "chunk_rows": 0})
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found[0], exact[0], strict=True)]) > 0.94 * 15


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("enough_at_once", [True, False])
def test_a_search_that_starts_again_after_every_pass_gives_the_same_bytes(enough_at_once, form, restarted):
    rows = group_rows(N if GPU else 16)
    how: dict = dict(chunk_rows=16, query_rows=6, reached=lambda lists: enough_at_once)
    found, n_times, _ = restarted(
        lambda checkpoint, advance: search(rows, 4, "cosine", form, checkpoint=checkpoint, advance=advance, **how)
    )
    assert n_times >= 3 and same_bytes(found, search(rows, 4, "cosine", form, **how))
