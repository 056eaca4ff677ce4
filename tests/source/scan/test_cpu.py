import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_checks import Rows, make

from streamumap.errors import InputError, Stopped
from streamumap.source import pieces
from streamumap.source.base import widen
from streamumap.source.scan import describe as describing
from streamumap.source.scan import sizes
from streamumap.source.scan.cpu import scan
from streamumap.source.scan.inspect import inspect_report
from streamumap.source.scan.result import check_finite, wild_features
from streamumap.source.scan.sizes import scan_footprint
from streamumap.source.sparse.csr_block import nonzero_mask, pairs_of

DTYPES = (
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "int64",
    "uint64",
)


def content(source):
    """Converts rows to float64, and -0.0 to 0.0."""
    with np.errstate(all="ignore"):
        return widen(source.array, source.dtype).astype(np.float64) + 0.0


def first_equal(rows):
    seen, found = {}, []
    for i, row in enumerate(rows):
        first = seen.setdefault(row.tobytes(), i)
        found.append(-1 if first == i else first)
    return found


def check_against_numpy(source, found):
    x = content(source)
    finite = np.isfinite(x)
    rows = finite.all(axis=1)
    norms = np.sqrt((x[rows] ** 2).sum(axis=1))
    active = (x != 0).sum(axis=1)
    assert (found.n_rows, found.n_features, found.dtype) == (*x.shape, source.dtype)
    assert found.n_nonzero == active.sum()
    assert (found.min_active, found.mean_active, found.max_active) == (active.min(), active.mean(), active.max())
    np.testing.assert_array_equal(found.is_zero, active == 0)
    np.testing.assert_array_equal(found.duplicate_of, first_equal(x))
    np.testing.assert_array_equal(found.active_per_feature, (x != 0).sum(axis=0))
    np.testing.assert_array_equal(found.feature_low, np.min(x, axis=0, where=finite, initial=np.inf))
    np.testing.assert_array_equal(found.feature_high, np.max(x, axis=0, where=finite, initial=-np.inf))
    assert found.non_negative == bool((x[finite] >= 0).all())
    assert found.nonfinite_rows.tolist() == np.flatnonzero(~rows).tolist()
    assert found.first_nonfinite_row == (np.argmin(rows) if not rows.all() else -1)
    if rows.any():
        np.testing.assert_allclose(
            [found.norm_min, found.norm_mean, found.norm_max], [norms.min(), norms.mean(), norms.max()], rtol=1e-12
        )
    else:
        assert np.isnan([found.norm_min, found.norm_mean, found.norm_max]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.02, 0.4, 1.0])
@pytest.mark.parametrize("n_features", [1, 37, 1500])
def test_scan_equals_plain_numpy(dtype, density, n_features):
    source = make(dtype, 83, n_features, density)
    check_against_numpy(source, scan(source, 19))


def test_scan_of_many_narrow_rows():
    source = make("float32", 20_000, 3, 0.4)
    check_against_numpy(source, scan(source, 15_000))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scan_of_any_bits(data):
    """Rows have any 16-bit patterns: NaN, infinities, subnormals, both zeros; pieces are sparse or dense, of ragged sizes."""
    n_rows, n_features = data.draw(st.integers(3, 12)), data.draw(st.integers(1, 9))
    dtype = data.draw(st.sampled_from(["float16", "bfloat16"]))
    special = st.sampled_from([0, 0x8000, 0x7C00, 0xFC00, 0x7E01, 0x7F80, 0xFF80, 0x7FC1, 1, 0x8001, 0x03FF, 0x7BFF])
    bits = data.draw(st.lists(st.one_of(special, st.integers(0, 65535)), min_size=n_rows, max_size=n_rows * n_features))
    array = np.zeros(n_rows * n_features, np.uint16)
    array[: len(bits)] = bits
    array = array.reshape(n_rows, n_features)
    source = Rows(array, dtype) if dtype == "bfloat16" else Rows(array.view(np.float16))
    found = scan(source, data.draw(st.integers(1, 13)))
    bare = np.where(array == 0x8000, np.uint16(0), array)
    np.testing.assert_array_equal(found.duplicate_of, first_equal(bare))
    nan_as_one = Rows(np.where(np.isnan(content(source)), np.nan, content(source)))
    check_against_numpy(
        nan_as_one, _with(found, duplicate_of=np.array(first_equal(content(nan_as_one))), dtype="float64")
    )


def _with(found, **changes):
    return type(found)(**{**found.__dict__, **changes})


def test_every_float16_is_widened_exactly():
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    for rows in (halves[:0x7C00].reshape(-1, 256), halves[0x8000:0xFC00].reshape(-1, 256), halves.reshape(-1, 256)):
        got = widen(rows, "float16")
        np.testing.assert_array_equal(got, rows.astype(np.float32))
        np.testing.assert_array_equal(np.signbit(got), np.signbit(rows))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "bool"])
@pytest.mark.parametrize("n_features", [1, 5, 8, 1001])
def test_sparse_and_dense_ways_agree(dtype, n_features):
    """Duplicates are found between pieces described in different ways."""
    rows = make(dtype, 60, n_features, 0.2).array
    hashing = describing.Hashing.of(n_features, dtype)
    mask = nonzero_mask(rows, dtype)
    sparse = describing.describe_pairs(pairs_of(rows, mask), dtype, hashing)
    dense = describing.describe_dense(rows, mask, dtype, hashing)
    for name in ("keys", "active", "active_per_feature", "low", "high", "rounded_keys"):
        np.testing.assert_array_equal(getattr(sparse, name), getattr(dense, name), err_msg=name)
    np.testing.assert_allclose(sparse.square, dense.square, rtol=1e-14)


def test_result_does_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_VALUES", 4096)
    source = make("float16", 500, 300, 0.05, seed=3)
    found = []
    for n in (1, 2, 5):
        monkeypatch.setattr(pieces, "n_threads", lambda n=n: n)
        found.append(scan(source, 200))
    for other in found[1:]:
        for name, value in found[0].__dict__.items():
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


def test_keys_do_not_collide_where_rows_differ_little():
    """A value in another column, two adjacent values swapped, one bit flipped, a permutation: each makes another row."""
    row = np.zeros(64, np.float16)
    row[[3, 40]] = [1.5, 2.5]
    rows = [np.roll(row, shift) for shift in range(64)]
    swapped = np.tile(np.arange(1, 65, dtype=np.float16), (63, 1))
    for i in range(63):
        swapped[i, [i, i + 1]] = swapped[i, [i + 1, i]]
    flipped = np.tile(np.float16(1), (64 * 15, 64)).view(np.uint16)
    flipped[np.arange(64 * 15), np.arange(64 * 15) // 15] ^= 1 << (np.arange(64 * 15) % 15).astype(np.uint16)
    found = scan(Rows(np.concatenate([rows, swapped, flipped.view(np.float16)])), 100)
    assert found.n_duplicate_rows == 0


def test_keys_have_64_bits():
    """300,000 different rows: keys of 32 bits would make ten pairs of them equal."""
    rows = np.random.default_rng(0).integers(0, 1 << 31, (300_000, 2), np.int32)
    rows[:, 0] = np.arange(len(rows))
    assert scan(Rows(rows), 100_000).n_duplicate_rows == 0


def test_duplicates_by_the_thousand():
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(5, 7)).astype(np.float32)
    which = rng.integers(0, 5, 200_000)
    which[100_000:150_000] = 2
    found = scan(Rows(patterns[which]), 30_000)
    first = np.array([np.argmax(which == p) for p in range(5)])[which]
    np.testing.assert_array_equal(found.duplicate_of, np.where(first == np.arange(len(which)), -1, first))
    assert found.n_duplicate_rows == len(which) - 5


def test_negative_zero_is_zero():
    rows = np.zeros((4, 6), np.float16)
    rows[1] = -0.0
    rows[2:, 2] = 1
    rows[3, 4] = -0.0
    for dtype in ("float16", "float32", "float64"):
        found = scan(Rows(rows.astype(dtype)), 4)
        assert found.duplicate_of.tolist() == [-1, 0, -1, 2]
        assert found.is_zero.tolist() == [True, True, False, False]
        assert (found.n_nonzero, found.n_zero_rows, found.n_duplicate_rows, found.non_negative) == (2, 2, 2, True)


def test_squares_of_float16_do_not_overflow():
    found = scan(Rows(np.full((3, 3072), 60000, np.float16)), 2)
    assert found.norm_max == pytest.approx(60000 * 3072**0.5, rel=1e-12)
    assert found.n_nonfinite_rows == 0
    found = scan(Rows(np.full((3, 8), 3e38, np.float32)), 2)
    assert found.norm_max == pytest.approx(float(np.float32(3e38)) * 8**0.5, rel=1e-12)


def test_float64_is_what_float32_makes_of_it():
    largest = float(np.finfo(np.float32).max)
    rows = np.ones((5, 3))
    rows[1, 1] = largest
    rows[2, 1] = 1e39
    rows[3] = 1e-60
    found = scan(Rows(rows), 5)
    assert (found.n_nonfinite_rows, found.first_nonfinite_row) == (1, 2)
    assert found.is_zero.tolist() == [False, False, False, True, False]
    assert found.duplicate_of.tolist() == [-1, -1, -1, -1, 0]
    assert found.feature_high.tolist() == [1, np.float32(largest), 1]


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint64"])
@pytest.mark.parametrize("share", [0.02, 1])
def test_rows_that_float32_does_not_tell_apart_are_counted(dtype, share):
    """They are no duplicates: only rows that are equal as stored are."""
    rows = np.zeros((30, 100), dtype)
    rows[:, : int(100 * share)] = 2**30
    rows[:20, 1] += np.arange(20).astype(dtype)
    found = scan(Rows(rows), 8)
    assert found.duplicate_of.tolist() == [-1] * 20 + [0] * 10
    assert found.n_rounded_away == 19
    assert scan(Rows(rows.astype(np.float32)), 8).n_rounded_away == 0


@pytest.mark.parametrize("density", [0.01, 1.0])
def test_nonfinite_rows_are_counted_and_refused(density):
    source = make("float16", 400, 50, density)
    check_finite("rows", scan(source, 64))
    source.array[[70, 71, 399], [3, 0, 49]] = [np.nan, np.inf, -np.inf]
    found = scan(source, 64)
    assert (found.n_nonfinite_rows, found.first_nonfinite_row) == (3, 70)
    with pytest.raises(
        InputError, match=r"a\.npy: row 70: expected finite.* in 3 of 400 rows.*leave them out"
    ) as error:
        check_finite("a.npy", found)
    assert "\n" not in str(error.value)


def test_dead_and_constant_features():
    rows = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    rows[:, 1], rows[:, 4] = 0, 2.5
    found = scan(Rows(rows), 7)
    assert (found.n_dead_features, found.n_constant_features) == (1, 2)
    assert found.density == pytest.approx(5 / 6)


@pytest.mark.parametrize("n_features", [2, 40])
def test_one_column_times_1e30_is_wild(n_features):
    rows = np.random.default_rng(0).normal(size=(30, n_features)).astype(np.float32)
    rows[:, n_features // 2 + 1 :] = 0
    assert wild_features(scan(Rows(rows), 8)).tolist() == []
    rows[:, 1] *= 1e30
    assert wild_features(scan(Rows(rows), 8)).tolist() == [1]
    assert wild_features(scan(Rows(rows * 0), 8)).tolist() == []


def test_a_column_without_a_finite_value_is_not_wild():
    rows = np.ones((4, 3), np.float32)
    rows[:, 1] = np.nan
    assert wild_features(scan(Rows(rows), 4)).tolist() == []


def test_report_is_json():
    source = make("float16", 60, 90, 0.05)
    report = inspect_report(source, scan(source, 16))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert (report["rows"], report["features"], report["dtype"]) == (60, 90, "float16")
    assert report["stored_bytes"] == 60 * 90 * 2
    assert report["pairs_bytes"] == np.count_nonzero(source.array) * 4
    assert (report["nonfinite_rows"], report["first_nonfinite_row"]) == (0, None)
    source.array[:, 5] = np.nan
    report = inspect_report(source, scan(source, 16))
    assert report["norm"] == {"min": None, "mean": None, "max": None}
    assert (report["nonfinite_rows"], report["first_nonfinite_row"]) == (60, 0)
    json.dumps(report, allow_nan=False)


def test_ticks_are_rows_and_may_stop_the_scan():
    source, ticks = make("float32", 50, 8, 1.0), []
    scan(source, 16, ticks.append)
    assert ticks == [16, 16, 16, 2]

    def stop(n):
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        scan(source, 16, stop)


def test_footprint_covers_the_peak(monkeypatch):
    import tracemalloc

    monkeypatch.setattr(sizes, "n_threads", lambda: 2)
    monkeypatch.setattr(pieces, "n_threads", lambda: 2)
    for source in (
        make("float16", 3000, 1024, 0.01),
        make("float32", 1500, 1024, 1.0),
        make("float64", 40_000, 16, 0.3),
        Rows(np.zeros((1_000_000, 1), np.int8)),
    ):
        block_rows = max(1, (4 << 20) // source.row_bytes)
        tracemalloc.start()
        try:
            scan(source, block_rows)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        limit = scan_footprint(source.n_rows, source.n_features, source.array.itemsize, block_rows)
        assert limit / 4 < peak_bytes < limit
