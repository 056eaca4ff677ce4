"""`Totals`: adds up the pieces of a scan."""

from collections.abc import Callable

import numpy as np

from streamumap.source.scan.describe import ROUNDED, Described
from streamumap.source.scan.result import Scan
from streamumap.store.checkpoint import Arrays


class Totals:
    """The sums and extremes of the pieces so far, which come in the order of the rows."""

    def __init__(self, n_rows: int, n_features: int, dtype: str):
        self.keys = np.empty(n_rows, np.uint64)
        self.rounded_keys = np.empty(n_rows if dtype in ROUNDED else 0, np.uint64)
        self.is_zero = np.empty(n_rows, bool)
        self.row = self.n_nonzero = self.max_active = 0
        self.min_active, self.nonfinite_rows = n_features, list[np.ndarray]()
        self.active_per_feature = np.zeros(n_features, np.int64)
        self.low, self.high = np.full(n_features, np.inf, np.float32), np.full(n_features, -np.inf, np.float32)
        self.norm_min, self.norm_sum, self.norm_max = np.inf, 0.0, -np.inf

    def add(self, piece: Described) -> None:
        rows = slice(self.row, self.row + len(piece.keys))
        self.keys[rows], self.is_zero[rows] = piece.keys, piece.active == 0
        if piece.rounded_keys is not None:
            self.rounded_keys[rows] = piece.rounded_keys
        self.n_nonzero += int(piece.active.sum())
        self.min_active = min(self.min_active, int(piece.active.min()))
        self.max_active = max(self.max_active, int(piece.active.max()))
        self.active_per_feature += piece.active_per_feature
        np.minimum(self.low, piece.low, out=self.low)
        np.maximum(self.high, piece.high, out=self.high)
        finite = np.isfinite(piece.square)
        if not finite.all():
            self.nonfinite_rows.append(self.row + np.flatnonzero(~finite))
        norms = np.sqrt(piece.square[finite])
        self.norm_min = min(self.norm_min, norms.min(initial=np.inf))
        self.norm_sum += norms.sum()
        self.norm_max = max(self.norm_max, norms.max(initial=-np.inf))
        self.row = rows.stop

    def state(self, n_rows: int | None = None) -> tuple[Arrays, Arrays]:
        """Returns the arrays so far for a `Checkpoint`: (whole, by row); with `n_rows`, arrays to restore into."""
        rows = slice(self.row if n_rows is None else n_rows)
        whole = dict(active=self.active_per_feature, low=self.low, high=self.high)
        if n_rows is None:
            whole["norms"] = np.array([self.norm_min, self.norm_sum, self.norm_max])
            whole["nonfinite"] = np.concatenate([np.empty(0, np.int64), *self.nonfinite_rows])
        by_row = dict(keys=self.keys[rows], is_zero=self.is_zero[rows])
        return whole, by_row | (dict(rounded_keys=self.rounded_keys[rows]) if len(self.rounded_keys) else {})

    def counts(self) -> dict[str, int]:
        return dict(row=self.row, n_nonzero=self.n_nonzero, min_active=self.min_active, max_active=self.max_active)

    def resume(self, facts: dict) -> None:
        """Continues where `state` and `counts` were saved; the arrays are restored already."""
        if facts:
            self.norm_min, self.norm_sum, self.norm_max = facts["norms"]
            self.nonfinite_rows = [facts["nonfinite"]]
            for name in self.counts():
                setattr(self, name, facts[name])

    def finish(self, dtype: str, first_equal: Callable[[np.ndarray], np.ndarray] | None = None) -> Scan:
        """Returns the result. `first_equal`: a faster function in place of `_first_equal`."""
        nonfinite_rows = np.concatenate([np.empty(0, np.int64), *self.nonfinite_rows])
        duplicate_of, n_rounded_away = (first_equal or _first_equal)(self.keys), 0
        if len(self.rounded_keys):
            n_rounded_away = _n_equal(self.rounded_keys) - int(np.count_nonzero(duplicate_of >= 0))
        n_rows, n_finite = len(self.keys), len(self.keys) - len(nonfinite_rows)
        return Scan(
            n_rows=n_rows,
            n_features=len(self.low),
            dtype=dtype,
            n_nonzero=self.n_nonzero,
            min_active=self.min_active,
            mean_active=self.n_nonzero / n_rows,
            max_active=self.max_active,
            is_zero=self.is_zero,
            duplicate_of=duplicate_of,
            n_rounded_away=n_rounded_away,
            nonfinite_rows=nonfinite_rows,
            active_per_feature=self.active_per_feature,
            feature_low=self.low,
            feature_high=self.high,
            norm_min=float(self.norm_min) if n_finite else np.nan,
            norm_mean=float(self.norm_sum) / n_finite if n_finite else np.nan,
            norm_max=float(self.norm_max) if n_finite else np.nan,
        )


def _n_equal(keys: np.ndarray) -> int:
    """Counts the keys (uint64 (N,)) that an earlier row has; sorts them in place."""
    keys.sort()
    return int(np.count_nonzero(keys[1:] == keys[:-1]))


def _first_equal(keys: np.ndarray) -> np.ndarray:
    """Finds for each key (uint64 (N,)) the first row with the same key: int64 (N,), -1 if no earlier row has it.

    Sorts keys, not row numbers: most keys are unique, and an order of all rows would take 8 more bytes a row.
    """
    ordered = np.sort(keys)
    second = ordered[1:] == ordered[:-1]
    second[1:] &= ~second[:-1]  # only the second of a run of equal keys
    again = ordered[1:][second]
    del ordered
    duplicate_of = np.full(len(keys), -1, np.int64)
    if len(again) == 0:
        return duplicate_of
    first = np.full(len(again), -1, np.int64)
    for start in range(0, len(keys), 1 << 16):
        part = keys[start : start + (1 << 16)]
        group = np.minimum(np.searchsorted(again, part), len(again) - 1)
        rows = np.flatnonzero(again[group] == part)
        group = group[rows]
        groups, place = np.unique(group, return_index=True)
        new = first[groups] < 0
        first[groups[new]] = start + rows[place[new]]
        earlier = first[group]
        duplicate_of[start + rows] = np.where(earlier == start + rows, -1, earlier)
    return duplicate_of
