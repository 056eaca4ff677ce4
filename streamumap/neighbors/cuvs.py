"""Neighbours by NVIDIA's cuVS (https://github.com/rapidsai/cuvs), where it is installed: NN-descent over all rows as
float16 on the device.

cuVS proposes, the rows themselves decide: distances are measured anew, as the `cuda` backend measures them. It needs
all rows as float32 in host memory, and does not give the same graph twice. Where the library that torch brought and the
one that cuVS needs are not the same version, import cuvs before torch.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from streamumap.errors import InputError
from streamumap.events import Advance, no_advance
from streamumap.neighbors.cuda.decide import decide
from streamumap.neighbors.cuda.join import merge, no_neighbors
from streamumap.neighbors.cuda.sparse_rows import SparseOnDevice
from streamumap.neighbors.cuvs_sizes import FACTOR, FILL_BYTES, FILLING, graph_degree, list_width, padded_width
from streamumap.neighbors.zero import join_zero_rows

EFFORTS = ((2, 20), (FACTOR, 40))
"""(how many times the neighbours that it keeps NN-descent works with, rounds at most); the first are its defaults."""

SMALL_ROWS = 4096
"""So few rows cuVS compares all with all."""

LARGEST = 2.0**14
"""Larger values are scaled down: float16 ends at 2^16, and NN-descent adds products up."""

Measured = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def search(
    rows,
    k: int,
    *,
    device: str,
    measured: Measured,
    reached: Callable[[np.ndarray], bool],
    non_negative: bool,
    is_zero: np.ndarray,
    advance: Advance = no_advance,
) -> tuple[np.ndarray, np.ndarray]:
    """k-NN of `rows` (a DenseRows): indices int32 (N, k), distances float32 (N, k), nearest first, self in front, -1 and
    inf where none.

    `measured(candidates int32 (N, w))` is `measure` with the rows on the device, where cuVS has left again. `reached(neighbours
    int32 (N, k - 1))` says whether a graph is good enough; where not, cuVS works harder once. Ticks N rows for each try.
    Raises InputError where cuVS is missing.
    """
    library = _library()
    n, cosine = rows.n_rows, rows.metric == "cosine"
    kept = np.flatnonzero(~is_zero) if cosine else np.arange(n)  # a zero row would be close to all: it has length 0
    matrix = _matrix(rows, kept)
    for factor, n_rounds in EFFORTS:
        near, distances = measured(_proposed(library, matrix, kept, n, k, factor, n_rounds, device))
        advance(n)
        if reached(near[:, : k - 1]) or len(kept) <= SMALL_ROWS:
            break
    indices, out = np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32)
    width = min(k - 1, near.shape[1])
    far = distances[:, :width]
    there = far < (1.0 if cosine and non_negative else np.inf)  # non-negative rows at a right angle share nothing
    indices[:, 1 : width + 1], out[:, 1 : width + 1] = (
        np.where(there, near[:, :width], -1),
        np.where(there, far, np.inf),
    )
    indices[:, 0], out[:, 0] = np.arange(n), 0.0
    if cosine:
        join_zero_rows(indices, out, np.flatnonzero(is_zero).astype(np.int32))
    return indices, out


def measure(
    rows, candidates: np.ndarray, query_rows: int, other_rows: int, advance: Advance = no_advance
) -> tuple[np.ndarray, np.ndarray]:
    """The candidates int32 (N, w) of rows on the device, -1: none, nearest first and each once, with their distances float32 (N, w):
    euclidean or cosine ones, inf where none."""
    width = candidates.shape[1]
    padded = np.full((len(candidates), padded_width(width)), -1, np.int32)
    padded[:, :width] = candidates
    with torch.inference_mode():
        proposed = torch.from_numpy(padded).to(rows.device)
        lists, distances = no_neighbors(rows.n_rows, rows.device, proposed.shape[1])
        if isinstance(rows, SparseOnDevice):
            queries = torch.arange(len(proposed), dtype=torch.int32, device=rows.device)
            merge(queries, proposed, rows.measure(queries, proposed), lists, distances, lists, distances)
        else:
            decide(rows, proposed, lists, distances, query_rows, other_rows, advance)
        if rows.metric != "cosine":
            distances = distances.sqrt()
        return lists[:, :width].cpu().numpy(), distances[:, :width].cpu().numpy()


def _library() -> Any:
    try:
        from cuvs.neighbors import all_neighbors, nn_descent
    except (ImportError, OSError) as e:
        raise InputError(
            f"--neighbors: expected cuVS, found none that loads ({e}); pip install 'streamumap[cuvs]' or use --neighbors auto."
        ) from e
    return all_neighbors, nn_descent


def _matrix(rows, kept):
    """The rows of these numbers, float32 (n, D), of length 1 for cosine, none of their values above LARGEST."""
    out = np.empty((len(kept), rows.n_features), np.float32)
    step = max(1, FILL_BYTES // (4 * rows.n_features))

    def fill(at: int) -> float:
        part, block = kept[at : at + step], out[at : at + step]
        whole = part[-1] - part[0] == len(part) - 1
        block[:] = rows.block(int(part[0]), int(part[-1]) + 1) if whole else rows.take(part)
        return max(float(block.max()), -float(block.min()))

    with ThreadPoolExecutor(FILLING) as pool:
        largest = max(pool.map(fill, range(0, len(kept), step)), default=0.0)
    if largest > LARGEST:
        np.multiply(out, np.float32(2.0 ** -np.ceil(np.log2(largest / LARGEST))), out=out)
    return out


def _proposed(library, matrix, kept, n_rows, k, factor, n_rounds, device):
    """int32 (N, w): the neighbours that cuVS finds among the kept rows, -1 for none and for the row itself."""
    all_neighbors, nn_descent = library
    width, degree = list_width(len(matrix), k), graph_degree(k)
    small = len(matrix) <= SMALL_ROWS
    descent = nn_descent.IndexParams(
        metric="sqeuclidean", graph_degree=degree, intermediate_graph_degree=degree * factor, max_iterations=n_rounds
    )
    params = all_neighbors.AllNeighborsParams(
        algo="brute_force" if small else "nn_descent",
        n_clusters=1,
        overlap_factor=0,
        metric="sqeuclidean",
        nn_descent_params=None if small else descent,
    )
    torch.cuda.empty_cache()  # what torch keeps for itself is none of cuVS's
    with torch.cuda.device(device):
        found = torch.empty((len(matrix), width), dtype=torch.int64, device=device)
        all_neighbors.build(matrix, width, params, indices=found)
        torch.cuda.synchronize()
    local = found.cpu().numpy()
    del found
    wrong = (local < 0) | (local >= len(matrix)) | (local == np.arange(len(matrix))[:, None])
    out = np.full((n_rows, width), -1, np.int32)
    out[kept] = np.where(wrong, -1, kept[np.where(wrong, 0, local)])
    return out
