"""Rows that are left out of the map but keep their place, and what the user knows of each row."""

import json
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.sparse

from streamumap import engine
from streamumap.errors import InputChanged, InputError, Stopped
from streamumap.events import StageDone
from streamumap.params import Params
from streamumap.request import Request
from streamumap.run.run import Run
from streamumap.show.meta import Meta
from streamumap.show.table import write_parquet
from streamumap.source import SparseSource, open_source
from streamumap.source.scan.cpu import scan
from streamumap.source.views.centered import ComparedView
from streamumap.source.views.row_selection import RowSelection, all_but
from streamumap.store.workdir import Workdir

BOUNDS = dict(budget="1GB", device="cpu")
SHORT = Params(n_neighbors=5, n_epochs=4)
BAD = np.array([0, 7, 8, 59])


def codes(density=0.04):
    random = np.random.default_rng(1)
    rows = np.abs(random.normal(size=(60, 200))).astype(np.float32) * (random.random((60, 200)) < density)
    rows[30] = rows[12]
    rows[40] = 0
    return rows


def broken(rows):
    rows = rows.copy()
    rows[BAD, [3, 4, 5, 6]] = [np.nan, np.inf, -np.inf, np.nan]
    return rows


@pytest.mark.one_process
@pytest.mark.parametrize("density", [0.04, 0.5])
@pytest.mark.parametrize("form", ["dense", "csr"])
def test_dropped_rows_are_nan_and_the_others_are_mapped_without_them(density, form, tmp_path):
    rows = broken(codes(density))
    as_input = rows if form == "dense" else scipy.sparse.csr_matrix(rows)
    events = []
    run = engine.embed(
        Request(as_input, SHORT, drop_nonfinite=True, **BOUNDS), tmp_path / "all", listener=events.append
    )
    kept = np.setdiff1d(np.arange(60), BAD)
    engine.embed(Request(rows[kept], SHORT, **BOUNDS), tmp_path / "kept")
    found, expected = (np.load(tmp_path / out / "embedding.npy") for out in ("all", "kept"))
    assert np.isnan(found[BAD]).all()
    np.testing.assert_array_equal(found[kept], expected)
    indices, expected = (np.load(tmp_path / out / "knn_indices.npy") for out in ("all", "kept"))
    assert (indices[BAD] == -1).all()
    np.testing.assert_array_equal(indices[kept], np.where(expected >= 0, kept[expected], -1))
    assert np.isnan(np.load(tmp_path / "all" / "knn_distances.npy")[BAD]).all()
    table = pyarrow.parquet.read_table(tmp_path / "all" / "embedding.parquet")
    assert table["row_id"].to_pylist() == list(range(60))
    assert np.isnan(table["x"].to_numpy()[BAD]).all() and table["duplicate_of"][30].as_py() == 12
    assert [i for i, zero in enumerate(table["is_zero"].to_pylist()) if zero] == [40]
    assert (run["input"]["rows"], run["input"]["dropped_rows"]) == (60, 4)
    assert any("4 of 60 rows have NaN or infinite values; they are left out" in text for text in run["warnings"])
    again = engine.embed(Request(as_input, SHORT, drop_nonfinite=True, **BOUNDS), tmp_path / "all")
    assert again["reused"] == ["the k-NN graph", "the map"] and again["quality"] == run["quality"]


@pytest.mark.one_process
def test_a_run_with_dropped_rows_goes_on_where_it_was_stopped(tmp_path):
    rows, stop = broken(codes()), []
    whole = engine.embed(Request(rows, SHORT, drop_nonfinite=True, **BOUNDS), tmp_path / "whole")
    with pytest.raises(Stopped):
        engine.embed(
            Request(rows, SHORT, drop_nonfinite=True, **BOUNDS), tmp_path / "parts", stopping=lambda: bool(stop),
            listener=lambda event: stop.append(1) if isinstance(event, StageDone) and event.stage == "neighbors" else None,
        )  # fmt: skip
    parts = engine.embed(Request(rows, SHORT, drop_nonfinite=True, **BOUNDS), tmp_path / "parts")
    assert parts["reused"] == ["the k-NN graph"] and parts["quality"] == whole["quality"]
    assert (tmp_path / "parts" / "embedding.npy").read_bytes() == (tmp_path / "whole" / "embedding.npy").read_bytes()


def test_without_the_option_they_are_refused_and_too_few_others_as_well(tmp_path):
    with pytest.raises(InputError, match=r"row 0: expected finite .* 4 of 60 rows.*--drop-nonfinite"):
        engine.embed(Request(broken(codes()), SHORT, **BOUNDS), tmp_path / "run")
    rows = np.full((9, 4), np.nan, np.float32)
    rows[:2] = 1
    with pytest.raises(InputError, match="without the rows left out: shape: expected at least 3 rows, found 2"):
        engine.embed(Request(rows, SHORT, drop_nonfinite=True, **BOUNDS), tmp_path / "few")


def test_the_option_changes_nothing_where_all_rows_are_finite(tmp_path):
    maps = []
    for drop in (False, True):
        run = engine.embed(Request(codes(), SHORT, drop_nonfinite=drop, **BOUNDS), tmp_path / str(drop))
        maps.append((tmp_path / str(drop) / "embedding.npy").read_bytes())
        assert run["input"]["dropped_rows"] == 0
    assert maps[0] == maps[1]


def test_kept_rows_are_those_of_the_source():
    for rows in (codes(), scipy.sparse.csr_matrix(codes())):
        source, kept = open_source(rows), all_but(60, BAD)
        left, expected = kept.source(source), np.delete(codes(), BAD, axis=0)
        assert isinstance(left, SparseSource) == isinstance(source, SparseSource)
        np.testing.assert_array_equal(left.read(0, 56), expected)
        np.testing.assert_array_equal(left.read(3, 20, np.ones((30, 200), np.float32)), expected[3:20])
        np.testing.assert_array_equal(left.take(np.array([0, 6, 55])), expected[[0, 6, 55]])
        found, one = scan(left, 7), scan(open_source(expected), 9)
        np.testing.assert_array_equal(found.duplicate_of, one.duplicate_of)
        assert found.n_nonzero == one.n_nonzero


def test_numbers_go_there_and_back():
    kept = all_but(60, BAD)
    numbers = np.array([[0, 5, -1], [55, 6, 7]], np.int32)
    back = kept.numbers_back(numbers)
    assert back.dtype == np.int32 and back.tolist() == [[1, 6, -1], [58, 9, 10]]
    np.testing.assert_array_equal(kept.numbers_of(back), numbers)
    everything = RowSelection(60)
    assert everything.numbers_of(numbers) is numbers and everything.of(numbers) is numbers


@pytest.mark.parametrize("rows", [None, np.array([1, 2, 30, 31, 58]), np.arange(60)], ids=["all", "some", "each"])
def test_results_go_there_and_back_by_blocks(rows, as_file, monkeypatch):
    monkeypatch.setattr("streamumap.source.views.row_selection.BLOCK_VALUES", 20)
    kept, whole = RowSelection(60, rows), np.random.default_rng(0).random((60, 3)).astype(np.float32)
    parts = list(kept.blocks_of(as_file(whole)))
    found = np.concatenate([part for _, part in parts])
    np.testing.assert_array_equal(found, kept.of(whole))
    assert [n for n, _ in parts] == [sum(len(part) for _, part in parts[:i]) for i in range(len(parts))]
    back = list(kept.blocks_back(found, -1, lambda block: block + 1))
    assert len(back) > 1 and [start for start, _ in back] == list(np.cumsum([0, *(len(part) for _, part in back)]))[:-1]
    np.testing.assert_array_equal(np.concatenate([part for _, part in back]), kept.back(found + 1, -1))


def test_the_graph_of_some_rows_is_never_in_memory_as_a_whole(tmp_path):
    n, k = 200_000, 15
    run = object.__new__(Run)
    run.kept_files = set()
    run.kept, run.view, run.params = all_but(n, np.arange(0, n, 7)), ComparedView(3), Params(n_neighbors=k)
    run.source, run.work = SimpleNamespace(n_rows=len(run.kept.rows)), Workdir(tmp_path / "run", {})
    numbers = np.random.default_rng(0).integers(0, n, (n, k)).astype(np.int32)
    numbers[numbers % 7 == 0] = -1
    for name, array in (("knn_indices", numbers), ("knn_distances", np.abs(numbers).astype(np.float32))):
        run.work.save(name, array)
    tracemalloc.start()
    try:
        files = run.knn()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * 10**6 < numbers.nbytes
    np.testing.assert_array_equal(files[0].read(0, run.source.n_rows), run.kept.numbers_of(run.kept.of(numbers)))
    np.testing.assert_array_equal(files[1].read(0, run.source.n_rows), run.kept.of(np.abs(numbers)) / np.float32(8))
    assert [file.checksum() for file in run.knn()] == [file.checksum() for file in files]
    run.work.close()


# meta


def table_of(tmp_path):
    return pyarrow.parquet.read_table(tmp_path / "run" / "embedding.parquet")


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "txt"])
def test_columns_are_carried_row_for_row(kind, tmp_path):
    path = tmp_path / f"meta ü.{kind}"
    names = [f"row, {i} “quoted”" for i in range(60)]
    if kind == "parquet":
        pyarrow.parquet.write_table(pa.table({"id": names, "size": list(range(60))}), path, row_group_size=7)
    elif kind == "txt":
        path.write_text("\n".join(names), encoding="utf-8")
    else:
        mark = "," if kind == "csv" else "\t"
        lines = [f'"{name}"{mark}{i}' for i, name in enumerate(names)]
        path.write_text("\n".join([f"id{mark}size", *lines]), encoding="utf-8")
    engine.embed(Request(codes(), SHORT, meta=path, **BOUNDS), tmp_path / "run")
    table = table_of(tmp_path)
    columns = ["row_id", "x", "y", "is_zero", "duplicate_of", "distortion", "id", *(["size"] if kind != "txt" else [])]
    assert table.column_names == columns and table["id"].to_pylist() == names
    assert kind == "txt" or table["size"].to_pylist() == list(range(60))
    np.testing.assert_array_equal(table["x"].to_numpy(), np.load(tmp_path / "run" / "embedding.npy")[:, 0])


def refused(path, n_rows, *parts):
    with pytest.raises(InputError) as caught:
        Meta(path, n_rows)
    message = str(caught.value)
    assert message.startswith(f"--meta: {path}: expected") and "\n" not in message
    assert [part for part in parts if part not in message] == [], message


def test_a_file_that_does_not_fit_is_refused_before_any_work(tmp_path):
    path = tmp_path / "meta.csv"
    refused(path, 5, "found none")
    path.write_text("a,b\n" + "1,2\n" * 4)
    refused(path, 5, "5 rows", "found 4, its header not counted")
    with pytest.raises(InputError, match="60 rows"):
        engine.embed(Request(codes(), SHORT, meta=path, **BOUNDS), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    path.write_text("a,x\n" + "1,2\n" * 5)
    refused(path, 5, "columns other than", "found x", "rename")
    path.write_text("a,a\n" + "1,2\n" * 5)
    refused(path, 5, "a name twice")
    path.write_text("a,b\n1,2\n1\n")
    refused(path, 5, "a whole file", "Expected 2 columns, got 1")
    (tmp_path / "ids.txt").write_bytes(b"one\n\xff\xfe\nthree\n")
    refused(tmp_path / "ids.txt", 3, "UTF-8")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    refused(tmp_path / "x.parquet", 3, "a whole file")


def test_a_column_that_turns_out_to_be_text_is_text(tmp_path, monkeypatch):
    monkeypatch.setattr("streamumap.show.meta.BLOCK_BYTES", 1000)
    path = tmp_path / "meta.csv"
    path.write_text("id,size\n" + "".join(f"{i},{i}\n" for i in range(500)) + "a500,0.5\n")
    batches = list(Meta(path, 501).batches())
    assert len(batches) > 1 and batches[-1]["id"][-1].as_py() == "a500" and batches[0]["id"][0].as_py() == "0"


def test_a_file_that_changes_during_the_run(tmp_path):
    path, embedding = tmp_path / "ids.txt", np.zeros((5, 2), np.float32)
    path.write_text("a\n" * 5)
    meta = Meta(path, 5)
    for content in ("a\n" * 4, "a\n" * 6):
        path.write_text(content)
        with pytest.raises(InputChanged, match="--meta.*expected 5 rows as before"):
            write_parquet(tmp_path / "x.parquet", embedding, np.zeros(5, bool), np.full(5, -1), meta)


def test_the_report_is_json(tmp_path):
    run = engine.embed(Request(broken(codes()), SHORT, drop_nonfinite=True, **BOUNDS), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == run


# rows of extreme size


@pytest.mark.parametrize("factor", [2.0**100, 2.0**-90])
@pytest.mark.parametrize("form", ["dense", "csr", "some dropped"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_size_of_the_rows_changes_neither_neighbours_nor_quality(factor, form, metric, tmp_path):
    rows = codes(0.5 if form == "dense" else 0.04)
    if form == "some dropped":
        rows = broken(rows)
    params, results = Params(n_neighbors=5, n_epochs=4, metric=metric), []
    for name, array in (("plain", rows), ("extreme", rows * np.float32(factor))):
        array = scipy.sparse.csr_matrix(array) if form == "csr" else array
        run = engine.embed(Request(array, params, drop_nonfinite=form == "some dropped", **BOUNDS), tmp_path / name)
        results.append(run["quality"])
    for name, found in results[0].items():
        assert results[1][name]["value"] == pytest.approx(found["value"], abs=0.1), name
    np.testing.assert_array_equal(*(np.load(tmp_path / name / "knn_indices.npy") for name in ("plain", "extreme")))
    one, other = (np.load(tmp_path / name / "knn_distances.npy") for name in ("plain", "extreme"))
    np.testing.assert_allclose(other, one * np.float32(factor if metric == "euclidean" else 1), rtol=1e-6)


def test_values_that_vanish_beside_others_are_zeros():
    from streamumap.source.sparse.csr_rows import pack
    from streamumap.source.views.scaled import extreme_exponent, scale_rows

    rows = codes()
    rows[5, 3], rows[6, 4] = 1e-38, 1e38
    for source in (open_source(rows), open_source(scipy.sparse.csr_matrix(rows))):
        left = scale_rows(source, extreme_exponent(scan(source, 10).norm_max))
        found = scan(left, 10)
        assert found.n_nonzero == np.count_nonzero(rows) - 1
        assert pack(left, 7, found.n_nonzero).dense(5, 6)[0, 3] == 0
    assert [extreme_exponent(norm) for norm in (0.0, 1.0, 1e16, np.nan, np.inf)] == [0] * 5
