"""The figure that a PNG and a GIF show: heading, map, names on it, legend or colour bar; several columns side by side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from streamumap.errors import InputError
from streamumap.show.colors import GREY, Coded, code, ends
from streamumap.show.columns import Column, Numbers
from streamumap.show.palette import DARK, LIGHT, Theme
from streamumap.show.raster import Layer, View, disc_radius, fit_view, rasterise, shade
from streamumap.show.sheet import LETTER_WIDTH, Sheet, clean, new_sheet

LEAST_PX, MOST_PX = 200, 4000
FADED = 0.45
"""Strength of the rows that lie below others."""
LEFT, BOTTOM, SIDE = 0.045, 0.02, 0.88
"""The square of the map, as shares of the figure's height."""

Legend = list[tuple[str, int, str]]
"""(label, rows, colour), from top to bottom."""


@dataclass(frozen=True)
class Mark:
    """A name on the map, at (x, y) in map units."""

    text: str
    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """The contents of a picture beside the positions, and its size.

    columns: without one, colour says how dense the rows are; one column colours its 20 most frequent labels or its
    numbers; several columns of numbers get a map each. marks: the most important first; a mark that would lie on an
    earlier one is left out. size_px: height, 200 to 4000 pixels; the picture is as wide, a quarter wider with a column.
    """

    columns: Sequence[Column] = ()
    marks: Sequence[Mark] = ()
    title: str = ""
    subtitle: str = ""
    size_px: int = 1600
    dark: bool = False

    @property
    def theme(self) -> Theme:
        return DARK if self.dark else LIGHT


@contextmanager
def drawn(embedding: np.ndarray, picture: Picture, view: View | None = None) -> Iterator[Sheet]:
    """Draws a map; the sheet is valid inside the `with`. Its subtitle also counts the rows that are not seen.

    embedding: (N, 2) or more columns, float32; rows that are not finite are left out. view: the square of the map to
    draw, by default the one around the rows. Raises InputError for another shape, number of values in a column or size.
    """
    _check(embedding, picture)
    view = view or fit_view(embedding)
    columns, size_px, theme = picture.columns, picture.size_px, picture.theme
    panels = _Panels(len(columns))
    width = panels.width if len(columns) > 1 else 1.25 if columns else 1
    with new_sheet(width * size_px, size_px, theme) as sheet:
        sheet.write(LEFT, 0.957, picture.title, 0.025, theme.ink, 0.91 * width, weight="bold")
        notes = " · ".join(_notes(len(embedding), view, picture.subtitle))
        sheet.write_lines(LEFT, 0.932, notes, 0.0135, theme.faint_ink, width - 0.09)
        if len(columns) > 1:
            _draw_multiples(sheet, panels, embedding, view, [code(column) for column in columns])
        else:
            coded = code(columns[0]) if columns else None
            sheet.picture(LEFT, BOTTOM, _raster(embedding, view, round(SIDE * size_px), coded, theme))
            _draw_marks(sheet, picture.marks, view)
            if coded:
                _draw_key(sheet, coded)
        yield sheet


def _check(embedding: np.ndarray, picture: Picture) -> None:
    if embedding.ndim != 2 or embedding.shape[1] < 2:
        raise InputError(f"embedding: expected (rows, 2 or more), found {embedding.shape}; a picture needs two axes.")
    for column in picture.columns:
        n_rows = len(column.values if isinstance(column, Numbers) else column.codes)
        if n_rows != len(embedding):
            raise InputError(
                f"{column.name}: expected {len(embedding)} values, one a row, found {n_rows}; give as many as rows."
            )
        if len(picture.columns) > 1 and not isinstance(column, Numbers):
            raise InputError(
                f"{column.name}: expected columns of numbers where there are several maps, found labels; draw it alone."
            )
    if not LEAST_PX <= picture.size_px <= MOST_PX:
        raise InputError(
            f"size_px: expected {LEAST_PX} to {MOST_PX} pixels, found {picture.size_px}; give a size in this range."
        )


def _notes(n_rows: int, view: View, subtitle: str) -> list[str]:
    notes = [subtitle] if subtitle else []
    notes += [f"{view.n_outside:,} of {n_rows:,} rows outside the view"] if view.n_outside else []
    notes += [f"{view.n_missing:,} rows without a position"] if view.n_missing else []
    return notes


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


class _Panels:
    """Positions of several maps: lengths are shares of the figure's height."""

    gap, heading, left, top = 0.02, 0.035, LEFT, 0.9

    def __init__(self, n: int):
        self.across = max(1, int(np.ceil(np.sqrt(n))))
        down = max(1, int(np.ceil(n / self.across)))
        self.side = (self.top - self.gap * down) / down - self.heading
        self.width = 2 * self.left + self.across * self.side + (self.across - 1) * self.gap

    def corner(self, i: int) -> tuple[float, float]:
        """The lower left corner of the i-th map."""
        x = self.left + i % self.across * (self.side + self.gap)
        return x, self.top - (i // self.across + 1) * (self.side + self.heading) - i // self.across * self.gap


def _draw_multiples(sheet: Sheet, panels: _Panels, embedding: np.ndarray, view: View, coded: Sequence[Coded]) -> None:
    side, letter = panels.side, min(0.0155, panels.side / 28)
    for i, column in enumerate(coded):
        x, y = panels.corner(i)
        sheet.picture(x, y, _raster(embedding, view, round(side * sheet.px), column, sheet.theme))
        sheet.write(x, y + side + letter / 2, column.name, letter, sheet.theme.ink, 0.45 * side, weight="bold")
        _draw_bar(sheet, column, x + 0.46 * side, y + side + letter / 2, 0.54 * side, letter)


def _draw_bar(sheet: Sheet, coded: Coded, x: float, y: float, width: float, letter: float) -> None:
    """Draws the ramp on a baseline, with the numbers of its ends to the left and right."""
    low, high = ends(coded)
    room = LETTER_WIDTH * letter * 9
    sheet.ramp(x + room, y, width - 2 * room, 0.8 * letter)
    sheet.write(x + 0.93 * room, y, low, letter, sheet.theme.faint_ink, room, ha="right")
    sheet.write(x + width - 0.93 * room, y, high, letter, sheet.theme.faint_ink, room)


def _draw_key(sheet: Sheet, coded: Coded) -> None:
    """Draws the legend or the colour bar to the right of the map."""
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


def _draw_marks(sheet: Sheet, marks: Sequence[Mark], view: View) -> None:
    letter = 0.0135
    taken: list[tuple[float, float, float]] = []  # middles and half widths
    for mark in marks:
        text = clean(mark.text)
        x, y = (mark.x - view.left) / view.side, (mark.y - view.bottom) / view.side
        half = LETTER_WIDTH * letter * len(text) / 2
        x, y = LEFT + x * SIDE, BOTTOM + y * SIDE
        outside = not (LEFT + half < x < LEFT + SIDE - half and BOTTOM + letter < y < BOTTOM + SIDE - letter)
        if outside or any(abs(x - x_) < half + half_ and abs(y - y_) < 1.5 * letter for x_, y_, half_ in taken):
            continue
        taken.append((x, y, half))
        sheet.write_outlined(x, y, text, letter)
