"""Principal components of rows that stream past: IncrementalPCA's interface, exact results.

scikit-learn's IncrementalPCA merges truncated decompositions and loses a little with every block. Here the blocks add
up to the whole second moment, which costs n_features squared numbers and one pass, and is decomposed once at the end.
A block is centred on its own mean and then merged with those before it (Chan, Golub, LeVeque, "Algorithms for
computing the sample variance", 1983), so that neither an offset of the data nor a drift along them swallows their
variance.

numpy and scipy do the work, or torch where a device is named; both are held to scikit-learn's PCA(svd_solver="full").
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.machine import matmul

PIECE_ROWS = 8192  # rows in one float32 product: bounds its rounding error and the memory of the widened rows
BLAS_BYTES = 32 << 20  # what the BLAS libraries of numpy and scipy keep for themselves
LEFT_BYTES = 24 << 20  # of that and of scipy.linalg, what stays for the rest of the run
POOL = 1.6  # torch's pool keeps freed blocks of other sizes
CUBLAS_BYTES = 64 << 20


@dataclass(frozen=True)
class Components:
    components: np.ndarray  # (n_components, n_features) float32, orthonormal rows, largest variance first
    explained_variance: np.ndarray  # (n_components,) float64, of a sample: divided by rows - 1
    explained_variance_ratio: np.ndarray  # (n_components,) float64, of the variance of all features


def footprint(n_features: int, n_components: int, block_rows: int, between_bytes: int = 0) -> int:
    """Host bytes that a StreamedPCA without a device takes at its peak, the caller's own block of rows not counted.
    `between_bytes`: of what the caller does once the components are found, to project the rows along other directions."""
    moment_bytes, vectors_bytes = 8 * n_features**2, 8 * n_features * n_components
    piece_bytes = 4 * n_features * min(block_rows, PIECE_ROWS)
    adding_bytes = max(moment_bytes, moment_bytes // 2 + piece_bytes)
    finishing_bytes = moment_bytes + 2 * vectors_bytes + 64 * 8 * n_features
    transforming_bytes = vectors_bytes + piece_bytes + 2 * 4 * n_components * block_rows
    if between_bytes:
        transforming_bytes += vectors_bytes // 2 + between_bytes
    return moment_bytes + max(adding_bytes, finishing_bytes, transforming_bytes) + BLAS_BYTES


def device_footprint(n_features: int, n_components: int, block_rows: int, itemsize: int) -> int:
    """Device bytes that a StreamedPCA with a device takes at its peak, rows of `itemsize` bytes a value; the context
    of the device not counted. Its host bytes are those of `footprint`: the decomposition is done there."""
    moment_bytes, piece_rows = 8 * n_features**2, min(block_rows, PIECE_ROWS)
    widened_bytes = itemsize + 4 + 4 + 8  # of a value: as it came, as float32, centred, and in float64 for the mean
    piece_bytes = int(piece_rows * n_features * widened_bytes * POOL)
    adding_bytes = moment_bytes * 3 // 2 + piece_bytes
    transforming_bytes = piece_bytes + 4 * n_components * (n_features + piece_rows)
    return moment_bytes + max(adding_bytes, transforming_bytes) + CUBLAS_BYTES


def decompose(n_rows: int, moment: np.ndarray, n_components: int) -> Components:
    """The components from the second moment about the mean of n_rows rows, (n_features, n_features) float64.

    Raises InputError where there are fewer rows or features than components, or fewer than 2 rows.
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
    wanted = (n_features - n_components, n_features - 1)
    # A transposed symmetric matrix is the same matrix in Fortran order, which LAPACK overwrites instead of copying it.
    with threadpool_limits(1, "blas"):  # so that the number of threads does not change the last bits
        variance, vectors = eigh(covariance.T, subset_by_index=wanted, overwrite_a=True, check_finite=False)
    variance = np.maximum(variance[::-1], 0.0)  # beyond the rank: zero but for rounding
    components = vectors.T[::-1].astype(np.float32)
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(n_components), largest])[:, None]  # scikit-learn's svd_flip
    return Components(components, variance, variance / total if total > 0 else np.zeros(n_components))


@contextmanager
def _library(device: str | None) -> Iterator[Any]:
    """numpy, or torch for a device. What is used of them below has the same name and meaning in both."""
    if device is None:
        with np.errstate(over="ignore", invalid="ignore"):  # partial_fit refuses what is not finite
            yield np
        return
    import torch

    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # not TensorFloat-32, whatever the process has chosen
    try:
        yield torch
    finally:
        torch.set_float32_matmul_precision(chosen)


def _to_device(library: Any, array: np.ndarray, dtype: str, device: str | None) -> Any:
    """A copy of the array where the device is, widened there."""
    if device is None:
        return np.array(array, dtype=dtype)
    return library.tensor(array, device=device).to(getattr(library, dtype))


def subtract(library: Any, rows: Any, mean: Any) -> Any:
    """float32 rows minus a float64 mean, in place: in two steps, of which neither rounds more than its result."""
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
    products and projections; the decomposition is always the host's.

    A block is (rows, n_features) of any real dtype; it is widened to float32 (float64 is rounded), PIECE_ROWS rows at a
    time. The results are attributes with scikit-learn's names, found when first asked for. Raises InputError, there and
    in the methods: for a block of another width or not 2-D, for values that are not finite, for more components than
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
        self._mean: Any = None  # (n_features,) float64, of the rows so far; a tensor where there is a device
        self._moment: Any = None  # (n_features, n_features) float64, about that mean
        self._found: Components | None = None

    def partial_fit(self, X) -> "StreamedPCA":
        """Adds the rows of a block. An empty one changes nothing."""
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
        """Adds what lies between the mean so far and that of n_rows more."""
        before, self.n_samples_seen_ = self.n_samples_seen_, self.n_samples_seen_ + n_rows
        between = mean - self._mean
        self._moment += library.outer(between * (before * n_rows / self.n_samples_seen_), between)
        self._mean = self._mean + between * (n_rows / self.n_samples_seen_)
        self._found = None

    def fit(self, blocks: Iterable) -> "StreamedPCA":
        """Starts anew and adds every block. One matrix is `[matrix]`."""
        self._forget()
        for block in blocks:
            self.partial_fit(block)
        return self

    def transform(self, X) -> np.ndarray:
        """The rows' coordinates along the components, (rows, n_components) float32."""
        return self.project(X, self._decomposed().components)

    def project(self, X, directions: np.ndarray) -> np.ndarray:
        """The same along other directions, float32 (any number, n_features): (rows, that number) float32."""
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
        """The sums so far on the host, for a checkpoint; without a device the next block changes them in place. Once the
        components are found, these instead of the moment."""
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
        """One that goes on where `state` was taken."""
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
