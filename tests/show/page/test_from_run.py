import numpy as np
from show_checks import cloud

from streamumap.errors import OutputError
from streamumap.events import Note, ignore
from streamumap.show.annotations import ShowOptions, columns_of
from streamumap.show.page.from_run import page_of, view_run
from streamumap.show.png import render_run
from streamumap.show.saved_run import open_run
from streamumap.show.table import write_parquet


def test_a_page_of_a_run(real, tmp_path):
    assert view_run(real.run, tmp_path / "p.html", ShowOptions(names=real.names)) == tmp_path / "p.html"
    page = page_of(real.run, ShowOptions(names=real.names, colors=("feature:3",)), True, ignore)
    assert [column["name"] for column in page.meta["columns"]] == ["feature 3", "cluster"]
    assert page.meta["names"] and page.meta["features"]["top"] == 4
    assert {label["text"] for label in page.meta["labels"]} == {"apple", "pear"}
    bare = page_of(real.run, ShowOptions(), False, ignore)
    assert bare.meta["columns"] == [] and not bare.meta["names"] and bare.meta["features"] is None
    by_feature = page_of(real.run, ShowOptions(), True, ignore)
    assert {label["text"] for label in by_feature.meta["labels"]} == {"#3"}


def test_where_the_map_lies_is_shown_where_it_is_asked_for(run, tmp_path):
    """The page shows distortion first only on request; the user's own columns come before it."""
    lost, parquet = np.linspace(0, 1, 50, dtype=np.float32), run / "embedding.parquet"
    write_parquet(parquet, cloud(50), np.zeros(50, bool), np.full(50, -1), distortion=lost)
    plain = page_of(run, ShowOptions(), False, ignore).meta
    assert [column["name"] for column in plain["columns"]] == ["distortion"] and plain["first"] == -1
    assert page_of(run, ShowOptions(colors=("distortion",)), False, ignore).meta["first"] == 0
    assert np.array_equal(columns_of(open_run(run), ShowOptions(colors=("distortion",)), ignore, [])[0].values, lost)
    (tmp_path / "labels.txt").write_text("a\nb\n" * 25)
    labelled = page_of(run, ShowOptions(labels=tmp_path / "labels.txt"), False, ignore).meta
    assert [column["name"] for column in labelled["columns"]] == ["labels", "distortion"] and labelled["first"] == 0
    pictures = {render_run(run, run / "p.png", ShowOptions(colors=c), 200).read_bytes() for c in ((), ("distortion",))}
    assert len(pictures) == 2


def test_a_run_that_cannot_be_written_to_can_be_looked_at(real, tmp_path, monkeypatch):
    def refuse(path, clusters):
        raise OutputError(f"{path}: no.")

    monkeypatch.setattr("streamumap.show.clusters.write", refuse)
    notes = []
    view_run(real.run, tmp_path / "p.html", ShowOptions(names=real.names), listener=notes.append)
    assert [event.text for event in notes if isinstance(event, Note)] == [f"{real.run / 'labels.parquet'}: no."]
