"""`scan` on a GPU, and the packing of rows that are mostly zeros in the same pass: the file is read once.

The numbers are those of `scan.py`, the keys to the bit; norms to the last bits.
"""

from collections.abc import Iterator
from contextlib import closing
from functools import partial

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Tick, no_tick
from streamumap.source.base import Pairs, RowSource, SparseSource, index_dtype, stored_dtype
from streamumap.source.describe import Described, Hashing
from streamumap.source.feed import Feed
from streamumap.source.packed import Filling, PackedRows, pays
from streamumap.source.pieces import DEVICE_PAIRS, over_rows
from streamumap.source.scan import Scan, Totals
from streamumap.units import ALONE, Arrays, Units

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def scan(
    source: RowSource, block_rows: int, device: str, room_bytes: int = 0, tick: Tick = no_tick, units: Units = ALONE
) -> tuple[Scan, PackedRows | None]:
    """Reads all rows once. One tick a row. `source.dtype`: one of DEVICE_DTYPES.

    The packed rows: where that pays and takes no more than `room_bytes` of host memory, else None.
    """
    totals = Totals(source.n_rows, source.n_features)
    filling = Filling(source.n_rows, source.n_features, source.dtype, room_bytes)
    whole, by_row = totals.state(source.n_rows)
    facts = units.resume(whole, by_row | filling.room())
    totals.resume(facts)
    filling.resume(facts)
    hashing = Hashing.of(source.n_features, source.dtype)
    describe = _of_pairs if isinstance(source, SparseSource) else _of_blocks
    with closing(describe(source, block_rows, device, hashing, filling, totals.row)) as all_rows:
        for described in all_rows:
            totals.add(described)
            tick(len(described.keys))
            units.done(partial(_state, totals, filling), **totals.counts(), **filling.counts())
    found = totals.finish(source.dtype, lambda keys: _first_equal(torch.from_numpy(keys.view(np.int64)).to(device)))
    keep = pays(source.n_rows, source.n_features, found.n_nonzero) and source.dtype != "float64"
    return found, filling.finish() if keep else None


def _state(totals: Totals, filling: Filling) -> tuple[Arrays, Arrays]:
    whole, rows = totals.state()
    return whole, rows | filling.state()


def _of_blocks(source, block_rows, device, hashing: Hashing, filling: Filling, first: int) -> Iterator[Described]:
    """What is known of one block after the other, from row `first` on; fills in their pairs."""
    sums_of = _Sums(hashing, device)
    feed = Feed(source, block_rows, device)
    try:
        for _, block in feed.blocks(block_rows, first):
            yield _describe(block, source.dtype, sums_of, filling)
    finally:
        feed.close()


def _of_pairs(source, block_rows, device, hashing: Hashing, filling: Filling, first: int) -> Iterator[Described]:
    """The same of rows that come as pairs, DEVICE_PAIRS and a piece more at a time."""
    sums_of = _Sums(hashing, device)
    waiting: list[Pairs] = []
    for piece in over_rows(source, block_rows, lambda pairs: pairs, no_tick, first):
        waiting.append(piece)
        if sum(len(pairs.values) for pairs in waiting) >= DEVICE_PAIRS:
            yield _describe_pairs(waiting, source.dtype, sums_of, filling)
            waiting.clear()
    if waiting:
        yield _describe_pairs(waiting, source.dtype, sums_of, filling)


class _Sums:
    """The two sums of a row's hash, as `Hashing` has them."""

    def __init__(self, hashing: Hashing, device: str):
        self.hashing, self.device = hashing, device
        self._factors = torch.from_numpy(hashing.by_value.view(np.int64)).to(device)

    def keys(self, column: Tensor, values: Tensor, active: Tensor) -> np.ndarray:
        """uint64 (R,), of rows of `active` values each, one after the other."""
        bits = values if values.dtype == torch.bool else values.view(BITS[values.element_size()])
        bits = bits.to(torch.int64) & ((1 << (8 * values.element_size())) - 1)
        ends, sums = active.cumsum(0), []
        for factor in self._factors:
            running = torch.zeros(len(column) + 1, dtype=torch.int64, device=column.device)
            torch.cumsum(factor[column] * bits, 0, out=running[1:])
            sums.append((running[ends] - running[ends - active]).cpu().numpy().view(np.uint64))
            del running
        return self.hashing.key(sums)


def _describe(rows: Tensor, dtype: str, sums: _Sums, filling: Filling) -> Described:
    if dtype == "float64":
        rows, dtype = rows.float(), "float32"
    mask = rows != 0
    active = mask.sum(1)
    active_per_feature = mask.sum(0)
    at = mask.flatten().nonzero().squeeze(1)
    values = rows.flatten()[at]
    column = at.remainder_(rows.shape[1])
    keys, square = sums.keys(column, values, active), _square(values, active)
    low, high = _extremes(rows, _finite(values))
    counts = active.cpu().numpy()
    if filling.open:
        filling.add(counts, *_stored(column, values, rows.shape[1], dtype))
    return _described(keys, counts, square, active_per_feature, low, high)


def _describe_pairs(pieces: list[Pairs], dtype: str, sums: _Sums, filling: Filling) -> Described:
    counts = np.concatenate([np.diff(pairs.indptr) for pairs in pieces])
    indices, stored = (np.concatenate([getattr(pairs, name) for pairs in pieces]) for name in ("indices", "values"))
    if filling.open:
        filling.add(counts, indices, stored)
    active = torch.from_numpy(counts).to(sums.device)
    n_features = sums.hashing.n_features
    column = torch.from_numpy(indices.view(f"i{indices.itemsize}")).to(sums.device).long()
    column &= (1 << (8 * indices.itemsize)) - 1
    values = torch.from_numpy(stored.view(np.int16) if dtype == "bfloat16" else stored).to(sums.device)
    values = values.view(torch.bfloat16) if dtype == "bfloat16" else values.float() if dtype == "float64" else values
    keys, square = sums.keys(column, values, active), _square(values, active)
    active_per_feature = torch.bincount(column, minlength=n_features)
    if not _finite(values):
        there = values.isfinite()
        column, values = column[there], values[there]
    values, has_zero = values.float(), active_per_feature < len(counts)
    low, high = (torch.full((n_features,), end, device=sums.device) for end in (torch.inf, -torch.inf))
    low.scatter_reduce_(0, column, values, "amin")
    high.scatter_reduce_(0, column, values, "amax")
    low, high = torch.where(has_zero, low.clamp_max(0), low), torch.where(has_zero, high.clamp_min(0), high)
    return _described(keys, counts, square, active_per_feature, low, high)


def _described(keys, counts, square: Tensor, *of_features: Tensor) -> Described:
    return Described(keys, counts, square.cpu().numpy(), *(values.cpu().numpy() for values in of_features))


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all()) if values.is_floating_point() else True


def _square(values: Tensor, active: Tensor) -> Tensor:
    return torch.segment_reduce(values.double() ** 2, "sum", lengths=active, initial=0.0)


def _stored(column, values, n_features, dtype):
    """Columns and values as packed rows keep them."""
    column = column.to(torch.int32)
    if index_dtype(n_features).itemsize == 2:
        column = column.to(torch.int16)  # its low bits
    if dtype == "bfloat16":
        values = values.view(torch.int16)
    return column.cpu().numpy().view(index_dtype(n_features)), values.cpu().numpy().view(stored_dtype(dtype))


def _extremes(rows, finite):
    """The least and the largest finite value of each column, float32."""
    if rows.dtype == torch.bool:
        rows = rows.to(torch.uint8)
    if finite:
        return rows.amin(0).float(), rows.amax(0).float()
    values = rows.float()
    there = torch.isfinite(values)
    return torch.where(there, values, torch.inf).amin(0), torch.where(there, values, -torch.inf).amax(0)


def _first_equal(keys: Tensor) -> np.ndarray:
    """As `scan._first_equal`, of int64 (N,)."""
    keys, rows = keys.sort(stable=True)
    new = torch.ones_like(keys, dtype=torch.bool)
    new[1:] = keys[1:] != keys[:-1]
    del keys
    first = rows[new][new.cumsum(0) - 1]
    return torch.empty_like(rows).scatter_(0, rows, torch.where(first == rows, -1, first)).cpu().numpy()
