"""Rows stored as pairs have the scan, the CsrRows and the map of the dense matrix."""

import json
from dataclasses import fields

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from source_checks import topk

from streamumap import StreamUMAP, engine, plan
from streamumap.errors import InputChanged, InputError
from streamumap.params import Params
from streamumap.planning.job import job_of
from streamumap.planning.planner import make_plan
from streamumap.request import Request
from streamumap.source import Reading, SparseSource, open_source, pieces
from streamumap.source.scan.cpu import scan
from streamumap.source.scan.inspect import inspect_report
from streamumap.source.scan.sizes import pairs_scan_footprint
from streamumap.source.sparse.csr_rows import pack

BOUNDS = dict(budget="1GB", device="cpu")
SHORT = Params(n_neighbors=5, n_epochs=5, metric="cosine")
VALUE_DTYPES = ("float16", "bfloat16", "float32", "float64", "bool", "int8", "uint16", "int64", "uint64")


def dense(indices, values, n_features):
    rows = np.zeros((len(indices), n_features), values.dtype)
    for row, columns, amounts in zip(rows, indices, values, strict=True):
        row[columns[amounts != 0]] = amounts[amounts != 0]
    return rows


def csr(rows):
    """SciPy has no float16."""
    return scipy.sparse.csr_matrix(rows.astype(np.float32) if rows.dtype == np.float16 else rows)


def same_scan(one, other):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name.startswith("norm"):
            np.testing.assert_allclose(a, b, rtol=1e-13, err_msg=field.name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.mark.parametrize("dtype", VALUE_DTYPES)
def test_scan_and_reads_are_those_of_the_dense_rows(dtype):
    indices, values = topk(dtype=dtype)
    rows, reading = dense(indices, values, 90), Reading("bfloat16" if dtype == "bfloat16" else None)
    one = open_source(rows, reading)
    for other in (
        open_source((indices, values, 90), reading),
        *([] if dtype in ("float16", "bfloat16") else [open_source(csr(rows))]),
    ):
        assert isinstance(other, SparseSource) and not isinstance(one, SparseSource)
        assert (other.n_rows, other.n_features, other.dtype) == (one.n_rows, one.n_features, one.dtype)
        np.testing.assert_array_equal(other.read(7, 51), rows[7:51])
        buffer = np.ones((60, 90), rows.dtype)
        np.testing.assert_array_equal(other.read(3, 40, buffer), rows[3:40])
        some = np.array([0, 3, 4, 20, 59])
        np.testing.assert_array_equal(other.take(some), rows[some])
        same_scan(scan(one, 13), scan(other, 13))


@settings(max_examples=80)
@given(st.data())
def test_scan_of_any_pairs(data):
    n_rows, n_features = data.draw(st.integers(3, 30)), data.draw(st.integers(1, 70))
    k = data.draw(st.integers(1, min(n_features, 9)))
    indices, values = topk(n_rows, n_features, k, "float32", data.draw(st.integers(0, 99)), data.draw(st.floats(0, 1)))
    for special in (-0.0, np.nan, np.inf, -3.5):
        values[data.draw(st.integers(0, n_rows - 1)), data.draw(st.integers(0, k - 1))] = special
    values = values.astype(data.draw(st.sampled_from(["float16", "float32", "float64"])))
    rows = np.zeros((n_rows, n_features), values.dtype)
    np.put_along_axis(rows, indices, values, axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_PAIRS", data.draw(st.integers(1, 100)))
        source = open_source(
            (indices.astype(data.draw(st.sampled_from(["u1", "i2", "u8", ">i4"]))), values, n_features)
        )
        found = scan(source, 4)
        same_scan(scan(open_source(rows), data.draw(st.integers(1, 31))), found)
        if rows.dtype != np.float16:
            same_scan(scan(open_source(csr(rows)), 4), found)
        one, other = (pack(s, 5, found.n_nonzero) for s in (open_source(rows), source))
    for a, b in zip(one.block(0, n_rows), other.block(0, n_rows), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def test_pairs_are_ordered_without_zeros_and_cut_into_spans():
    indices, values = topk(50, 40, 7)
    for source in (open_source((indices, values, 40)), open_source(csr(dense(indices, values, 40)))):
        for n_pairs in (1, 20, 10**6):
            spans = list(source.spans(n_pairs))
            assert [a for a, _ in spans[1:]] == [b for _, b in spans[:-1]] and (spans[0][0], spans[-1][1]) == (0, 50)
        for start, stop in source.spans(20):
            found = source.pairs(start, stop)
            assert found.indptr[0] == 0 and found.n_rows == stop - start and len(found.values) <= max(20, 7)
            assert (found.values != 0).all() and (found.indptr.dtype, found.indices.dtype) == (np.int64, np.uint16)
            for a, b in zip(found.indptr[:-1], found.indptr[1:], strict=True):
                assert (np.diff(found.indices[a:b].astype(int)) > 0).all()


def test_padding_may_have_any_index():
    """Encoders fill a row up with zeros at -1, at the width, or all at the same feature."""
    indices, values = (
        np.array([[3, -1, 2], [9, 9, 0], [0, 0, 1]]),
        np.array([[1, 0, 2], [0, 0, 0], [0, 0, 5]], np.float32),
    )
    source = open_source((indices, values, 9))
    assert source.read(0, 3).tolist() == [[0, 0, 2, 1, 0, 0, 0, 0, 0], [0] * 9, [0, 5, 0, 0, 0, 0, 0, 0, 0]]


def refused(x, *parts, reading=None):
    with pytest.raises(InputError) as caught:
        source = open_source(x, reading)
        scan(source, 10)
    message = str(caught.value)
    assert "\n" not in message and "expected" in message and "found" in message and "; " in message
    for part in parts:
        assert part in message, message
    return message


def test_pairs_that_are_no_rows():
    indices, values = topk(20, 30, 4, zeros=0.0)
    values[20 // 3] = 1
    bad = indices.copy()
    bad[11, 2] = 30
    refused((bad, values, 30), "row 11", "0 to 29", "found 30", "--features")
    bad[11, 2] = -2
    refused((bad, values, 30), "row 11", "found -2")
    bad[11, 2] = bad[11, 0]
    refused((bad, values, 30), "row 11", f"feature {bad[11, 0]} twice")
    with pytest.raises(InputError, match="row 11"):
        open_source((bad, values, 30)).take(np.array([2, 11]))
    refused((values, values, 30), "dtype", "integers", "float16", "which is which")
    refused((indices, values[:-1], 30), "shape", "20 x 4", "19 x 4")
    refused((indices, values, 3), "features", "at least the 4 pairs", "found 3")
    for width in (None, 0, -1, 2.5, True, 2**40, "30"):
        refused((indices, values, width), "features", "whole number from 1")
    refused((indices[:2], values[:2], 30), "at least 3 rows")
    refused((indices, values.astype("S3"), 30), "dtype", "text")


def test_sparse_matrices_that_are_no_rows():
    def broken(**parts):
        matrix = csr(dense(*topk(20, 30, 4), 30))
        for name, value in parts.items():
            setattr(matrix, name, value)
        return matrix

    good = broken()
    refused(good.tocsc(), "format", "csr", "found csc", ".tocsr()")
    refused(scipy.sparse.csr_matrix((2, 30)), "at least 3 rows")
    refused(broken(data=good.data.astype(complex)), "complex")
    refused(broken(indices=good.indices + 30), "row 0", "0 to 29")
    refused(broken(indices=np.zeros_like(good.indices)), "twice")
    refused(broken(data=good.data[:-1]), "as many of one as of the other")
    refused(broken(indptr=good.indptr[:-1]), "20 + 1 bounds")
    bad = good.indptr.copy()
    bad[5] = -7
    refused(broken(indptr=bad), "indptr of row 4", "-7")
    bad[5] = 10**6
    refused(broken(indptr=bad), "indptr of row 4", "1000000")
    with pytest.raises(InputError, match="indptr of row 4"):
        open_source(broken(indptr=bad)).take(np.array([4]))
    assert open_source(scipy.sparse.csr_array(good)).n_rows == 20
    assert scan(open_source(scipy.sparse.csr_matrix((20, 30), dtype=np.float32)), 5).n_zero_rows == 20


@pytest.fixture
def save(tmp_path):
    """save(folder, prefix) writes TopK pairs to two files and returns the dense rows."""

    def make(folder="codes", prefix="topk_", names=("indices", "values"), n_rows=60):
        indices, values = topk(n_rows)
        (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / folder / f"{prefix}{names[0]}.npy", indices.astype(np.uint16))
        np.save(tmp_path / folder / f"{prefix}{names[1]}.npy", values)
        return tmp_path / folder, dense(indices, values, 90)

    return make


@pytest.mark.parametrize("names", [("indices", "values"), ("top_indices", "top_acts")])
@pytest.mark.parametrize("prefix", ["", "layer 3_"])
def test_pairs_in_files(save, names, prefix):
    folder, rows = save(prefix=prefix, names=names)
    for path in (folder, folder / f"{prefix}{names[0]}.npy", folder / f"{prefix}{names[1]}.npy"):
        np.testing.assert_array_equal(open_source(path, Reading(n_features=90)).read(0, 60), rows)
        refused(path, "features", "d_sae", "found none", "--features")
    (folder / "other.json").write_text('{"lr": 1e-3}')
    (folder / "broken.json").write_text("{")
    (folder / "list.json").write_text("[90]")
    (folder / "sae.json").write_text(json.dumps({"d_in": 5, "d_sae": 90}))
    source = open_source(folder)
    np.testing.assert_array_equal(source.read(0, 60), rows)
    assert source.chosen.startswith("TopK pairs of ") and source.chosen.endswith(", float16, 60 x 90")
    assert source.notes[0] == f"reading {source.chosen}" and len(source.notes) == 2
    assert "90 features, as" in source.notes[1] and "sae.json" in source.notes[1]
    (folder / "cfg.json").write_text('{"num_features": 91}')
    refused(folder, "features", "91 in cfg.json", "90 in sae.json", "--features")
    assert open_source(folder, Reading(n_features=90)).n_features == 90


def test_files_of_which_one_is_missing(save):
    folder, _ = save()
    (folder / "topk_values.npy").unlink()
    refused(folder / "topk_indices.npy", "topk_values.npy beside it", "no such file")
    np.save(folder / "my_values.npy", np.ones((4, 3)))
    assert open_source(folder / "my_values.npy").n_features == 3


def test_a_change_of_either_file_is_noticed(save):
    folder, _ = save()
    for name in ("topk_indices.npy", "topk_values.npy"):
        source = open_source(folder, Reading(n_features=90))
        source.check_unchanged()
        with open(folder / name, "ab") as file:
            file.write(b"more")
        with pytest.raises(InputChanged, match=name):
            source.check_unchanged()


def test_arrays_and_paths_together(save):
    folder, rows = save()
    values = np.load(folder / "topk_values.npy")
    np.testing.assert_array_equal(open_source((folder / "topk_indices.npy", values, 90)).read(0, 60), rows)


@pytest.mark.parametrize("reduce", ["none", "pca"])
def test_the_map_is_that_of_the_dense_rows(save, tmp_path, reduce):
    folder, rows = save(n_rows=200)
    np.save(tmp_path / "dense.npy", rows)
    params = Params(n_neighbors=5, n_epochs=5, metric="cosine", reduce=reduce, reduce_dims=10)
    inputs = {"dense": tmp_path / "dense.npy", "pairs": folder, "csr": csr(rows), "tuple": (*topk(200), 90)}
    runs = {}
    for name, x in inputs.items():
        reading = Reading(n_features=90) if name == "pairs" else None
        runs[name] = engine.embed(Request(x, params, reading=reading, **BOUNDS), tmp_path / f"{name}.umap")
    maps = {name: (tmp_path / f"{name}.umap" / "embedding.npy").read_bytes() for name in inputs}
    assert len(set(maps.values())) == 1
    for run in runs.values():
        assert (
            run["quality"] == runs["dense"]["quality"] and run["input"]["density"] == runs["dense"]["input"]["density"]
        )


def test_the_estimator_takes_sparse_matrices_and_pairs():
    indices, values = topk(80)
    model = StreamUMAP(n_neighbors=5, n_epochs=5, metric="cosine", **BOUNDS)
    one = model.fit_transform(dense(indices, values, 90))
    np.testing.assert_array_equal(model.fit_transform((indices, values, 90)), one)
    np.testing.assert_array_equal(model.fit_transform(csr(dense(indices, values, 90))), one)
    assert model.n_features_in_ == 90


def test_the_plan_of_pairs_needs_no_dense_block():
    """3 million rows of 12,288 features as pairs: the first pass needs less memory than a dense block."""
    indices, values = np.zeros((3, 32), np.uint16), np.zeros((3, 32), np.float16)
    job = job_of(open_source((indices, values, 12_288)))
    assert (job.n_nonzero, job.sparse) == (96, True)
    pairs, rows = (
        plan(x, **BOUNDS)["read"].predicted.host_bytes for x in ((indices, values, 12_288), np.ones((3, 12_288)))
    )
    assert pairs > 0 and rows > 0
    assert pairs_scan_footprint(3_000_000, 12_288, 2) < 2**28


def test_a_plan_of_pairs_fits_what_it_says(save):
    folder, _ = save()
    planned = plan(folder, features=900, **BOUNDS)
    assert planned.job.sparse and planned.job.n_nonzero == 60 * 6 and planned["neighbors"].backend == "packed"
    assert make_plan(planned.job, SHORT, planned.budget, planned.machine)["read"].blocks["block_rows"] >= 1


def test_inspect_of_pairs(save):
    folder, rows = save()
    source = open_source(folder, Reading(n_features=90))
    report = inspect_report(source, scan(source, 10))
    assert report["stored_bytes"] == 60 * 6 * (2 + 2) and report["nonzero"] == np.count_nonzero(rows)


def test_a_pass_over_pairs_holds_no_dense_block(monkeypatch):
    import tracemalloc

    monkeypatch.setattr(pieces, "n_threads", lambda: 2)
    monkeypatch.setattr("streamumap.source.scan.sizes.n_threads", lambda: 2)
    indices = np.arange(64, dtype=np.uint16)[None, ::-1] * np.ones((60_000, 1), np.uint16)
    source = open_source((indices, np.ones((60_000, 64), np.float16), 40_000))
    tracemalloc.start()
    try:
        scan(source, 10_000)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    limit = pairs_scan_footprint(60_000, 40_000, 4)
    assert limit / 4 < peak_bytes < limit < 60_000 * 40_000
