"""A map on its way, as a GIF: one frame for each snapshot, then the map as it is."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.events import Listener, ignore
from streamumap.show import annotations
from streamumap.show.annotations import NO_OPTIONS, ShowOptions
from streamumap.show.figure import Picture, drawn
from streamumap.show.palette import Theme
from streamumap.show.raster import View, fit_view
from streamumap.show.saved_run import open_run, read_map
from streamumap.store.atomic import publish

FRAME_MS, LAST_MS = 120, 2000
SAME = 8
"""Colours of the map that differ by at most this, of 255, from a colour of the theme are left out of the palette."""


def animate_run(
    path: Path,
    out: Path,
    options: ShowOptions = NO_OPTIONS,
    size_px: int = 800,
    dark: bool = False,
    listener: Listener = ignore,
) -> Path:
    """Draws the snapshots of the run in the folder `path`, then its map, as a GIF. Raises InputError, OutputError."""
    run = open_run(path)
    snapshots = sorted((path / "snapshots").glob("epoch_*.npy"))
    if not snapshots:
        raise InputError(
            f"{path}: expected snapshots to animate, found none; make the run with streamumap embed --snapshots 30."
        )
    columns = annotations.columns_of(run, options, listener, annotations.labels_of(run, options))
    animate(snapshots, run.embedding, out, Picture(columns, (), run.title, size_px=size_px, dark=dark))
    return out


def animate(snapshots: Sequence[Path], embedding: np.ndarray, out_path: Path, picture: Picture) -> None:
    """Draws snapshots and the map as a GIF; all frames show the same square of the map.

    snapshots: .npy files (N, 2 or more), named epoch_NUMBER.npy, in order. Each frame has its own subtitle. Raises
    InputError, OutputError.
    """
    from PIL import Image

    view = _around(fit_view(embedding), fit_view(read_map(snapshots[0])))

    def frame(positions: np.ndarray, subtitle: str) -> Image.Image:
        with drawn(positions, replace(picture, subtitle=subtitle), view) as sheet:
            return Image.fromarray(sheet.pixels())

    last = frame(embedding, "the map")
    palette = _palette(last, picture.theme)

    def quantized(image: Image.Image) -> Image.Image:
        return image.quantize(palette=palette, dither=Image.Dither.NONE)

    epochs = [(path, f"epoch {int(path.stem.removeprefix('epoch_')):,}") for path in snapshots]
    first, *others = [quantized(frame(read_map(path), epoch)) for path, epoch in epochs] + [quantized(last)]
    durations = [FRAME_MS] * len(others) + [LAST_MS]
    publish(
        out_path,
        lambda file: first.save(
            file, format="GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False
        ),
    )


def _palette(image: Any, theme: Theme) -> Any:
    """An image whose palette holds the theme's own colours exactly, so that the legend stays true, then as many of the
    most frequent colours of `image` as fit."""
    from PIL import Image

    colours = (theme.page, theme.ink, theme.faint_ink, theme.other, *theme.palette, *theme.ramp)
    own = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours])
    frequent = np.array(image.quantize(256 - len(own)).getpalette()).reshape(-1, 3)[: 256 - len(own)]
    difference = np.abs(frequent[:, None] - own).max(axis=2)
    frequent[difference.min(axis=1) <= SAME] = own[0]  # Pillow's search is not exact among neighbours
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([own, frequent]).ravel().tolist())
    return palette


def _around(a: View, b: View) -> View:
    """A square around two, with the counts of the first."""
    left, bottom = min(a.left, b.left), min(a.bottom, b.bottom)
    right, top = max(a.left + a.side, b.left + b.side), max(a.bottom + a.side, b.bottom + b.side)
    side = max(right - left, top - bottom)
    middle = (left + right) / 2, (bottom + top) / 2
    return View(middle[0] - side / 2, middle[1] - side / 2, side, a.n_inside, 0, 0)
