"""Bytes of memory that a scan takes."""

from streamumap.source.base import pinned_bytes, stored_dtype
from streamumap.source.pieces import DEVICE_VALUES, PAIR_BYTES, PIECE_PAIRS, PIECE_VALUES, n_threads
from streamumap.source.views.centered import sample_bytes

DEVICE_VALUE_BYTES = 72
"""Bytes of temporaries on a GPU per value, or pair, that it processes at a time."""

DEVICE_ROW_BYTES = 48
"""Bytes of temporaries on a GPU per row of these."""

DEVICE_JOINED_BYTES = 24
"""Bytes on the host per pair: its piece, and the joined pieces."""

DUPLICATE_BYTES = 64
"""Bytes on a GPU per row among which it looks for equal ones."""

EQUAL_SORTED = 1 << 26
"""Rows among which a GPU looks for equal ones at once; of more, it takes ranges of their keys."""

EQUAL_CHUNK = 1 << 22
"""Rows whose keys are brought to a GPU together for a range."""

EQUAL_CHUNK_BYTES = 56
"""Bytes on a GPU per row of these."""


def scan_footprint(n_rows: int, n_features: int, itemsize: int, block_rows: int) -> int:
    """Returns the bytes of memory at the peak of `scan`, its result included; `itemsize` in bytes, of the stored dtype."""
    block_bytes = min(block_rows, n_rows) * n_features * itemsize
    thread_bytes = 16 * PIECE_VALUES + 64 * n_features
    return _scan_bytes(n_rows, n_features, itemsize, block_bytes + n_threads() * thread_bytes)


def pairs_scan_footprint(n_rows: int, n_features: int, itemsize: int) -> int:
    """Returns `scan_footprint` for a `SparseSource`, which is not read in blocks."""
    waiting_bytes = 2 * (16 * n_features + 32 * PIECE_PAIRS)  # each thread may have two results ahead
    reading_bytes = n_threads() * (PIECE_PAIRS * PAIR_BYTES + 64 * n_features + waiting_bytes)
    return _scan_bytes(n_rows, n_features, itemsize, reading_bytes)


def _scan_bytes(n_rows, n_features, itemsize, reading_bytes):
    looking_bytes = max(16 * n_rows + (4 << 20), sample_bytes(n_rows, n_features))
    key_bytes = 16 if itemsize == 8 else 8
    return (key_bytes + 1) * n_rows + 64 * n_features + max(reading_bytes, looking_bytes)


def device_scan_footprint(n_rows: int, n_features: int, dtype: str, block_rows: int) -> tuple[int, int]:
    """Returns (host bytes, device bytes) at the peak of `cuda.scan`, without the CsrRows."""
    block_rows = min(block_rows, n_rows)
    n_values = block_rows * n_features
    blocks = n_values * (2 * stored_dtype(dtype).itemsize + 1 + (4 if dtype == "float64" else 0))
    looking_bytes = min(n_values, DEVICE_VALUES + n_features) * DEVICE_VALUE_BYTES + block_rows * DEVICE_ROW_BYTES
    host_bytes = (
        _scan_bytes(n_rows, n_features, stored_dtype(dtype).itemsize, pinned_bytes(block_rows, n_features, dtype))
        + 8 * n_rows
    )
    return host_bytes, max(blocks + looking_bytes, _equal_bytes(n_rows))


def device_pairs_footprint(n_rows: int, n_features: int, n_nonzero: int, itemsize: int) -> tuple[int, int]:
    """Returns `device_scan_footprint` for a `SparseSource`."""
    n_pairs = min(n_nonzero, DEVICE_VALUES + PIECE_PAIRS)
    host_bytes = pairs_scan_footprint(n_rows, n_features, itemsize) + 8 * n_rows + n_pairs * DEVICE_JOINED_BYTES
    rows = int(n_rows * n_pairs / max(1, n_nonzero))
    looking_bytes = n_pairs * DEVICE_VALUE_BYTES + rows * DEVICE_ROW_BYTES + n_features * 32
    return host_bytes, max(looking_bytes, _equal_bytes(n_rows))


def _equal_bytes(n_rows: int) -> int:
    """Returns the device bytes of looking for equal rows."""
    if n_rows <= EQUAL_SORTED:
        return n_rows * DUPLICATE_BYTES
    return EQUAL_SORTED * DUPLICATE_BYTES + EQUAL_CHUNK * EQUAL_CHUNK_BYTES
