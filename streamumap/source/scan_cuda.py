"""`scan` on a GPU, and the packing of rows that are mostly zeros in the same pass: the file is read once.

The numbers are those of `scan.py`, the keys to the bit; norms to the last bits.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Tick, no_tick
from streamumap.source.base import RowSource, index_dtype, stored_dtype
from streamumap.source.describe import Described, Hashing
from streamumap.source.feed import Feed
from streamumap.source.packed import Filling, PackedRows, pays
from streamumap.source.scan import Scan, Totals
from streamumap.units import ALONE, Arrays, Units

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def scan(
    source: RowSource, block_rows: int, device: str, room_bytes: int = 0, tick: Tick = no_tick, units: Units = ALONE
) -> tuple[Scan, PackedRows | None]:
    """Reads all rows once. One tick a row. `source.dtype`: one of DEVICE_DTYPES.

    The packed rows: where that pays and takes no more than `room_bytes` of host memory, else None.
    """
    dtype = "float32" if source.dtype == "float64" else source.dtype
    hashing = Hashing.of(source.n_features, source.dtype)
    multipliers = torch.from_numpy(hashing.by_value.view(np.int64)).to(device)
    totals = Totals(source.n_rows, source.n_features)
    filling = Filling(source.n_rows, source.n_features, source.dtype, room_bytes)
    whole, by_row = totals.state(source.n_rows)
    facts = units.resume(whole, by_row | filling.room())
    totals.resume(facts)
    filling.resume(facts)
    feed = Feed(source, block_rows, device)
    try:
        for _, block in feed.blocks(block_rows, totals.row):
            rows = block.float() if source.dtype == "float64" else block
            totals.add(_describe(rows, dtype, hashing, multipliers, filling))
            tick(len(block))
            units.done(partial(_state, totals, filling), **totals.counts(), **filling.counts())
    finally:
        feed.close()
    found = totals.finish(source.dtype, lambda keys: _first_equal(torch.from_numpy(keys.view(np.int64)).to(device)))
    keep = pays(source.n_rows, source.n_features, found.n_nonzero) and source.dtype != "float64"
    return found, filling.finish() if keep else None


def _state(totals: Totals, filling: Filling) -> tuple[Arrays, Arrays]:
    whole, rows = totals.state()
    return whole, rows | filling.state()


def _describe(rows: Tensor, dtype: str, hashing: Hashing, multipliers: Tensor, filling: Filling) -> Described:
    n_rows, n_features = rows.shape
    mask = rows != 0
    active = mask.sum(1)
    active_per_feature = mask.sum(0)
    at = mask.flatten().nonzero().squeeze(1)
    values = rows.flatten()[at]
    column = at.remainder_(n_features)
    bits = values if dtype == "bool" else values.view(BITS[values.element_size()])
    bits = bits.to(torch.int64) & ((1 << (8 * stored_dtype(dtype).itemsize)) - 1)
    ends = active.cumsum(0)
    sums = []
    for factor in multipliers:
        running = torch.zeros(len(at) + 1, dtype=torch.int64, device=rows.device)
        torch.cumsum(factor[column] * bits, 0, out=running[1:])
        sums.append((running[ends] - running[ends - active]).cpu().numpy().view(np.uint64))
        del running
    del bits
    finite = bool(torch.isfinite(values).all()) if rows.is_floating_point() else True
    square = torch.segment_reduce(values.double() ** 2, "sum", lengths=active, initial=0.0)
    low, high = _extremes(rows, finite)
    counts = active.cpu().numpy()
    if filling.open:
        filling.add(counts, *_stored(column, values, n_features, dtype))
    return Described(
        hashing.key(sums),
        counts,
        square.cpu().numpy(),
        active_per_feature.cpu().numpy(),
        low.cpu().numpy(),
        high.cpu().numpy(),
    )


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
