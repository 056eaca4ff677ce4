"""Rows that are mostly zeros and pass by the device, block after block, without their zeros: a
`device_rows.StreamedRows`."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from streamumap.neighbors.cuda.dense_rows import KEPT
from streamumap.neighbors.cuda.sparse_rows import SparseOnDevice
from streamumap.neighbors.metric import Metric
from streamumap.source.sparse.csr_rows import CsrRows


class PassingRows:
    """The rows of a CsrRows: those asked for are brought to the device, where rows are streamed at least `together` of them."""

    resident = False

    def __init__(self, rows: CsrRows, metric: Metric, device: str, together: int = 1):
        self.rows, self.metric, self.device, self.together = rows, metric, device, together
        self.n_rows, self.n_features = rows.n_rows, rows.n_features
        self.kept = KEPT.get(rows.dtype, torch.float32)

    def brought(self, runs: Sequence[tuple[int, int]]) -> SparseOnDevice:
        """Bring the rows of these runs (start, stop)."""
        return SparseOnDevice(self.rows, self.metric, self.device, runs)

    def chunk(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self.brought([(start, stop)]).chunk(0, stop - start)

    def stream(self, chunk_rows: int, start: int = 0) -> Iterator[tuple[int, Tensor, Tensor]]:
        step = max(1, self.together // chunk_rows) * chunk_rows
        for low in range(start, self.n_rows, step):
            brought = self.brought([(low, min(low + step, self.n_rows))])
            for first, rows, scale in brought.stream(chunk_rows):
                yield low + first, rows, scale
            del brought, rows, scale

    def take(self, numbers: np.ndarray) -> Tensor:
        """Get the rows of these numbers (int64, ascending) with their zeros, (n, D) as kept."""
        indptr, features, values = self.rows.take(numbers)
        out = torch.zeros((len(numbers), self.n_features), dtype=self.kept, device=self.device)
        row = torch.from_numpy(np.repeat(np.arange(len(numbers)), np.diff(indptr))).to(self.device)
        at = torch.from_numpy(features.astype(np.int64)).to(self.device)
        out[row, at] = torch.from_numpy(values).to(self.device, self.kept)
        return out

    def projected(self, centre: Tensor, along: Tensor, chunk_rows: int) -> Iterator[tuple[int, Tensor]]:
        """Project as `DeviceRows.projected` does."""
        for start in range(0, self.n_rows, chunk_rows):
            block = self.brought([(start, min(start + chunk_rows, self.n_rows))])
            for _, part in block.projected(centre, along, chunk_rows):
                yield start, part

    def close(self) -> None:
        pass
