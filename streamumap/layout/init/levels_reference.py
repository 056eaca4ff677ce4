"""The definition of the passes of `levels.py` in plain NumPy, for small graphs: indptr int64, targets int32, weights uint16."""

import numpy as np


def join_cells(cells: np.ndarray, indptr: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Gives each vertex without a cell (-1) the cell of its heaviest neighbour that has one, the largest cell among equally
    heavy ones. Cells are int32 (N,)."""
    new = cells.copy()
    for i in np.flatnonzero(cells < 0):
        options = [(int(weights[e]), int(cells[targets[e]])) for e in range(indptr[i], indptr[i + 1])]
        new[i] = max([option for option in options if option[1] >= 0], default=(0, -1))[1]
    return new


def join_roots(roots: np.ndarray, indptr: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Gives each lost vertex the largest root among its neighbours and itself. Roots are int32 (N,), -1 for others."""
    new = roots.copy()
    for i in np.flatnonzero(roots >= 0):
        new[i] = max([roots[i], *roots[targets[indptr[i] : indptr[i + 1]]]])
    return new


def heaviest(cells, indptr, targets, weights, n_kept: int) -> list[tuple[int, int, int]]:
    """Lists (smaller cell, larger cell, weight) of each vertex's n_kept heaviest edges to another cell, sorted. Edges of a vertex
    with the same weight and cell count once."""
    out = []
    for i in range(len(cells)):
        edges = range(indptr[i], indptr[i + 1])
        options = {(int(weights[e]), int(cells[targets[e]])) for e in edges if cells[targets[e]] != cells[i]}
        for weight, cell in sorted(options, reverse=True)[:n_kept]:
            out.append((min(int(cells[i]), cell), max(int(cells[i]), cell), weight))
    return sorted(out)


def coarse_graph(pairs: list[tuple[int, int, int]], n_cells: int) -> np.ndarray:
    """Adds up the pairs of `heaviest`, in both directions, and divides by the geometric mean of both cells' sums. Weights are
    scaled so that the heaviest edge of each cell weighs 1 (65535). Returns uint16 (M, M), symmetric."""
    total = np.zeros((n_cells, n_cells))
    for cell, other, weight in pairs:
        total[cell, other] += weight
        total[other, cell] += weight
    size = np.maximum(total.sum(1), 1.0)
    share = total / np.sqrt(size[:, None] * size[None])
    most = np.maximum(share.max(1, initial=0.0), 1e-300)
    weight = np.minimum(share / np.minimum(most[:, None], most[None]), 1.0)
    return np.where(total > 0, np.maximum(np.rint(weight * 65535), 1), 0).astype(np.uint16)


def smooth(positions: np.ndarray, indptr, targets, weights) -> np.ndarray:
    """Moves each vertex to the weighted mean of its neighbours, float32 (N, C); one without neighbours stays."""
    new = positions.copy()
    for i in range(len(positions)):
        edges = slice(indptr[i], indptr[i + 1])
        if indptr[i] < indptr[i + 1]:
            new[i] = np.average(positions[targets[edges]].astype(np.float64), axis=0, weights=weights[edges])
    return new
