"""Dense rows that pass by the device, chunk after chunk: a `device_rows.DeviceRows`."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance
from streamumap.neighbors.cuda.count import count_streamed
from streamumap.neighbors.cuda.decide import measure_streamed
from streamumap.neighbors.cuda.distances import row_squares
from streamumap.neighbors.cuda.sketch import Sketches
from streamumap.neighbors.metric import Metric
from streamumap.source.base import RowSource
from streamumap.source.views.device_feed import Feed

KEPT = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Stored dtypes that are kept on the device; all others become float32."""


class DenseOnDevice:
    """All rows of a source, of which at most `chunk_rows` are read at a time."""

    resident = False

    def __init__(self, source: RowSource, metric: Metric, chunk_rows: int, device: str):
        self.metric, self.device, self.chunk_rows = metric, device, chunk_rows
        self.n_rows, self.n_features = source.n_rows, source.n_features
        self.kept = KEPT.get(source.dtype, torch.float32)
        self.feed = Feed(source, chunk_rows, device)

    def close(self) -> None:
        self.feed.close()

    def chunk(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        rows = torch.empty((stop - start, self.n_features), dtype=self.kept, device=self.device)
        for first in range(start, stop, self.chunk_rows):
            last = min(first + self.chunk_rows, stop)
            rows[first - start : last - start] = self.feed.block(first, last)
        return rows, self._scale(rows)

    def stream(self, chunk_rows: int, start: int = 0) -> Iterator[tuple[int, Tensor, Tensor]]:
        """A chunk is read while the one before is used."""
        for first, rows in self.feed.blocks(chunk_rows, start):
            rows = rows.to(self.kept)
            yield first, rows, self._scale(rows)

    def projected(self, centre: Tensor, along: Tensor, chunk_rows: int) -> Iterator[tuple[int, Tensor]]:
        for first, block, scale in self.stream(chunk_rows):
            yield first, block.float().mul_(scale[:, None]).sub_(centre) @ along

    def take(self, numbers: np.ndarray) -> Tensor:
        return self.feed.take(numbers).to(self.kept)

    def proposer(self, codes: Tensor) -> Sketches:
        return Sketches(codes)

    def measure_candidates(self, candidates: Tensor, query_rows: int, other_rows: int, advance: Advance) -> Tensor:
        return measure_streamed(self, candidates, query_rows, other_rows, advance)

    def count_closer(self, sample: np.ndarray, others: np.ndarray, chunk_rows: int, advance: Advance) -> np.ndarray:
        return count_streamed(self, sample, others, chunk_rows, advance)

    def _scale(self, rows):
        if not self.metric.unit:
            return torch.ones(len(rows), device=self.device)
        norms = row_squares(rows).sqrt_()
        return torch.where(norms > 0, 1.0 / norms, 0.0)
