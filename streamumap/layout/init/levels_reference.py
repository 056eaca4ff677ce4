"""What the passes of `levels.py` are, in plain NumPy. Small graphs only: indptr int64, targets int32, weights uint16."""

import numpy as np


def join_cells(cells: np.ndarray, indptr: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int32 (N,), -1: none yet. A vertex without a cell takes that of its heaviest neighbour that has one; of equally
    heavy ones the largest number."""
    new = cells.copy()
    for i in np.flatnonzero(cells < 0):
        found = [(int(weights[e]), int(cells[targets[e]])) for e in range(indptr[i], indptr[i + 1])]
        new[i] = max([f for f in found if f[1] >= 0], default=(0, -1))[1]
    return new


def join_roots(roots: np.ndarray, indptr: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """int32 (N,), -1: not of the lost. A lost vertex takes the largest root among its neighbours and itself."""
    new = roots.copy()
    for i in np.flatnonzero(roots >= 0):
        new[i] = max([roots[i], *roots[targets[indptr[i] : indptr[i + 1]]]])
    return new


def heaviest(cells, indptr, targets, weights, n_kept: int) -> list[tuple[int, int, int]]:
    """(the smaller cell, the larger, weight) for each vertex's n_kept heaviest edges to another cell, sorted; of edges
    alike in weight and cell one counts."""
    out = []
    for i in range(len(cells)):
        there = range(indptr[i], indptr[i + 1])
        found = {(int(weights[e]), int(cells[targets[e]])) for e in there if cells[targets[e]] != cells[i]}
        for weight, cell in sorted(found, reverse=True)[:n_kept]:
            out.append((min(int(cells[i]), cell), max(int(cells[i]), cell), weight))
    return sorted(out)


def coarse_graph(named: list[tuple[int, int, int]], n_cells: int) -> np.ndarray:
    """uint16 (M, M), symmetric: what `heaviest` named, both ways, divided by the geometric mean of both cells' sums;
    1 (65535) is the heaviest edge of a cell, on either side."""
    total = np.zeros((n_cells, n_cells))
    for cell, other, weight in named:
        total[cell, other] += weight
        total[other, cell] += weight
    size = np.maximum(total.sum(1), 1.0)
    share = total / np.sqrt(size[:, None] * size[None])
    most = np.maximum(share.max(1, initial=0.0), 1e-300)
    weight = np.minimum(share / np.minimum(most[:, None], most[None]), 1.0)
    return np.where(total > 0, np.maximum(np.rint(weight * 65535), 1), 0).astype(np.uint16)


def smooth(positions: np.ndarray, indptr, targets, weights) -> np.ndarray:
    """float32 (N, C): each vertex at the weighted mean of its neighbours; where it has none, where it was."""
    new = positions.copy()
    for i in range(len(positions)):
        edges = slice(indptr[i], indptr[i + 1])
        if indptr[i] < indptr[i + 1]:
            new[i] = np.average(positions[targets[edges]].astype(np.float64), axis=0, weights=weights[edges])
    return new
