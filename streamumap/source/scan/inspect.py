"""The report of `inspect`."""

import numpy as np

from streamumap.source.base import RowSource, index_dtype, stored_dtype
from streamumap.source.scan.result import Scan, wild_features


def inspect_report(source: RowSource, scan: Scan, chosen: str | None = None) -> dict:
    """Returns the scan as JSON: numbers, lists, and None for what is undefined. `chosen`: what was read of a container."""
    pair_bytes = index_dtype(scan.n_features).itemsize + stored_dtype(scan.dtype).itemsize
    norms = {"min": scan.norm_min, "mean": scan.norm_mean, "max": scan.norm_max}
    return {
        "name": source.name,
        **({} if chosen is None else {"array": chosen}),
        "rows": scan.n_rows,
        "features": scan.n_features,
        "dtype": scan.dtype,
        "stored_bytes": scan.n_rows * source.row_bytes,
        "pairs_bytes": scan.n_nonzero * pair_bytes,
        "nonzero": scan.n_nonzero,
        "density": scan.density,
        "active_per_row": {"min": scan.min_active, "mean": scan.mean_active, "max": scan.max_active},
        "non_negative": scan.non_negative,
        "zero_rows": scan.n_zero_rows,
        "duplicate_rows": scan.n_duplicate_rows,
        "dead_features": scan.n_dead_features,
        "constant_features": scan.n_constant_features,
        "wild_features": wild_features(scan).tolist(),
        "nonfinite_rows": scan.n_nonfinite_rows,
        "first_nonfinite_row": scan.first_nonfinite_row if scan.n_nonfinite_rows else None,
        "norm": {name: value if np.isfinite(value) else None for name, value in norms.items()},
    }
