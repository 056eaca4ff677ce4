"""Scans all rows on a GPU and, if they are mostly zeros, makes their CsrRows in the same pass: the file is read once.

The result equals that of `cpu.scan`: keys to the bit, norms but for the last bits.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial

import numpy as np
import torch
from torch import Tensor

from streamumap.events import Advance, no_advance
from streamumap.source.base import CsrBlock, RowSource, SparseSource, index_dtype, stored_dtype
from streamumap.source.pieces import DEVICE_VALUES, Piece, over_rows
from streamumap.source.scan.describe import SPARSE_FROM, Described, Hashing
from streamumap.source.scan.equal_cuda import first_equal
from streamumap.source.scan.result import Scan
from streamumap.source.scan.totals import Totals
from streamumap.source.sparse.csr_builder import CsrBuilder
from streamumap.source.sparse.csr_rows import CsrRows, pays
from streamumap.source.views.device_feed import Feed
from streamumap.store.checkpoint import NO_CHECKPOINT, Arrays, Checkpoint

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def scan(
    source: RowSource,
    block_rows: int,
    device: str,
    room_bytes: int = 0,
    advance: Advance = no_advance,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[Scan, CsrRows | None]:
    """Reads all rows once. Advances by rows. `source.dtype`: one of DEVICE_DTYPES.

    CsrRows are made if that pays and takes at most `room_bytes` of host memory, else None.
    """
    totals = Totals(source.n_rows, source.n_features, source.dtype)
    builder = CsrBuilder(source.n_rows, source.n_features, source.dtype, room_bytes)
    whole, by_row = totals.state(source.n_rows)
    facts = checkpoint.resume(whole, by_row | builder.room())
    totals.resume(facts)
    builder.resume(facts)
    hashing = Hashing.of(source.n_features, source.dtype)
    describe = _of_pairs if isinstance(source, SparseSource) else _of_blocks
    with closing(describe(source, block_rows, device, hashing, builder, totals.row)) as all_rows:
        for described in all_rows:
            totals.add(described)
            advance(len(described.keys))
            checkpoint.done(partial(_state, totals, builder), **totals.counts(), **builder.counts())
    result = totals.finish(source.dtype, lambda keys: first_equal(keys, device))
    keep = pays(source.n_rows, source.n_features, result.n_nonzero) and source.dtype != "float64"
    return result, builder.finish() if keep else None


def _state(totals: Totals, builder: CsrBuilder) -> tuple[Arrays, Arrays]:
    whole, rows = totals.state()
    return whole, rows | builder.state()


def _of_blocks(source, block_rows, device, hashing: Hashing, builder: CsrBuilder, first: int) -> Generator[Described]:
    """Describes dense rows from row `first` on, part by part, and adds their pairs to `builder`."""
    sums, n_features = _Sums(hashing, device), source.n_features
    step = max(1, DEVICE_VALUES // n_features)
    feed = Feed(source, block_rows, device)
    try:
        for _, block in feed.blocks(block_rows, first):
            rows, dtype = (block.float(), "float32") if source.dtype == "float64" else (block, source.dtype)
            mask = rows != 0
            counts = np.concatenate([_row_sums(part) for part in mask.split(max(1, 4 * DEVICE_VALUES // n_features))])
            if counts.sum() * SPARSE_FROM > mask.numel():
                builder.give_up()
                for part in range(0, len(rows), step):
                    part_rows = slice(part, part + step)
                    yield _describe_dense(rows[part_rows], block[part_rows], mask[part_rows], counts[part_rows], sums)
                continue
            for part_rows in _parts(counts):
                at = mask[part_rows].flatten().nonzero().squeeze(1)
                values = rows[part_rows].flatten()[at]
                stored = values if block is rows else block[part_rows].flatten()[at]
                column = at.remainder_(n_features)
                if builder.open:
                    builder.add(counts[part_rows], *_stored(column, values, n_features, dtype))
                yield _describe(column, values, stored, counts[part_rows], sums)
    finally:
        feed.close()


def _row_sums(mask: Tensor) -> np.ndarray:
    return mask.sum(1, dtype=torch.int32).cpu().numpy().astype(np.int64)


def _parts(counts: np.ndarray) -> Iterator[slice]:
    """Cuts rows into slices with at most DEVICE_VALUES values each, or of one row."""
    ends, start = np.cumsum(counts), 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + DEVICE_VALUES, side="right")))
        yield slice(start, stop)
        start = stop


def _of_pairs(source, block_rows, device, hashing: Hashing, builder: CsrBuilder, first: int) -> Generator[Described]:
    """Describes rows that come as pairs, up to DEVICE_VALUES and one piece at a time, and adds them to `builder`."""
    sums = _Sums(hashing, device)
    waiting: list[CsrBlock] = []

    def described() -> Described:
        counts = np.concatenate([np.diff(pairs.indptr) for pairs in waiting])
        indices, values = (
            np.concatenate([getattr(pairs, name) for pairs in waiting]) for name in ("indices", "values")
        )
        if builder.open:
            builder.add(counts, indices, values)
        waiting.clear()
        return _describe(*_sent(indices, values, source.dtype, device), counts, sums)

    for pairs in over_rows(source, block_rows, _as_pairs, no_advance, first):
        waiting.append(pairs)
        if sum(len(pairs.values) for pairs in waiting) >= DEVICE_VALUES:
            yield described()
    if waiting:
        yield described()


def _as_pairs(piece: Piece) -> CsrBlock:
    assert isinstance(piece, CsrBlock)
    return piece


def _sent(indices: np.ndarray, values: np.ndarray, dtype: str, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Sends pairs to the device: columns int64, values (float64 as float32), and values as stored."""
    column = torch.from_numpy(indices.view(f"i{indices.itemsize}")).to(device).long()
    column &= (1 << (8 * indices.itemsize)) - 1
    if dtype == "bfloat16":
        stored = torch.from_numpy(values.view(np.int16)).to(device).view(torch.bfloat16)
        return column, stored, stored
    stored = torch.from_numpy(values).to(device)
    return column, stored.float() if dtype == "float64" else stored, stored


class _Sums:
    """Computes the two sums of a row's hash with the multipliers of `Hashing`."""

    def __init__(self, hashing: Hashing, device: str):
        self.hashing, self.device, self.n_features = hashing, device, hashing.n_features
        factors = hashing.by_value[None]
        if hashing.rounded:  # values of two lanes
            factors = hashing.by_lane.reshape(2, -1, 2).transpose(2, 0, 1)
        self._factors = torch.from_numpy(factors.astype(np.uint64).view(np.int64)).to(device)  # (lanes, 2, D)
        self.rounded = _Sums(hashing.rounded, device) if hashing.rounded else None

    def of_values(self, column: Tensor, values: Tensor, active: Tensor) -> np.ndarray:
        """Returns keys uint64 (R,) of rows with `active` values each, one after the other."""
        ends = active.cumsum(0)
        sums = np.zeros((2, len(active)), np.uint64)
        for factors, bits in zip(self._factors, _bits(values), strict=True):
            for total, factor in zip(sums, factors, strict=True):
                running = torch.zeros(len(column) + 1, dtype=torch.int64, device=column.device)
                torch.cumsum(factor[column] * bits, 0, out=running[1:])
                total += (running[ends] - running[ends - active]).cpu().numpy().view(np.uint64)
                del running
        return self.hashing.key(sums)

    def of_rows(self, rows: Tensor, mask: Tensor) -> np.ndarray:
        """Returns keys uint64 (R,) of dense rows; `mask` marks the non-zeros, for a zero may have a sign bit."""
        sums = np.zeros((2, len(rows)), np.uint64)
        for factors, bits in zip(self._factors, _bits(rows), strict=True):
            bits *= mask
            for total, factor in zip(sums, factors, strict=True):
                total += (bits * factor).sum(1).cpu().numpy().view(np.uint64)
        return self.hashing.key(sums)


def _bits(values: Tensor) -> Iterator[Tensor]:
    """Yields the lanes of values as int64: one, or the low and the high one of 8 bytes."""
    if values.element_size() == 8:
        yield values.view(torch.int64) & 0xFFFFFFFF
        yield (values.view(torch.int64) >> 32) & 0xFFFFFFFF
        return
    bits = values if values.dtype == torch.bool else values.view(BITS[values.element_size()])
    yield bits.to(torch.int64).bitwise_and_((1 << (8 * values.element_size())) - 1)


def _describe(column: Tensor, values: Tensor, stored: Tensor, counts: np.ndarray, sums: _Sums) -> Described:
    """Describes rows with `counts` non-zeros each, one after the other: as `stored`, and as float32 in `values`."""
    active, n_features = torch.from_numpy(counts).to(sums.device), sums.n_features
    keys = sums.of_values(column, stored, active)
    rounded_keys = sums.rounded.of_values(column, values, active) if sums.rounded else None
    square = torch.segment_reduce(values.double() ** 2, "sum", lengths=active, initial=0.0)
    active_per_feature = torch.bincount(column, minlength=n_features)
    values = values.float()
    finite = values.isfinite()
    if not bool(finite.all()):
        column, values = column[finite], values[finite]
    low, high = (torch.full((n_features,), end, device=sums.device) for end in (torch.inf, -torch.inf))
    low.scatter_reduce_(0, column, values, "amin")
    high.scatter_reduce_(0, column, values, "amax")
    has_zero = active_per_feature < len(counts)
    low, high = torch.where(has_zero, low.clamp_max(0), low), torch.where(has_zero, high.clamp_min(0), high)
    return Described(
        keys, counts, _host(square), _host(active_per_feature), _host(low), _host(high), rounded_keys
    )  # fmt: skip


def _describe_dense(rows: Tensor, stored: Tensor, mask: Tensor, counts: np.ndarray, sums: _Sums) -> Described:
    keys = sums.of_rows(stored, mask)
    rounded_keys = sums.rounded.of_rows(rows, mask) if sums.rounded else None
    values = rows.float()
    finite = values.isfinite()
    low, high = torch.where(finite, values, torch.inf).amin(0), torch.where(finite, values, -torch.inf).amax(0)
    square, active_per_feature = (values.double() ** 2).sum(1), mask.sum(0)
    return Described(
        keys, counts, _host(square), _host(active_per_feature), _host(low), _host(high), rounded_keys
    )  # fmt: skip


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def _stored(column, values, n_features, dtype):
    """Converts columns and values to the dtypes of CsrRows, on the host."""
    column = column.to(torch.int32)
    if index_dtype(n_features).itemsize == 2:
        column = column.to(torch.int16)  # its low bits
    if dtype == "bfloat16":
        values = values.view(torch.int16)
    return column.cpu().numpy().view(index_dtype(n_features)), values.cpu().numpy().view(stored_dtype(dtype))
