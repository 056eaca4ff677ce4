"""Warnings where stored values, or float32, have too few digits to tell neighbours apart."""

import numpy as np

from streamumap.run.dispatch import Rows
from streamumap.run.run import Run
from streamumap.source.base import RowSource, stored_dtype
from streamumap.source.scan.result import Scan
from streamumap.source.views.normalized import DenseRows

TIED_SHARE = 0.1
"""The share of sampled rows with tied last neighbours above which a warning is given."""

ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}
"""The largest relative error of a stored value. Integers are exact."""

COARSE = 1 / 32
"""Ties are blamed on rounding where it moves rows by at least this share of the distance to their last neighbours."""

CHECKED_ROWS = 64
TOLD = 0.003
"""The relative error of distances above which a warning is given: neighbours at successive ranks differ by about as much."""

SAME = 1e-28
"""Squared distance of rows of length 1 below which float64 does not tell them apart either."""


def say_what_is_not_told_apart(run: Run, rows: Rows, sample: np.ndarray) -> None:
    """Warns where many neighbours of rows far from the origin are tied, or where distances in float32 differ from those in float64."""
    dtype = rows.found.dtype
    if run.view.centre is None and stored_dtype(dtype).itemsize < 8:
        return
    others, far = run.neighbors_of(sample)
    if run.view.centre is not None and dtype in ROUNDING and far.shape[1] > 1:
        share = _tied_share(run, rows.found, far[~rows.found.is_zero[sample]])
        if share > TIED_SHARE:
            where = "so near one direction" if run.view.unit else "so far from 0"
            run.warn(
                f"precision: the last neighbours of {share:.0%} of the sampled rows are tied, at one distance: {dtype} values {where} "
                "hardly tell rows apart; store the rows less their mean, or with more digits."
            )
    if stored_dtype(dtype).itemsize == 8 and run.params.reduce == "none":
        error = _error(run, rows, sample, others)
        if error > TOLD:
            run.warn(
                f"precision: float32, in which rows are compared, changes distances to neighbours by {100 * error:.2g}% on average, and the "
                "recall is of these distances; take from each cluster of rows what its rows have in common."
            )


def _tied_share(run: Run, found: Scan, far: np.ndarray) -> float:
    """The share of rows whose last two neighbours are at one distance, by distances `far` float32 (S, m). 0 where rounding is too small to
    be the reason: the rows then repeat or lie on a grid."""
    ties, apart = far[:, -1] == far[:, -2], far[np.isfinite(far) & (far > 0)].astype(np.float64)
    assert run.view.centre is not None
    rounding = ROUNDING[found.dtype] * np.ldexp(np.linalg.norm(run.view.centre), -run.view.exponent)
    if len(apart):
        typical = np.median(np.sqrt(2 * apart) if run.view.unit else apart)
    else:  # all lie on others
        typical = 0.0 if run.view.unit else np.linalg.norm(found.feature_high.astype(np.float64) - found.feature_low)
    is_coarse = 0 < COARSE * typical <= rounding
    return float((np.isfinite(far[:, -1]) & ties).mean()) if len(far) and is_coarse else 0.0


def _error(run: Run, rows: Rows, sample: np.ndarray, others: np.ndarray) -> float:
    """The mean relative error of compared distances beside those in float64, from the rows `sample` int64 (S,) to `others` (S, m); CHECKED_ROWS
    of the sample are measured."""
    some = np.linspace(0, len(sample) - 1, min(len(sample), CHECKED_ROWS)).astype(int)
    stored, unit, errors = run.kept.source(run.readable), run.metric.unit, [np.empty(0)]
    # CSR rows are compared without being normalised
    compared = DenseRows(rows.original, unit=rows.metric.unit and rows.csr is None)
    for own, near in zip(sample[some], others[some], strict=True):
        numbers = np.unique(np.append(near[near >= 0].astype(np.int64), own))
        right = _distances(_wide(stored, numbers, unit), numbers == own)
        found = _distances(_wide(compared, numbers, rows.metric.unit), numbers == own)
        known = right > (SAME**0.5 if unit else 0)
        shares = run.view.unscale(found, unit=unit)[known] / right[known]
        errors.append(np.abs((shares**2 if unit else shares) - 1))
    whole = np.concatenate(errors)
    return float(whole.mean()) if len(whole) else 0.0


def _wide(source: RowSource | DenseRows, numbers: np.ndarray, to_unit: bool) -> np.ndarray:
    """Rows as float64, normalised to length 1 with `to_unit`."""
    rows = source.take(numbers).astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny) if to_unit else rows


def _distances(rows: np.ndarray, is_own: np.ndarray) -> np.ndarray:
    """Distances float64 of all rows to the one that `is_own` (bool) marks."""
    return np.linalg.norm(rows - rows[is_own], axis=1)
