"""Rows on a GPU, as the search sees them: dense rows that pass by (`dense_rows.py`), or rows without their zeros, which stay there
(`sparse_rows.py`)."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance
from streamumap.neighbors.cuda.dense_rows import DenseOnDevice
from streamumap.neighbors.cuda.sparse_rows import SparseOnDevice
from streamumap.neighbors.metric import Metric
from streamumap.neighbors.protocol import ComparedRows


class Measures(Protocol):
    """Rows that stay on the device, or sketches of rows: any two of them can be measured at once."""

    def measure(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Measure row queries[i] int32 (n,) against row candidates[i, j] int32 (n, m): float32 (n, m), ascending with the distance, inf
        where the candidate is -1 or the row itself."""


class StreamedRows(Protocol):
    """All rows of a source, compared under `metric`, that come to the device chunk by chunk. Close them when done.

    A `scale` float32 (n,) is what makes the length of rows 1, 0 for a row of zeros; all 1 where rows are compared as they are. What is
    "measured" of two rows is their squared distance, for rows at length 1 half of it.
    """

    n_rows: int
    n_features: int
    metric: Metric
    device: str
    kept: torch.dtype  # of the rows on the device
    resident: bool  # all rows stay on the device

    def chunk(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Get rows start..stop, (n, D) as kept, and their scale."""

    def stream(self, chunk_rows: int, start: int = 0) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (first, rows, scale) of every chunk from row `start` on."""

    def take(self, numbers: np.ndarray) -> Tensor:
        """Get the rows of these numbers (int64, ascending), (n, D) as kept."""

    def projected(self, centre: Tensor, along: Tensor, chunk_rows: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (first, rows times their scale, less `centre` float32 (D,), times `along` float32 (D, w): float32 (n, w)) of every chunk;
        w: a power of two."""

    def close(self) -> None: ...


class DeviceRows(StreamedRows, Protocol):
    """Rows that are measured against each other, and counted."""

    def proposer(self, codes: Tensor) -> Measures:
        """Get what measures any two rows at once; `codes`: sketches of all rows."""

    def measure_candidates(self, candidates: Tensor, query_rows: int, other_rows: int, advance: Advance) -> Tensor:
        """Measure each row against its candidates int32 (N, m), -1: none -> float32 (N, m), inf where none. Advances by N rows."""

    def count_closer(self, sample: np.ndarray, others: np.ndarray, chunk_rows: int, advance: Advance) -> np.ndarray:
        """Count exact ranks, as `protocol.Backend` has it."""


@contextmanager
def on_device(rows: ComparedRows, chunk_rows: int) -> Iterator[DeviceRows]:
    """Bring rows to their device: all of them without their zeros, or dense ones as they are asked for, at most `chunk_rows` at a time.
    Raises InputError where a GPU does not have the metric."""
    rows.metric.check("cuda")
    assert rows.device
    brought: DeviceRows
    if rows.csr is not None:
        brought = SparseOnDevice(rows.csr, rows.metric, rows.device)
    else:
        brought = DenseOnDevice(rows.source, rows.metric, chunk_rows, rows.device)
    with closing(brought):
        yield brought
