import numpy as np
import pytest
from matplotlib.image import imread
from show_checks import cloud

from streamumap.errors import InputError
from streamumap.show.colors import code
from streamumap.show.columns import Numbers, label_column
from streamumap.show.figure import Mark, Picture, legend_of
from streamumap.show.palette import DARK, LIGHT, linear, to_srgb
from streamumap.show.png import render
from streamumap.show.raster import fit_view
from streamumap.show.sheet import Sheet


def subtitle_of(monkeypatch, embedding, tmp_path, **options):
    """The subtitle that is drawn."""
    seen = []
    write = Sheet.write
    monkeypatch.setattr(
        Sheet, "write", lambda sheet, *rest, **style: seen.append(rest[2]) or write(sheet, *rest, **style)
    )
    render(embedding, tmp_path / "map.png", Picture(size_px=200, **options))
    return seen[1]


@pytest.mark.parametrize("n", [1000, 60_000])
def test_a_few_far_rows_do_not_shrink_the_map_and_are_told(monkeypatch, tmp_path, n):
    X = cloud(n)
    side = fit_view(X).side
    X[:4] = [[900, 0], [0, -900], [1e30, 5], [-700, 700]]
    view = fit_view(X)
    assert view.side < 1.2 * side and 4 <= view.n_outside <= n // 100
    subtitle = subtitle_of(monkeypatch, X, tmp_path, subtitle="given")
    assert subtitle == f"given · {view.n_outside} of {n:,} rows outside the view"


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
    columns = [label_column("l", ["a"] * len(X))] if with_labels else []
    render(X.astype(np.float32), tmp_path / "map.png", Picture(columns=columns, size_px=200))
    assert imread(tmp_path / "map.png").ndim == 3


def test_the_third_axis_changes_nothing(tmp_path):
    X = cloud(50, columns=3)
    render(X, tmp_path / "3.png", Picture(size_px=200))
    render(X[:, :2], tmp_path / "2.png", Picture(size_px=200))
    assert (tmp_path / "3.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_the_twenty_most_frequent_labels_get_colours():
    labels = [f"l{i:02}" for i in range(25) for _ in range(30 - i)] + [None] * 7
    coded = code(label_column("l", labels))
    legend = legend_of(coded, LIGHT)
    assert [label for label, _, _ in legend] == [f"l{i:02}" for i in range(20)] + ["5 others", "no label"]
    assert [n for _, n, _ in legend] == [*range(30, 10, -1), 10 + 9 + 8 + 7 + 6, 7]
    assert [colour for _, _, colour in legend] == [*LIGHT.palette, LIGHT.other, LIGHT.other]
    drawn = coded.colours(LIGHT)[coded.codes]
    np.testing.assert_allclose(drawn[[0, 30]], linear(LIGHT.palette[:2]))
    np.testing.assert_allclose(drawn[-20:], np.repeat(linear([LIGHT.other]), 20, axis=0))


def test_few_labels_and_ties():
    legend = legend_of(code(label_column("l", ["b", "a", None])), DARK)
    assert legend == [("a", 1, DARK.palette[0]), ("b", 1, DARK.palette[1]), ("no label", 1, DARK.other)]


def test_rows_of_a_feature_lie_above_the_others(tmp_path):
    X = np.zeros((2000, 2), np.float32)
    X[-2:] = [[-1, -1], [1, 1]]
    values = np.zeros(2000, np.float32)
    values[7] = 5
    render(X, tmp_path / "map.png", Picture(columns=[Numbers("f", values, zero_is_none=True)], size_px=400))
    picture = to_srgb(linear([LIGHT.ramp[-1]]))[0]
    middle = imread(tmp_path / "map.png")[400 - 8 - 176, 18 + 176, :3]
    assert np.abs(middle - picture).max() < 0.12


def test_several_columns_are_a_map_each(tmp_path):
    X, values = cloud(200), np.arange(200, dtype=np.float32)
    columns = [Numbers(f"c{i}", values * i) for i in range(1, 6)]
    render(X, tmp_path / "map.png", Picture(columns=columns, size_px=400))
    picture = imread(tmp_path / "map.png")
    assert picture.shape[0] == 400 and picture.shape[1] > 400
    with pytest.raises(InputError, match="expected columns of numbers where there are several maps, found labels"):
        render(X, tmp_path / "map.png", Picture(columns=[columns[0], label_column("l", ["a"] * 200)], size_px=400))


def test_marks_stay_on_the_map_and_off_each_other(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Sheet, "write", lambda sheet, x, y, text, *rest, **style: seen.append(text))
    X = np.array([[-1, -1], [1, 1]] * 20, np.float32)
    marks = [Mark("first", 0, 0), Mark("over it", 0.01, 0.01), Mark("apart", 0, 0.5), Mark("far out", 5, 5)]
    render(X, tmp_path / "map.png", Picture(marks=marks, size_px=400))
    assert seen[2:] == ["first", "apart"]


def test_what_was_measured_takes_two_lines_where_one_is_too_short(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Sheet, "write", lambda sheet, x, y, text, *rest, **style: seen.append((text, y)))
    for subtitle in ("short", "recall 0.988 ± 0.001, " * 8, "recall 0.988 ± 0.001, " * 80):
        render(cloud(9), tmp_path / "map.png", Picture(subtitle=subtitle, size_px=400))
    (short, _), (first, high), (second, low), (_, _), (last, _) = [line for line in seen if line[0]]
    assert short == "short" and f"{first} {second}" == ("recall 0.988 ± 0.001, " * 8).strip()
    assert first.endswith("0.001,"), "a number and its error on one line"
    assert high > low > 0.9, "above the map"
    assert last.endswith("…")


def test_refuses_other_arguments(tmp_path):
    for X, options, message in [
        (cloud(9, columns=1), {}, r"expected \(rows, 2 or more\), found \(9, 1\)"),
        (np.zeros(9), {}, r"found \(9,\)"),
        (cloud(9), {"columns": [label_column("l", ["a"] * 8)]}, "l: expected 9 values, one a row, found 8"),
        (cloud(9), {"size_px": 199}, "found 199"),
        (cloud(9), {"size_px": 4001}, "found 4001"),
    ]:
        with pytest.raises(InputError, match=message):
            render(X, tmp_path / "map.png", Picture(**options))
    assert not list(tmp_path.iterdir())
