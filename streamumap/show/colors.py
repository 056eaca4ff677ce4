"""Columns as one byte a row, and the colours of these codes, for pictures and pages."""

from dataclasses import dataclass

import numpy as np

from streamumap.show.columns import Column, Labels, Numbers
from streamumap.show.palette import Theme, linear, to_srgb

GREY, NONE = 254, 255
"""Codes of grey rows, with the rarest labels or a feature's zeros, and of rows without a value."""
CLIPPED = 0.002
"""Share of the numbers at each end that may lie outside the range of colours."""


@dataclass(frozen=True)
class Coded:
    """A column as codes. Labels: the 254 most frequent in order. Numbers: 0 to 253 from `low` to `high`."""

    name: str
    codes: np.ndarray  # (N,) uint8
    labels: tuple[str, ...] | None  # None where the column is of numbers
    counts: tuple[int, ...]  # rows of each of the labels
    n_rarer: int  # labels that are grey because others are more frequent
    n_grey: int  # rows
    n_none: int
    low: float = 0.0
    high: float = 1.0
    clipped: tuple[bool, bool] = (False, False)  # whether numbers lie below low, above high
    layered: bool = False  # whether grey rows lie below the others

    def colours(self, theme: Theme) -> np.ndarray:
        """The colour of each code, (256, 3) in linear light."""
        table = np.tile(linear([theme.other]), (256, 1))
        if self.labels is None:
            table[:GREY] = ramp_light(theme, np.linspace(0, 1, GREY))
        else:
            table[: len(theme.palette)] = linear(theme.palette)
            table[GREY:] = linear([theme.other])
        return table


def ramp_light(theme: Theme, share: np.ndarray) -> np.ndarray:
    """The colours (n, 3), in linear light, at shares (n,) of the ramp, 0 to 1. Stops are mixed as sRGB."""
    stops = to_srgb(linear(theme.ramp))
    srgb = np.stack([np.interp(share, np.linspace(0, 1, len(stops)), stop) for stop in stops.T], axis=-1)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def code(column: Column) -> Coded:
    """Codes a column as one byte a row."""
    return _code_labels(column) if isinstance(column, Labels) else _code_numbers(column)


def _code_labels(column: Labels) -> Coded:
    code_of_label = np.minimum(np.arange(len(column.values) + 1), GREY).astype(np.uint8)
    code_of_label[-1] = NONE  # rows without a label have -1
    counts = column.counts
    return Coded(
        column.name,
        code_of_label[column.codes],
        column.values[:GREY],
        tuple(int(n) for n in counts[:GREY]),
        n_rarer=max(0, len(counts) - GREY),
        n_grey=int(counts[GREY:].sum()),
        n_none=int(len(column.codes) - counts.sum()),
    )


def _code_numbers(column: Numbers) -> Coded:
    values = column.values.astype(np.float64)
    coloured = np.isfinite(values)
    layered = column.zero_is_none and not (values < 0).any()
    if layered:
        coloured &= values != 0
    known = values[coloured]
    low, high = _range(known, layered)
    levels = np.clip((np.where(coloured, values, low) - low) / (high - low) * (GREY - 1), 0, GREY - 1)
    codes = np.where(coloured, np.round(levels), NONE).astype(np.uint8)
    if layered:
        codes[values == 0] = GREY
    n_grey, n_none = int((codes == GREY).sum()), int((codes == NONE).sum())
    clipped = (bool((known < low).any()), bool((known > high).any()))
    return Coded(column.name, codes, None, (), 0, n_grey, n_none, low, high, clipped, layered)


def _range(known: np.ndarray, from_zero: bool) -> tuple[float, float]:
    """The numbers at the two ends of the ramp."""
    if not len(known):
        return 0.0, 1.0
    low, high = (float(v) for v in np.quantile(known, (CLIPPED, 1 - CLIPPED), method="nearest"))
    if from_zero:
        low = 0.0
    return (low, high) if high > low else (low, low + max(1.0, abs(low)))


def ends(coded: Coded) -> tuple[str, str]:
    """The texts at the two ends of the colour bar."""
    below, above = coded.clipped
    return ("≤ " if below else "") + short(coded.low), ("≥ " if above else "") + short(coded.high)


def short(number: float) -> str:
    """A number with three digits."""
    return f"{number:.3g}" if abs(number) < 1e6 else f"{number:.2e}"
