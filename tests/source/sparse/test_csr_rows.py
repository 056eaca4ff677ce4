import errno
import os
import time

import numpy as np
import pytest
import source_checks
from hypothesis import given, settings
from hypothesis import strategies as st
from source_checks import to_dense

from streamumap.errors import InputChanged, OutputError, Stopped
from streamumap.source import pieces
from streamumap.source.base import stored_dtype, widen
from streamumap.source.sparse import csr_rows
from streamumap.source.sparse.csr_block import nonzero_mask
from streamumap.source.sparse.csr_rows import csr_footprint, pack, pays

DTYPES = ("float16", "bfloat16", "float32", "float64", "bool", "int8", "uint16", "int64")


class Rows(source_checks.Rows):
    """Rows that count their non-zeros."""

    @property
    def n_nonzero(self):
        return int(np.count_nonzero(wide(self)))


def wide(source):
    with np.errstate(all="ignore"):
        return widen(source.array, source.dtype)


def make(dtype, n_rows, n_features, density=0.05, seed=0):
    rng = np.random.default_rng(seed)
    values = (1 + 50 * np.abs(rng.normal(size=(n_rows, n_features)))).astype(np.float32)
    values *= rng.random(values.shape) < density
    values[rng.random(values.shape) < 0.01] = -0.0
    values[n_rows // 2] = 0
    if dtype == "bfloat16":
        return Rows((values.view(np.uint32) >> 16).astype(np.uint16), dtype)
    return Rows(values.astype(stored_dtype(dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("on_disk", [False, True])
def test_packed_rows_are_the_rows(dtype, on_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_VALUES", 700)
    source = make(dtype, 97, 67)
    rows = pack(source, 20, source.n_nonzero, tmp_path if on_disk else None)
    assert (rows.n_rows, rows.n_features, rows.n_nonzero, rows.dtype) == (97, 67, source.n_nonzero, dtype)
    for start, stop in ((0, 97), (13, 52), (48, 49), (5, 5)):
        indptr, indices, values = rows.block(start, stop)
        assert (indptr.dtype, indices.dtype, values.dtype, indptr[0]) == (np.int64, np.uint16, np.float32, 0)
        assert (values != 0).all()
        np.testing.assert_array_equal(to_dense((indptr, indices, values), 67), wide(source)[start:stop])
        dense = rows.dense(start, stop)
        assert dense.dtype == np.float32
        np.testing.assert_array_equal(dense, wide(source)[start:stop])
    rows.close()


@settings(max_examples=40, deadline=None)
@given(
    wanted=st.sets(st.integers(0, 199)),
    gap=st.sampled_from([0, 3, 50, 10**6]),
    span=st.sampled_from([1, 17, 10**6]),
    on_disk=st.booleans(),
)
def test_take_equals_indexing(tmp_path_factory, wanted, gap, span, on_disk):
    source, wanted = make("float16", 200, 31, 0.1), np.array(sorted(wanted), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csr_rows, "GAP_VALUES", gap)
        patch.setattr(csr_rows, "SPAN_VALUES", span)
        rows = pack(source, 64, source.n_nonzero, tmp_path_factory.getbasetemp() if on_disk else None)
        indptr, indices, values = rows.take(wanted)
        rows.close()
    assert (indptr.dtype, indices.dtype, values.dtype) == (np.int64, np.uint16, np.float32)
    np.testing.assert_array_equal(to_dense((indptr, indices, values), 31), wide(source)[wanted])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=64), min_size=1, max_size=30))
def test_zero_is_what_float32_calls_zero(values):
    with np.errstate(all="ignore"):
        for dtype in ("float16", "float32", "float64"):
            rows = np.array([values]).astype(dtype)
            np.testing.assert_array_equal(nonzero_mask(rows, dtype), rows.astype(np.float32) != 0)
        bits = (np.array([values]).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        np.testing.assert_array_equal(nonzero_mask(bits, "bfloat16"), widen(bits, "bfloat16") != 0)


def test_pieces_come_in_order(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_VALUES", 64)
    block = np.repeat(np.arange(60), 64).reshape(60, 64)

    def work(rows):
        time.sleep(0.002 * (rows[0, 0] % 3 == 0))
        return int(rows[0, 0])

    found = pieces.over_rows(Rows(block), 7, work, lambda n: None)
    assert list(found) == list(range(60))


def test_wide_rows_have_32_bit_indices(tmp_path):
    for n_features, dtype in ((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)):
        array = np.zeros((4, n_features), np.int8)
        array[[0, 2], [3, n_features - 1]] = [5, -7]
        rows = pack(Rows(array), 3, 2, tmp_path)
        indptr, indices, values = rows.block(0, 4)
        assert indices.dtype == dtype
        assert (indptr.tolist(), indices.tolist(), values.tolist()) == ([0, 1, 1, 2, 2], [3, n_features - 1], [5, -7])
        assert rows.disk_bytes == 2 * (np.dtype(dtype).itemsize + 1)
        rows.close()


@pytest.mark.parametrize("dtype", DTYPES)
def test_footprint_is_what_is_kept(dtype, tmp_path):
    source = make(dtype, 60, 40)
    for folder in (None, tmp_path):
        rows = pack(source, 25, source.n_nonzero, folder)
        assert (rows.host_bytes, rows.disk_bytes) == csr_footprint(
            60, 40, source.n_nonzero, source.array.itemsize, folder is not None
        )
        kept_bytes = rows._indptr.nbytes
        if folder is None:
            kept_bytes += rows._indices.read(0, rows.n_nonzero).nbytes + rows._values.read(0, rows.n_nonzero).nbytes
        assert rows.host_bytes == kept_bytes
        rows.close()
    assert rows.disk_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert {file.name for file in tmp_path.iterdir()} == {"packed_indices.bin", "packed_values.bin"}


def test_rows_without_any_value(tmp_path):
    for folder in (None, tmp_path):
        rows = pack(Rows(np.zeros((5, 9), np.float16)), 2, 0, folder)
        indptr, indices, values = rows.take(np.array([0, 4]))
        assert (indptr.tolist(), len(indices), len(values)) == ([0, 0, 0], 0, 0)
        assert not rows.dense(0, 5).any()
        rows.close()


def test_packing_pays_up_to_one_in_sixteen():
    assert pays(100, 160, 1000)
    assert not pays(100, 160, 1001)
    assert pays(3_000_000, 49_152, 3_000_000 * 1200)


@pytest.mark.parametrize("difference", [-1, 1])
def test_other_rows_in_the_second_pass(difference, tmp_path):
    source = make("float16", 50, 20)
    with pytest.raises(InputChanged, match="rows: expected .* non-zero values"):
        pack(source, 16, source.n_nonzero + difference, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_output_error(tmp_path, monkeypatch):
    source = make("float16", 50, 20)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for call in ("posix_fallocate", "pwrite"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(OutputError, match="packed_(indices|values).bin.*No space left.*free space"):
                pack(source, 16, source.n_nonzero, tmp_path)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="No such file or directory"):
        pack(source, 16, source.n_nonzero, tmp_path / "missing")


def test_a_cut_file_is_an_output_error(tmp_path):
    source = make("float16", 50, 20, 0.5)
    rows = pack(source, 16, source.n_nonzero, tmp_path)
    os.truncate(tmp_path / "packed_values.bin", 8)
    with pytest.raises(OutputError, match="packed_values.bin.*end of the file"):
        rows.block(0, 50)
    rows.close()


def test_ticks_are_rows_and_may_stop_the_pass(tmp_path):
    source, ticks = make("float32", 50, 8), []
    pack(source, 16, source.n_nonzero, None, ticks.append)
    assert ticks == [16, 16, 16, 2]

    def stop(n):
        raise Stopped("stopped")

    with pytest.raises(Stopped):
        pack(source, 16, source.n_nonzero, tmp_path, stop)
    assert list(tmp_path.iterdir()) == []
