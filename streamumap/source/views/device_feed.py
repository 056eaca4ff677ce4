"""`Feed`: sends blocks of rows to the device and reads one block ahead into pinned memory."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from streamumap.source.base import DEVICE_DTYPES, RowSource, stored_dtype, widen

AS_STORED = {name: getattr(torch, name) for name in DEVICE_DTYPES}
"""Torch dtypes on the device; rows of other dtypes arrive as float32."""


class Feed:
    """A reader of blocks of at most `block_rows` rows for a device. Close it when done."""

    def __init__(self, source: RowSource, block_rows: int, device: str):
        self.source, self.device = source, device
        self.dtype = AS_STORED.get(source.dtype)
        staged = stored_dtype(source.dtype) if self.dtype is not None else np.dtype(np.float32)
        shape = (min(block_rows, source.n_rows), source.n_features)
        self.staging = [_pinned(shape, staged, device) for _ in range(2)]
        self.reader = ThreadPoolExecutor(1)
        self.turn = 0

    def close(self) -> None:
        self.reader.shutdown()

    def block(self, start: int, stop: int) -> Tensor:
        """Sends rows start..stop, (n, D)."""
        return self._sent(self._stage(self.turn, start, stop))

    def blocks(self, block_rows: int, first: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Yields (start, rows) from row `first` to the last; the next block is read while one is used."""
        n = self.source.n_rows
        starts = range(first, n, block_rows)
        waiting = self._ahead(starts, 0, block_rows)
        for number, start in enumerate(starts):
            rows = self._sent(waiting.result())
            waiting = self._ahead(starts, number + 1, block_rows)
            yield start, rows

    def take(self, numbers: np.ndarray) -> Tensor:
        """Sends the rows with these numbers (int64, ascending)."""
        stored = self.source.take(numbers)
        return self._sent(torch.from_numpy(stored if self.dtype is not None else widen(stored, self.source.dtype)))

    def _ahead(self, starts, number, block_rows):
        """Starts to read a block into the buffer that is not in use."""
        if number == len(starts):
            return Future()
        self.turn = 1 - self.turn
        return self.reader.submit(self._stage, self.turn, starts[number], min(starts[number] + block_rows, starts.stop))

    def _stage(self, turn, start, stop):
        buffer = self.staging[turn].numpy()[: stop - start]
        if self.dtype is not None:
            self.source.read(start, stop, buffer)
        else:
            buffer[:] = widen(self.source.read(start, stop), self.source.dtype)
        return self.staging[turn][: stop - start]

    def _sent(self, staged):
        rows = staged.to(self.device, copy=True)
        return rows.view(torch.bfloat16) if self.dtype is torch.bfloat16 else rows


def _pinned(shape, dtype, device):
    array = torch.from_numpy(np.empty(0, dtype)).new_empty(shape)
    return array.pin_memory() if str(device).startswith("cuda") else array
