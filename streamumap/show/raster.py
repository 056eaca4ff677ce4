"""Raster: draws every row of a map as a disc on a grid of pixels, be it a thousand rows or three million.

The more rows, the smaller the discs. Opacity shows the density of a pixel: half its rank among all drawn pixels (histogram
equalisation, as in datashader), half the logarithm of the density. Colour is the mean, in linear light, of the colours of
the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamumap.show.palette import Theme, linear, to_srgb

CHUNK_ROWS = 1 << 18
CHUNK_PIXELS = 1 << 21
"""Pixels under the discs that are drawn at once."""
SMALL_DISC = 0.75
"""Discs of a smaller radius, in pixels, are drawn many at once, to the nearest half of a pixel."""


@dataclass(frozen=True)
class View:
    """The drawn square of a map, in map units, and the number of rows in it."""

    left: float
    bottom: float
    side: float
    n_inside: int
    n_outside: int
    n_missing: int  # rows that are not finite


def _chunks(embedding: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yields (rows, their first two axes as float64, whether both are finite)."""
    for start in range(0, len(embedding), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        points = embedding[rows, :2].astype(np.float64)
        yield rows, points, np.isfinite(points[:, 0]) & np.isfinite(points[:, 1])


def fit_view(embedding: np.ndarray) -> View:
    """The square around the rows, without a few far ones.

    Far are 1 in 1,000 rows at each end of an axis, or 5 of few rows. Where they make the square half as large again, it
    grows by an eighth at each end only; rows beyond lie outside and do not shrink the rest.
    """
    finite = np.isfinite(embedding[:, 0]) & np.isfinite(embedding[:, 1])
    n, n_missing = int(finite.sum()), len(embedding) - int(finite.sum())
    if n == 0:
        return View(-0.5, -0.5, 1.0, 0, 0, n_missing)
    axes = [np.ascontiguousarray(embedding[:, axis] if n_missing == 0 else embedding[finite, axis]) for axis in (0, 1)]
    trimmed = min(max(5, n // 1000), n // 50)
    kept = np.array([np.partition(axis, (trimmed, n - 1 - trimmed))[[trimmed, n - 1 - trimmed]] for axis in axes])
    low, high = kept.T.astype(np.float64)
    lowest, highest = (np.array([end(axis) for axis in axes], np.float64) for end in (np.min, np.max))
    inner = high - low
    slack = np.where((inner == 0) | (highest - lowest <= 1.5 * inner), np.inf, inner / 8)
    low, high = np.maximum(lowest, low - slack), np.minimum(highest, high + slack)
    side = float(1.04 * (high - low).max()) or 1.0
    corner = (low + high - side) / 2
    within = [(axis >= corner[i]) & (axis < corner[i] + side) for i, axis in enumerate(axes)]
    n_inside = int((within[0] & within[1]).sum())
    return View(float(corner[0]), float(corner[1]), side, n_inside, n - n_inside, n_missing)


def disc_radius(n_rows: int, map_px: int) -> float:
    """The radius of a disc in pixels: all discs cover a fifth of the map, but none is below 0.5 or larger than a dot."""
    return float(np.clip(np.sqrt(map_px**2 / 5 / np.pi / max(n_rows, 1)), 0.5, max(0.5, 0.0035 * map_px)))


def rasterise(
    embedding: np.ndarray,
    view: View,
    map_px: int,
    codes: np.ndarray | None,
    colours: np.ndarray,
    radius: float | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The number of discs over each pixel, (map_px, map_px) float64, top line first; a disc counts by the share of the
    pixel that it covers. With codes also the sum of their colours, (3, map_px, map_px).

    codes: (N,) uint8 indices into colours (codes, 3), linear light. radius: in pixels, by default `disc_radius`.
    """
    radius = disc_radius(view.n_inside, map_px) if radius is None else radius
    draw = _draw_small if radius < SMALL_DISC else draw_discs
    weight, *light = draw(embedding, view, map_px, codes, colours, radius)[:, ::-1]
    return weight, (np.stack(light) if light else None)


def draw_discs(
    embedding: np.ndarray, view: View, map_px: int, codes: np.ndarray | None, colours: np.ndarray, radius: float
) -> np.ndarray:
    """Sums (1 or 4, map_px, map_px), lowest line first, disc by disc: exact, and slow for many rows."""
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
    return sums.reshape(-1, map_px, map_px)


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


def _draw_small(
    embedding: np.ndarray, view: View, map_px: int, codes: np.ndarray | None, colours: np.ndarray, radius: float
) -> np.ndarray:
    """`draw_discs` for small discs: counts the rows in each quarter of a pixel, then spreads the count over the pixels that
    a disc in the middle of the quarter touches."""
    quarters, known = _quarters(embedding, view, map_px)
    sums = np.zeros((1 if codes is None else 4, map_px, map_px))
    for channel in range(len(sums)):
        values = None if codes is None or channel == 0 else colours[:, channel - 1][codes[known]]
        counts = np.bincount(quarters, values, 4 * map_px * map_px).reshape(2, 2, map_px, map_px)
        for up in range(2):
            for across in range(2):
                _spread(sums[channel], counts[up, across], radius, 0.25 + across / 2, 0.25 + up / 2)
    return sums


def _quarters(embedding: np.ndarray, view: View, map_px: int) -> tuple[np.ndarray, np.ndarray]:
    """The quarter pixels of the rows on the map, (n,) int32, and a mask of these rows, (N,) bool.

    A quarter is an index into a flattened array (upper half?, right half?, line, column).
    """
    quarters, known = [np.empty(0, np.int32)], np.zeros(len(embedding), bool)
    scale = 2 * map_px / view.side
    for start in range(0, len(embedding), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        axes = zip(embedding[rows, :2].T.astype(np.float64), (view.left, view.bottom), strict=True)
        across, up = (np.floor((axis - least) * scale) for axis, least in axes)
        inside = known[rows]
        np.greater_equal(np.minimum(across, up), 0, out=inside)  # False for NaN
        inside &= np.maximum(across, up) < 2 * map_px
        across, up = across[inside].astype(np.int32), up[inside].astype(np.int32)
        quarters.append((((up & 1) * 2 + (across & 1)) * map_px + (up >> 1)) * map_px + (across >> 1))
    return np.concatenate(quarters), known


def _spread(sums: np.ndarray, counts: np.ndarray, radius: float, x: float, y: float) -> None:
    """Adds discs to the pixels that they touch: counts (lines, columns) of them, each at (x, y) within its pixel."""
    reach, map_px = int(np.ceil(radius)), len(sums)
    for up in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            weight = min(radius + 0.5 - np.hypot(across + 0.5 - x, up + 0.5 - y), 1)
            if weight > 0:
                to, of = _overlap(up, map_px), _overlap(-up, map_px)
                to_, of_ = _overlap(across, map_px), _overlap(-across, map_px)
                sums[to, to_] += weight * counts[of, of_]


def _overlap(shift: int, length: int) -> slice:
    """The part of an axis that the same axis, moved by `shift`, overlaps."""
    return slice(max(shift, 0), length + min(shift, 0))


def density(weight: np.ndarray) -> np.ndarray:
    """The density of each drawn pixel among all of them, 0 to 1: the mean of its rank and of its scaled logarithm."""
    logarithm = np.log1p(weight)
    counts, edges = np.histogram(logarithm, 4096)
    rank = np.interp(logarithm, edges[1:], np.cumsum(counts) / len(weight))
    return (rank + np.minimum(logarithm / np.quantile(logarithm, 0.999), 1)) / 2


@dataclass(frozen=True)
class Layer:
    """The sums of rasterised rows. `light` (3, lines, columns) is None where density alone gives the colour. `strength`, 0
    to 1, scales the opacity; a layer `on_top` has few rows, which must be seen."""

    weight: np.ndarray  # (lines, columns)
    light: np.ndarray | None
    strength: float = 1.0
    on_top: bool = False


def shade(layers: Sequence[Layer], theme: Theme, n_rows: int) -> np.ndarray:
    """Draws one layer over the other, (lines, columns, 3) uint8. A single row is nearly opaque on a map of few rows and
    faint on a map of many."""
    faintest = np.clip(0.95 - 0.16 * np.log10(max(n_rows, 1) / 1000), 0.35, 0.95)
    picture = np.tile(to_srgb(linear([theme.page]))[0].astype(np.float32), (*layers[0].weight.shape, 1))
    for layer in layers:
        drawn = layer.weight > 0
        if not drawn.any():
            continue
        weight = layer.weight[drawn]
        dense = density(weight)
        least = 0.95 if layer.on_top else faintest
        opacity = layer.strength * np.minimum(weight, 1) * (least + (1 - least) * dense)
        if layer.light is None:
            stops = to_srgb(linear(theme.ramp))
            colour = np.stack([np.interp(dense, np.linspace(0, 1, len(stops)), stop) for stop in stops.T], axis=1)
        else:
            colour = to_srgb((layer.light[:, drawn] / weight).T)
        below = picture[drawn]
        picture[drawn] = below + opacity[:, None] * (colour - below)
    return np.round(picture * 255).astype(np.uint8)
