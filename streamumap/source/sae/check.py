"""Checks an SAE on the first rows: how many latents are active, and how much of the rows its decoder gives back."""

from collections.abc import Iterable

import numpy as np

from streamumap.events import Note
from streamumap.source.sae.encoder import Encoder, normalised

ROWS = 256
"""Rows that are checked."""

Codes = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""As `cpu.codes` yields them."""


def check(name: str, rows: np.ndarray, codes: Codes, encoder: Encoder, decoder: tuple | None) -> Note:
    """Returns what is to be said of the codes of float32 rows (R, n_features): a warning if no latent is active, or if the
    reconstruction is further from the rows, as they are encoded, than their mean is. `decoder`: directions (n_latents,
    n_features) and what is added to their sum, or None. Rows that are not finite are left out."""
    with np.errstate(all="ignore"):
        given = normalised(rows, encoder)
    good = np.isfinite(given).all(axis=1)
    active, error, row = 0, 0.0, 0
    for counts, indices, values in codes:
        for at, bounds in enumerate(_bounds(counts), row):
            if good[at]:
                active += int(np.count_nonzero(values[bounds]))
                error += (
                    0.0 if decoder is None else _error(given[at], indices[bounds], values[bounds], encoder, decoder)
                )
        row += len(counts)
    n_rows = int(np.count_nonzero(good))
    variance = float(np.sum(np.square(given[good] - given[good].mean(axis=0), dtype=np.float64))) if n_rows else 0.0
    share = 1 - error / variance if decoder is not None and variance > 0 else None
    return _said(name, n_rows, active, share)


def _said(name: str, n_rows: int, active: int, share: float | None) -> Note:
    of_rows = f"in the first {n_rows:,} rows" if n_rows else "in no row: the first ones have NaN or infinite values"
    text = f"{name}: {active / max(1, n_rows):,.1f} latents are active on average {of_rows}"
    if share is not None:
        text += f", and its decoder gives back {100 * share:,.1f}% of their variance"
    if n_rows and (not active or (share is not None and not share >= 0)):
        why = "no latent is active" if not active else "less than their mean would"
        return Note("warning", f"{text}, {why}; check that it belongs to these rows: their model, layer and scale.")
    return Note("info", text)


def _bounds(counts: np.ndarray) -> list[slice]:
    ends = np.cumsum(counts).tolist()
    return [slice(end - count, end) for end, count in zip(ends, counts.tolist(), strict=True)]


def _error(given: np.ndarray, indices: np.ndarray, values: np.ndarray, encoder: Encoder, decoder: tuple) -> float:
    """Returns the squared distance of a row from its reconstruction."""
    directions, offset = decoder
    if encoder.out_scale is not None:
        lengths = encoder.out_scale[indices]
        values = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
    found = values @ directions[indices] + offset
    return float(np.sum(np.square(given - found, dtype=np.float64)))
