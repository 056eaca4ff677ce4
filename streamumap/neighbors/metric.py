"""The distances between rows that a map can be made of: each metric is one object, and its name is compared here alone.

Backends compare rows by squared Euclidean distances, of the rows as they are or at length 1, and turn these squares into
distances at the end. A metric says which rows are compared and what becomes of the squares, so a new one of this kind is one
more object here, and its name in `params.py`.

`source` and `reduce`, which may not import this folder, are given what they need of a metric as plain values: `unit`, and
`from_squares` where distances are made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.source.views.centered import ComparedView


@dataclass(frozen=True)
class Metric:
    """A distance between rows.

    `unit`: rows are compared at length 1. A row of zeros has no direction: its neighbors are other rows of zeros, at distance 0,
    and it is at a right angle to all others. Rows without negative values at a right angle share no feature: no edge.
    `from_squares(squares, xp)`: squared distances of the rows as they are compared -> distances, which ascend with the squares and
    are 0 where these are; `xp` is numpy or torch, whichever the squares belong to.
    `reference(rows, others)`: the same from its definition, float64 (n, D) and (m, D) -> (n, m), in plain NumPy.
    `backends`: the searches that have it, by the names of --neighbors. A plan with another one is refused.
    """

    name: str
    unit: bool
    from_squares: Callable[[Any, Any], Any]
    reference: Callable[[np.ndarray, np.ndarray], np.ndarray]
    backends: tuple[str, ...] = ("dense", "packed", "cuda", "cuvs")

    def check(self, backend: str) -> None:
        """Raise InputError where a backend does not have this metric."""
        if backend not in self.backends:
            names = ", ".join(metric.name for metric in METRICS.values() if backend in metric.backends)
            raise InputError(
                f"metric: expected one that --neighbors {backend} has ({names}), found {self.name!r}; choose one of these."
            )


def named(name: str) -> Metric:
    """Return the metric of this name. Raises InputError where there is none."""
    if name not in METRICS:
        raise InputError(f"metric: expected one of {', '.join(METRICS)}, found {name!r}; choose one of these.")
    return METRICS[name]


def compared(asked: Metric, view: ComparedView) -> Metric:
    """Return the metric under which the rows of a view are compared: a view may have brought them to length 1 already."""
    return EUCLIDEAN if view.unit else asked


def _root(squares: Any, xp: Any) -> Any:
    return xp.sqrt(squares)


def _half(squares: Any, xp: Any) -> Any:
    """1 - cos of the angle between two rows of length 1 is half the square of their distance."""
    return squares / 2


def _euclidean(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From differences, not from products, which lose the digits of small distances."""
    return np.stack([np.sqrt(((others - row) ** 2).sum(1)) for row in rows])


def _cosine(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 - cos; a zero row is at 0 from a zero row and at 1 from any other."""
    norm, other_norm = np.sqrt((rows**2).sum(1)), np.sqrt((others**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = rows @ others.T / (norm[:, None] * other_norm[None, :])
    cosine[norm == 0, :] = 0.0
    cosine[:, other_norm == 0] = 0.0
    cosine[np.ix_(norm == 0, other_norm == 0)] = 1.0
    return np.maximum(1.0 - cosine, 0.0)


EUCLIDEAN = Metric("euclidean", unit=False, from_squares=_root, reference=_euclidean)
COSINE = Metric("cosine", unit=True, from_squares=_half, reference=_cosine)

METRICS = {metric.name: metric for metric in (EUCLIDEAN, COSINE)}
