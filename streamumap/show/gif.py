"""A map on its way, as a GIF: one frame for each snapshot, then the map as it is."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.show.columns import Column
from streamumap.show.palette import DARK, LIGHT, Theme
from streamumap.show.png import render_frame
from streamumap.show.raster import View, fit_view
from streamumap.show.runs import read_map
from streamumap.store.atomic import publish

FRAME_MS, LAST_MS = 120, 2000
SAME = 8  # of 255: a colour this near to one of the theme's gives way to it


def animate(
    snapshots: Sequence[Path],
    embedding: np.ndarray,
    out_path: Path,
    *,
    columns: Sequence[Column] = (),
    title: str = "",
    size_px: int = 800,
    dark: bool = False,
) -> None:
    """snapshots: .npy files (N, 2 or more), named epoch_NUMBER.npy, in order. All frames show the same square.
    Raises InputError, OutputError."""
    from PIL import Image

    view = _around(fit_view(embedding), fit_view(read_map(snapshots[0])))

    def frames() -> Iterator[Image.Image]:
        for path in snapshots:
            caption = f"epoch {int(path.stem.removeprefix('epoch_')):,}"
            yield Image.fromarray(render_frame(read_map(path), view, columns, title, caption, size_px, dark))

    last = Image.fromarray(render_frame(embedding, view, columns, title, "the map", size_px, dark))
    palette = _palette(last, DARK if dark else LIGHT)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in (*frames(), last)]
    durations = [FRAME_MS] * (len(flat) - 1) + [LAST_MS]
    publish(
        out_path,
        lambda file: flat[0].save(
            file, format="GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=False
        ),
    )


def _palette(picture: Any, theme: Theme) -> Any:
    """An image whose palette has the theme's own colours exactly, so that the legend stays true, and the most of the
    picture's."""
    from PIL import Image

    colours = (theme.page, theme.ink, theme.faint_ink, theme.other, *theme.palette, *theme.ramp)
    own = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours])
    found = np.array(picture.quantize(256 - len(own)).getpalette()).reshape(-1, 3)[: 256 - len(own)]
    near = np.abs(found[:, None] - own).max(axis=2)
    found[near.min(axis=1) <= SAME] = own[0]  # Pillow's search is not exact among neighbours
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([own, found]).ravel().tolist())
    return palette


def _around(a: View, b: View) -> View:
    """A square around two, with the rows of the first."""
    left, bottom = min(a.left, b.left), min(a.bottom, b.bottom)
    right, top = max(a.left + a.side, b.left + b.side), max(a.bottom + a.side, b.bottom + b.side)
    side = max(right - left, top - bottom)
    middle = (left + right) / 2, (bottom + top) / 2
    return View(middle[0] - side / 2, middle[1] - side / 2, side, a.n_inside, 0, 0)
