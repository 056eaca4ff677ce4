import json
import os

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from streamumap.errors import InputError, OutputError
from streamumap.output import describe, render_run, write_parquet

REPORT = {
    "input": {"name": "/data/a b.npy", "rows": 1234, "features": 3072, "dtype": "float16"},
    "params": {"metric": "cosine", "n_neighbors": 15},
    "quality": {"knn_recall": {"value": 0.98765}, "trustworthiness": {"value": 0.9}},
}


def points(n_rows=50, n_components=2):
    return np.random.default_rng(0).normal(size=(n_rows, n_components)).astype(np.float32)


@pytest.fixture
def run(tmp_path):
    """A finished run of 50 rows, as far as pictures need it."""
    np.save(tmp_path / "embedding.npy", points())
    (tmp_path / "run.json").write_text(json.dumps(REPORT))
    return tmp_path


# embedding.parquet


@pytest.mark.parametrize(
    ("n_components", "axes"), [(1, ["x"]), (2, ["x", "y"]), (3, ["x", "y", "z"]), (5, ["x", "y", "z", "dim3", "dim4"])]
)
def test_the_table_opens_in_pandas_and_pyarrow(n_components, axes, tmp_path):
    map_, is_zero = points(4, n_components), np.array([False, True, False, False])
    write_parquet(tmp_path / "e.parquet", map_, is_zero, np.array([-1, -1, 0, 2]))
    table = pyarrow.parquet.read_table(tmp_path / "e.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {"row_id": "int64"} | dict.fromkeys(axes, "float") | {"is_zero": "bool", "duplicate_of": "int64"}
    assert table["duplicate_of"].to_pylist() == [None, None, 0, 2]
    frame = pd.read_parquet(tmp_path / "e.parquet")
    assert frame["row_id"].tolist() == [0, 1, 2, 3] and frame["is_zero"].tolist() == is_zero.tolist()
    assert np.array_equal(frame[axes].to_numpy(), map_)


def test_no_duplicates_are_a_column_of_nulls(tmp_path):
    write_parquet(tmp_path / "e.parquet", points(3), np.zeros(3, bool), np.full(3, -1))
    assert pyarrow.parquet.read_table(tmp_path / "e.parquet")["duplicate_of"].null_count == 3


# Pictures


def test_what_is_written_on_a_picture():
    assert describe(REPORT) == ("a b.npy", "1,234 x 3,072 float16, cosine, k 15; recall 0.988, trustworthiness 0.900")


def test_a_finished_run(run):
    assert render_run(run, run / "p.png", size_px=200) == run / "p.png"
    assert (run / "p.png").read_bytes().startswith(b"\x89PNG")


def test_labels_and_darkness_change_the_picture(run):
    (run / "labels.txt").write_text("ä\nb\n" * 25, encoding="utf-8")
    pictures = set()
    for number, (labels, dark) in enumerate([(None, False), (None, True), (run / "labels.txt", False)]):
        pictures.add(render_run(run, run / f"{number}.png", labels, 200, dark).read_bytes())
    assert len(pictures) == 3


def test_a_half_finished_run_is_drawn_from_its_checkpoint(tmp_path):
    (tmp_path / "scratch").mkdir()
    np.save(tmp_path / "scratch" / "layout.npy", points())
    assert render_run(tmp_path, tmp_path / "p.png", size_px=200).exists()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda run: os.unlink(run / "embedding.npy"),
            "expected a run with a map .*, found no embedding.npy; start it with streamumap embed",
        ),
        (
            lambda run: os.truncate(run / "embedding.npy", 300),
            "embedding.npy: expected the map of a run, found something else or a part",
        ),
        (lambda run: (run / "embedding.npy").write_text("text"), "embedding.npy: expected the map of a run"),
        (
            lambda run: np.save(run / "embedding.npy", points(50, 1)),
            "expected a map of 2 or more dimensions, found 1; a picture needs two",
        ),
        (lambda run: (run / "run.json").write_text("{"), "run.json: expected the report of a run"),
        (
            lambda run: (run / "run.json").write_text('{"input": 5, "quality": 5}'),
            "run.json: expected the report of a run",
        ),
        (lambda run: (run / "run.json").write_bytes(b"\xff"), "run.json: expected the report of a run"),
    ],
)
def test_what_is_no_run_is_refused(break_it, message, run):
    break_it(run)
    with pytest.raises(InputError, match=message):
        render_run(run, run / "p.png")
    assert not (run / "p.png").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"^--labels: .*labels.txt: cannot be read \(No such file or directory\)"),
        (b"a\n" * 49, "^--labels: .*: expected 50 lines, one a row, found 49; give as many as there are rows"),
        (b"\xff\n" * 50, "^--labels: .*: expected text in UTF-8, found byte 255"),
    ],
)
def test_wrong_labels_are_refused(text, message, run):
    if text is not None:
        (run / "labels.txt").write_bytes(text)
    with pytest.raises(InputError, match=message):
        render_run(run, run / "p.png", run / "labels.txt")


def test_a_picture_that_cannot_be_written(run):
    with pytest.raises(OutputError, match="no/such.png"):
        render_run(run, run / "no" / "such.png", size_px=200)
