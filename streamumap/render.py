"""A map as a PNG: every row is drawn, three million as well as a thousand.

A row is a disc; discs shrink as rows become many. Opacity says how dense a place is, half by its rank among all places
drawn (histogram equalisation, as datashader has it), half by the logarithm of its density. Colour says what is there:
the mean, in linear light, of the colours of the rows.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.errors import InputError, OutputError

CHUNK_ROWS = 1 << 18
CHUNK_PIXELS = 1 << 21  # pixels under the discs that are drawn at once
DPI = 100
Legend = list[tuple[str, int, str]]
"""(label, rows, colour), as it is read from top to bottom."""


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb. The palettes keep the nearest two of 20 far apart in OKLab (a local search), for usual eyes
    and for protanopia and deuteranopia as simulated by Machado, Oliveira, Fernandes (2009); the first are the farthest.
    """

    page: str
    ink: str
    faint_ink: str
    other: str
    palette: tuple[str, ...]
    ramp: tuple[str, ...]  # where there are no labels: from few rows to many


LIGHT = Theme(
    page="#ffffff",
    ink="#16191d",
    faint_ink="#6a7178",
    other="#b8b8b8",
    palette=(
        "#0070ad",
        "#ccc200",
        "#7a1429",
        "#adb8ff",
        "#00ad85",
        "#857a00",
        "#66008f",
        "#854700",
        "#473dc2",
        "#7ad685",
        "#523366",
        "#ad298f",
        "#5ca3b8",
        "#00a3ff",
        "#cc8f00",
        "#8f5ce0",
        "#cc295c",
        "#007047",
        "#ff5c70",
        "#7a85cc",
    ),
    ramp=("#a9cfe0", "#5ba3c4", "#2a6fa8", "#1d3f86", "#120f45"),
)
DARK = Theme(
    page="#0d1014",
    ink="#eceff2",
    faint_ink="#8b949d",
    other="#6b6b72",
    palette=(
        "#5cb8eb",
        "#cc3d0a",
        "#f5e000",
        "#a347a3",
        "#52ffcc",
        "#ff9970",
        "#337af5",
        "#cc8fad",
        "#a3ebff",
        "#a39900",
        "#ffd68f",
        "#3d8547",
        "#99cca3",
        "#998fff",
        "#f5ad00",
        "#ff667a",
        "#33d6d6",
        "#d65299",
        "#855ccc",
        "#708fcc",
    ),
    ramp=("#3a5596", "#3f6fb0", "#4fb0c0", "#b5e3a8", "#fffbd6"),
)


@dataclass(frozen=True)
class View:
    """The square of the map that is drawn, in map units, and how many rows it holds."""

    left: float
    bottom: float
    side: float
    n_inside: int
    n_outside: int
    n_missing: int  # rows that are not finite


def render(
    embedding: np.ndarray,
    out_path: str | os.PathLike,
    *,
    labels: Sequence[str | None] | None = None,
    title: str = "",
    subtitle: str = "",
    size_px: int = 1600,
    dark: bool = False,
) -> None:
    """Draws the first two axes of a map into a PNG, which appears at out_path only when it is whole.

    embedding: (N, 2) or more columns, float32. Rows that are not finite are left out and a few far ones do not stretch
    the view; the subtitle says how many are not seen. labels: N of them; the 20 most frequent get a colour and a line
    in the legend, the others and None are grey. size_px: height of the picture, 200 to 4000 pixels; it is as wide,
    a quarter wider with labels. The same arguments give the same bytes, as long as matplotlib is the same.

    Raises InputError for another shape, number of labels or size, OutputError where the file cannot be written.
    """
    _check(embedding, labels, size_px)
    theme = DARK if dark else LIGHT
    legend, codes = ([], None) if labels is None else code_labels(labels, theme)
    view = fit_view(embedding)
    weight, light = rasterise(embedding, view, round(size_px * 0.88), codes, _linear((*theme.palette, theme.other)))
    picture = _shade(weight, light, theme, view.n_inside)
    notes = [subtitle] if subtitle else []
    notes += [f"{view.n_outside:,} of {len(embedding):,} rows outside the view"] if view.n_outside else []
    notes += [f"{view.n_missing:,} rows without a position"] if view.n_missing else []
    _publish(_page(picture, theme, title, " · ".join(notes), legend, size_px), Path(out_path))


def _check(embedding: np.ndarray, labels: Sequence[str | None] | None, size_px: int) -> None:
    if embedding.ndim != 2 or embedding.shape[1] < 2:
        raise InputError(f"embedding: expected (rows, 2 or more), found {embedding.shape}; a picture needs two axes.")
    if labels is not None and len(labels) != len(embedding):
        raise InputError(f"labels: expected {len(embedding)}, one a row, found {len(labels)}; give as many as rows.")
    if not 200 <= size_px <= 4000:
        raise InputError(f"size_px: expected 200 to 4000 pixels, found {size_px}; give a size in this range.")


def code_labels(labels: Sequence[str | None], theme: Theme) -> tuple[Legend, np.ndarray]:
    """The legend, and the rows' numbers (N,) uint8 in the palette; one past its end for those without a colour."""
    n_colours = len(theme.palette)
    counted = Counter(labels)
    n_unlabelled = counted.pop(None, 0)
    ranked = sorted(counted.items(), key=lambda item: (-item[1], str(item[0])))
    number = {label: i for i, (label, _) in enumerate(ranked[:n_colours])}
    codes = np.fromiter((number.get(label, n_colours) for label in labels), np.uint8, len(labels))
    legend = [(str(label), n, colour) for (label, n), colour in zip(ranked, theme.palette, strict=False)]
    if others := ranked[n_colours:]:
        legend.append((f"{len(others):,} other{'s'[: len(others) > 1]}", sum(n for _, n in others), theme.other))
    if n_unlabelled:
        legend.append(("no label", n_unlabelled, theme.other))
    return legend, codes


def _chunks(embedding: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """(rows, their first two axes as float64, which of them are finite)."""
    for start in range(0, len(embedding), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        points = embedding[rows, :2].astype(np.float64)
        yield rows, points, np.isfinite(points[:, 0]) & np.isfinite(points[:, 1])


def fit_view(embedding: np.ndarray) -> View:
    """The square around the rows. Where the outermost, 1 in 1,000 at each end of an axis or 5 of few, make it half as
    large again, they only add an eighth at each end: what lies farther is outside and does not shrink the rest."""
    finite = np.concatenate([np.zeros(0, bool), *(finite for _, _, finite in _chunks(embedding))])
    points = embedding[finite, :2].astype(np.float64)
    n, n_missing = len(points), len(embedding) - len(points)
    if n == 0:
        return View(-0.5, -0.5, 1.0, 0, 0, n_missing)
    trimmed = min(max(5, n // 1000), n // 50)
    low, high = np.partition(points, (trimmed, n - 1 - trimmed), axis=0)[[trimmed, n - 1 - trimmed]]
    lowest, highest, inner = points.min(axis=0), points.max(axis=0), high - low
    slack = np.where((inner == 0) | (highest - lowest <= 1.5 * inner), np.inf, inner / 8)
    low, high = np.maximum(lowest, low - slack), np.minimum(highest, high + slack)
    side = float(1.04 * (high - low).max()) or 1.0
    corner = (low + high - side) / 2
    n_inside = int(((points >= corner) & (points < corner + side)).all(axis=1).sum())
    return View(float(corner[0]), float(corner[1]), side, n_inside, n - n_inside, n_missing)


def _disc_radius(n_rows: int, map_px: int) -> float:
    """Pixels. All discs together cover a fifth of the map, but none is below half a pixel or larger than a dot."""
    return float(np.clip(np.sqrt(map_px**2 / 5 / np.pi / max(n_rows, 1)), 0.5, max(0.5, 0.0035 * map_px)))


def rasterise(
    embedding: np.ndarray, view: View, map_px: int, codes: np.ndarray | None, colours: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Discs over each pixel, (map_px, map_px) float64, top line first, those that touch it in part counting in part;
    and with codes the sum of their colours, (3, map_px, map_px), where colours is (codes, 3)."""
    radius = _disc_radius(view.n_inside, map_px)
    taps = np.arange(-int(np.ceil(radius)), int(np.ceil(radius)) + 1)
    at_once = max(1, CHUNK_PIXELS // len(taps) ** 2)
    sums = np.zeros((1 if codes is None else 4, map_px * map_px))
    for rows, points, finite in _chunks(embedding):
        position = (points - (view.left, view.bottom)) * (map_px / view.side)
        drawn = np.flatnonzero(finite & (position >= 0).all(axis=1) & (position < map_px).all(axis=1))
        for start in range(0, len(drawn), at_once):
            part = drawn[start : start + at_once]
            colour = None if codes is None else colours[codes[rows][part]]
            _add_discs(sums, position[part], colour, radius, taps, map_px)
    weight, *light = sums.reshape(-1, map_px, map_px)[:, ::-1]
    return weight, (np.stack(light) if light else None)


def _add_discs(
    sums: np.ndarray, position: np.ndarray, colour: np.ndarray | None, radius: float, taps: np.ndarray, map_px: int
) -> None:
    """Adds discs at positions (n, 2) in pixels, and their colours (n, 3), to sums (1 or 4, pixels)."""
    columns, lines = (np.floor(axis).astype(np.int64)[:, None] + taps for axis in position.T)
    across, up = columns + 0.5 - position[:, :1], lines + 0.5 - position[:, 1:]
    weight = np.clip(radius + 0.5 - np.hypot(across[:, None, :], up[:, :, None]), 0, 1)
    on_map = ((columns >= 0) & (columns < map_px))[:, None, :] & ((lines >= 0) & (lines < map_px))[:, :, None]
    disc, line, column = np.nonzero((weight > 0) & on_map)
    index = lines[disc, line] * map_px + columns[disc, column]
    weight = weight[disc, line, column]
    sums[0] += np.bincount(index, weight, sums.shape[1])
    if colour is not None:
        for channel in range(3):
            sums[1 + channel] += np.bincount(index, weight * colour[disc, channel], sums.shape[1])


def _linear(colours: Sequence[str]) -> np.ndarray:
    """#rrggbb -> (n, 3) in linear light, 0 to 1."""
    srgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def _density(weight: np.ndarray) -> np.ndarray:
    """How dense a pixel is among those drawn, 0 to 1: the mean of its rank and of its logarithm."""
    logarithm = np.log1p(weight)
    counts, edges = np.histogram(logarithm, 4096)
    rank = np.interp(logarithm, edges[1:], np.cumsum(counts) / len(weight))
    return (rank + np.minimum(logarithm / np.quantile(logarithm, 0.999), 1)) / 2


def _shade(weight: np.ndarray, light: np.ndarray | None, theme: Theme, n_rows: int) -> np.ndarray:
    """(lines, columns, 3) uint8. A row on its own is nearly opaque on a map of few rows, and faint on one of many."""
    page = _srgb(_linear([theme.page]))[0]
    picture = np.tile(page, (*weight.shape, 1))
    drawn = weight > 0
    if drawn.any():
        there = weight[drawn]
        dense = _density(there)
        least = np.clip(0.95 - 0.16 * np.log10(n_rows / 1000), 0.35, 0.95)
        opacity = np.minimum(there, 1) * (least + (1 - least) * dense)
        if light is None:
            stops = _srgb(_linear(theme.ramp))
            colour = np.stack([np.interp(dense, np.linspace(0, 1, len(stops)), stop) for stop in stops.T], axis=1)
        else:
            colour = _srgb((light[:, drawn] / there).T)
        picture[drawn] = page + opacity[:, None] * (colour - page)
    return np.round(picture * 255).astype(np.uint8)


def _page(picture: np.ndarray, theme: Theme, title: str, subtitle: str, legend: Legend, size_px: int) -> bytes:
    """The PNG file: heading, picture, legend."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width_px, left_px = round(size_px * (1.25 if legend else 1)), round(size_px * 0.045)
    heading_px = width_px - 2 * left_px
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box is drawn for it
        figure = Figure((width_px / DPI, size_px / DPI), dpi=DPI, facecolor=theme.page)
        FigureCanvasAgg(figure)
        figure.figimage(picture, left_px, round(size_px * 0.02), origin="upper")
        _write(figure, left_px, 0.95 * size_px, title, 0.025 * size_px, theme.ink, heading_px, weight="bold")
        _write(figure, left_px, 0.918 * size_px, subtitle, 0.0145 * size_px, theme.faint_ink, heading_px)
        _draw_legend(figure, legend, theme, size_px)
        file = BytesIO()
        figure.savefig(file, format="png", dpi=DPI, metadata={"Title": _clean(title), "Software": "streamumap"})
    return file.getvalue()


def _draw_legend(figure: Any, legend: Legend, theme: Theme, size_px: int) -> None:
    from matplotlib.patches import Circle
    from matplotlib.transforms import IdentityTransform

    letter_px, left_px, right_px, y_px = 0.0155 * size_px, 0.955 * size_px, 1.22 * size_px, 0.875 * size_px
    for label, n_rows, colour in legend:
        middle = (left_px, y_px + 0.36 * letter_px)
        figure.add_artist(Circle(middle, 0.42 * letter_px, color=colour, linewidth=0, transform=IdentityTransform()))
        _write(figure, left_px + 1.1 * letter_px, y_px, label, letter_px, theme.ink, 0.165 * size_px)
        _write(figure, right_px, y_px, f"{n_rows:,}", letter_px, theme.faint_ink, size_px, ha="right")
        y_px -= 2 * letter_px


def _clean(text: str) -> str:
    """One line that can be encoded."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _write(
    figure: Any, x_px: float, y_px: float, text: str, letter_px: float, colour: str, room_px: float, **style
) -> None:
    """Text on its baseline, cut where it would leave its room."""
    text, n_letters = _clean(text), int(room_px / (0.62 * letter_px))
    shown = text if len(text) <= n_letters else text[: n_letters - 1] + "…"
    x, y = x_px / figure.bbox.width, y_px / figure.bbox.height
    figure.text(x, y, shown, fontsize=letter_px * 72 / DPI, color=colour, parse_math=False, va="baseline", **style)


def _publish(data: bytes, path: Path) -> None:
    """The file under its name, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as e:
        with suppress(OSError):
            unfinished.unlink()
        raise OutputError(
            f"{path}: expected to write {len(data):,} bytes, found: {e.strerror or e}; choose another place."
        ) from e
