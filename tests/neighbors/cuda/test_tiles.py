"""What proposes neighbours on a GPU: sketches, tiles, and the look through them."""

import numpy as np
import pytest
from devices import DEVICE, FORMS, GPU, METRICS, measured, on_device, part, placed, torch
from neighbor_checks import hard_rows

from streamumap.neighbors.cuda import regions
from streamumap.neighbors.cuda.cells import apart as apart_of
from streamumap.neighbors.cuda.cells import learn_cells
from streamumap.neighbors.cuda.probe import nearest_columns, unpack
from streamumap.neighbors.cuda.reach import reach
from streamumap.neighbors.cuda.sketch import NEVER, NORM_SHIFT, Sketches, make_sketches, squared_norms
from streamumap.neighbors.cuda.tiles import lists, make_tiles

pytestmark = pytest.mark.usefixtures("few_programs")

N = 2000 if GPU else 90


def tile_rows():
    return part("probe").TILE


def quiet(n):
    pass


def some_codes(n, width, n_groups=9, seed=0):
    """int8 (n, width), in groups."""
    rng = np.random.default_rng(seed)
    near = rng.normal(0, 30, (n_groups, width))[rng.integers(0, n_groups, n)] + rng.normal(0, 12, (n, width))
    return np.clip(np.rint(near), -127, 127).astype(np.int8)


# Sketches


def sketched(rows, metric="euclidean", form="streamed"):
    there = on_device(rows.astype(np.float32), metric, form, chunk_rows=128)
    return make_sketches(there, 0, 128, quiet)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("n_features", "width", "loss"),
    [(5, 32, 0.3), (20, 32, 0.1), (40, 64, 0.1), (200, 256, 0.1), (256, 256, 0.1), (600, 256, 0.35)],
)
def test_sketches_nearly_keep_distances(n_features, width, loss, metric, form):
    """Where there are as many numbers as features they are turned, elsewhere projected; far rows of few features are clipped."""
    rng, n = np.random.default_rng(0), 60 if not GPU and form == "packed" and n_features > 100 else 300
    rows = np.abs(rng.normal(size=(n, n_features)) + 2 * rng.normal(size=(6, n_features))[rng.integers(0, 6, n)])
    codes = sketched(rows, metric, form)
    assert (codes.dtype, tuple(codes.shape)) == (torch.int8, (n, width))
    codes, (a, b) = codes.cpu().numpy().astype(np.float64), np.triu_indices(n, 1)
    ratio = ((codes[a] - codes[b]) ** 2).sum(1) / measured(rows, metric)[a, b]
    near = np.quantile(ratio / np.median(ratio), [0.01, 0.99])
    assert 1 - loss < near[0] < near[1] < 1 + loss
    assert (np.abs(codes) == 127).mean() < 0.01 and 20 < np.abs(codes).mean() < 45


@pytest.mark.parametrize("n_features", [40, 300])
@pytest.mark.parametrize("metric", METRICS)
def test_most_rows_the_same_or_zero_do_not_hide_the_others(metric, n_features):
    rows = np.random.default_rng(0).normal(size=(300, n_features))
    for most in (0.0, rows[0]):
        rows[:200] = most
        codes = sketched(rows, metric).cpu().numpy()
        assert len(np.unique(codes, axis=0)) == 101
        assert (np.abs(codes[200:].astype(int)) == 127).mean() < 0.35


@pytest.mark.parametrize("rows", [np.zeros((40, 300)), np.ones((40, 300)), np.zeros((40, 7))])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_all_the_same_have_one_sketch(metric, rows):
    assert len(np.unique(sketched(rows, metric).cpu().numpy(), axis=0)) == 1


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("n_features", [40, 300])
@pytest.mark.parametrize("factor", [1e-30, 1e12, 1e30])
def test_sketches_of_values_of_any_size(factor, n_features):
    """All of them, one row, or one column."""
    rows = np.random.default_rng(0).normal(size=(100, n_features))
    wild_row, wild_column = rows.copy(), rows.copy()
    wild_row[7] *= factor
    wild_column[:, 3] *= factor
    assert len(np.unique(sketched(rows * factor).cpu().numpy(), axis=0)) == 100
    assert len(np.unique(sketched(wild_row).cpu().numpy(), axis=0)) == 100
    assert len(np.unique(sketched(wild_column).cpu().numpy(), axis=0)) > 90


def test_sketches_repeat_and_tick_rows():
    rows, ticks = hard_rows(90), []
    first = make_sketches(on_device(rows, "cosine", "packed"), 1, 32, ticks.append)
    assert ticks == [32, 32, 26]
    assert torch.equal(make_sketches(on_device(rows, "cosine", "packed"), 1, 32, quiet), first)
    assert not torch.equal(make_sketches(on_device(rows, "cosine", "packed"), 2, 32, quiet), first)


@pytest.mark.parametrize("width", [32, 256])
def test_distances_of_sketches_are_whole_numbers(width, monkeypatch):
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (20, width)).astype(np.int8)
    codes[0], codes[1] = 127, -127  # the furthest apart that there are
    queries, candidates = np.array([0, 19, 3], np.int32), rng.integers(-1, 20, (3, 35)).astype(np.int32)
    candidates[0, 4] = 1
    found = Sketches(placed(codes)).measure(placed(queries), placed(candidates))
    true = ((codes[queries, None].astype(np.int64) - codes[candidates]) ** 2).sum(2).astype(np.float32)
    true[(candidates < 0) | (candidates == queries[:, None])] = np.inf
    assert found.dtype == torch.float32 and np.array_equal(found.cpu().numpy(), true)


# The look through tiles


def plain_columns(codes, others, norms, listed, lengths, bits):
    """`nearest_columns` in plain NumPy."""
    tile, splits = part("probe").TILE, part("probe").SPLITS
    out = np.full((len(codes), splits * tile), 2**31 - 1, np.int64)
    for t, length in enumerate(lengths):
        ours = codes[t * tile : (t + 1) * tile].astype(np.int64)
        for place in range(length):
            there = slice((listed[t, place] if listed is not None else place) * tile, None)
            theirs = others[there][:tile].astype(np.int64)
            score = norms[there][:tile] - 2 * (ours @ theirs.T << NORM_SHIFT)
            at = out[t * tile : (t + 1) * tile, place % splits * tile :][:, :tile]
            np.minimum(at, (score >> bits << bits) + place, out=at)
    assert (np.abs(out) < 2**31).all()
    return out


@pytest.mark.parametrize("width", [32, 256])
@pytest.mark.parametrize("from_lists", [False, True])
def test_nearest_columns_are_those_of_plain_numpy(width, from_lists):
    tile, rng = tile_rows(), np.random.default_rng(0)
    codes, others = some_codes(3 * tile, width), some_codes(7 * tile, width, seed=1)
    codes[1], others[4] = 127, -127
    norms = (others.astype(np.int64) ** 2).sum(1) << NORM_SHIFT
    assert np.array_equal(squared_norms(placed(others)).cpu().numpy(), norms)
    norms[[4, 9]] = NEVER
    lengths = np.array([5, 0, 3] if from_lists else [7, 0, 6], np.int32)
    listed = np.stack([rng.permutation(7)[:5] for _ in range(3)]).astype(np.int32) if from_lists else None
    minima, bits = nearest_columns(
        placed(codes),
        placed(others),
        placed(norms.astype(np.int32)),
        placed(listed) if from_lists else None,
        placed(lengths),
    )
    assert minima.dtype == torch.int32 and bits == 3
    assert np.array_equal(minima.cpu().numpy(), plain_columns(codes, others, norms, listed, lengths, bits))


def test_minima_name_the_row_they_are_of():
    """As many of a row as there are columns, each the nearest of those that share its column."""
    tile = tile_rows()
    codes, others = some_codes(tile, 64), some_codes(5 * tile, 64, seed=1)
    norms = squared_norms(placed(others))
    norms[tile : 2 * tile] = NEVER
    lengths = placed(np.array([5], np.int32))
    minima, bits = nearest_columns(placed(codes), placed(others), norms, None, lengths)
    columns = torch.arange(minima.shape[1], device=DEVICE).expand(minima.shape)
    place, row, there = (x.cpu().numpy() for x in unpack(minima, columns, bits))
    d = ((codes[:, None].astype(np.int64) - others[None]) ** 2).sum(2).reshape(tile, 5, tile)
    d[:, 1] = 2**60
    own = (codes.astype(np.int64) ** 2).sum(1)
    for split in range(part("probe").SPLITS):
        here = slice(split * tile, (split + 1) * tile)
        seen = d[:, split :: part("probe").SPLITS]
        assert np.array_equal(there[:, here], seen.min(1) < 2**60) and (row[:, here] == np.arange(tile)).all()
        named = np.take_along_axis(d, place[:, None, here], 1)[:, 0]
        rounded = 2**bits / 2**NORM_SHIFT
        assert (named - seen.min(1) <= rounded)[there[:, here]].all()
        least = (minima.cpu().numpy()[:, here] >> bits << bits) / 2**NORM_SHIFT + own[:, None]
        assert (np.abs(least - named) <= rounded)[there[:, here]].all()


# Tiles


def nobody(n, *rows):
    out = np.zeros(n, bool)
    out[list(rows)] = True
    return placed(out)


def check_tiles(tiles, codes, is_zero):
    """Every row in one tile; codes, norms, centres and spreads are those of the rows."""
    tile = tile_rows()
    order = tiles.order.cpu().numpy()
    assert (tiles.order.dtype, tiles.codes.dtype, tiles.norms.dtype) == (torch.int32, torch.int8, torch.int32)
    assert np.array_equal(np.sort(order[order >= 0]), np.arange(len(codes)))
    assert (order >= -1).all() and len(order) == len(tiles) * tile
    there = order >= 0
    assert there.reshape(-1, tile)[:, 0].all() and (np.diff(there.reshape(-1, tile).astype(int), axis=1) <= 0).all()
    somebody = there & ~is_zero[order]
    assert np.array_equal(tiles.codes.cpu().numpy(), np.where(somebody[:, None], codes[order], 0))
    norms = (codes[order].astype(np.int64) ** 2).sum(1) << NORM_SHIFT
    assert np.array_equal(tiles.norms.cpu().numpy(), np.where(somebody, norms, NEVER))
    members = [codes[rows[rows >= 0]].astype(np.float64) for rows in order.reshape(-1, tile)]
    assert tiles.centres.dtype == torch.int8
    assert np.abs(tiles.centres.cpu().numpy() - np.array([m.mean(0) for m in members])).max() <= 0.501
    spread = np.array([((m - m.mean(0)) ** 2).sum(1).mean() for m in members])
    relative = spread / max(np.sort(spread)[(len(spread) - 1) // 2], 1)
    assert np.allclose(tiles.spread.cpu().numpy(), relative, rtol=1e-3, atol=1e-2)


def tiles_of(codes, is_zero=None):
    cells = learn_cells(placed(codes), len(codes), 0)
    return make_tiles(placed(codes), nobody(len(codes)) if is_zero is None else is_zero, *cells.find(placed(codes)))


@pytest.mark.parametrize(("n", "width"), [(N, 32), (N + 7, 256), (3, 32), (2 * N, 32)])
def test_every_row_is_in_one_tile(n, width):
    codes = some_codes(n, width)
    is_zero = nobody(n, 0, n // 2)
    tiles = tiles_of(codes, is_zero)
    check_tiles(tiles, codes, is_zero.cpu().numpy())
    again = tiles_of(codes, is_zero)
    assert all(torch.equal(a, b) for a, b in zip(vars(tiles).values(), vars(again).values(), strict=True))


def test_rows_of_a_tile_are_near():
    codes = some_codes(N, 64)
    tiles = tiles_of(codes)
    middle = codes.mean(0)
    within = np.mean([((codes[r] - codes[r].mean(0)) ** 2).sum(1).mean() for r in rows_of(tiles)])
    assert within < 0.5 * ((codes - middle) ** 2).sum(1).mean()


@pytest.mark.parametrize("all_regions", [1, 100])
def test_the_cell_of_a_row_is_the_nearest_of_its_regions(all_regions, monkeypatch):
    monkeypatch.setattr(part("regions"), "REGION_ROWS", N // 7)
    monkeypatch.setattr(part("cells"), "ALL_REGIONS", all_regions)
    codes = some_codes(N, 64)
    cells = learn_cells(placed(codes), N, 0)
    cell, distance = (x.cpu().numpy() for x in cells.find(placed(codes)))
    first, at = cells.of_region().cpu().numpy(), cells.places.at.cpu().numpy()
    apart = ((codes[:, None].astype(np.int64) - cells.centres.cpu().numpy()[at]) ** 2).sum(2)
    if all_regions == 1:
        near = cells.nearest_regions(placed(codes)).cpu().numpy()
        assert near.shape == (N, part("cells").NEAREST) and len(first) == len(cells.regions) + 1
        far = ((codes[:, None].astype(np.int64) - cells.regions.cpu().numpy()) ** 2).sum(2)
        far[:, np.diff(first) == 0] = 2**60
        assert np.array_equal(np.take_along_axis(far, near, 1), np.sort(far, 1)[:, : near.shape[1]])
        region = np.searchsorted(first[1:], at, "right")
        apart[~(region == near[:, :, None]).any(1)] = 2**60
    chosen = apart[np.arange(N), np.searchsorted(at, cell)]
    assert np.isin(cell, at).all() and (chosen - apart.min(1) <= 2).all()
    assert np.array_equal(np.sort(at), at) and (np.abs((distance >> NORM_SHIFT) - chosen) <= 2).all()
    assert np.array_equal(apart_of(placed(codes), placed(cell), cells.centres).cpu().numpy(), chosen)


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_regions_in_line_are_all_regions(n):
    line = regions.in_line(placed(some_codes(n, 32)))
    assert sorted(line.tolist()) == list(range(n))


def within(tiles, *given):
    """The number of tiles that each wants, and its limit."""
    return vars(reach(tiles, *given)).values()


def rows_of(tiles):
    return [rows[rows >= 0] for rows in tiles.order.cpu().numpy().reshape(-1, tile_rows())]


def test_nobodys_neighbours_are_never_named():
    """Not even by rows that lie the same way, further out than any others."""
    codes = some_codes(N, 256)
    codes[:20] = 127
    is_zero = nobody(N, *range(10))
    tiles = tiles_of(codes, is_zero)
    lengths = torch.full((len(tiles),), len(tiles), dtype=torch.int32, device=DEVICE)
    minima, bits = nearest_columns(tiles.codes, tiles.codes, tiles.norms, None, lengths)
    columns = torch.arange(minima.shape[1], device=DEVICE).expand(minima.shape)
    place, row, there = unpack(minima, columns, bits)
    named = tiles.order[(place * tile_rows() + row)[there]]
    assert (named >= 0).all() and not is_zero[named.long()].any()
    assert not tiles.codes.view(-1, 256)[is_zero[tiles.order.clamp_min(0).long()] & (tiles.order >= 0)].any()


@pytest.mark.parametrize("n_other", [0, 5, 700])
def test_duplicates_by_the_thousand_fill_tiles(n_other, monkeypatch):
    monkeypatch.undo()
    codes = np.concatenate([np.tile(some_codes(1, 32), (2500, 1)), some_codes(n_other, 32, seed=1)])
    codes = codes[np.random.default_rng(0).permutation(len(codes))]
    tiles = tiles_of(codes)
    check_tiles(tiles, codes, np.zeros(len(codes), bool))
    for here, listed, lengths in lists(tiles, *within(tiles, 1 / 16, 1000), 1000):
        assert (lengths >= min(len(tiles), 16)).all() and listed.shape[1] <= len(tiles) and len(here) == len(tiles)


@pytest.mark.parametrize("chunk_tiles", [1, 3, 1000])
@pytest.mark.parametrize("share", [1 / 64, 0.3, 1.0])
def test_lists_are_the_nearest_tiles(share, chunk_tiles):
    """Ascending; all that are as near as the last one wanted."""
    tiles = tiles_of(some_codes(N, 64))
    n, seen = len(tiles), []
    centres, spread = tiles.centres.cpu().numpy().astype(np.int64), tiles.spread.cpu().numpy()
    d = ((centres[:, None] - centres[None]) ** 2).sum(2)
    wanted = (
        np.clip(np.ceil(n * share * spread**4), min(n, 4 * part("reach").SPLITS), n) if share < 1 else np.full(n, n)
    )
    for here, listed, lengths in lists(tiles, *within(tiles, share, n), chunk_tiles):
        here, listed, lengths = (x.cpu().numpy() for x in (here, listed, lengths))
        assert len(here) <= chunk_tiles and listed.dtype == lengths.dtype == np.int32
        for tile, its, length in zip(here, listed, lengths, strict=True):
            its = its[:length]
            assert (np.diff(its) > 0).all() and its[0] >= 0 and its[-1] < n
            asked = min(n, round(wanted[tile]))  # float32 to the power of 4 may be off by one
            last = np.sort(d[tile])[[max(asked - 2, 0), min(asked, n - 1)]]
            assert (d[tile] < last[0]).sum() <= length <= (d[tile] <= last[1]).sum()
            assert d[tile][its].max() <= np.delete(d[tile], its).min(initial=2**60)
        seen += here.tolist()
    assert sorted(seen) == list(range(n))


@pytest.mark.parametrize("by_columns", [0.0, 2.0])
def test_the_reach_is_estimated_where_there_are_many_tiles(by_columns, monkeypatch):
    """From a sample of them, or from the least of each column: about as many are listed as are wanted, the nearest."""
    tiles = tiles_of(some_codes(4 * N, 64, n_groups=30))
    monkeypatch.setattr(part("reach"), "LEAST_SAMPLED", len(tiles) // 2)
    monkeypatch.setattr(part("reach"), "SAMPLED_NEAR", 0)
    monkeypatch.setattr(part("reach"), "BY_COLUMNS", by_columns)
    wanted, limits = within(tiles, 0.2, 1000)
    lengths = torch.cat([lengths for _, _, lengths in lists(tiles, wanted, limits, 1000)]).float()
    assert 0.6 < lengths.mean() / wanted.float().mean() < 1.6


def test_only_the_tiles_that_ask_get_lists_of_tiles_from_some_number_on():
    tiles = tiles_of(some_codes(N, 64))
    whole, some = reach(tiles, 0.3, 1000), reach(tiles, 0.3, 1000, 3)
    assert torch.equal(whole.limits[:3], some.limits)
    for (here, listed, length), (here_too, listed_too, length_too) in zip(
        lists(tiles, some.wanted, some.limits, 9), lists(tiles, some.wanted, some.limits, 9, 4), strict=True
    ):
        assert torch.equal(here, here_too) and sorted(here.tolist()) == [0, 1, 2]
        for a, n, b, m in zip(listed, length, listed_too, length_too, strict=True):
            assert torch.equal(a[:n][a[:n] >= 4], b[:m])


def test_lists_need_no_more_than_their_bytes(monkeypatch):
    tiles = tiles_of(some_codes(N, 32))
    monkeypatch.setattr(part("tiles"), "LIST_BYTES", 2 * 4 * len(tiles))
    assert max(len(here) for here, _, _ in lists(tiles, *within(tiles, 0.5, 1000), 1000)) <= 2


@pytest.mark.parametrize("outlier", [1.0, 1e4])
def test_long_lists_are_all_as_much_shorter(outlier):
    """Whatever one tile that is far wider than all others wants."""
    spread = placed(np.linspace(0.5, 2.0, 4000, dtype=np.float32))
    spread[-1] = outlier
    free, bound = (part("reach")._wanted(spread, 1 / 4, most, 4000).cpu().numpy() for most in (4000, 500))
    assert free.mean() > 1000 and 490 < bound.mean() < 520
    least = 4 * part("reach").SPLITS
    np.testing.assert_allclose(bound, np.maximum(free * 500 / free.mean(), least), rtol=0.02)
    assert (part("reach")._wanted(spread, 1.0, 500, 4000) == 4000).all()
