import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pyarrow.parquet
import pytest
from matplotlib.image import imread
from show_checks import cloud

from streamumap.errors import InputError, OutputError
from streamumap.events import StageDone
from streamumap.show.annotations import ShowOptions
from streamumap.show.columns import label_column
from streamumap.show.figure import Mark, Picture
from streamumap.show.palette import DARK, LIGHT, linear, to_srgb
from streamumap.show.png import render, render_run
from streamumap.store.atomic import write_through
from streamumap.store.statefile import write_state


def png_texts(path):
    """The texts of a PNG by key, and the kinds of its chunks."""
    data, at, texts, kinds = path.read_bytes(), 8, {}, set()
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        kinds.add(kind)
        if kind == b"tEXt":
            key, value = body.split(b"\0")
            texts[key.decode()] = value.decode("latin-1")
        at += 12 + length
    return texts, kinds


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("labels, width", [(None, 300), (["a", "b", None] * 100, 375)])
def test_a_png_of_the_asked_size_in_the_themes_colours(tmp_path, dark, labels, width):
    path = tmp_path / "map.png"
    columns = [] if labels is None else [label_column("section", labels)]
    render(cloud(300), path, Picture(columns=columns, title="A map", subtitle="300 rows", size_px=300, dark=dark))
    picture = imread(path)
    assert picture.shape[:2] == (300, width)
    page = to_srgb(linear([(DARK if dark else LIGHT).page]))[0]
    np.testing.assert_allclose(picture[0, 0, :3], page, atol=1e-3)
    differs = np.abs(picture[..., :3] - page).max(axis=2) > 0.1
    assert differs[30:, :270].sum() > 500, "no rows drawn"
    assert differs[:26, :270].any(), "no heading"
    assert labels is None or differs[:, 285:].any(), "no legend"
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]


def test_the_same_input_gives_the_same_bytes_and_nothing_tells_when(tmp_path):
    code = (
        "import sys, numpy; from streamumap.show.png import Picture, render;"
        "from streamumap.show.columns import label_column;"
        "X = numpy.random.default_rng(0).normal(size=(99, 2));"
        "render(X, sys.argv[1], Picture([label_column('l', ['a', 'b', 'c'] * 33)], title='T', size_px=200))"
    )
    for name in "one.png", "two.png":
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    texts, kinds = png_texts(tmp_path / "one.png")
    assert texts == {"Title": "T", "Software": "streamumap"}
    assert b"tIME" not in kinds


def test_the_users_matplotlibrc_changes_nothing_and_is_left_alone(tmp_path):
    import matplotlib

    render(cloud(99), tmp_path / "plain.png", Picture(title="T", size_px=200))
    with matplotlib.rc_context({"text.color": "red", "font.family": "monospace", "savefig.transparent": True}):
        render(cloud(99), tmp_path / "styled.png", Picture(title="T", size_px=200))
        assert matplotlib.rcParams["savefig.transparent"] is True
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


def test_labels_and_titles_are_text_not_markup(tmp_path):
    strange = ["$x^", "two\nlines", "\\frac{", "漢字", "x" * 500, "\ud800", "", "_"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strange_column = label_column("$_{", [text for text in strange if text != "\ud800"] * 10 + [None] * 10)
        marks = [Mark(text, 0.0, i / 2) for i, text in enumerate(strange)]
        title = "$\\bad 漢 \ud800" * 50
        render(cloud(80), tmp_path / "map.png", Picture([strange_column], marks, title, size_px=200))
    assert imread(tmp_path / "map.png").shape[:2] == (200, 250)


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder.png").mkdir()
    for path in tmp_path / "missing" / "map.png", tmp_path / "file" / "map.png", tmp_path / "folder.png":
        with pytest.raises(OutputError, match="cannot be written"):
            render(cloud(9), path, Picture(size_px=200))
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left on device"):
        render(cloud(9), tmp_path / "file", Picture(size_px=200))
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


def test_importing_it_is_light_and_drawing_needs_no_pyplot(tmp_path):
    code = "import sys, streamumap.show.png; print({'matplotlib', 'torch', 'PIL'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
    code = "import sys, numpy, streamumap.show.png as r; r.render(numpy.eye(2), sys.argv[1], r.Picture(size_px=200));"
    code += "print('matplotlib.pyplot' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "map.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_a_finished_run(run):
    assert render_run(run, run / "p.png", size_px=200) == run / "p.png"
    assert (run / "p.png").read_bytes().startswith(b"\x89PNG")


def test_labels_and_darkness_change_the_picture(run):
    (run / "labels.txt").write_text("ä\nb\n" * 25, encoding="utf-8")
    pictures = set()
    for number, (labels, dark) in enumerate([(None, False), (None, True), (run / "labels.txt", False)]):
        pictures.add(render_run(run, run / f"{number}.png", ShowOptions(labels), 200, dark).read_bytes())
    assert len(pictures) == 3


def test_a_half_finished_run_is_drawn_from_its_checkpoint(tmp_path):
    (tmp_path / "scratch").mkdir()
    path = tmp_path / "scratch" / "layout.state"
    write_through(path, lambda file: write_state(file, {}, {"positions": cloud(50)}))
    assert render_run(tmp_path, tmp_path / "p.png", size_px=200).exists()


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
        render_run(run, run / "p.png", ShowOptions(run / "labels.txt"))


def test_names_make_clusters_and_their_table(real):
    notes = []
    render_run(
        real.run, real.run / "p.png", ShowOptions(names=real.names, colors=("cluster",)), 200, listener=notes.append
    )
    table = pyarrow.parquet.read_table(real.run / "labels.parquet")
    assert set(table["text"].to_pylist()) == {"apple", "pear"}
    assert [event.stage for event in notes if isinstance(event, StageDone)] == ["clusters"]


def test_a_picture_that_cannot_be_written(run):
    with pytest.raises(OutputError, match="no/such.png"):
        render_run(run, run / "no" / "such.png", size_px=200)
