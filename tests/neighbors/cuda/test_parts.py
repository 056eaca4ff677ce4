"""All rows by part, and the windows of parts that a device holds."""

from types import SimpleNamespace

import numpy as np
import pytest
from devices import DEVICE, compared, on_device, part, placed, torch
from hypothesis import given
from hypothesis import strategies as st
from search_checks import group_rows

from streamumap.neighbors.cuda import cells as cells_module
from streamumap.neighbors.cuda import parts as parts_module
from streamumap.neighbors.cuda import regions
from streamumap.neighbors.cuda.arranged import arrange
from streamumap.neighbors.cuda.cells import learn_cells
from streamumap.neighbors.cuda.kept_rows import KeptPairs, KeptSketches
from streamumap.neighbors.cuda.parts import make_parts
from streamumap.neighbors.cuda.passing_rows import PassingRows
from streamumap.neighbors.cuda.round import Round
from streamumap.neighbors.cuda.window import Window, groups, met_parts, nearest_parts, windows
from streamumap.neighbors.metric import named
from streamumap.store.checkpoint import NoCheckpoint

pytestmark = pytest.mark.usefixtures("few_programs")

N, WIDTH, N_CELLS = 400, 32, 40


def some_cells(n_regions=4, seed=0):
    """Cells of so many regions, and the cell of each of N rows: a third of all in one cell, some cells empty."""
    random = np.random.default_rng(seed)
    centres = random.integers(-90, 90, (N_CELLS, WIDTH)).astype(np.int8)
    cells = cells_module._by_region(placed(centres[:n_regions].copy()), placed(centres))
    at = cells.places.at.cpu().numpy()
    cell = at[random.integers(0, N_CELLS - 5, N)].astype(np.int32)
    cell[: N // 3] = at[7]
    return cells, random.permutation(cell)


def rows_of(parts):
    return np.diff(parts.bounds)


@pytest.mark.parametrize("n_regions", [1, 4, 30])
@pytest.mark.parametrize("most", [1, 3, 50, 150, N])
def test_parts_hold_every_row_once_and_no_more_than_they_may(n_regions, most):
    cells, before = some_cells(n_regions)
    cell = before.copy()
    parts = make_parts(cells, cell, most)
    assert parts.bounds[0] == 0 and parts.bounds[-1] == N and 1 <= rows_of(parts).min() <= rows_of(parts).max() <= most
    rows_in = np.bincount(cell, minlength=len(parts.centres))
    assert 1 <= rows_in.min() <= rows_in.max() <= max(1, most // 2)
    assert parts.cells[0] == 0 and parts.cells[-1] == len(parts.centres) == len(rows_in)
    assert np.array_equal(np.add.reduceat(rows_in, parts.cells[:-1]), rows_of(parts))
    old, new = cells.centres.cpu().numpy(), parts.centres.cpu().numpy()
    assert np.array_equal(new[cell], old[before]), "rows keep their centre, also where a cell was cut"
    region = np.searchsorted(cells.of_region().cpu().numpy()[1:], before, "right")
    here = parts.part_of()[cell]
    assert all(len(set(region[here == p])) == 1 for p in range(len(parts)))
    means = np.stack([new[cell[here == p]].astype(np.float64).mean(0) for p in range(len(parts))])
    assert np.allclose(parts.middles.cpu().numpy(), means, atol=1e-4)


def test_near_cells_of_a_large_region_are_near_each_other():
    line = np.zeros((64, WIDTH), np.int8)
    line[:, 0] = np.random.default_rng(0).permutation(np.arange(-64, 64, 2))
    cells = cells_module._by_region(placed(line[:1].copy()), placed(line))
    parts = make_parts(cells, cells.places.at.int().cpu().numpy().repeat(4), 32)
    where = parts.centres[:, 0].cpu().numpy().astype(int)
    assert max(np.ptp(where[a:b]) for a, b in zip(parts.cells[:-1], parts.cells[1:], strict=True)) <= 32


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=40), st.integers(9, 40))
def test_a_part_is_of_one_region_and_has_at_most_twice_its_rows(cells, most):
    steps, rows = np.array(cells).T
    region = np.cumsum(steps)
    number = parts_module._part(region, rows, most)
    assert number[0] == 0 and np.isin(np.diff(number), (0, 1)).all()
    assert len(set(zip(number, region, strict=True))) == number[-1] + 1
    assert np.bincount(number, weights=rows).max() <= 2 * most
    in_region = np.bincount(region, weights=rows)
    assert number[-1] + 1 <= sum(-(-n // most) for n in in_region), "no more parts than are needed"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 30))
def test_groups_hold_all_parts_in_order(rows, most):
    bounds = np.concatenate([[0], np.cumsum(rows)])
    found = groups(bounds, most)
    assert [p for group in found for p in group] == list(range(len(rows)))
    for group in found:
        held = bounds[group.stop] - bounds[group.start]
        assert len(group) and (held <= most or len(group) == 1)
        assert group.stop == len(rows) or held + rows[group.stop] > most, "another part would have fitted"


# Which parts a window has


def plain_windows(bounds, group, count, most_rows, covered_share, most_windows):
    rows, own = np.diff(bounds), set(group)
    waiting = sorted((p for p in range(len(rows)) if p not in own and count[p] > 0), key=lambda p: (-count[p], p))
    covered, out = sum(count[p] for p in own), []
    while len(out) < most_windows and (not out or (waiting and covered < covered_share * sum(count))):
        room, window = most_rows - sum(rows[p] for p in own), []
        while waiting and rows[waiting[0]] <= room:
            window.append(waiting.pop(0))
            room -= rows[window[-1]]
        covered += sum(count[p] for p in window)
        out.append(window)
        if not window:
            break
    return out


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 50)), min_size=1, max_size=20), st.data(), st.integers(0, 40)
)
def test_windows_are_those_of_plain_loops(parts, data, room):
    rows, count = np.array(parts).T
    bounds = np.concatenate([[0], np.cumsum(rows)])
    start = data.draw(st.integers(0, len(rows) - 1))
    group = range(start, data.draw(st.integers(start + 1, len(rows))))
    most = int(rows[group.start : group.stop].sum()) + room
    found = windows(bounds, group, count, most)
    module = part("window")
    assert [list(w) for w in found] == plain_windows(bounds, group, count, most, module.COVERED, module.MOST_WINDOWS)
    assert found and all(rows[w].sum() <= room for w in found)


@pytest.mark.parametrize("n_rows", [1, 60, 10 * N])
def test_the_parts_of_the_nearest_cells(n_rows, monkeypatch):
    monkeypatch.setattr(part("window"), "MOVED_CENTRES", 7)
    monkeypatch.setattr(part("window"), "LIST_BYTES", 500)
    cells, cell = some_cells()
    parts = make_parts(cells, cell, 60)
    group = range(2, 5)
    centres = parts.centres.cpu().numpy().astype(np.int64)
    own = centres[parts.cells[group.start] : parts.cells[group.stop]]
    n = min(len(centres), -(-n_rows * len(centres) // N))
    apart = ((own[:, None] - centres) ** 2).sum(2)
    found = nearest_parts(parts, group, n_rows)
    assert found.dtype == np.int64 and found.sum() == len(own) * n
    limits = np.sort(apart, 1)[:, n - 1 : n]  # of several cells at the same distance any may be counted
    least, most = (
        np.bincount(parts.part_of()[np.nonzero(x)[1]], minlength=len(parts)) for x in (apart < limits, apart <= limits)
    )
    assert (least <= found).all() and (found <= most).all()


def test_a_large_group_counts_for_some_of_its_cells(monkeypatch):
    monkeypatch.setattr(part("window"), "ASKING_CELLS", 5)
    cells, cell = some_cells()
    parts = make_parts(cells, cell, 60)
    own = len(parts.centres)
    found = nearest_parts(parts, range(len(parts)), N)
    assert 0 < found.sum() <= 5 * own


def test_the_parts_that_lists_name(monkeypatch):
    monkeypatch.setattr(part("window"), "COUNTED_ROWS", 7)
    cells, cell = some_cells()
    parts = make_parts(cells, cell, 60)
    lists = np.random.default_rng(0).integers(-1, N, (50, 6)).astype(np.int32)
    lists[0], lists[1] = -1, N - 1
    expected = np.histogram(lists[lists >= 0], parts.bounds)[0]
    assert np.array_equal(met_parts(parts, placed(lists)), expected) and expected.sum() == (lists >= 0).sum()


# A window


@pytest.mark.parametrize("others", [[], [0], [7, 1, 6]])
def test_places_of_a_window_and_back(others):
    cells, cell = some_cells()
    parts = make_parts(cells, cell, 60)
    cell_by_place = np.sort(cell)
    group = range(2, 5)
    window = Window(parts, group, np.array(others, np.int64))
    place = np.concatenate([np.arange(*parts.bounds[[p, p + 1]]) for p in [*group, *others]])
    assert window.n_own == parts.bounds[5] - parts.bounds[2] and window.place.dtype == torch.int32
    assert np.array_equal(window.place.cpu().numpy(), place)
    row_of = np.full(N, -1, np.int32)
    row_of[place] = np.arange(len(place))
    asked = np.concatenate([np.arange(N), [-1, -1]]).astype(np.int32).reshape(-1, 3)
    here = window.here(placed(asked))
    assert here.dtype == torch.int32 and np.array_equal(here.cpu().numpy(), np.where(asked >= 0, row_of[asked], -1))
    back = window.places(here)
    assert back.dtype == torch.int32
    assert np.array_equal(back.cpu().numpy(), np.where(np.isin(asked, place), asked, -1))
    assert np.array_equal(window.sent(cell_by_place).cpu().numpy(), cell_by_place[place])
    codes = np.random.default_rng(0).integers(-127, 128, (len(place), WIDTH)).astype(np.int8)
    found, apart = window.cells(SimpleNamespace(parts=parts, cell=cell_by_place), placed(codes))
    true = ((codes.astype(int) - parts.centres.cpu().numpy()[cell_by_place[place]]) ** 2).sum(1)
    assert np.array_equal(apart.cpu().numpy(), true)
    numbered = np.concatenate([np.arange(*parts.cells[[p, p + 1]]) for p in [*group, *others]])
    assert np.array_equal(numbered[found.cpu().numpy()], cell_by_place[place])
    assert (found[: window.n_own] < parts.cells[5] - parts.cells[2]).all()


def test_a_window_among_1500_parts_of_a_million_rows():

    class Parts:
        bounds, middles = np.arange(1501) * 1_000_000, torch.zeros(1, device=DEVICE)

        def __len__(self):
            return 1500

    window = Window(Parts(), range(1499, 1500), np.array([3], np.int64))
    asked = placed(np.array([1_499_000_000, 1_499_999_999, 3_000_000, 3_999_999, 4_000_000, 0, -1], np.int32))
    assert window.here(asked).tolist() == [0, 999_999, 1_000_000, 1_999_999, -1, -1, -1]
    assert window.place[[0, 999_999, 1_000_000]].tolist() == [1_499_000_000, 1_499_999_999, 3_000_000]


# All rows in files


def as_round(group_rows, window_rows):
    return Round(0, 0, group_rows, window_rows, chunk_rows=16, width=8, n_proposed=16)


def check_arranged(arranged, ticks, n):
    numbers, parts = arranged.numbers, arranged.parts
    assert np.array_equal(np.sort(numbers), np.arange(n)) and numbers.dtype == np.int32 and sum(ticks) == n
    part = parts.part_of()[arranged.cell]
    assert np.array_equal(part, np.repeat(np.arange(len(parts)), np.diff(parts.bounds)))
    assert np.diff(parts.bounds).max() <= 20 and len(parts) > 2
    assert all((np.diff(numbers[a:b]) > 0).all() for a, b in zip(parts.bounds[:-1], parts.bounds[1:], strict=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_pairs_are_those_of_the_row_at_each_place(dtype, create):
    rows = np.rint(group_rows(60) * 20).astype(np.float32)
    csr, ticks = compared(rows, "cosine", "packed", dtype).csr, []
    kept = KeptPairs(PassingRows(csr, named("cosine"), DEVICE), NoCheckpoint(create))
    arranged = arrange(kept, as_round(20, 50), 13, ticks.append)
    check_arranged(arranged, ticks, 60)
    by_place = arranged.kept.by_place
    assert np.array_equal(by_place.rows.dense(0, 60), rows[arranged.numbers])
    assert np.array_equal(by_place.chunk(7, 31)[0].float().cpu().numpy(), rows[arranged.numbers[7:31]])
    runs = [(40, 60), (3, 9)]
    codes, brought = kept.brought(runs, arranged.projection, 4)
    order = np.concatenate([arranged.numbers[40:60], arranged.numbers[3:9]])
    assert np.array_equal(brought.chunk(0, 26)[0].float().cpu().numpy(), rows[order])
    whole = torch.cat([part for _, part in arranged.projection.codes(on_device(rows, "cosine", "packed", dtype), 60)])
    assert torch.equal(codes, whole[placed(order).long()])


def test_sketches_are_those_of_the_row_at_each_place(create):
    rows, ticks = group_rows(60), []
    dense = on_device(rows, "cosine", "streamed", chunk_rows=16)
    kept = KeptSketches(dense, NoCheckpoint(create))
    arranged = arrange(kept, as_round(20, 50), 16, ticks.append)
    check_arranged(arranged, ticks, 60)
    whole = torch.cat([part for _, part in arranged.projection.codes(dense, 16)])
    codes, near = kept.brought([(40, 60), (3, 9)], arranged.projection, 16)
    order = np.concatenate([arranged.numbers[40:60], arranged.numbers[3:9]])
    assert torch.equal(codes, whole[placed(order).long()]) and torch.equal(near.codes, codes)


# Centres of rows that are the same


def test_centres_of_more_rows_than_sums_of_32_bits_hold(monkeypatch):
    codes = np.random.default_rng(0).integers(-127, 128, (90, WIDTH)).astype(np.int8)
    nearest = placed(np.arange(90) % 4)
    moved = [placed(np.full((5, WIDTH), 9, np.int8)) for _ in range(2)]
    regions.move(moved[0], placed(codes), nearest)
    monkeypatch.setattr(regions, "MOST_SUMMED", 10)
    monkeypatch.setattr(regions, "ASSIGN_ROWS", 7)
    monkeypatch.setattr(regions, "MOVED_CENTRES", 2)
    regions.move(moved[1], placed(codes), nearest)
    means = np.stack([codes[i::4].astype(float).mean(0) for i in range(4)])
    assert np.array_equal(moved[0][:4].cpu().numpy(), np.rint(means)) and (moved[0][4] == 9).all()
    assert torch.equal(*moved)
    assert 127 * ((1 << 31) // 127) < 1 << 31


def test_rows_near_thousands_of_copies_are_compared_with_cells_that_there_are(monkeypatch):
    """The centres of most regions are the same, and all cells near them are of one of these."""
    monkeypatch.setattr(part("regions"), "REGION_ROWS", 10)
    for name, value in {"ALL_REGIONS": 2, "NEAREST": 2, "CELL_ROWS": 16}.items():  # on a GPU too
        monkeypatch.setattr(part("cells"), name, value)
    codes = np.random.default_rng(0).integers(-60, 60, (200, WIDTH)).astype(np.int8)
    codes[:150] = codes[0]
    cells = learn_cells(placed(codes), 200, 0)
    assert (cells.places.tiles == 0).sum() > part("cells").NEAREST
    cell = cells.find(placed(codes))[0].cpu().numpy()
    apart = ((codes[:150, None].astype(int) - cells.centres.cpu().numpy()[cells.places.at.cpu().numpy()]) ** 2).sum(2)
    there = ((codes[:150].astype(int) - cells.centres.cpu().numpy()[cell[:150]]) ** 2).sum(1)
    assert np.array_equal(there, apart.min(1))
