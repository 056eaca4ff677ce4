"""First positions that need no graph: by PCA, at random, or from the user. PCA takes a fixed number of matrix products, so it
cannot hang."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

T = TypeVar("T")

WIDTH = 10.0
"""Largest coordinate of first positions (umap-learn)."""

NOISE = 1e-4
"""Standard deviation of the jitter that separates rows which would start at the same point (umap-learn)."""

OVERSAMPLING = 8
PRODUCTS = 6


def pca(row_blocks, sample, n_features: int, n_components: int, seed: int) -> np.ndarray:
    """Returns all rows along their first principal components, float32 (N, n_components).

    `row_blocks` yields (start, matrix) over all rows; `directions` takes the `sample`.
    """
    along, offset = directions(sample, n_features, n_components, seed)
    return center_and_jitter(
        np.concatenate([np.asarray(rows @ along) for _, rows in row_blocks]) - offset, n_components, seed
    )


def directions(sample, n_features: int, n_components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the first principal components of a sample of rows, float32 (n_features, C), C <= n_components, and its mean
    along them, float64 (C,).

    `sample` is a matrix, dense or scipy.sparse. Subspace iteration with PRODUCTS steps (Halko, Martinsson, Tropp 2011).
    """
    random = np.random.Generator(np.random.Philox(key=[seed, 0x1A]))
    mean = np.asarray(sample.mean(axis=0), np.float64).reshape(-1)
    width = min(n_components + OVERSAMPLING, n_features)
    basis = np.linalg.qr(random.standard_normal((n_features, width)))[0]

    def centred(directions):
        return np.asarray(sample @ directions.astype(np.float32), np.float64) - mean @ directions

    for _ in range(PRODUCTS):
        image = centred(basis)
        back = np.asarray(sample.T @ image.astype(np.float32), np.float64)
        basis = np.linalg.qr(back - np.outer(mean, image.sum(0)))[0]
    _, _, rotation = np.linalg.svd(centred(basis), full_matrices=False)
    along = basis @ rotation[:n_components].T
    along *= np.where(along[np.abs(along).argmax(0), np.arange(along.shape[1])] < 0, -1.0, 1.0)
    return along.astype(np.float32), mean @ along


def random(n_rows: int, n_components: int, seed: int) -> np.ndarray:
    """Draws positions uniformly from [-WIDTH, WIDTH], float32 (N, n_components)."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 0x1C]))
    return generator.uniform(-WIDTH, WIDTH, (n_rows, n_components)).astype(np.float32)


def center_and_jitter(positions, n_components, seed):
    """Centres positions (N, C), C <= n_components, scales them to WIDTH and adds jitter; axes that are missing have jitter
    alone. Returns float32 (N, n_components)."""
    positions = np.pad(positions - positions.mean(0), ((0, 0), (0, n_components - positions.shape[1])))
    largest = np.abs(positions).max()
    noise = np.random.Generator(np.random.Philox(key=[seed, 0x1D])).standard_normal(positions.shape)
    return (positions * (WIDTH / largest if largest > 0 else 0.0) + NOISE * noise).astype(np.float32)


def given(positions: np.ndarray, seed: int) -> np.ndarray:
    """Scales positions from the user, float64 (N, n_components), to 0 to WIDTH on each axis, like umap-learn. Returns float32.

    When two rows coincide, all get jitter of NOISE; umap-learn takes a thousandth of the mean distance to the nearest row,
    which is less. An axis on which all rows are equal has jitter alone; umap-learn divides by 0."""
    out = positions / np.maximum(np.abs(positions).max(0), np.finfo(np.float64).tiny)  # so that no difference overflows
    out -= out.min(0)
    extent = out.max(0)
    out *= WIDTH / np.where(extent > 0, extent, 1.0)
    if (extent == 0).any() or _coincide(out):
        out += NOISE * np.random.Generator(np.random.Philox(key=[seed, 0x1D])).standard_normal(out.shape)
    return out.astype(np.float32)


def _coincide(positions: np.ndarray) -> bool:
    ordered = positions[np.lexsort(positions.T)]
    return bool((ordered[1:] == ordered[:-1]).all(1).any())


def sample_numbers(n_rows: int, size: int) -> np.ndarray:
    """Chooses the rows in which `pca` finds its components: int64, ascending, evenly spread."""
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, size)).astype(np.int64))


def blocks(read: Callable[[int, int], T], n_rows: int, block_rows: int, first: int = 0) -> Iterator[tuple[int, T]]:
    """Yields (start, read(start, stop)) from row `first` to the last."""
    for start in range(first, n_rows, block_rows):
        yield start, read(start, min(start + block_rows, n_rows))
