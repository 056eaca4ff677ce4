"""Sheet: a matplotlib figure with text, pixels and dots at exact positions, the same whatever the user's settings."""

import re
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from streamumap.show.palette import Theme

DPI = 100
LETTER_WIDTH = 0.62
"""Width of a letter, about, as a share of its height."""


def load() -> None:
    """Imports matplotlib ahead of time, so that a later `new_sheet` need not."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure
    import matplotlib.patheffects  # noqa: F401


@contextmanager
def new_sheet(width_px: float, height_px: float, theme: Theme) -> Iterator["Sheet"]:
    """An empty sheet, to be drawn on and saved inside the `with`."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box is drawn for it
        yield Sheet(width_px, height_px, theme)


class Sheet:
    """Lengths are shares of the sheet's height, from the lower left."""

    def __init__(self, width_px: float, height_px: float, theme: Theme):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.px, self.theme, self.width = height_px, theme, round(width_px) / height_px
        self.figure = Figure((round(width_px) / DPI, height_px / DPI), dpi=DPI, facecolor=theme.page)
        FigureCanvasAgg(self.figure)

    def save_png(self, file: BinaryIO, title: str) -> None:
        """Writes the sheet as a PNG."""
        metadata = {"Title": clean(title), "Software": "streamumap"}
        self.figure.savefig(file, format="png", dpi=DPI, metadata=metadata)

    def pixels(self) -> np.ndarray:
        """The sheet as (lines, columns, 3) uint8, top line first."""
        canvas: Any = self.figure.canvas
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def picture(self, x: float, y: float, pixels: np.ndarray) -> None:
        """Puts pixels (lines, columns, 3) uint8, top line first, as they are; matplotlib's own images are resampled."""
        from matplotlib.artist import Artist

        class Picture(Artist):
            def draw(self, renderer: Any) -> None:
                renderer.draw_image(renderer.new_gc(), left, bottom, opaque)

        left, bottom = round(x * self.px), round(y * self.px)
        opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])[::-1]
        self.figure.add_artist(Picture())

    def ramp(self, x: float, y: float, width: float, height: float) -> None:
        """Puts a bar with the theme's ramp of colours, from left to right."""
        from matplotlib.colors import LinearSegmentedColormap

        ramp = LinearSegmentedColormap.from_list("ramp", self.theme.ramp)
        columns, lines = max(2, round(width * self.px)), max(2, round(height * self.px))
        self.picture(x, y, np.tile(ramp(np.linspace(0, 1, columns), bytes=True)[:, :3], (lines, 1, 1)))

    def write(self, x: float, y: float, text: str, letter: float, colour: str, room: float, **style: Any) -> None:
        """Writes text on its baseline, letters `letter` high, cut where it would be wider than `room`."""
        text, n_letters = clean(text), int(room / (LETTER_WIDTH * letter))
        shown = text if len(text) <= n_letters else text[: n_letters - 1] + "…"
        style = {"va": "baseline"} | style
        self.figure.text(
            x / self.width, y, shown, fontsize=self._points(letter), color=colour, parse_math=False, **style
        )

    def write_lines(self, x: float, y: float, text: str, letter: float, colour: str, room: float) -> None:
        """Writes text on two lines, broken behind punctuation; what is too long for them is cut."""
        whole = re.sub(r"(?<![,;·]) ", "\u00a0", clean(text))  # a figure and its number stay together
        lines = textwrap.wrap(whole, int(room / (LETTER_WIDTH * letter)), max_lines=2, placeholder=" …")
        for number, line in enumerate(lines or [""]):
            self.write(x, y - 1.5 * letter * number, line.replace("\u00a0", " "), letter, colour, room)

    def write_outlined(self, x: float, y: float, text: str, letter: float) -> None:
        """Writes bold text around (x, y), outlined in the colour of the page."""
        from matplotlib.patheffects import withStroke

        outline = withStroke(linewidth=0.28 * self._points(letter), foreground=self.theme.page, alpha=0.85)
        style = {"ha": "center", "va": "center", "weight": "bold", "path_effects": [outline]}
        self.write(x, y, text, letter, self.theme.ink, 1, **style)

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        from matplotlib.patches import Circle
        from matplotlib.transforms import IdentityTransform

        middle = (x * self.px, y * self.px)
        self.figure.add_artist(
            Circle(middle, radius * self.px, color=colour, linewidth=0, transform=IdentityTransform())
        )

    def _points(self, letter: float) -> float:
        return letter * self.px * 72 / DPI


def clean(text: str) -> str:
    """The text on one line, of characters that can be encoded."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
