"""Equal keys of rows, found on a GPU: all keys are sorted at once or, where there are many, range by range of their mixed bits."""

import numpy as np
import torch
from torch import Tensor

from streamumap.source.scan.sizes import EQUAL_CHUNK, EQUAL_SORTED

MIX = 0x9E3779B97F4A7C15 - (1 << 64)
"""An odd factor that spreads keys over all ranges, however they were made."""

FULL = 0.7
"""Mean share of EQUAL_SORTED that the keys of a range have: different keys fall into ranges at random."""


def first_equal(keys: np.ndarray, device: str) -> np.ndarray:
    """Computes `totals._first_equal` for uint64 (N,) keys: int64 (N,). Any ranges give the same."""
    signed = keys.view(np.int64)
    if len(keys) <= EQUAL_SORTED:
        return _of_all(torch.from_numpy(signed).to(device)).cpu().numpy()
    out = np.full(len(keys), -1, np.int64)
    n_ranges = -int(-len(keys) // (FULL * EQUAL_SORTED))
    for number in range(n_ranges):
        known, first = _table(signed, number, n_ranges, device)
        for rows, some in _within(signed, number, n_ranges, device):
            before = first[torch.searchsorted(known, some)]
            again = before != rows
            out[rows[again].cpu().numpy()] = before[again].cpu().numpy()
    return out


def _of_all(keys: Tensor) -> Tensor:
    keys, rows = keys.sort(stable=True)
    new = torch.ones_like(keys, dtype=torch.bool)
    new[1:] = keys[1:] != keys[:-1]
    del keys
    first = rows[new][new.cumsum(0) - 1]
    return torch.empty_like(rows).scatter_(0, rows, torch.where(first == rows, -1, first))


def _table(keys: np.ndarray, number: int, n_ranges: int, device: str) -> tuple[Tensor, Tensor]:
    """Finds the different keys of a range, ascending, and the first row that has each: int64. Each chunk adds a key once, so a key of
    many rows takes no room."""
    parts = [_once(some, rows) for rows, some in _within(keys, number, n_ranges, device)]
    some, rows = (torch.cat(column) for column in zip(*parts, strict=True))
    del parts
    return _once(some, rows)


def _once(keys: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sorts keys and keeps each with its first row; the rows of a key ascend."""
    keys, order = keys.sort(stable=True)
    new = torch.ones_like(keys, dtype=torch.bool)
    new[1:] = keys[1:] != keys[:-1]
    return keys[new], rows[order[new]]


def _within(keys: np.ndarray, number: int, n_ranges: int, device: str):
    """Yields (rows, keys) int64 of the keys in a range, chunk by chunk."""
    for start in range(0, len(keys), EQUAL_CHUNK):
        some = torch.from_numpy(keys[start : start + EQUAL_CHUNK]).to(device)
        mixed = ((some * MIX) >> 32) & 0xFFFFFFFF
        rows = ((mixed * n_ranges) >> 32 == number).nonzero()[:, 0]
        yield rows + start, some[rows]
