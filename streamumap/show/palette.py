"""The colours of pictures and pages, and the arithmetic of light."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb.

    A local search placed the 20 colours of a palette so that the nearest two are far apart in OKLab, for usual eyes and
    for protanopia and deuteranopia as simulated by Machado, Oliveira, Fernandes (2009). The first ones are the farthest
    apart.
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


def linear(colours: Sequence[str]) -> np.ndarray:
    """Colours #rrggbb as (n, 3) in linear light, 0 to 1."""
    srgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Linear light, 0 to 1, as sRGB, 0 to 1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)
