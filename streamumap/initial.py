"""First positions. PCA and spectral starts take a fixed number of matrix products, so they cannot hang."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

T = TypeVar("T")

WIDTH = 10.0
"""Largest coordinate of the start (umap-learn)."""

NOISE = 1e-4
"""Standard deviation that parts rows which would start at the same point (umap-learn)."""

SAMPLE_ROWS = 20_000
OVERSAMPLING = 8
PRODUCTS = 6


def pca(row_blocks, sample, n_features: int, n_components: int, seed: int) -> np.ndarray:
    """float32 (N, n_components): rows along their first principal components.

    `row_blocks` yields (start, matrix) over all rows; `sample` is as for `directions`.
    """
    along, offset = directions(sample, n_features, n_components, seed)
    return placed(np.concatenate([np.asarray(rows @ along) for _, rows in row_blocks]) - offset, n_components, seed)


def directions(sample, n_features: int, n_components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The first principal components of a sample of rows, float32 (n_features, C), C <= n_components, and its mean
    along them, float64 (C,).

    `sample`: a matrix, dense or scipy.sparse. Subspace iteration with PRODUCTS steps (Halko, Martinsson, Tropp 2011).
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


def spectral(graph_blocks, n_rows: int, n_components: int, seed: int, n_products: int = 120) -> np.ndarray:
    """float32 (N, n_components): the leading non-trivial eigenvectors of the normalised graph, by subspace iteration on
    (I + A) / 2.

    `graph_blocks()` yields (start, scipy.sparse.csr rows of the symmetric weights) over all rows and is called
    `n_products` + 1 times.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, 0x1B]))
    degree = np.concatenate([np.asarray(rows.sum(1, dtype=np.float64)).ravel() for _, rows in graph_blocks()])
    scale = 1.0 / np.sqrt(np.where(degree > 0, degree, 1.0))
    vectors = random.standard_normal((n_rows, n_components + OVERSAMPLING))
    trivial = np.sqrt(degree / max(degree.sum(), 1e-300))[:, None]
    for step in range(n_products):
        scaled = scale[:, None] * vectors
        product = np.concatenate([np.asarray(rows @ scaled) for _, rows in graph_blocks()])
        vectors = 0.5 * (vectors + scale[:, None] * product)
        vectors -= trivial @ (trivial.T @ vectors)
        if step % 5 == 4 or step == n_products - 1:
            vectors = np.linalg.qr(vectors)[0]
    scaled = scale[:, None] * vectors
    product = scale[:, None] * np.concatenate([np.asarray(rows @ scaled) for _, rows in graph_blocks()])
    values, rotation = np.linalg.eigh(vectors.T @ product)
    return placed(vectors @ rotation[:, ::-1][:, :n_components], n_components, seed)


def random(n_rows: int, n_components: int, seed: int) -> np.ndarray:
    """float32 (N, n_components): uniform in [-WIDTH, WIDTH]."""
    generator = np.random.Generator(np.random.Philox(key=[seed, 0x1C]))
    return generator.uniform(-WIDTH, WIDTH, (n_rows, n_components)).astype(np.float32)


def placed(positions, n_components, seed):
    """Centred, scaled to WIDTH, and shaken a little; where there are fewer axes than asked for, the others only
    shaken."""
    positions = np.pad(positions - positions.mean(0), ((0, 0), (0, n_components - positions.shape[1])))
    largest = np.abs(positions).max()
    noise = np.random.Generator(np.random.Philox(key=[seed, 0x1D])).standard_normal(positions.shape)
    return (positions * (WIDTH / largest if largest > 0 else 0.0) + NOISE * noise).astype(np.float32)


def sample_numbers(n_rows: int, size: int) -> np.ndarray:
    """Row numbers (int64, ascending, evenly spread) from which `pca` finds its components."""
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, size)).astype(np.int64))


def blocks(read: Callable[[int, int], T], n_rows: int, block_rows: int, first: int = 0) -> Iterator[tuple[int, T]]:
    """(start, read(start, stop)) from row `first` to the last."""
    for start in range(first, n_rows, block_rows):
        yield start, read(start, min(start + block_rows, n_rows))
