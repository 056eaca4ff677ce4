"""`Scan`: the result of a scan, and the checks that follow from it."""

from dataclasses import dataclass

import numpy as np

from streamumap.errors import InputError

WILD = 1e6
"""Magnitude of a wild column, in multiples of the median column."""


@dataclass(frozen=True, eq=False)
class Scan:
    """The facts about N rows of D features. Low, high and norms leave out values and rows that are not finite."""

    n_rows: int
    n_features: int
    dtype: str
    n_nonzero: int
    min_active: int  # non-zeros of a row
    mean_active: float
    max_active: int
    is_zero: np.ndarray  # bool (N,)
    duplicate_of: np.ndarray  # int64 (N,): first row with equal stored content, -1 if no earlier row has
    n_rounded_away: int  # rows equal to an earlier one as float32 but not as stored
    nonfinite_rows: np.ndarray  # int64, ascending: rows with a value that is not finite
    active_per_feature: np.ndarray  # int64 (D,)
    feature_low: np.ndarray  # float32 (D,): inf if no value is finite
    feature_high: np.ndarray  # float32 (D,): -inf if no value is finite
    norm_min: float  # NaN if no row is finite
    norm_mean: float
    norm_max: float

    @property
    def n_nonfinite_rows(self) -> int:
        return len(self.nonfinite_rows)

    @property
    def first_nonfinite_row(self) -> int:
        """Returns -1 if there is none."""
        return int(self.nonfinite_rows[0]) if len(self.nonfinite_rows) else -1

    @property
    def non_negative(self) -> bool:
        return bool((self.feature_low >= 0).all())

    @property
    def n_zero_rows(self) -> int:
        return int(np.count_nonzero(self.is_zero))

    @property
    def n_duplicate_rows(self) -> int:
        return int(np.count_nonzero(self.duplicate_of >= 0))

    @property
    def n_dead_features(self) -> int:
        """Counts features that are zero in every row."""
        return int(np.count_nonzero(self.active_per_feature == 0))

    @property
    def n_constant_features(self) -> int:
        """Counts features with one value in all rows, dead ones included."""
        return int(np.count_nonzero(self.feature_low == self.feature_high))

    @property
    def density(self) -> float:
        return self.n_nonzero / (self.n_rows * self.n_features)


def check_finite(source_name: str, scan: Scan) -> None:
    """Raises InputError if a value is NaN, infinite, or (float64) beyond the range of float32."""
    if scan.n_nonfinite_rows:
        raise InputError(
            f"{source_name}: row {scan.first_nonfinite_row}: expected finite values, found NaN or infinite ones "
            f"(float32 holds up to 3.4e38) in {scan.n_nonfinite_rows} of {scan.n_rows} rows, this one first; "
            "mend those rows, or leave them out of the map with --drop-nonfinite."
        )


def wild_features(scan: Scan) -> np.ndarray:
    """Returns the columns (int64, ascending) whose magnitude is over WILD times the lower median of non-zero columns."""
    magnitude = np.maximum(np.abs(scan.feature_low), np.abs(scan.feature_high)).astype(np.float64)
    magnitude[np.isinf(magnitude)] = 0.0  # no finite value
    live = np.sort(magnitude[magnitude > 0])
    return np.flatnonzero(magnitude > WILD * live[(len(live) - 1) // 2]) if len(live) else np.empty(0, np.int64)
