"""Exact principal components of streamed rows, with the interface of scikit-learn's IncrementalPCA.

IncrementalPCA merges truncated decompositions and loses a little with every block. Here the blocks add up to the full second
moment, n_features squared numbers, in one pass; it is decomposed once at the end. Each block is centred on its own mean, then
merged with those before it (Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983): an offset of the data
or a drift over the blocks costs no precision.

numpy and scipy do the work, or torch on a device; both are held to scikit-learn's PCA(svd_solver="full") by tests.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.machine import matmul

PIECE_ROWS = 8192  # rows in one float32 product: limits its rounding error and the memory of the widened rows
BLAS_BYTES = 32 << 20  # the buffers of the BLAS libraries of numpy and scipy
LEFT_BYTES = 24 << 20  # of BLAS_BYTES and scipy.linalg, stays for the rest of the run
POOL = 1.6  # factor: torch's pool keeps freed blocks of other sizes
CUBLAS_BYTES = 64 << 20


@dataclass(frozen=True)
class Components:
    """Principal components and their variances."""

    components: np.ndarray  # (n_components, n_features) float32, orthonormal rows, largest variance first
    explained_variance: np.ndarray  # (n_components,) float64, of a sample: divided by rows - 1
    explained_variance_ratio: np.ndarray  # (n_components,) float64, of the variance of all features


def footprint(n_features: int, n_components: int, block_rows: int, between_bytes: int = 0) -> int:
    """Host bytes of a StreamedPCA without a device at its peak, without the caller's block of rows. `between_bytes`: the bytes
    of the caller between finding the components and projecting rows along other directions."""
    moment_bytes, vectors_bytes = 8 * n_features**2, 8 * n_features * n_components
    piece_bytes = 4 * n_features * min(block_rows, PIECE_ROWS)
    adding_bytes = max(moment_bytes, moment_bytes // 2 + piece_bytes)
    finishing_bytes = moment_bytes + 2 * vectors_bytes + 64 * 8 * n_features
    transforming_bytes = vectors_bytes + piece_bytes + 2 * 4 * n_components * block_rows
    if between_bytes:
        transforming_bytes += vectors_bytes // 2 + between_bytes
    return moment_bytes + max(adding_bytes, finishing_bytes, transforming_bytes) + BLAS_BYTES


def device_footprint(n_features: int, n_components: int, block_rows: int, itemsize: int) -> int:
    """Device bytes of a StreamedPCA with a device at its peak, for rows of `itemsize` bytes a value, without the context of the
    device. Its host bytes are those of `footprint`: the decomposition is made on the host."""
    moment_bytes, piece_rows = 8 * n_features**2, min(block_rows, PIECE_ROWS)
    widened_bytes = itemsize + 4 + 4 + 8  # of a value: as it came, as float32, centred, and in float64 for the mean
    piece_bytes = int(piece_rows * n_features * widened_bytes * POOL)
    adding_bytes = moment_bytes * 3 // 2 + piece_bytes
    transforming_bytes = piece_bytes + 4 * n_components * (n_features + piece_rows)
    return moment_bytes + max(adding_bytes, transforming_bytes) + CUBLAS_BYTES


def decompose(n_rows: int, moment: np.ndarray, n_components: int) -> Components:
    """Finds the components from the second moment of n_rows rows about their mean, (n_features, n_features) float64.

    Raises InputError for fewer rows or features than components, or fewer than 2 rows.
    """
    from scipy.linalg import eigh
    from threadpoolctl import threadpool_limits

    n_features = len(moment)
    if n_rows < 2:
        raise InputError(f"rows: expected at least 2, found {n_rows}; one row has no variance, give more.")
    if n_components > min(n_rows, n_features):
        raise InputError(
            f"n_components: expected at most {min(n_rows, n_features)} ({n_rows} rows x {n_features} features), "
            f"found {n_components}; keep fewer components."
        )
    covariance = moment / (n_rows - 1)
    total = np.trace(covariance)
    largest_ones = (n_features - n_components, n_features - 1)
    # A transposed symmetric matrix is the same matrix in Fortran order, which LAPACK overwrites instead of copying it.
    with threadpool_limits(1, "blas"):  # several threads would change the last bits
        variance, vectors = eigh(covariance.T, subset_by_index=largest_ones, overwrite_a=True, check_finite=False)
    variance = np.maximum(variance[::-1], 0.0)  # beyond the rank: zero but for rounding
    components = vectors.T[::-1].astype(np.float32)
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(n_components), largest])[:, None]  # scikit-learn's svd_flip
    return Components(components, variance, variance / total if total > 0 else np.zeros(n_components))


@contextmanager
def _library(device: str | None) -> Iterator[Any]:
    """Yields numpy, or torch for a device. The functions used below have the same names and meanings in both."""
    if device is None:
        with np.errstate(over="ignore", invalid="ignore"):  # partial_fit refuses values that are not finite
            yield np
        return
    import torch

    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # not TensorFloat-32, even if the process has chosen it
    try:
        yield torch
    finally:
        torch.set_float32_matmul_precision(chosen)


def _to_device(library: Any, array: np.ndarray, dtype: str, device: str | None) -> Any:
    """Copies the array to the device and widens it there."""
    if device is None:
        return np.array(array, dtype=dtype)
    return library.tensor(array, device=device).to(getattr(library, dtype))


def subtract(library: Any, rows: Any, mean: Any) -> Any:
    """Subtracts a float64 mean from float32 rows, in place, in two steps: each rounds only its result."""
    high = library.asarray(mean, dtype=library.float32)
    rows -= high
    rows -= library.asarray(mean - high, dtype=library.float32)
    return rows


def _on_host(array: Any) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def _checked(X, n_features: int | None) -> np.ndarray:
    X = np.asarray(X)
    if X.dtype.kind not in "buif" or X.ndim != 2 or X.shape[1] < 1 or n_features not in (None, X.shape[1]):
        raise InputError(
            f"rows: expected a block of numbers of shape (rows, {n_features or 'features'}), found shape {X.shape} of "
            f"{X.dtype}; give blocks of rows of one width."
        )
    return X


class StreamedPCA:
    """Exact PCA of rows given block by block.

    n_components: how many to keep. device: None for numpy on the host, or a torch device such as "cuda:0" for sums,
    products and projections; the host always makes the decomposition.

    A block is (rows, n_features) of any real dtype; it is widened to float32 (float64 is rounded), PIECE_ROWS rows at a
    time. The results are attributes with scikit-learn's names, computed when first read. Methods and attributes raise
    InputError for a block that is not 2-D or has another width, for values that are not finite, and for more components than
    rows or features.
    """

    def __init__(self, n_components: int, device: str | None = None):
        if n_components < 1:
            raise InputError(f"n_components: expected at least 1, found {n_components}; keep at least one component.")
        self.n_components = n_components
        self.device = device
        self._forget()

    def _forget(self) -> None:
        self.n_samples_seen_ = 0
        self._mean: Any = None  # (n_features,) float64, of the rows so far; a tensor on a device
        self._moment: Any = None  # (n_features, n_features) float64, about that mean
        self._found: Components | None = None

    def partial_fit(self, X) -> "StreamedPCA":
        """Adds the rows of a block. An empty block changes nothing."""
        X = _checked(X, None if self._mean is None else len(self._mean))
        with _library(self.device) as library:
            for start in range(0, len(X), PIECE_ROWS):
                self._add(library, X[start : start + PIECE_ROWS])
        return self

    def _add(self, library: Any, piece: np.ndarray) -> None:
        rows = _to_device(library, piece, "float32", self.device)
        mean = rows.mean(0, dtype=library.float64)
        rows = subtract(library, rows, mean)
        moment = matmul.gram(rows) if library is np else rows.T @ rows
        del rows
        refused = np.flatnonzero(~np.isfinite(_on_host(moment.diagonal())))
        if len(refused):
            where = f"{self.n_samples_seen_} to {self.n_samples_seen_ + len(piece) - 1}"
            raise InputError(
                f"rows {where}, feature {refused[0]}: expected finite values whose squares add up to less than 3e38, "
                "found others; drop such rows or scale the feature."
            )
        if self._mean is None:
            self._mean, self._moment = library.zeros_like(mean), library.zeros_like(moment, dtype=library.float64)
        self._moment += moment
        del moment
        self._shift_mean(library, len(piece), mean)

    def _shift_mean(self, library: Any, n_rows: int, mean: Any) -> None:
        """Moves the mean on by n_rows rows with this mean, and the second moment with it."""
        before, self.n_samples_seen_ = self.n_samples_seen_, self.n_samples_seen_ + n_rows
        between = mean - self._mean
        self._moment += library.outer(between * (before * n_rows / self.n_samples_seen_), between)
        self._mean = self._mean + between * (n_rows / self.n_samples_seen_)
        self._found = None

    def fit(self, blocks: Iterable) -> "StreamedPCA":
        """Starts anew and adds every block. Pass one matrix as `[matrix]`."""
        self._forget()
        for block in blocks:
            self.partial_fit(block)
        return self

    def transform(self, X) -> np.ndarray:
        """Returns the coordinates of the rows along the components, (rows, n_components) float32."""
        return self.project(X, self._decomposed().components)

    def project(self, X, directions: np.ndarray) -> np.ndarray:
        """Returns the coordinates of the rows along other directions, float32 (n, n_features): (rows, n) float32."""
        X = _checked(X, len(self._mean))
        out = np.empty((len(X), len(directions)), np.float32)
        with _library(self.device) as library:
            along = _to_device(library, directions, "float32", self.device).T
            for start in range(0, len(X), PIECE_ROWS):
                piece = slice(start, start + PIECE_ROWS)
                out[piece] = self._projected(library, X[piece], along)
        return out

    def _projected(self, library: Any, piece: np.ndarray, directions: Any) -> np.ndarray:
        rows = subtract(library, _to_device(library, piece, "float32", self.device), self._mean)
        return matmul.product(rows, directions) if library is np else _on_host(rows @ directions)

    def state(self) -> dict[str, np.ndarray]:
        """Returns the sums so far, for a checkpoint, on the host; without a device the next block changes them in place. Once
        the components are found, they replace the moment."""
        if self._mean is None:
            return {"n_samples_seen": np.array(0)}
        out = {"n_samples_seen": np.array(self.n_samples_seen_), "mean": _on_host(self._mean)}
        if self._found is None:
            return out | {"moment": _on_host(self._moment)}
        found = self._found
        return out | dict(
            components=found.components, variance=found.explained_variance, ratio=found.explained_variance_ratio
        )

    @classmethod
    def from_state(cls, n_components: int, state: dict[str, np.ndarray], device: str | None = None) -> "StreamedPCA":
        """Continues from a `state`."""
        pca = cls(n_components, device)
        pca.n_samples_seen_ = int(state["n_samples_seen"])
        if pca.n_samples_seen_:
            with _library(device) as library:
                pca._mean = _to_device(library, state["mean"], "float64", device)
                if "moment" in state:
                    pca._moment = _to_device(library, state["moment"], "float64", device)
                else:
                    pca._found = Components(state["components"], state["variance"], state["ratio"])
        return pca

    def _decomposed(self) -> Components:
        if self._mean is None:
            raise InputError("rows: expected a block before the components are asked for, found none; add one.")
        if self._found is None:
            self._found = decompose(self.n_samples_seen_, _on_host(self._moment), self.n_components)
        return self._found

    @property
    def components_(self) -> np.ndarray:
        return self._decomposed().components

    @property
    def mean_(self) -> np.ndarray:
        self._decomposed()
        return _on_host(self._mean)

    @property
    def explained_variance_(self) -> np.ndarray:
        return self._decomposed().explained_variance

    @property
    def explained_variance_ratio_(self) -> np.ndarray:
        return self._decomposed().explained_variance_ratio
