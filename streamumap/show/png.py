"""A map as a PNG: the raster, a heading, a legend or a colour bar, names of places; several columns as small multiples."""

import os
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from streamumap.errors import InputError
from streamumap.show.colors import GREY, Coded, code, ends
from streamumap.show.columns import Column, Numbers
from streamumap.show.palette import DARK, LIGHT, Theme
from streamumap.show.raster import Layer, View, disc_radius, fit_view, rasterise, shade
from streamumap.store.atomic import publish

DPI = 100
LEAST_PX, MOST_PX = 200, 4000
FADED = 0.45  # of the strength of rows, where others lie above
LETTER_WIDTH = 0.62  # of its height, about
Legend = list[tuple[str, int, str]]
"""(label, rows, colour), as it is read from top to bottom."""


@dataclass(frozen=True)
class Mark:
    """A name on the map, at (x, y) in map units."""

    text: str
    x: float
    y: float


def load() -> None:
    """Imports what `render` uses, so that it need not."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import matplotlib.patheffects  # noqa: F401


def render(
    embedding: np.ndarray,
    out_path: str | os.PathLike,
    *,
    columns: Sequence[Column] = (),
    marks: Sequence[Mark] = (),
    title: str = "",
    subtitle: str = "",
    size_px: int = 1600,
    dark: bool = False,
) -> None:
    """Draws the first two axes of a map into a PNG, which appears at out_path only when it is whole.

    embedding: (N, 2) or more columns, float32. Rows that are not finite are left out and a few far ones do not stretch
    the view; the subtitle says how many are not seen. columns: none, and colour says how dense a place is; one, whose
    20 most frequent labels or whose numbers have colours; several columns of numbers, a map each. marks: the most
    important first; one that would lie on an earlier one is left out. size_px: height of the picture, 200 to 4000
    pixels; it is as wide, a quarter wider with a column. The same arguments give the same bytes, as long as matplotlib
    is the same.

    Raises InputError for another shape, number of labels or size, OutputError where the file cannot be written.
    """
    how: dict = dict(columns=columns, marks=marks, title=title, subtitle=subtitle, size_px=size_px, dark=dark)
    publish(Path(out_path), lambda file: draw(embedding, file, **how))


def draw(
    embedding: np.ndarray,
    file: BinaryIO,
    *,
    columns: Sequence[Column] = (),
    marks: Sequence[Mark] = (),
    title: str = "",
    subtitle: str = "",
    size_px: int = 1600,
    dark: bool = False,
) -> None:
    """The same into a file that is open."""
    _check(embedding, columns, size_px)
    view = fit_view(embedding)
    with _drawn(embedding, view, columns, marks, title, subtitle, size_px, DARK if dark else LIGHT) as figure:
        metadata = {"Title": _clean(title), "Software": "streamumap"}
        figure.savefig(file, format="png", dpi=DPI, metadata=metadata)


def render_frame(
    embedding: np.ndarray,
    view: View,
    columns: Sequence[Column],
    title: str,
    subtitle: str,
    size_px: int,
    dark: bool,
) -> np.ndarray:
    """The same picture of a given square of the map, as (lines, columns, 3) uint8."""
    _check(embedding, columns, size_px)
    with _drawn(embedding, view, columns, (), title, subtitle, size_px, DARK if dark else LIGHT) as figure:
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def _check(embedding: np.ndarray, columns: Sequence[Column], size_px: int) -> None:
    if embedding.ndim != 2 or embedding.shape[1] < 2:
        raise InputError(f"embedding: expected (rows, 2 or more), found {embedding.shape}; a picture needs two axes.")
    for column in columns:
        n_rows = len(column.values if isinstance(column, Numbers) else column.codes)
        if n_rows != len(embedding):
            raise InputError(
                f"{column.name}: expected {len(embedding)} values, one a row, found {n_rows}; give as many as rows."
            )
        if len(columns) > 1 and not isinstance(column, Numbers):
            raise InputError(
                f"{column.name}: expected columns of numbers where there are several maps, found labels; draw it alone."
            )
    if not LEAST_PX <= size_px <= MOST_PX:
        raise InputError(
            f"size_px: expected {LEAST_PX} to {MOST_PX} pixels, found {size_px}; give a size in this range."
        )


@contextmanager
def _drawn(
    embedding: np.ndarray,
    view: View,
    columns: Sequence[Column],
    marks: Sequence[Mark],
    title: str,
    subtitle: str,
    size_px: int,
    theme: Theme,
) -> Iterator[Any]:
    """The matplotlib figure, valid inside the `with`."""
    import matplotlib

    notes = [subtitle] if subtitle else []
    notes += [f"{view.n_outside:,} of {len(embedding):,} rows outside the view"] if view.n_outside else []
    notes += [f"{view.n_missing:,} rows without a position"] if view.n_missing else []
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box is drawn for it
        panels = _Panels(len(columns))
        width = panels.width if len(columns) > 1 else 1.25 if columns else 1
        sheet = _Sheet(width * size_px, size_px, theme)
        sheet.write(0.045, 0.957, title, 0.025, theme.ink, 0.91 * width, weight="bold")
        sheet.write_lines(0.045, 0.932, " · ".join(notes), 0.0135, theme.faint_ink, width - 0.09)
        if len(columns) > 1:
            _draw_multiples(sheet, panels, embedding, view, [code(column) for column in columns])
        else:
            coded = code(columns[0]) if columns else None
            sheet.picture(0.045, 0.02, _raster(embedding, view, round(0.88 * size_px), coded, theme))
            _draw_marks(sheet, marks, view, 0.045, 0.02, 0.88)
            if coded:
                _draw_key(sheet, coded)
        yield sheet.figure


def _raster(embedding: np.ndarray, view: View, map_px: int, coded: Coded | None, theme: Theme) -> np.ndarray:
    """The map alone, (map_px, map_px, 3) uint8."""
    if coded is None:
        return shade([Layer(*rasterise(embedding, view, map_px, None, np.empty((0, 3))))], theme, view.n_inside)
    codes, colours = coded.codes, coded.colours(theme)
    if not coded.layered:
        return shade([Layer(*rasterise(embedding, view, map_px, codes, colours))], theme, view.n_inside)
    above = codes < GREY
    radius = max(1.5 * disc_radius(view.n_inside, map_px), disc_radius(4 * int(above.sum()), map_px))
    below = rasterise(embedding[~above], view, map_px, codes[~above], colours)
    top = rasterise(embedding[above], view, map_px, codes[above], colours, radius)
    return shade([Layer(*below, strength=FADED), Layer(*top, on_top=True)], theme, view.n_inside)


class _Sheet:
    """A figure on which lengths are shares of its height, from the lower left."""

    def __init__(self, width_px: float, height_px: float, theme: Theme):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.px, self.theme, self.width = height_px, theme, round(width_px) / height_px
        self.figure = Figure((round(width_px) / DPI, height_px / DPI), dpi=DPI, facecolor=theme.page)
        FigureCanvasAgg(self.figure)

    def picture(self, x: float, y: float, pixels: np.ndarray) -> None:
        """Pixels (lines, columns, 3) uint8 as they are, top line first; matplotlib's own images are resampled."""
        from matplotlib.artist import Artist

        class Picture(Artist):
            def draw(self, renderer: Any) -> None:
                renderer.draw_image(renderer.new_gc(), left, bottom, opaque)

        left, bottom = round(x * self.px), round(y * self.px)
        opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])[::-1]
        self.figure.add_artist(Picture())

    def write(self, x: float, y: float, text: str, letter: float, colour: str, room: float, **style: Any) -> None:
        """Text on its baseline, cut where it would leave its room."""
        text, n_letters = _clean(text), int(room / (LETTER_WIDTH * letter))
        shown = text if len(text) <= n_letters else text[: n_letters - 1] + "…"
        style = {"va": "baseline"} | style
        size = letter * self.px * 72 / DPI
        self.figure.text(x / self.width, y, shown, fontsize=size, color=colour, parse_math=False, **style)

    def write_lines(self, x: float, y: float, text: str, letter: float, colour: str, room: float) -> None:
        """Text on two lines, broken where there is punctuation; what is too long for them is cut."""
        whole = re.sub(r"(?<![,;·]) ", "\u00a0", _clean(text))  # a figure and its number stay together
        lines = textwrap.wrap(whole, int(room / (LETTER_WIDTH * letter)), max_lines=2, placeholder=" …")
        for number, line in enumerate(lines or [""]):
            self.write(x, y - 1.5 * letter * number, line.replace("\u00a0", " "), letter, colour, room)

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        from matplotlib.patches import Circle
        from matplotlib.transforms import IdentityTransform

        middle = (x * self.px, y * self.px)
        self.figure.add_artist(
            Circle(middle, radius * self.px, color=colour, linewidth=0, transform=IdentityTransform())
        )


class _Panels:
    """Where several maps lie: lengths as shares of the picture's height."""

    gap, heading, left, top = 0.02, 0.035, 0.045, 0.9

    def __init__(self, n: int):
        self.across = max(1, int(np.ceil(np.sqrt(n))))
        down = max(1, int(np.ceil(n / self.across)))
        self.side = (self.top - self.gap * down) / down - self.heading
        self.width = 2 * self.left + self.across * self.side + (self.across - 1) * self.gap

    def place(self, i: int) -> tuple[float, float]:
        """The lower left corner of the i-th map."""
        x = self.left + i % self.across * (self.side + self.gap)
        return x, self.top - (i // self.across + 1) * (self.side + self.heading) - i // self.across * self.gap


def _draw_multiples(sheet: _Sheet, panels: _Panels, embedding: np.ndarray, view: View, coded: Sequence[Coded]) -> None:
    side, letter = panels.side, min(0.0155, panels.side / 28)
    for i, column in enumerate(coded):
        x, y = panels.place(i)
        sheet.picture(x, y, _raster(embedding, view, round(side * sheet.px), column, sheet.theme))
        sheet.write(x, y + side + letter / 2, column.name, letter, sheet.theme.ink, 0.45 * side, weight="bold")
        _draw_bar(sheet, column, x + 0.46 * side, y + side + letter / 2, 0.54 * side, letter)


def _draw_bar(sheet: _Sheet, coded: Coded, x: float, y: float, width: float, letter: float) -> None:
    """The ramp on a baseline, the numbers of its ends to its left and right."""
    from matplotlib.colors import LinearSegmentedColormap

    low, high = ends(coded)
    room = LETTER_WIDTH * letter * 9
    ramp = LinearSegmentedColormap.from_list("ramp", sheet.theme.ramp)
    columns, lines = max(2, round((width - 2 * room) * sheet.px)), max(2, round(0.8 * letter * sheet.px))
    sheet.picture(x + room, y, np.tile(ramp(np.linspace(0, 1, columns), bytes=True)[:, :3], (lines, 1, 1)))
    sheet.write(x + 0.93 * room, y, low, letter, sheet.theme.faint_ink, room, ha="right")
    sheet.write(x + width - 0.93 * room, y, high, letter, sheet.theme.faint_ink, room)


def _draw_key(sheet: _Sheet, coded: Coded) -> None:
    """The legend or the colour bar, to the right of the map."""
    letter, x, y = 0.0155, 0.955, 0.875
    theme = sheet.theme
    if coded.labels is None:
        sheet.write(x - letter / 2, y, coded.name, letter, theme.ink, 0.26, weight="bold")
        _draw_bar(sheet, coded, x - letter / 2, y - 2.2 * letter, 0.27, letter)
        y -= 5 * letter
    for label, n_rows, colour in legend_of(coded, theme):
        sheet.dot(x, y + 0.36 * letter, 0.42 * letter, colour)
        sheet.write(x + 1.1 * letter, y, label, letter, theme.ink, 0.165)
        sheet.write(1.22, y, f"{n_rows:,}", letter, theme.faint_ink, 1, ha="right")
        y -= 2 * letter


def legend_of(coded: Coded, theme: Theme) -> Legend:
    """The labels that have a colour of their own, then what is grey."""
    n_colours = len(theme.palette)
    labels = coded.labels or ()
    legend = list(zip(labels[:n_colours], coded.counts[:n_colours], theme.palette, strict=False))
    if labels:
        n_others, rows = len(labels) - n_colours + coded.n_rarer, sum(coded.counts[n_colours:]) + coded.n_grey
        legend += [(f"{n_others:,} other{'s'[: n_others > 1]}", rows, theme.other)] if rows else []
    elif coded.n_grey:
        legend.append(("zero", coded.n_grey, theme.other))
    if coded.n_none:
        legend.append(("no label" if coded.labels is not None else "no value", coded.n_none, theme.other))
    return legend


def _draw_marks(sheet: _Sheet, marks: Sequence[Mark], view: View, left: float, bottom: float, side: float) -> None:
    from matplotlib.patheffects import withStroke

    letter = 0.0135
    outline = withStroke(linewidth=0.28 * letter * sheet.px * 72 / DPI, foreground=sheet.theme.page, alpha=0.85)
    taken: list[tuple[float, float, float]] = []  # middles and half widths
    for mark in marks:
        text = _clean(mark.text)
        x, y = (mark.x - view.left) / view.side, (mark.y - view.bottom) / view.side
        half = LETTER_WIDTH * letter * len(text) / 2
        x, y = left + x * side, bottom + y * side
        outside = not (left + half < x < left + side - half and bottom + letter < y < bottom + side - letter)
        if outside or any(abs(x - x_) < half + half_ and abs(y - y_) < 1.5 * letter for x_, y_, half_ in taken):
            continue
        taken.append((x, y, half))
        style = {"ha": "center", "va": "center", "weight": "bold", "path_effects": [outline]}
        sheet.write(x, y, text, letter, sheet.theme.ink, 1, **style)


def _clean(text: str) -> str:
    """One line that can be encoded."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
