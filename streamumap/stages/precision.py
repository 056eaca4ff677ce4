"""What is told about neighbours that the stored values, or float32, do not tell apart."""

import numpy as np

from streamumap.backends import Rows
from streamumap.source.base import stored_dtype
from streamumap.stages.run import Run

TIED_SHARE = 0.1
"""Of the sampled rows, from which on it is told that their last neighbours are as far as others."""

CHECKED_ROWS = 64
ROUNDED = 0.003
"""The part of a distance from which on float32's rounding of it is told: neighbours at successive ranks are about as far apart."""


def say_what_is_not_told_apart(run: Run, rows: Rows, sample: np.ndarray) -> None:
    """Warns where many rows far from the origin lie at one distance, or distances in float32 are not those in float64."""
    dtype = rows.found.dtype
    if run.view.centre is None and stored_dtype(dtype).itemsize < 8:
        return
    others, far = run.neighbors_of(sample)
    if run.view.centre is not None and far.shape[1] > 1:
        share = float((np.isfinite(far[:, -1]) & (far[:, -1] == far[:, -2])).mean())
        if share > TIED_SHARE:
            where = "so near one direction" if run.view.unit else "so far from 0"
            run.warn(
                f"precision: the last neighbours of {share:.0%} of the sampled rows are tied, at one distance: {dtype} values {where} "
                "hardly tell rows apart; store the rows less their mean, or with more digits."
            )
    if stored_dtype(dtype).itemsize == 8 and run.params.reduce == "none":
        error = _rounding(run, sample, others, far)
        if error > ROUNDED:
            run.warn(
                f"precision: float32, in which rows are compared, changes distances to neighbours by {100 * error:.2g}% on average, and the "
                "recall is of these distances; take from each cluster of rows what its rows have in common."
            )


def _rounding(run: Run, sample: np.ndarray, others: np.ndarray, far: np.ndarray) -> float:
    """By how much the distances `far` (S, m) of the rows `sample` int64 (S,) to `others` (S, m) differ from those in float64: on
    average, of a few rows, as a part of the distance."""
    some = np.linspace(0, len(sample) - 1, min(len(sample), CHECKED_ROWS)).astype(int)
    source = run.kept.source(run.opened)
    errors = [np.empty(0)]
    for own, near, distances in zip(
        sample[some], others[some], run.view.sized(far[some], run.params.metric), strict=True
    ):
        near, distances = near[near >= 0].astype(np.int64), distances[near >= 0]
        numbers = np.unique(np.append(near, own))
        rows = source.take(numbers).astype(np.float64)
        if run.params.metric == "cosine":
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny)
        steps = rows[np.searchsorted(numbers, near)] - rows[np.searchsorted(numbers, own)]
        squares = np.einsum("ij,ij->i", steps, steps)
        right = squares / 2 if run.params.metric == "cosine" else np.sqrt(squares)
        errors.append(np.abs(distances[right > 0] / right[right > 0] - 1))
    whole = np.concatenate(errors)
    return float(whole.mean()) if len(whole) else 0.0
