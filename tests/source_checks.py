"""Sources and rows that several tests read."""

import numpy as np

from streamumap.source.base import stored_dtype


def to_dense(triple, n_features):
    indptr, indices, values = triple
    rows = np.zeros((len(indptr) - 1, n_features), np.float32)
    for i in range(len(rows)):
        part = slice(indptr[i], indptr[i + 1])
        assert (np.diff(indices[part].astype(np.int64)) > 0).all()
        rows[i, indices[part]] = values[part]
    return rows


def topk(n_rows=60, n_features=90, k=6, dtype="float16", seed=0, zeros=0.2):
    """Makes (indices int64, values) in any order, with some explicit zeros, duplicates and rows of zeros."""
    random = np.random.default_rng(seed)
    indices = np.stack([random.choice(n_features, k, replace=False) for _ in range(n_rows)])
    values = random.integers(1, 100, (n_rows, k)) * (random.random((n_rows, k)) >= zeros)
    indices[n_rows // 2 :: 9], values[n_rows // 2 :: 9] = indices[0], values[0]
    values[n_rows // 3] = 0
    if dtype == "bfloat16":
        return indices, (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return indices, values.astype(dtype)


class Rows:
    """A RowSource over an array."""

    def __init__(self, array, dtype=None):
        self.array, self.name, self.dtype = array, "rows", dtype or str(array.dtype)
        self.n_rows, self.n_features = array.shape
        self.row_bytes, self.fingerprint = array.itemsize * self.n_features, {}

    def read(self, start, stop, out=None):
        if out is None:
            return self.array[start:stop].copy()
        out[: stop - start] = self.array[start:stop]
        return out[: stop - start]

    def take(self, rows):
        return self.array[rows]

    def check_unchanged(self):
        pass

    def close(self):
        pass


def make(dtype, n_rows, n_features, density, seed=0):
    """Makes random stored rows with some zeros, negative zeros, zero rows and duplicates."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n_rows, n_features)).astype(np.float32) * 50
    if not dtype.startswith(("float", "bf")):
        values = np.abs(values) + 1
    values *= rng.random(values.shape) < density
    values[n_rows // 3] = 0
    values[n_rows // 2 :: 7] = values[1]
    if dtype == "bfloat16":
        return Rows((values.view(np.uint32) >> 16).astype(np.uint16), dtype)
    return Rows(values.astype(stored_dtype(dtype)))
