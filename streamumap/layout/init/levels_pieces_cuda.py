"""The coarse graph of `levels_cuda.py` where its pairs of cells do not fit the device all at once: sorted runs of them lie on the
host and are merged there piece by piece.

Sums are of integers and maxima have no order, so any pieces give the bytes of `levels_cuda.coarse_graph`.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from streamumap.layout.init import levels_cuda as at_once
from streamumap.layout.init.levels_cuda import CELL_BITS, WEIGHT_BITS
from streamumap.layout.init.levels_sizes import KEPT


def coarse_graph(
    read_blocks: Callable[[], Iterable[tuple]], cells: torch.Tensor, n_cells: int, most_pairs: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes the graph of the cells int32 (N,) with at most `most_pairs` pairs on the device at a time, and those of one pair of
    cells more."""
    return of_runs(list(_runs(read_blocks, cells, most_pairs)), n_cells, most_pairs, cells.device)


def of_runs(
    runs: list[np.ndarray], n_cells: int, most_pairs: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes the graph from sorted runs of keys int64, which it empties. It goes through them three times, as each sum needs the
    one before."""
    size = torch.zeros(n_cells, dtype=torch.int64, device=device)
    most = torch.zeros(n_cells, dtype=torch.float64, device=device)

    def add(pair, total) -> None:
        for cell in at_once.cells_of(pair):
            size.index_add_(0, cell, total)

    def find_most(pair, total) -> None:
        one, other = at_once.cells_of(pair)
        share = at_once.shares(total, one, other, size)
        most.scatter_reduce_(0, one, share, "amax").scatter_reduce_(0, other, share, "amax")

    def weigh(pair, total) -> None:
        one, other = at_once.cells_of(pair)
        weight = at_once.as_weights(at_once.shares(total, one, other, size), one, other, most)
        del one, other
        both.append(_on_host((pair << WEIGHT_BITS) | weight))
        both.append(_on_host(((at_once.reverse(pair) << WEIGHT_BITS) | weight).sort().values))

    both: list[np.ndarray] = []
    for work in (add, find_most, weigh):
        size = size.double() if work is find_most else size
        for cut in _cuts(runs, most_pairs):
            work(*at_once.added_up(_piece(cut, device)))
    runs.clear()
    return _edges(both, n_cells, most_pairs, device)


def _runs(read_blocks: Callable[[], Iterable[tuple]], cells: torch.Tensor, most_pairs: int) -> Iterator[np.ndarray]:
    """Yields the keys of `levels_cuda.heaviest` on the host, those of as many rows sorted together as make `most_pairs`."""
    n_rows = max(1, min(most_pairs // KEPT, len(cells)))
    pairs, n_filled = at_once.no_pairs(cells, n_rows, KEPT), 0
    for first_row, _, indptr, targets, weights in read_blocks():
        row = 0
        while row < len(indptr) - 1:
            stop = min(row + n_rows - n_filled, len(indptr) - 1)
            bounds = indptr[row : stop + 1]
            at_once.heaviest(cells, pairs[n_filled:], first_row + row, bounds, targets, weights)
            n_filled += stop - row
            row = stop
            if n_filled == n_rows:
                yield _run(pairs)
                n_filled = 0
    if n_filled:
        yield _run(pairs[:n_filled])


def _run(pairs: torch.Tensor) -> np.ndarray:
    keys = pairs.reshape(-1)
    return _on_host(keys[keys >= 0].sort().values)


def _on_host(keys: torch.Tensor) -> np.ndarray:
    return keys.cpu().numpy()


def _cuts(runs: list[np.ndarray], most: int) -> Iterator[list[np.ndarray]]:
    """Cuts sorted runs between the same pairs of cells, so that the parts of each cut have at most `most` keys, and those of one
    pair more. The marks are evenly spaced keys of all runs (Shi & Schaeffer 1992, "Parallel Sorting by Regular Sampling")."""
    if not runs:
        return
    step = max(1, most // (2 * len(runs)))
    marks = np.sort(np.concatenate([run[::step] for run in runs]))[len(runs) :: len(runs)]
    at = np.zeros(len(runs), np.int64)
    for mark in np.unique(marks >> WEIGHT_BITS << WEIGHT_BITS):
        ends = np.array([np.searchsorted(run, mark) for run in runs])
        if (ends > at).any():
            yield [run[start:end] for run, start, end in zip(runs, at, ends, strict=True)]
        at = ends
    if any(start < len(run) for run, start in zip(runs, at, strict=True)):
        yield [run[start:] for run, start in zip(runs, at, strict=True)]


def _piece(cut: list[np.ndarray], device: torch.device) -> torch.Tensor:
    """Merges the parts of a cut on the device."""
    return torch.from_numpy(np.concatenate(cut)).to(device).sort().values


def _edges(both: list[np.ndarray], n_cells: int, most: int, device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merges sorted keys of (cell, target, weight), every edge in both directions, to indptr, targets and weights on the host."""
    n_edges = sum(len(run) for run in both)
    targets, weights = np.empty(n_edges, np.int32), np.empty(n_edges, np.uint16)
    degrees = torch.zeros(n_cells, dtype=torch.int64, device=device)
    start = 0
    for cut in _cuts(both, most):
        keys = _piece(cut, device)
        stop = start + len(keys)
        targets[start:stop], weights[start:stop] = at_once.edges_of(keys)
        degrees += torch.bincount(keys >> (CELL_BITS + WEIGHT_BITS), minlength=n_cells)
        del keys
        start = stop
    indptr = np.zeros(n_cells + 1, np.int64)
    np.cumsum(degrees.cpu().numpy(), out=indptr[1:])
    return indptr, targets, weights
