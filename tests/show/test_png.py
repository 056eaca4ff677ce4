import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from streamumap.errors import InputError, OutputError
from streamumap.show.colors import code
from streamumap.show.columns import Numbers
from streamumap.show.columns import labels as column_of_labels
from streamumap.show.palette import DARK, LIGHT, linear, to_srgb
from streamumap.show.png import Mark, _Sheet, legend_of, render
from streamumap.show.raster import Layer, View, density, disc_radius, draw_discs, fit_view, rasterise, shade


def cloud(n, seed=0, columns=2):
    return np.random.default_rng(seed).normal(size=(n, columns)).astype(np.float32)


def png_texts(path):
    """The tEXt chunks, and every kind of chunk."""
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


def subtitle_of(monkeypatch, embedding, tmp_path, **options):
    """The subtitle as it is drawn."""
    seen = []
    write = _Sheet.write
    monkeypatch.setattr(
        _Sheet, "write", lambda sheet, *rest, **style: seen.append(rest[2]) or write(sheet, *rest, **style)
    )
    render(embedding, tmp_path / "map.png", size_px=200, **options)
    return seen[1]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("labels, width", [(None, 300), (["a", "b", None] * 100, 375)])
def test_a_png_of_the_asked_size_in_the_themes_colours(tmp_path, dark, labels, width):
    path = tmp_path / "map.png"
    columns = [] if labels is None else [column_of_labels("section", labels)]
    render(cloud(300), path, columns=columns, title="A map", subtitle="300 rows", size_px=300, dark=dark)
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
        "import sys, numpy; from streamumap.show.png import render; from streamumap.show.columns import labels;"
        "X = numpy.random.default_rng(0).normal(size=(99, 2));"
        "render(X, sys.argv[1], columns=[labels('l', ['a', 'b', 'c'] * 33)], title='T', size_px=200)"
    )
    for name in "one.png", "two.png":
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    texts, kinds = png_texts(tmp_path / "one.png")
    assert texts == {"Title": "T", "Software": "streamumap"}
    assert b"tIME" not in kinds


def test_the_users_matplotlibrc_changes_nothing_and_is_left_alone(tmp_path):
    import matplotlib

    render(cloud(99), tmp_path / "plain.png", title="T", size_px=200)
    with matplotlib.rc_context({"text.color": "red", "font.family": "monospace", "savefig.transparent": True}):
        render(cloud(99), tmp_path / "styled.png", title="T", size_px=200)
        assert matplotlib.rcParams["savefig.transparent"] is True
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


def test_labels_and_titles_are_text_not_markup(tmp_path):
    strange = ["$x^", "two\nlines", "\\frac{", "漢字", "x" * 500, "\ud800", "", "_"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strange_column = column_of_labels("$_{", [text for text in strange if text != "\ud800"] * 10 + [None] * 10)
        marks = [Mark(text, 0.0, i / 2) for i, text in enumerate(strange)]
        render(
            cloud(80),
            tmp_path / "map.png",
            columns=[strange_column],
            marks=marks,
            title="$\\bad 漢 \ud800" * 50,
            size_px=200,
        )
    assert imread(tmp_path / "map.png").shape[:2] == (200, 250)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 300), map_px=st.integers(150, 400), seed=st.integers(0, 99))
def test_every_row_is_drawn(n, map_px, seed):
    X = cloud(n, seed)
    view = fit_view(X)
    assert view.n_inside + view.n_outside == n
    weight, light = rasterise(X, View(-9, -9, 18, n, 0, 0), map_px, None, linear(["#000000"]))
    assert light is None
    area = np.pi * disc_radius(n, map_px) ** 2
    assert 0.8 * n * area < weight.sum() < 1.7 * n * area  # a pixel on the edge of a disc counts in part
    columns, lines = ((X + 9) / 18 * map_px).astype(int).T
    assert (weight[map_px - 1 - lines, columns] > 0.2).all()


def test_many_rows_are_drawn_in_chunks_as_in_one(monkeypatch):
    X = cloud(5000)
    X[17] = np.nan
    codes, colours = np.arange(5000, dtype=np.uint8) % 3, linear(["#ff0000", "#00ff00", "#0000ff"])
    whole = rasterise(X, fit_view(X), 200, codes, colours)
    monkeypatch.setattr("streamumap.show.raster.CHUNK_ROWS", 700)
    monkeypatch.setattr("streamumap.show.raster.CHUNK_PIXELS", 2000)
    assert fit_view(X).n_missing == 1
    for got, want in zip(rasterise(X, fit_view(X), 200, codes, colours), whole, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-9)
    np.testing.assert_allclose(whole[1].sum(axis=0), whole[0], atol=1e-9)


def test_up_is_up_and_a_pixel_is_the_mean_of_its_labels():
    X = np.array([[0, 1], [0, 1], [1, 0]], np.float32)
    view, colours = View(-0.5, -0.5, 2, 3, 0, 0), linear(["#ff0000", "#0000ff"])
    weight, light = rasterise(X, view, 200, np.array([0, 1, 1]), colours)
    top, bottom = (50, 50), (150, 150)
    assert weight[top] == pytest.approx(2 * weight[bottom]) and weight[150, 50] == 0
    np.testing.assert_allclose(light[:, *top] / weight[top], [0.5, 0, 0.5], atol=1e-9)
    np.testing.assert_allclose(light[:, *bottom] / weight[bottom], [0, 0, 1], atol=1e-9)


def test_denser_is_more_opaque():
    weight = np.array([[0, 1, 2, 50, 900.0]])
    for theme in LIGHT, DARK:
        colour = np.broadcast_to(linear([theme.other]).T[:, :, None], (3, 1, 5))
        for light in None, colour * weight:
            picture = shade([Layer(weight, light)], theme, 3_000_000).astype(int)
            from_page = np.abs(picture - picture[0, 0]).sum(axis=2)[0]
            assert (np.diff(from_page) > 0).all()
    alone = [shade([Layer(np.ones((1, 1)), np.ones((3, 1, 1)))], DARK, n).min() for n in (100, 10_000, 1_000_000)]
    assert alone == sorted(alone, reverse=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=40))
def test_density_is_monotonous_and_within_bounds(weights):
    weight = np.sort(np.array(weights))
    dense = density(weight)
    assert (np.diff(dense) >= -1e-12).all() and dense.min() >= 0 and dense.max() <= 1


@pytest.mark.parametrize("n", [1000, 60_000])
def test_a_few_far_rows_do_not_shrink_the_map_and_are_told(monkeypatch, tmp_path, n):
    X = cloud(n)
    side = fit_view(X).side
    X[:4] = [[900, 0], [0, -900], [1e30, 5], [-700, 700]]
    view = fit_view(X)
    assert view.side < 1.2 * side and 4 <= view.n_outside <= n // 100
    subtitle = subtitle_of(monkeypatch, X, tmp_path, subtitle="given")
    assert subtitle == f"given · {view.n_outside} of {n:,} rows outside the view"


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 2000), seed=st.integers(0, 99), scale=st.sampled_from([1e-6, 1.0, 1e9]))
def test_an_ordinary_map_is_seen_whole(n, seed, scale):
    X = (np.random.default_rng(seed).uniform(-1, 1, (n, 2)) * scale).astype(np.float32)
    view = fit_view(X)
    assert view.n_outside == 0 and view.n_inside == n
    assert n == 1 or view.side == pytest.approx(1.04 * np.ptp(X.astype(float), axis=0).max())


def test_a_small_island_stays_in_the_view(monkeypatch, tmp_path):
    X = cloud(10_000)
    X[:40] += 100
    assert fit_view(X).n_outside == 0
    assert subtitle_of(monkeypatch, X, tmp_path) == ""


def test_rows_without_a_position_are_told(monkeypatch, tmp_path):
    X = cloud(1200)
    X[:1100, 1], X[1100, 0] = np.nan, np.inf
    assert subtitle_of(monkeypatch, X, tmp_path) == "1,101 rows without a position"
    X[:] = np.nan
    assert subtitle_of(monkeypatch, X, tmp_path) == "1,200 rows without a position"


@pytest.mark.parametrize(
    "X",
    [
        np.full((7, 2), 3.0),
        np.full((7, 2), np.nan),
        np.zeros((0, 2)),
        np.array([[1e38, -1e38], [-1e38, 1e38]]),
        np.array([[0, 0]] * 99 + [[5, 5]]),
        np.array([[1e-45, 0], [0, 0], [0, 0]]),
        cloud(20, columns=3),
    ],
)
@pytest.mark.parametrize("with_labels", [False, True])
def test_odd_maps(tmp_path, X, with_labels):
    columns = [column_of_labels("l", ["a"] * len(X))] if with_labels else []
    render(X.astype(np.float32), tmp_path / "map.png", columns=columns, size_px=200)
    assert imread(tmp_path / "map.png").ndim == 3


def test_the_third_axis_changes_nothing(tmp_path):
    X = cloud(50, columns=3)
    render(X, tmp_path / "3.png", size_px=200)
    render(X[:, :2], tmp_path / "2.png", size_px=200)
    assert (tmp_path / "3.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_the_twenty_most_frequent_labels_get_colours():
    labels = [f"l{i:02}" for i in range(25) for _ in range(30 - i)] + [None] * 7
    coded = code(column_of_labels("l", labels))
    legend = legend_of(coded, LIGHT)
    assert [label for label, _, _ in legend] == [f"l{i:02}" for i in range(20)] + ["5 others", "no label"]
    assert [n for _, n, _ in legend] == [*range(30, 10, -1), 10 + 9 + 8 + 7 + 6, 7]
    assert [colour for _, _, colour in legend] == [*LIGHT.palette, LIGHT.other, LIGHT.other]
    drawn = coded.colours(LIGHT)[coded.codes]
    np.testing.assert_allclose(drawn[[0, 30]], linear(LIGHT.palette[:2]))
    np.testing.assert_allclose(drawn[-20:], np.repeat(linear([LIGHT.other]), 20, axis=0))


def test_few_labels_and_ties():
    legend = legend_of(code(column_of_labels("l", ["b", "a", None])), DARK)
    assert legend == [("a", 1, DARK.palette[0]), ("b", 1, DARK.palette[1]), ("no label", 1, DARK.other)]


@pytest.mark.parametrize("radius", [0.5, 0.6, 0.74])
def test_many_small_discs_are_as_the_plain_ones_to_half_a_pixel(radius):
    """Rows in the middles of quarters of pixels are drawn the same; others as if they lay in the nearest one."""
    rng, map_px = np.random.default_rng(3), 60
    halves = rng.integers(0, 2 * map_px, (500, 2))
    view, codes, colours = View(0, 0, map_px, 500, 0, 0), rng.integers(0, 4, 500), rng.random((4, 3))
    middles = ((halves + 0.5) / 2).astype(np.float32)
    want = draw_discs(middles, view, map_px, codes, colours, radius)
    for away in 0, 0.2:
        X = middles + rng.uniform(-away, away, middles.shape).astype(np.float32)
        weight, light = rasterise(X, view, map_px, codes, colours, radius)
        np.testing.assert_allclose(weight[::-1], want[0], atol=1e-9)
        np.testing.assert_allclose(light[:, ::-1], want[1:], atol=1e-9)


def test_rows_of_a_feature_lie_above_the_others(tmp_path):
    X = np.zeros((2000, 2), np.float32)
    X[-2:] = [[-1, -1], [1, 1]]
    values = np.zeros(2000, np.float32)
    values[7] = 5
    render(X, tmp_path / "map.png", columns=[Numbers("f", values, zero_is_none=True)], size_px=400)
    picture = to_srgb(linear([LIGHT.ramp[-1]]))[0]
    middle = imread(tmp_path / "map.png")[400 - 8 - 176, 18 + 176, :3]
    assert np.abs(middle - picture).max() < 0.12


def test_several_columns_are_a_map_each(tmp_path):
    X, values = cloud(200), np.arange(200, dtype=np.float32)
    columns = [Numbers(f"c{i}", values * i) for i in range(1, 6)]
    render(X, tmp_path / "map.png", columns=columns, size_px=400)
    picture = imread(tmp_path / "map.png")
    assert picture.shape[0] == 400 and picture.shape[1] > 400
    with pytest.raises(InputError, match="expected columns of numbers where there are several maps, found labels"):
        render(X, tmp_path / "map.png", columns=[columns[0], column_of_labels("l", ["a"] * 200)], size_px=400)


def test_marks_stay_on_the_map_and_off_each_other(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(_Sheet, "write", lambda sheet, x, y, text, *rest, **style: seen.append(text))
    X = np.array([[-1, -1], [1, 1]] * 20, np.float32)
    marks = [Mark("first", 0, 0), Mark("over it", 0.01, 0.01), Mark("apart", 0, 0.5), Mark("far out", 5, 5)]
    render(X, tmp_path / "map.png", marks=marks, size_px=400)
    assert seen[2:] == ["first", "apart"]


def test_what_was_measured_takes_two_lines_where_one_is_too_short(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(_Sheet, "write", lambda sheet, x, y, text, *rest, **style: seen.append((text, y)))
    for subtitle in ("short", "recall 0.988 ± 0.001, " * 8, "recall 0.988 ± 0.001, " * 80):
        render(cloud(9), tmp_path / "map.png", subtitle=subtitle, size_px=400)
    (short, _), (first, high), (second, low), (_, _), (last, _) = [line for line in seen if line[0]]
    assert short == "short" and f"{first} {second}" == ("recall 0.988 ± 0.001, " * 8).strip()
    assert first.endswith("0.001,"), "a number and its error on one line"
    assert high > low > 0.9, "above the map"
    assert last.endswith("…")


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_palette_is_distinct(theme):
    colours = to_srgb(linear([*theme.palette, theme.other, theme.page]))
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + np.eye(len(colours))
    assert len(theme.palette) == 20 and apart.min() > 0.12


def test_refuses_other_arguments(tmp_path):
    for X, options, message in [
        (cloud(9, columns=1), {}, r"expected \(rows, 2 or more\), found \(9, 1\)"),
        (np.zeros(9), {}, r"found \(9,\)"),
        (cloud(9), {"columns": [column_of_labels("l", ["a"] * 8)]}, "l: expected 9 values, one a row, found 8"),
        (cloud(9), {"size_px": 199}, "found 199"),
        (cloud(9), {"size_px": 4001}, "found 4001"),
    ]:
        with pytest.raises(InputError, match=message):
            render(X, tmp_path / "map.png", **options)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder.png").mkdir()
    for path in tmp_path / "missing" / "map.png", tmp_path / "file" / "map.png", tmp_path / "folder.png":
        with pytest.raises(OutputError, match="cannot be written"):
            render(cloud(9), path, size_px=200)
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left on device"):
        render(cloud(9), tmp_path / "file", size_px=200)
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


def test_importing_it_is_light_and_drawing_needs_no_pyplot(tmp_path):
    code = "import sys, streamumap.show.png; print({'matplotlib', 'torch', 'PIL'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
    code = "import sys, numpy, streamumap.show.png as r; r.render(numpy.eye(2), sys.argv[1], size_px=200);"
    code += "print('matplotlib.pyplot' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "map.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
