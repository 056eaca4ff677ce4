"""Passes over all rows in pieces, by several threads, with the results in the order of the rows."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from streamumap.events import Advance
from streamumap.source.base import CsrBlock, RowSource, SparseSource, blocks

T = TypeVar("T")
Piece = np.ndarray | CsrBlock
"""A part of the rows: a matrix as stored, or pairs."""

PIECE_VALUES = 1 << 19
"""Values of a piece for one thread: enough to hide the cost of Python, few enough for the cache. Measured."""

PIECE_PAIRS = 1 << 16
"""Pairs of a piece for one thread; each costs more than a dense value."""

DEVICE_VALUES = 1 << 20
"""Values, or pairs, that a GPU processes at a time: its memory then does not depend on how many are zero."""

PAIR_BYTES = 160
"""Bytes per pair at the peak of processing a piece of pairs."""

LEAST_WIDTH = 64
"""Smallest width, in features, by which rows are cut into pieces: a piece also needs some bytes per row."""

MAX_THREADS = 8
"""Most threads of a pass: more would only wait for memory, and each has buffers of its own."""


def n_threads() -> int:
    """Returns the threads for a pass over the rows: the cores this process may use, at most MAX_THREADS."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, MAX_THREADS)


def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads())


def over_rows(
    source: RowSource, block_rows: int, work: Callable[[Piece], T], advance: Advance, first: int = 0
) -> Iterator[T]:
    """Yields `work(piece)` for each piece from row `first` on, where a piece begins. Results come in the order of the rows,
    and few of them wait at a time.

    Dense rows are read `block_rows` at a time, pairs a piece at a time. Advances by rows.
    """
    with pool() as threads:
        if isinstance(source, SparseSource):
            yield from _over_pairs(threads, source, work, advance, first)
            return
        for _, block in blocks(source, block_rows, first):
            yield from _over_block(threads, block, work)
            advance(len(block))


def _over_block(threads: ThreadPoolExecutor, block: np.ndarray, work: Callable[[Piece], T]) -> Iterator[T]:
    rows = max(1, PIECE_VALUES // max(block.shape[1], LEAST_WIDTH))
    yield from in_order(threads.submit(work, block[start : start + rows]) for start in range(0, len(block), rows))


def _over_pairs(
    threads: ThreadPoolExecutor, source: SparseSource, work: Callable[[Piece], T], advance: Advance, first: int
) -> Iterator[T]:
    def read_and_work(start: int, stop: int) -> tuple[T, int]:
        return work(source.pairs(start, stop)), stop - start

    spans = (span for span in source.spans(PIECE_PAIRS) if span[0] >= first)
    for done, n_rows in in_order(threads.submit(read_and_work, *span) for span in spans):
        yield done
        advance(n_rows)


def in_order(jobs: Iterator[Future]) -> Iterator:
    """Yields the results of jobs in their order. At most two jobs per thread are submitted ahead."""
    waiting: deque[Future] = deque()
    for job in jobs:
        waiting.append(job)
        if len(waiting) > 2 * n_threads():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
