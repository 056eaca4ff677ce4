"""The exact search for the neighbors of new rows on a GPU: a `protocol.NearestBackend`. Float32 products propose and differences of the rows
decide (`chunk.py`)."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor

from streamumap.neighbors.cuda.chunk import Rule, as_chunk, merge_chunk, precision
from streamumap.neighbors.cuda.dense_rows import DenseOnDevice
from streamumap.neighbors.cuda.device_rows import StreamedRows, on_device
from streamumap.neighbors.cuda.distances import row_squares
from streamumap.neighbors.cuda.passing_rows import PassingRows
from streamumap.neighbors.protocol import KnnGraph, Nearest, NearestRequest

SCALING = 1e-6
"""Relative distance up to which two rows at length 1 are the same row: both sides sum its squares, in different orders."""


@contextmanager
def open_search(request: NearestRequest) -> Iterator[Nearest]:
    """Open a search that brings both sides to the device, chunk by chunk as they are asked for."""
    with _opened(request) as others:
        asking = DenseOnDevice(request.new, request.rows.metric, request.other_rows, others.device)
        with closing(asking):
            yield lambda start, stop: nearest(*asking.chunk(start, stop), others, request)


@contextmanager
def _opened(request: NearestRequest) -> Iterator[StreamedRows]:
    """Bring the rows of the map to the device: all of them without their zeros, or as they are asked for."""
    rows = request.rows
    if request.pass_rows and rows.csr is not None and rows.device:
        rows.metric.check("cuda")
        yield PassingRows(rows.csr, rows.metric, rows.device, request.pass_rows)
        return
    with on_device(rows, request.other_rows) as others:
        yield others


def nearest(queries: Tensor, scale: Tensor, others: StreamedRows, request: NearestRequest) -> KnnGraph:
    """Find the neighbors of `queries` (Q, D) with their `scale` (Q,), a chunk of new rows, among `others`. Advances by Q rows."""
    n, n_queries, unit = others.n_rows, len(queries), others.metric.unit
    lists = torch.full((n_queries, request.k), -1, dtype=torch.int32, device=queries.device)
    squares = torch.full((n_queries, request.k), torch.inf, device=queries.device)
    rule = Rule(unit, request.rows.non_negative, zero_apart=True)
    asking = as_chunk(-n_queries, queries, scale, unit)
    with torch.inference_mode(), precision("highest"):
        for first, chunk, chunk_scale in others.stream(request.other_rows):
            merge_chunk(asking, as_chunk(first, chunk, chunk_scale, unit), first, lists, squares, rule)
            stop = first + len(chunk)
            request.advance(n_queries * stop // n - n_queries * first // n)
        norms = row_squares(queries) * scale**2
    rounding = max(request.rounding, SCALING) if unit else request.rounding
    squares[squares <= rounding**2 * norms[:, None]] = 0
    distances = others.metric.from_squares(squares, torch)
    return KnnGraph(lists.cpu().numpy(), distances.cpu().numpy())
