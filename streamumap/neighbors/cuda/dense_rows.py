"""Dense rows that pass by the device, chunk after chunk."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from streamumap.neighbors.cuda.sizes import TILE_ROWS
from streamumap.source.views.device_feed import Feed

KEPT = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""What stays on the device as it is stored; everything else becomes float32."""


class DenseOnDevice:
    """`chunk_rows`: the most rows that are read at a time. Close it when done."""

    def __init__(self, source, metric: str, chunk_rows: int, device: str):
        self.metric, self.device, self.chunk_rows = metric, device, chunk_rows
        self.n_rows, self.n_features = source.n_rows, source.n_features
        self.kept = KEPT.get(source.dtype, torch.float32)
        self.feed = Feed(source, chunk_rows, device)
        self.close = self.feed.close

    def chunk(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Rows start..stop: (n, D) as kept on the device, and float32 (n,), the factors that make the rows' length 1
        (cosine; 0 for a zero row)."""
        rows = torch.empty((stop - start, self.n_features), dtype=self.kept, device=self.device)
        for first in range(start, stop, self.chunk_rows):
            last = min(first + self.chunk_rows, stop)
            rows[first - start : last - start] = self.feed.block(first, last)
        return rows, self._scale(rows)

    def stream(self, chunk_rows: int, start: int = 0) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(first, rows, scale) of every chunk from row `start` on, read while the one before is used."""
        for first, rows in self.feed.blocks(chunk_rows, start):
            rows = rows.to(self.kept)
            yield first, rows, self._scale(rows)

    def projected(self, centre: Tensor, along: Tensor, chunk_rows: int) -> Iterator[tuple[int, Tensor]]:
        """(first, rows (of length 1 for cosine) less `centre` float32 (D,), times `along` float32 (D, w), float32 (n, w)) of every
        chunk."""
        for first, block, scale in self.stream(chunk_rows):
            yield first, block.float().mul_(scale[:, None]).sub_(centre) @ along

    def take(self, numbers: np.ndarray) -> Tensor:
        """The rows with these numbers (int64, ascending), (n, D) as kept."""
        return self.feed.take(numbers).to(self.kept)

    def _scale(self, rows):
        if self.metric != "cosine":
            return torch.ones(len(rows), device=self.device)
        norms = row_squares(rows).sqrt_()
        return torch.where(norms > 0, 1.0 / norms, 0.0)


def row_squares(rows: Tensor) -> Tensor:
    """float32 (n,): squared norms."""
    out = torch.empty(len(rows), device=rows.device)
    for at in range(0, len(rows), TILE_ROWS):
        out[at : at + TILE_ROWS] = (rows[at : at + TILE_ROWS].float() ** 2).sum(1)
    return out
