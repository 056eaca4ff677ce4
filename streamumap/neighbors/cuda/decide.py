"""Candidates measured by the rows themselves; dense rows chunk against chunk: a pair is measured when both of its rows are on the device."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamumap.events import Advance
from streamumap.neighbors.cuda.distances import pair_squares, sizes
from streamumap.neighbors.cuda.join import merge

LOOK_ROWS = 1 << 16
"""Rows whose candidates are gone through together."""


def decide(
    rows, candidates: Tensor, lists: Tensor, distances: Tensor, query_rows: int, other_rows: int, advance: Advance
) -> None:
    """Measure `candidates` int32 (N, m), -1 for none, and merge them into `lists` int32 (N, w) and `distances` float32 (N, w), nearest first,
    ties by number. `rows`: a DeviceRows, whose methods say what is measured. Advances by N rows."""
    measured = rows.measure_candidates(candidates, query_rows, other_rows, advance)
    numbers = torch.arange(rows.n_rows, dtype=torch.int32, device=rows.device)
    merge(numbers, candidates, measured, lists, distances, lists, distances)


def measure_streamed(rows, candidates: Tensor, query_rows: int, other_rows: int, advance: Advance) -> Tensor:
    """Measure candidates of dense rows, as `DeviceRows.measure_candidates` has it.

    A chunk of `query_rows` stays while the rows behind it pass by. Pairs are measured in both directions, so half of all visits are enough.
    """
    n, unit = rows.n_rows, rows.metric.unit
    measured = torch.full(candidates.shape, torch.inf, device=rows.device)
    for start in range(0, n, query_rows):
        stop = min(start + query_rows, n)
        here = rows.chunk(start, stop)
        _measure(candidates, measured, start, here, start, here, unit)
        for first, others, scale in rows.stream(other_rows, stop):
            there = others, scale
            _measure(candidates, measured, start, here, first, there, unit)
            _measure(candidates, measured, first, there, start, here, unit)
        advance(stop - start)
        del here
    if unit:
        measured /= 2
    return measured


def measure_chunk(rows, candidates: Tensor, start: int, other_rows: int) -> Tensor:
    """Measure the dense rows from `start` on against their candidates int32 (n, m), -1: none -> float32 (n, m), inf where none, while all rows
    pass by."""
    measured = torch.full(candidates.shape, torch.inf, device=rows.device)
    here = rows.chunk(start, start + len(candidates))
    for first, *there in rows.stream(other_rows):
        _measure_among(candidates, measured, here, first, there, rows.metric.unit)
    return measured / 2 if rows.metric.unit else measured


def _measure(candidates, measured, start, queries, first, others, unit):
    """Fill in what is measured of the queries, rows from `start` on, and those of their candidates that are among the others."""
    own = slice(start, start + len(queries[0]))
    _measure_among(candidates[own], measured[own], queries, first, others, unit)


def _measure_among(own, out, queries, first, others, unit):
    """Fill in `out` float32 (n, m), what is measured of the queries and those of their candidates, `own` int32 (n, m), that are among the
    others, whose numbers begin at `first`."""
    (rows, scale), (other_rows, other_scale) = queries, others
    for at in range(0, len(rows), LOOK_ROWS):
        look = own[at : at + LOOK_ROWS]
        places = ((look >= first) & (look < first + len(other_rows))).flatten().nonzero().squeeze(1)
        places += at * own.shape[1]
        if len(places):
            _pairs[(len(places),)](
                rows, scale, other_rows, other_scale, own, out, places, first, own.shape[1], rows.shape[1],
                UNIT=unit, **sizes(rows.shape[1], 1),
            )  # fmt: skip


@triton.jit(do_not_specialize=["first"])
def _pairs(
    queries, scale, others, other_scale, candidates, measured, places, first, width, n_features, UNIT: tl.constexpr,
    TOGETHER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.load(places + tl.program_id(0) + tl.arange(0, TOGETHER))
    row = place // width
    other = tl.load(candidates + place).to(tl.int64) - first
    square = pair_squares(
        queries + row * n_features, tl.load(scale + row), others + other * n_features, tl.load(other_scale + other),
        n_features, UNIT, TOGETHER, BLOCK,
    )  # fmt: skip
    tl.store(measured + place, square)
