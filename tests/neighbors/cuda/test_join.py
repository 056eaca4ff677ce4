"""Lists of neighbours on a GPU: neighbours of neighbours, merging, and dense rows that decide."""

import numpy as np
import pytest
from devices import DEVICE, GPU, METRICS, measured, numbers, on_device, part, placed, torch
from neighbor_checks import hard_rows

from streamumap.errors import Stopped
from streamumap.neighbors.cuda.decide import decide
from streamumap.neighbors.cuda.join import candidates, merge, no_neighbors, reverse_neighbors

pytestmark = pytest.mark.usefixtures("few_programs")

N, WIDTH = (300, 64) if GPU else (24, 8)


def some_lists(n, width, seed=0):
    """int32 (n, width): other rows, each once, and from some place on -1; a row with nobody, and one that all name."""
    rng = np.random.default_rng(seed)
    out = np.full((n, width), -1, np.int32)
    for i in range(n):
        others = rng.permutation(np.delete(np.arange(n), i))[: rng.integers(0, width + 1)]
        out[i, : len(others)] = others
        if i != 5 and 5 not in others:
            out[i, 0] = 5
    out[5] = out[7] = -1
    return out


# Neighbours of neighbours


def plain_reverse(lists):
    forward, n_reverse = part("join").FORWARD, part("join").REVERSE
    named = [[] for _ in lists]
    for i, row in enumerate(lists):
        for place, j in enumerate(row[:forward]):
            if j >= 0:
                named[j].append((place, i))
    return [[i for _, i in sorted(by)[:n_reverse]] for by in named]


@pytest.mark.parametrize("width", [WIDTH, 3])
def test_rows_that_name_this_one(width):
    lists = some_lists(N, width)
    found = reverse_neighbors(placed(lists)).cpu().numpy()
    assert (found.dtype, found.shape) == (np.int32, (N, part("join").REVERSE))
    for row, true in zip(found, plain_reverse(lists), strict=True):
        assert row.tolist() == true + [-1] * (len(row) - len(true))


@pytest.mark.parametrize("width", [WIDTH, 3])
def test_candidates_are_neighbours_of_neighbours(width):
    lists, join = some_lists(N, width), part("join")
    reverse = plain_reverse(lists)
    first, stop = 3, N - 2
    found = candidates(placed(lists), reverse_neighbors(placed(lists)), first, stop).cpu().numpy()
    assert (found.dtype, found.shape) == (np.int32, (stop - first, join.CANDIDATES))
    for i, row in zip(range(first, stop), found, strict=True):
        true = [lists[j][: join.NEIGHBORS] for j in lists[i][: join.FORWARD] if j >= 0]
        true += [[*lists[j][: join.NEIGHBORS - 1], j] for j in reverse[i]]
        true = [j for each in true for j in each if j >= 0]
        assert sorted(row[row >= 0].tolist()) == sorted(true)


# Merging


def plain_merge(queries, found, measures, lists, distances):
    lists, distances = lists.copy(), distances.copy()
    for i, its, how_far in zip(queries, found, measures, strict=True):
        pairs = [*zip(distances[i], lists[i], strict=True), *zip(how_far, its, strict=True)]
        best = sorted({(d, j) for d, j in pairs if j >= 0 and np.isfinite(d)})[: lists.shape[1]]
        lists[i], distances[i] = -1, np.inf
        for place, (d, j) in enumerate(best):
            lists[i, place], distances[i, place] = j, d
    return lists, distances


def some_finds(n, width, m, seed=0):
    """Lists, their distances, and what was found: a distance for each pair, many the same; repetitions, -1 and inf."""
    rng = np.random.default_rng(seed)
    d = rng.choice([0, 0.25, 1, 1.5, 1e-40, 3e38], (n, n)).astype(np.float32)
    d[rng.random((n, n)) < 0.1] = np.inf
    queries = rng.permutation(n)[: n - 3].astype(np.int32)
    found = rng.integers(-1, n, (len(queries), m)).astype(np.int32)
    measures = np.where(found >= 0, d[queries[:, None], found], np.inf)
    lists, distances = np.full((n, width), -1, np.int32), np.full((n, width), np.inf, np.float32)
    old = rng.integers(-1, n, (n, 5)).astype(np.int32)
    start = plain_merge(range(n), old, np.where(old >= 0, d[np.arange(n)[:, None], old], np.inf), lists, distances)
    return queries, found, measures.astype(np.float32), *start


def check_merge(width, m, in_place):
    queries, found, measures, lists, distances = some_finds(N, width, m)
    expected = plain_merge(queries, found, measures, lists, distances)
    old = placed(lists), placed(distances)
    new = old if in_place else tuple(torch.full_like(x, 9) for x in old)
    merge(placed(queries), placed(found), placed(measures), *old, *new)
    for now, was, true in zip(new, (lists, distances), expected, strict=True):
        assert np.array_equal(now.cpu().numpy()[queries], true[queries])
        others = np.delete(np.arange(N), queries)
        assert np.array_equal(now.cpu().numpy()[others], was[others] if in_place else np.full_like(was[others], 9))


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("width", "m"), [(8, 8), (8, 30), (32, 1), (64, 130)])
def test_merged_lists_are_the_nearest_each_once(width, m, in_place, monkeypatch):
    check_merge(width, m, in_place)
    monkeypatch.setattr(part("join"), "MERGE_ROWS", 5)
    check_merge(width, m, in_place)


def test_merged_lists_with_tritons_own_sort(monkeypatch):
    monkeypatch.undo()
    queries, found, measures, lists, distances = some_finds(7, 4, 9)
    expected = plain_merge(queries, found, measures, lists, distances)
    new = placed(lists), placed(distances)
    merge(placed(queries), placed(found), placed(measures), *new, *new)
    assert all(np.array_equal(now.cpu().numpy(), true) for now, true in zip(new, expected, strict=True))


# The rows decide


def decided(rows, wanted, query_rows, other_rows, advance=lambda n: None):
    best = no_neighbors(rows.n_rows, rows.device, wanted.shape[1])
    decide(rows, wanted, *best, query_rows, other_rows, advance)
    return best


def check_decided(rows, metric, dtype="float32", query_rows=1000, other_rows=7, atol=1e-6, width=8):
    """All candidates are there, in the order of their distances in the rows, and at these."""
    n, ticks = len(rows), []
    wanted = some_lists(n, width)
    there = on_device(rows, metric, "streamed", dtype, chunk_rows=other_rows)
    lists, distances = decided(there, placed(wanted), query_rows, other_rows, ticks.append)
    lists, distances, true = lists.cpu().numpy(), distances.cpu().numpy(), measured(rows, metric)
    assert (lists.dtype, distances.dtype, lists.shape) == (np.int32, np.float32, wanted.shape)
    assert np.array_equal(np.sort(lists, 1), np.sort(wanted, 1)) and np.array_equal(np.isinf(distances), lists < 0)
    named = lists >= 0
    assert (np.diff(named.astype(int), axis=1) <= 0).all()
    exact = np.take_along_axis(true, np.maximum(lists, 0), 1)
    assert np.allclose(distances[named], exact[named], rtol=1e-5, atol=atol)
    with np.errstate(invalid="ignore"):
        steps, ties = np.diff(distances, axis=1), (distances[:, 1:] == distances[:, :-1]) & named[:, 1:]
    assert not (steps < 0).any() and (np.diff(lists, axis=1)[ties] > 0).all()
    assert sum(ticks) == n
    return lists, distances


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
@pytest.mark.parametrize("metric", METRICS)
def test_decided_by_the_rows(metric, dtype):
    rows = hard_rows(N, negative=True)
    whole = check_decided(rows, metric, dtype)
    parts = check_decided(rows, metric, dtype, query_rows=10)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize(("query_rows", "other_rows"), [(N, 5), (N - 1, N), (7, 3), (1, 1)])
def test_decided_in_any_chunks(query_rows, other_rows, monkeypatch):
    monkeypatch.setattr(part("decide"), "LOOK_ROWS", 4)
    check_decided(hard_rows(N), "cosine", "float16", query_rows, other_rows)


def test_decided_from_more_features_than_a_block():
    rows = np.zeros((24, 2100), np.float32)
    rows[:, 1000:1030], rows[:, 2070:] = hard_rows(24, 30), hard_rows(24, 30, seed=1)
    check_decided(rows, "cosine", query_rows=10)


def test_zero_rows_and_rows_without_a_common_feature_are_at_1_sharp():
    rng = np.random.default_rng(0)
    rows = (rng.random((24, 40)) * 0.1).astype(np.float32)
    rows[:10, 20:] = rows[10:20, :20] = rows[20:] = 0
    lists, distances = check_decided(rows, "cosine", query_rows=9)
    group = np.repeat([0, 1, 2], [10, 10, 4])
    apart = (lists >= 0) & (group[lists] != group[:, None])
    assert apart.any() and (distances[apart] == 1).all()
    both_zero = (lists >= 20) & (group[:, None] == 2)
    assert both_zero.any() and (distances[both_zero] == 0).all()


@pytest.mark.filterwarnings("ignore:overflow")  # the interpreter counts in NumPy
def test_rows_that_overflow_are_nobodys_neighbours():
    rows = hard_rows(24)
    rows[:3, 0] = 1e30
    wanted = placed(some_lists(24, 8))
    lists, distances = decided(on_device(rows, "euclidean", "streamed"), wanted, 10, 64)
    assert torch.equal(lists >= 0, torch.isfinite(distances)) and (lists[3:] >= 3).any()
    assert not torch.isin(lists[3:], numbers(3)).any() and not (lists[:3] > 2).any()


def test_deciding_may_be_stopped():
    def stop(n):
        raise Stopped("stop")

    with pytest.raises(Stopped):
        decided(on_device(hard_rows(24), "cosine", "streamed"), numbers(24, 1), 10, 64, stop)


def test_a_row_without_candidates_has_none():
    nobody = torch.full((24, 4), -1, dtype=torch.int32, device=DEVICE)
    lists, distances = decided(on_device(hard_rows(24), "cosine", "streamed"), nobody, 10, 64)
    assert torch.equal(lists, nobody) and torch.isinf(distances).all()


def test_deciding_keeps_what_was_better():
    rows, first, second = on_device(hard_rows(24), "cosine", "streamed"), some_lists(24, 8, 1), some_lists(24, 8, 2)
    lists, distances = decided(rows, placed(first), 10, 64)
    decide(rows, placed(second), lists, distances, 10, 64, lambda n: None)
    both = decided(rows, placed(np.concatenate([first, second], 1)), 10, 64)
    for i in range(24):
        there = torch.isfinite(distances[i])
        expected = torch.unique(both[1][i][torch.isfinite(both[1][i])], sorted=True)
        assert set(distances[i][there].tolist()) <= set(expected.tolist())
        assert distances[i][0] == both[1][i][0]
