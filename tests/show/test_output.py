import json
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from streamumap.errors import InputError, OutputError
from streamumap.events import Note, StageDone, ignore
from streamumap.show.look import Wanted, columns_of
from streamumap.show.output import animate_run, page_of, render_run, view_run, write_parquet
from streamumap.show.runs import describe, open_run
from streamumap.source import open_source
from streamumap.store.atomic import write_through
from streamumap.store.statefile import write_state

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


def test_how_much_of_each_row_the_map_lost(tmp_path):
    lost = np.array([0, 0.5, np.nan], np.float32)
    write_parquet(tmp_path / "e.parquet", points(3), np.zeros(3, bool), np.full(3, -1), distortion=lost)
    column = pyarrow.parquet.read_table(tmp_path / "e.parquet")["distortion"]
    assert str(column.type) == "float" and column.to_pylist() == [0, 0.5, None]


# Pictures


def test_what_is_written_on_a_picture():
    facts = "1,234 x 3,072 float16, cosine, k 15; "
    assert describe(REPORT) == ("a b.npy", facts + "recall 0.988, trustworthiness 0.900")
    figures = {name: {"value": 0.5, "standard_error": 0.002} for name in ("continuity", "torn_share")}
    both = REPORT | {"quality": REPORT["quality"] | figures}
    assert (
        describe(both)[1] == facts + "recall 0.988, trustworthiness 0.900, continuity 0.500 ± 0.002, torn 0.500 ± 0.002"
    )


def test_a_finished_run(run):
    assert render_run(run, run / "p.png", size_px=200) == run / "p.png"
    assert (run / "p.png").read_bytes().startswith(b"\x89PNG")


def test_labels_and_darkness_change_the_picture(run):
    (run / "labels.txt").write_text("ä\nb\n" * 25, encoding="utf-8")
    pictures = set()
    for number, (labels, dark) in enumerate([(None, False), (None, True), (run / "labels.txt", False)]):
        pictures.add(render_run(run, run / f"{number}.png", Wanted(labels), 200, dark).read_bytes())
    assert len(pictures) == 3


def test_a_half_finished_run_is_drawn_from_its_checkpoint(tmp_path):
    (tmp_path / "scratch").mkdir()
    path = tmp_path / "scratch" / "layout.state"
    write_through(path, lambda file: write_state(file, {}, {"positions": points()}))
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
        render_run(run, run / "p.png", Wanted(run / "labels.txt"))


# Columns, names, clusters


@pytest.fixture
def real(tmp_path):
    """A run of 300 rows whose input is beside it: positions in two islands, feature 3 in the first one only."""
    X = np.zeros((300, 8), np.float32)
    X[:150, 3], X[:, 5] = np.arange(1, 151), 0.5
    map_ = points(300) + np.repeat([[0, 0], [40, 0]], 150, axis=0).astype(np.float32)
    run = tmp_path / "run.umap"
    run.mkdir()
    np.save(tmp_path / "a b.npy", X)
    np.save(run / "embedding.npy", map_)
    write_parquet(run / "embedding.parquet", map_, np.zeros(300, bool), np.full(300, -1))
    source = open_source(tmp_path / "a b.npy")
    recorded = {"name": "a b.npy", "rows": 300, "features": 8, "dtype": "float32", "fingerprint": source.fingerprint}
    (run / "run.json").write_text(json.dumps(REPORT | {"input": recorded}))
    (tmp_path / "names.txt").write_text("".join(f"{'apple' if i < 150 else 'pear'} {i}\n" for i in range(300)))
    return SimpleNamespace(run=run, input=tmp_path / "a b.npy", names=tmp_path / "names.txt", X=X)


def test_features_are_read_from_the_input_wherever_it_was_moved(real, tmp_path):
    wanted = Wanted(colors=("feature:3", "feature:5"))
    one, two = columns_of(open_run(real.run), wanted, ignore, [])
    assert np.array_equal(one.values, real.X[:, 3]) and np.array_equal(two.values, real.X[:, 5])
    (tmp_path / "elsewhere").mkdir()
    moved = real.input.rename(tmp_path / "elsewhere" / "x.npy")
    with pytest.raises(InputError, match="--color: feature:3: expected the input of .*say where it is with --input"):
        columns_of(open_run(real.run), wanted, ignore, [])
    found = columns_of(open_run(real.run), Wanted(colors=("feature:3",), input=str(moved)), ignore, [])
    assert np.array_equal(found[0].values, real.X[:, 3])
    np.save(moved, real.X + 1)
    with pytest.raises(InputError, match="--input: .*x.npy: expected the input of .*, found other rows"):
        columns_of(open_run(real.run), Wanted(colors=("feature:3",), input=str(moved)), ignore, [])
    with pytest.raises(InputError, match="expected feature:0 to feature:7, found feature:8"):
        real.input.parent.joinpath("elsewhere", "x.npy").rename(real.input)
        np.save(real.input, real.X)
        columns_of(open_run(real.run), Wanted(colors=("feature:8",)), ignore, [])


def test_names_make_clusters_and_their_table(real):
    notes = []
    render_run(real.run, real.run / "p.png", Wanted(names=real.names, colors=("cluster",)), 200, listener=notes.append)
    table = pyarrow.parquet.read_table(real.run / "labels.parquet")
    assert set(table["text"].to_pylist()) == {"apple", "pear"}
    assert [event.stage for event in notes if isinstance(event, StageDone)] == ["clusters"]


def test_a_page_of_a_run(real, tmp_path):
    assert view_run(real.run, tmp_path / "p.html", Wanted(names=real.names)) == tmp_path / "p.html"
    page = page_of(real.run, Wanted(names=real.names, colors=("feature:3",)), True, ignore)
    assert [column["name"] for column in page.meta["columns"]] == ["feature 3", "cluster"]
    assert page.meta["names"] and page.meta["features"]["top"] == 4
    assert {label["text"] for label in page.meta["labels"]} == {"apple", "pear"}
    bare = page_of(real.run, Wanted(), False, ignore)
    assert bare.meta["columns"] == [] and not bare.meta["names"] and bare.meta["features"] is None
    by_feature = page_of(real.run, Wanted(), True, ignore)
    assert {label["text"] for label in by_feature.meta["labels"]} == {"#3"}


def test_where_the_map_lies_is_shown_where_it_is_asked_for(run, tmp_path):
    """A page shows it first only then; what the user knows of the rows comes before it."""
    lost, parquet = np.linspace(0, 1, 50, dtype=np.float32), run / "embedding.parquet"
    write_parquet(parquet, points(), np.zeros(50, bool), np.full(50, -1), distortion=lost)
    plain = page_of(run, Wanted(), False, ignore).meta
    assert [column["name"] for column in plain["columns"]] == ["distortion"] and plain["first"] == -1
    assert page_of(run, Wanted(colors=("distortion",)), False, ignore).meta["first"] == 0
    assert np.array_equal(columns_of(open_run(run), Wanted(colors=("distortion",)), ignore, [])[0].values, lost)
    (tmp_path / "labels.txt").write_text("a\nb\n" * 25)
    labelled = page_of(run, Wanted(labels=tmp_path / "labels.txt"), False, ignore).meta
    assert [column["name"] for column in labelled["columns"]] == ["labels", "distortion"] and labelled["first"] == 0
    pictures = {render_run(run, run / "p.png", Wanted(colors=c), 200).read_bytes() for c in ((), ("distortion",))}
    assert len(pictures) == 2


def test_a_run_that_cannot_be_written_to_can_be_looked_at(real, tmp_path, monkeypatch):
    def refuse(path, clusters):
        raise OutputError(f"{path}: no.")

    monkeypatch.setattr("streamumap.show.clusters.write", refuse)
    notes = []
    view_run(real.run, tmp_path / "p.html", Wanted(names=real.names), listener=notes.append)
    assert [event.text for event in notes if isinstance(event, Note)] == [f"{real.run / 'labels.parquet'}: no."]


def test_the_run_on_its_way(real, tmp_path):
    from PIL import Image

    with pytest.raises(InputError, match="expected snapshots to animate, found none; .* --snapshots 30"):
        animate_run(real.run, tmp_path / "m.gif")
    (real.run / "snapshots").mkdir()
    for epoch in (10, 20, 100):
        np.save(real.run / "snapshots" / f"epoch_{epoch:06d}.npy", points(300) * epoch)
    animate_run(real.run, tmp_path / "m.gif", Wanted(colors=("feature:3",)), 200)
    with Image.open(tmp_path / "m.gif") as gif:
        assert gif.n_frames == 4 and gif.info["loop"] == 0 and gif.size == (250, 200)
        assert gif.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "the page is not white"


def test_the_table_opens_in_duckdb_as_it_is(real):
    duckdb = pytest.importorskip("duckdb")
    path = real.run / "embedding.parquet"
    assert duckdb.sql(f"select count(*), max(row_id), bool_or(is_zero) from '{path}'").fetchall() == [(300, 299, False)]


def test_a_picture_that_cannot_be_written(run):
    with pytest.raises(OutputError, match="no/such.png"):
        render_run(run, run / "no" / "such.png", size_px=200)
