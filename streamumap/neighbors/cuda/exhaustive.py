"""All rows compared with all, chunk against chunk: exact.

Scores come from one matrix product with float32 sums (float16 and bfloat16 rows are multiplied as stored, float32 rows as TF32). The best
of a row are found by group maxima: the n largest scores lie in the n groups of 32 with the largest maxima. Candidates are measured again
in float32 from differences of the two rows, so scores only propose; where scores cannot tell who is near, `chunk.py` compares again. A
chunk of `query_rows` stays on the device while all others pass by in chunks of `other_rows`; only the graph grows with N. The result is
the same every time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from streamumap.events import Advance
from streamumap.neighbors.cuda.chunk import Chunk, Rule, as_chunk, merge_chunk
from streamumap.neighbors.cuda.device_rows import StreamedRows


def exhaustive(
    rows: StreamedRows,
    k: int,
    *,
    query_rows: int,
    other_rows: int,
    non_negative: bool,
    advance: Advance,
    start_row: int = 0,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (first row, neighbors int32, squared distances float32 (n, k - 1)) of each chunk of queries from row `start_row` on, as rows are
    compared. `other_rows` is a multiple of GROUP. Advances by N rows."""
    n, rule = rows.n_rows, Rule(rows.metric.unit, non_negative, zero_apart=False)
    for start in range(start_row, n, query_rows):
        stop = min(start + query_rows, n)
        kept, scale = rows.chunk(start, stop)
        queries = as_chunk(start, kept, scale, rule.unit)
        lists = torch.full((stop - start, k - 1), -1, dtype=torch.int32, device=rows.device)
        squares = torch.full((stop - start, k - 1), torch.inf, device=rows.device)
        for first, others in _others(rows, queries, other_rows, rule.unit):
            merge_chunk(queries, others, first, lists, squares, rule)
            advance((stop - start) * (first + len(others)) // n - (stop - start) * first // n)
        yield start, lists, squares
        del kept, scale, queries, lists, squares


def _others(rows: StreamedRows, queries: Chunk, other_rows: int, unit: bool) -> Iterator[tuple[int, Chunk]]:
    """Yield (first, rows) of every chunk of rows; parts of the queries where these are all rows."""
    if len(queries) < rows.n_rows:
        for first, others, scale in rows.stream(other_rows):
            yield first, as_chunk(first, others, scale, unit)
        return
    for first in range(0, len(queries), other_rows):
        yield first, queries[first : first + other_rows]
