"""Sparse matrices in other forms than CSR are read as their rows or refused, and never taken for CSR."""

import os
import shlex
import subprocess
import sys
from contextlib import closing

import h5py
import numpy as np
import pytest
import scipy.sparse
import torch
import zarr

from streamumap.errors import InputError, UnusedOption
from streamumap.machine.memory import Watch, anonymous_bytes
from streamumap.source import Reading, SparseSource, in_place, open_source
from streamumap.source.formats import by_row

N, D = 300, 40


def matrix(n_rows=N, n_features=D, dtype=np.float32):
    """Makes rows of different lengths, some without a value, and a column that is in every row but these."""
    random = np.random.default_rng(1)
    dense = random.integers(1, 99, (n_rows, n_features)) * (random.random((n_rows, n_features)) < 0.1)
    dense[:, 3] = 7
    dense[::9] = 0
    return dense.astype(dtype)


@pytest.mark.parametrize("form", ["csc", "coo"])
@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8", "int64", "uint8"])
@pytest.mark.parametrize("span", [1, 50, 10**6])
def test_rows_come_back_exactly(form, dtype, span, tmp_path, monkeypatch):
    """Spans of one row, of some, and of all; pieces that end within a column."""
    monkeypatch.setattr(by_row, "SPAN_PAIRS", span)
    monkeypatch.setattr(by_row, "PIECE_PAIRS", 37)
    expected = matrix()
    parts = scipy.sparse.coo_array(expected).asformat(form)
    parts.data = parts.data.astype(dtype)
    scipy.sparse.save_npz(tmp_path / "x.npz", parts, compressed=span == 50)
    source, ticks = open_source(tmp_path / "x.npz"), []
    (tmp_path / "scratch").mkdir()
    found = source.convert(tmp_path / "scratch", ticks.append)
    assert isinstance(found, SparseSource) and sum(ticks) == N and found.max_nonzero == np.count_nonzero(expected)
    assert found.dtype == np.dtype(dtype).newbyteorder("=").name
    np.testing.assert_array_equal(found.read(0, N), expected)
    assert sum(file.stat().st_size for file in (tmp_path / "scratch").iterdir()) < source.n_bytes
    found.close()


@pytest.mark.parametrize("form", ["csc", "coo"])
def test_a_matrix_without_values(form, tmp_path):
    scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.coo_array((5, 3), dtype=np.float32).asformat(form))
    with in_place(open_source(tmp_path / "x.npz")) as found:
        assert not found.read(0, 5).any()


def refusal(path, error=InputError, **reading):
    with pytest.raises(error) as caught, in_place(open_source(path, Reading(**reading))):
        pass
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:Constructing a DIA")
@pytest.mark.parametrize("form", ["bsr", "dia", "coo"])
def test_the_command_of_the_message_makes_csr(form, tmp_path):
    """Blocks and diagonals, and values that are meant to be added up."""
    expected = matrix()
    parts = scipy.sparse.coo_array(expected)
    if form == "coo":
        twice = (np.tile(parts.data / 2, 2), (np.tile(parts.row, 2), np.tile(parts.col, 2)))
        parts = scipy.sparse.coo_array(twice, parts.shape)
    scipy.sparse.save_npz(tmp_path / "it's.npz", parts.asformat(form))
    message = refusal(tmp_path / "it's.npz")
    assert ("each feature once" if form == "coo" else f"format: expected csr, csc or coo, found {form}") in message
    command = shlex.split(message[message.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True, timeout=60)
    np.testing.assert_array_equal(open_source(tmp_path / "it's-csr.npz").read(0, N), expected)


def test_the_shape_tells_the_form_where_the_file_does_not(tmp_path):
    dense, square = matrix(), matrix(D, D)
    for name, rows, form in (("csr", dense, "csr"), ("csc", dense, "csc"), ("square", square, "csr")):
        parts = scipy.sparse.coo_array(rows).asformat(form)
        arrays = {"data": parts.data, "indices": parts.indices, "indptr": parts.indptr}
        np.savez(tmp_path / f"{name}.npz", **arrays, shape=parts.shape)
        source = open_source(tmp_path / f"{name}.npz")
        assert [text for text in source.warnings if "bounds may be those" in text] == list(source.warnings)
        assert bool(source.warnings) == (name == "square")
        with in_place(source) as found:
            np.testing.assert_array_equal(found.read(0, len(rows)), rows)
        if form == "csr":
            torch.save({part: torch.from_numpy(array) for part, array in arrays.items()}, tmp_path / f"{name}.pt")
            source = open_source(tmp_path / f"{name}.pt", Reading(n_features=D))
            np.testing.assert_array_equal(source.read(0, len(rows)), rows)
            assert bool(source.warnings) == (name == "square")
    np.savez(tmp_path / "x.npz", **arrays, shape=(D + 1, D + 2))
    assert f"indptr: expected {D + 1} + 1 bounds, as the shape says, found {D + 1}" in refusal(tmp_path / "x.npz")


def test_an_option_that_contradicts_the_file(tmp_path):
    """Taken instead of the file's width, it hid the file's form."""
    scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.csc_array(matrix()))
    assert f"--features: expected {D}, as the file says, found {N}" in refusal(
        tmp_path / "x.npz", UnusedOption, n_features=N
    )
    with in_place(open_source(tmp_path / "x.npz", Reading(n_features=D))) as found:
        np.testing.assert_array_equal(found.read(0, N), matrix())


@pytest.mark.parametrize("form", ["csc", "coo"])
def test_a_form_without_a_shape(form, tmp_path):
    scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.coo_array(matrix()).asformat(form))
    arrays = dict(np.load(tmp_path / "x.npz"))
    del arrays["shape"]
    np.savez(tmp_path / "y.npz", **arrays)
    assert f"shape: expected two sizes beside {form}, found none" in refusal(tmp_path / "y.npz", n_features=D)


def test_arrays_beside_a_format_of_their_own(tmp_path):
    np.savez(tmp_path / "x.npz", data=matrix(), format="dia")
    assert np.array_equal(open_source(tmp_path / "x.npz").read(0, N), matrix())


def test_forms_that_anndata_does_not_write(tmp_path):
    parts = scipy.sparse.csc_array(matrix())
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = zarr.open_group(tmp_path / "x.zarr", mode="w")
        for name in ("data", "indices", "indptr"):
            file[name] = getattr(parts, name)
            group.create_array(name, data=getattr(parts, name))
        for place in (file, group):
            place.attrs["encoding-type"], place.attrs["shape"] = "ellpack", parts.shape
    for name in ("x.h5", "x.zarr"):
        assert "format: expected csr_matrix or csc_matrix, found 'ellpack'" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("indices", N, f"row numbers: expected those from 0 to {N - 1}, as the shape says, found {N}"),
        ("indices", -1, "row numbers: expected those from 0"),
        ("indptr", 10**6, "indptr: expected bounds that ascend from 0 to"),
        ("row", N, "row numbers: expected those from 0"),
        ("col", D, f"column numbers: expected those from 0 to {D - 1}"),
        ("col", -1, "column numbers: expected those from 0"),
    ],
)
def test_numbers_that_lead_out_of_the_matrix(part, value, says, tmp_path):
    form = "coo" if part in ("row", "col") else "csc"
    scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.coo_array(matrix()).asformat(form))
    arrays = dict(np.load(tmp_path / "x.npz"))
    arrays[part][20] = value
    np.savez(tmp_path / "y.npz", **arrays)
    assert says in refusal(tmp_path / "y.npz")


def test_parts_that_do_not_belong_together(tmp_path):
    scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.csc_array(matrix()))
    whole = dict(np.load(tmp_path / "x.npz"))
    for part, array, says in (
        ("data", whole["data"][:-1], "indices: expected"),
        ("indptr", whole["indptr"][:-1], f"indptr: expected {D} + 1 bounds of columns"),
        ("indices", whole["indices"].astype(float), "indices: expected integers, found float64"),
        ("shape", np.array([2**31, D]), "rows: expected at most 1048576 for"),
        ("shape", np.array([N, D, 1]), "shape: expected two sizes"),
        ("shape", np.array([N, -D]), "features: expected a whole number"),
        ("format", np.array("other"), "format: expected csr, csc or coo, found 'other'"),
    ):
        np.savez(tmp_path / "y.npz", **whole | {part: array})
        assert says in refusal(tmp_path / "y.npz")


def test_memory_does_not_grow_with_the_pairs(tmp_path):
    """Converting 6 million pairs takes less than a piece and a span of them, as the constants say."""
    n_rows, n_features, per_column = 60_000, 1000, 6000
    indices = (np.arange(per_column) * 10 + np.arange(n_features)[:, None] % 10).astype(np.int32).reshape(-1)
    data, indptr = np.ones(len(indices), np.float32), np.arange(n_features + 1) * per_column
    np.savez(tmp_path / "x.npz", data=data, indices=indices, indptr=indptr, shape=(n_rows, n_features), format=b"csc")
    del data, indices
    source, before = open_source(tmp_path / "x.npz"), anonymous_bytes(os.getpid())
    with closing(Watch()) as watch:
        watch.lap()
        found = source.convert(tmp_path)
        peak = watch.lap()[0] - before
    assert peak < 120e6, peak
    assert np.array_equal(found.read(5, 6)[0], np.arange(n_features) % 10 == 5)
