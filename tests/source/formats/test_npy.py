"""Rows of a `.npy` file are read exactly."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from npy_checks import DTYPES, header_text, npy_bytes, numbers, refusal, says

from streamumap.source import Reading, RowSource, blocks, open_source, widen
from streamumap.source.formats.array import ArraySource
from streamumap.source.formats.npy import open_npy
from streamumap.source.formats.npy_header import read_header


@pytest.mark.parametrize("dtype", DTYPES)
def test_file_rows_come_back_exactly(save, dtype):
    x = numbers(101, 7, dtype)
    source = open_npy(save(x))
    assert isinstance(source, RowSource)
    assert (source.n_rows, source.n_features, source.row_bytes) == (101, 7, 7 * x.itemsize)
    assert source.dtype == x.dtype.newbyteorder("=").name and source.warnings == ()
    got = np.concatenate([block.copy() for _, block in blocks(source, 13)])
    assert got.dtype.isnative and np.array_equal(got, x)
    rows = np.array([0, 1, 2, 50, 52, 53, 100])
    assert np.array_equal(source.take(rows), x[rows])
    assert np.array_equal(widen(source.read(3, 9), source.dtype), x[3:9].astype(np.float32))
    source.close()
    source.close()


def test_out_is_reused(save):
    x = numbers()
    source = open_npy(save(x))
    out = np.full((6, 5), np.nan, np.float32)
    got = source.read(2, 6, out)
    assert np.shares_memory(got, out) and got.shape == (4, 5)
    assert np.array_equal(got, x[2:6]) and np.isnan(out[4:]).all()


def test_large_reads_by_several_threads_are_exact(save, monkeypatch):
    monkeypatch.setattr("streamumap.source.formats.npy.PIECE_BYTES", 1000)  # no multiple of a row
    x = numbers(997, 33, ">i4")
    source = open_npy(save(x))
    assert np.array_equal(source.read(0, 997), x)
    rows = np.flatnonzero(np.random.default_rng(1).random(997) < 0.5)
    assert np.array_equal(source.take(rows), x[rows])
    source.close()


def test_neighbouring_rows_are_taken_with_one_read(save, monkeypatch):
    source = open_npy(save(numbers(40, 5)))
    calls = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: calls.append(offset) or preadv(fd, buffers, offset))
    source.take(np.array([3, 4, 5, 9, 20, 21]))
    assert calls == [128 + row * 20 for row in (3, 9, 20)]


def test_reads_that_come_in_parts_are_put_together(save, monkeypatch):
    x = numbers(40, 5)
    source = open_npy(save(x))
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:7]], offset))
    assert np.array_equal(source.read(0, 40), x)


@given(st.lists(st.integers(0, 29)).map(sorted), st.integers(0, 30), st.integers(0, 30))
def test_any_rows_and_any_range(tmp_path_factory, rows, one, other):
    path = tmp_path_factory.getbasetemp() / "any.npy"
    x = numbers(30, 3)
    if not path.exists():
        np.save(path, x)
    start, stop = sorted((one, other))
    for source in (open_npy(path), ArraySource(x)):
        assert np.array_equal(source.take(np.array(rows, np.int64)), x[rows])
        assert np.array_equal(source.read(start, stop), x[start:stop])
        source.close()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_all_versions_of_the_format(save, version):
    x = numbers(4, 3)
    source = open_npy(save(npy_bytes(header_text(), x.tobytes(), version)))
    assert np.array_equal(source.read(0, 4), x)


def test_read_header(save):
    header = read_header(save(np.zeros((2, 3, 4), ">f8", order="F")))
    assert (header.shape, header.dtype, header.fortran) == ((2, 3, 4), np.dtype(">f8"), True)
    assert (header.data_offset, header.end, header.extra_bytes) == (128, 128 + 24 * 8, 0)


@pytest.mark.parametrize("descr", ["'<V2'", "'|V2'", "'<u2'"])
def test_bfloat16_only_when_said(save, descr):
    exact = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    bits = exact.view(torch.int16).numpy().view(np.uint16)
    path = save(npy_bytes(header_text(descr), bits.tobytes()))
    for source in (open_source(path, Reading("bfloat16")), open_source(np.load(path), Reading("bfloat16"))):
        assert source.dtype == "bfloat16" and source.row_bytes == 6
        block = source.read(0, 4)
        assert block.dtype == np.uint16 and np.array_equal(widen(block, "bfloat16"), exact.float().numpy())
        assert np.array_equal(source.take(np.array([1, 3])), bits[[1, 3]])
    if "V" in descr:
        says(refusal(path), "dtype", "V2", "dtype='bfloat16'")
        says(refusal(path, dtype="float16"), "V2", "dtype='bfloat16'")
    else:
        assert open_npy(path).dtype == "uint16"


def test_more_than_2_to_the_31_elements_on_a_sparse_file(save):
    n_rows, n_features = (1 << 22) + 5, 1024
    path = save(npy_bytes(header_text("'|u1'", shape=f"({n_rows}, {n_features})")))
    offset = path.stat().st_size
    last = np.arange(n_features, dtype=np.uint8)
    with open(path, "r+b") as file:
        file.truncate(offset + n_rows * n_features)
        file.seek(offset + (n_rows - 1) * n_features)
        file.write(last.tobytes())
    assert path.stat().st_blocks * 512 < 1 << 20
    source = open_npy(path)
    assert np.array_equal(source.read(n_rows - 1, n_rows)[0], last)
    assert np.array_equal(source.take(np.array([0, 1 << 21, n_rows - 1])), np.stack([0 * last, 0 * last, last]))
