"""Maps a file with another system, in a process of its own, which run.py starts with a job as JSON.

    python -P bench/peers.py JOB.json

The other systems take only float32. Rows are read in pieces straight into it, so no second copy of the matrix is ever in memory;
pairs become CSR for the systems that take it. Every library is imported where it is used, because cuML must come before any library
that loads its own CUDA libraries.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PIECE_BYTES = 2**28
THREADS = 8
CLUSTERS = 16
"""Clusters of cuML's out-of-core mode."""


@dataclass(frozen=True)
class Job:
    """One map to make. `rows` is a .npy file or, if `active` is set, X_indices.npy with X_values.npy beside it."""

    system: str
    rows: str
    active: int | None
    n_features: int
    metric: str
    n_neighbors: int
    min_dist: float
    n_epochs: int | None
    reduce_dims: int | None
    out: str


@dataclass(frozen=True)
class Peer:
    """Another system: the `device` it runs on, its default `epochs(n_rows)`, whether it takes pairs as CSR, and whether it
    compiles on its first run."""

    package: str
    device: str
    fit: Callable[[Job, Any], tuple[np.ndarray, np.ndarray | None]]
    epochs: Callable[[int], int]
    takes_pairs: bool = False
    compiles: bool = False


class Clock:
    """Adds up the seconds of each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def dense(job: Job, clock: Clock) -> np.ndarray:
    """All rows, float32 (N, D)."""
    if job.active is not None:
        return _from_pairs(job, clock)
    stored = np.load(job.rows, mmap_mode="r", allow_pickle=False)
    out = np.empty(stored.shape, np.float32)
    step = max(1, PIECE_BYTES // (stored.shape[1] * stored.itemsize))
    with ThreadPoolExecutor(THREADS) as pool, open(job.rows, "rb") as file:
        file.seek(stored.offset)
        for start in range(0, len(stored), step):
            n_rows = min(step, len(stored) - start)
            with clock("read"):
                piece = np.fromfile(file, stored.dtype, n_rows * stored.shape[1]).reshape(n_rows, -1)
            with clock("convert"):
                list(
                    pool.map(
                        _copy, np.array_split(out[start : start + n_rows], THREADS), np.array_split(piece, THREADS)
                    )
                )
    return out


def _copy(into: np.ndarray, piece: np.ndarray) -> None:
    into[...] = piece


def _pairs(job: Job, clock: Clock) -> tuple[np.ndarray, np.ndarray]:
    with clock("read"):
        indices, values = (np.load(job.rows.replace("_indices.npy", f"_{name}.npy")) for name in ("indices", "values"))
    return indices, values


def _from_pairs(job: Job, clock: Clock) -> np.ndarray:
    indices, values = _pairs(job, clock)
    with clock("convert"):
        out = np.zeros((len(indices), job.n_features), np.float32)
        step = max(1, PIECE_BYTES // indices[:1].nbytes)
        for start in range(0, len(out), step):
            part = slice(start, start + step)
            at, column = np.nonzero(values[part])  # an explicit zero may stand anywhere
            out[part][at, indices[part][at, column]] = values[part][at, column]
    return out


def csr(job: Job, clock: Clock):
    """Pairs as float32 CSR."""
    import scipy.sparse

    indices, values = _pairs(job, clock)
    with clock("convert"):
        n, k = indices.shape
        parts = (
            values.astype(np.float32).ravel(),
            indices.astype(np.int32).ravel(),
            np.arange(n + 1, dtype=np.int64) * k,
        )
        matrix = scipy.sparse.csr_matrix(parts, shape=(n, job.n_features))
        matrix.eliminate_zeros()
    return matrix


def umap_learn(job: Job, rows) -> tuple[np.ndarray, np.ndarray | None]:
    import umap

    if job.reduce_dims:
        from sklearn.decomposition import PCA

        rows = PCA(job.reduce_dims).fit_transform(rows)
    model = umap.UMAP(**_common(job))
    return model.fit_transform(rows), getattr(model, "_knn_indices", None)


def cuml(job: Job, rows, **more) -> tuple[np.ndarray, np.ndarray | None]:
    from cuml.manifold import UMAP

    if job.reduce_dims:
        from cuml.decomposition import PCA

        rows = np.asarray(PCA(n_components=job.reduce_dims, output_type="numpy").fit_transform(rows))
    model = UMAP(**{"build_algo": "nn_descent"} | more, output_type="numpy", **_common(job))
    return np.asarray(model.fit_transform(rows)), None


def cuml_clusters(job: Job, rows) -> tuple[np.ndarray, np.ndarray | None]:
    return cuml(job, rows, build_kwds={"knn_n_clusters": CLUSTERS})


def cuml_sparse(job: Job, rows) -> tuple[np.ndarray, np.ndarray | None]:
    """cuML with CSR, for which it always uses brute force."""
    return cuml(job, rows, build_algo="auto")


def torchdr(job: Job, rows) -> tuple[np.ndarray, np.ndarray | None]:
    """TorchDR. It has no cosine metric, so rows are scaled to length 1, which gives the same order of neighbours. Without FAISS
    it compares all pairs."""
    from importlib.util import find_spec

    import torch
    from torchdr import UMAP

    if job.metric == "cosine":
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows /= np.where(norms > 0, norms, 1)
    given = {"max_iter": job.n_epochs} if job.n_epochs else {}
    backend = "faiss" if find_spec("faiss") else None
    model = UMAP(n_neighbors=job.n_neighbors, min_dist=job.min_dist, device="cuda", backend=backend, **given)
    return model.fit_transform(torch.from_numpy(rows)).detach().cpu().numpy(), None


def fastumap(job: Job, rows) -> tuple[np.ndarray, np.ndarray | None]:
    from fastumap import umap_project

    return np.asarray(umap_project(rows, 2, pca_dim=job.reduce_dims, **_common(job))), None


def _common(job: Job) -> dict[str, Any]:
    given = dict(n_neighbors=job.n_neighbors, min_dist=job.min_dist, metric=job.metric)
    return given | ({"n_epochs": job.n_epochs} if job.n_epochs else {})


def _as_umap_learn(n_rows: int) -> int:
    return 500 if n_rows <= 10_000 else 200


PEERS = {
    "umap-learn": Peer("umap", "cpu", umap_learn, _as_umap_learn, takes_pairs=True, compiles=True),
    "fastumap": Peer("fastumap", "cpu", fastumap, _as_umap_learn),
    "cuml": Peer("cuml", "cuda", cuml, _as_umap_learn),
    "cuml-clusters": Peer("cuml", "cuda", cuml_clusters, _as_umap_learn),
    "cuml-sparse": Peer("cuml", "cuda", cuml_sparse, _as_umap_learn, takes_pairs=True),
    "torchdr": Peer("torchdr", "cuda", torchdr, lambda n_rows: 1000),
}


def main(path: Path) -> None:
    """Writes OUT.npy (the map), OUT_knn.npy if there is a graph, and OUT.json (seconds of each phase)."""
    clock, job = Clock(), Job(**json.loads(path.read_text()))
    peer = PEERS[job.system]
    with clock("import"):
        __import__(peer.package if peer.package != "cuml" else "cuml.manifold")
    rows = csr(job, clock) if job.active is not None and peer.takes_pairs else dense(job, clock)
    with clock("fit"):
        embedding, graph = peer.fit(job, rows)
    np.save(f"{job.out}.npy", np.asarray(embedding, np.float32))
    if graph is not None:
        np.save(f"{job.out}_knn.npy", np.asarray(graph, np.int32))
    Path(f"{job.out}.json").write_text(json.dumps(clock.seconds))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
