"""The k-NN search by NVIDIA's cuVS (https://github.com/rapidsai/cuvs), where it is installed: NN-descent over all rows as float16 on the
device. A `protocol.Backend`.

cuVS proposes and the rows themselves decide: candidates are measured as in the `cuda` backend. cuVS needs all rows as float32 in host memory,
and its graphs differ from run to run. Where torch and cuVS bring different versions of one library, import cuvs before torch.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from streamumap.errors import InputError
from streamumap.events import no_advance
from streamumap.neighbors.cuda.decide import decide
from streamumap.neighbors.cuda.device_rows import DeviceRows, on_device
from streamumap.neighbors.cuda.distances import from_measured
from streamumap.neighbors.cuda.join import no_neighbors
from streamumap.neighbors.cuda.search import count_closer
from streamumap.neighbors.cuvs_sizes import FACTOR, FILL_BYTES, FILLING, graph_degree, list_width, padded_width
from streamumap.neighbors.protocol import KnnGraph, SearchRequest
from streamumap.neighbors.zero import join_zero_rows
from streamumap.source.views.normalized import DenseRows

__all__ = ["count_closer", "search"]

EFFORTS = ((2, 20), (FACTOR, 40))
"""(Factor of the neighbors that NN-descent works with over those that it keeps, rounds at most) of each try; the first are its defaults."""

SMALL_ROWS = 4096
"""Up to this many rows cuVS compares all with all."""

LARGEST = 2.0**14
"""Rows with larger values are scaled down: float16 ends at 2^16, and NN-descent sums products."""


def search(request: SearchRequest) -> KnnGraph:
    """Find the graph. Where it is not good enough, cuVS is asked once more, to work harder. Advances by N rows for each try. Raises InputError
    where cuVS is missing."""
    request.rows.metric.check("cuvs")
    library, unit, k = _library(), request.rows.metric.unit, request.k
    rows = DenseRows(request.rows.source, unit=unit)
    n, other_rows = rows.n_rows, request.blocks["other_rows"]
    kept = (
        np.flatnonzero(~request.is_zero) if unit else np.arange(n)
    )  # a zero row would be close to all: it has length 0
    matrix = _matrix(rows, kept)

    def count(sample: np.ndarray, others: np.ndarray) -> np.ndarray:
        return count_closer(request.rows, sample, others, other_rows)

    for factor, n_rounds in EFFORTS:
        candidates = _proposed(library, matrix, kept, n, k, factor, n_rounds, request.rows.device)
        with on_device(request.rows, other_rows) as brought:
            lists, distances = measure(
                brought, candidates, request.rows.non_negative, request.blocks["query_rows"], other_rows
            )
        request.advance(n)
        if request.reached(lists[request.sample, : k - 1], count) or len(kept) <= SMALL_ROWS:
            break
    graph = KnnGraph(np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32))
    width = min(k - 1, lists.shape[1])
    graph.indices[:, 1 : width + 1], graph.distances[:, 1 : width + 1] = lists[:, :width], distances[:, :width]
    graph.indices[:, 0], graph.distances[:, 0] = np.arange(n), 0.0
    if unit:
        join_zero_rows(*graph, np.flatnonzero(request.is_zero).astype(np.int32))
    return graph


def measure(
    rows: DeviceRows, candidates: np.ndarray, non_negative: bool, query_rows: int, other_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the candidates int32 (N, w) of rows on the device, -1 for none, and sort them, nearest first, each once: lists int32 and distances
    float32 (N, w), inf where there is none. Non-negative rows at a right angle are no neighbors."""
    width = candidates.shape[1]
    padded = np.full((len(candidates), padded_width(width)), -1, np.int32)
    padded[:, :width] = candidates
    with torch.inference_mode():
        proposed = torch.from_numpy(padded).to(rows.device)
        lists, measured = no_neighbors(rows.n_rows, rows.device, proposed.shape[1])
        decide(rows, proposed, lists, measured, query_rows, other_rows, no_advance)
        lists, measured = lists[:, :width], measured[:, :width]
        if rows.metric.unit and non_negative:
            lists, measured = torch.where(measured < 1, lists, -1), torch.where(measured < 1, measured, torch.inf)
        return lists.cpu().numpy(), from_measured(measured, rows.metric).cpu().numpy()


def _library() -> Any:
    try:
        from cuvs.neighbors import all_neighbors, nn_descent
    except (ImportError, OSError) as e:
        raise InputError(
            f"--neighbors: expected cuVS, found none that loads ({e}); pip install 'streamumap[cuvs]' or use --neighbors auto."
        ) from e
    return all_neighbors, nn_descent


def _matrix(rows: DenseRows, kept: np.ndarray) -> np.ndarray:
    """Fill a matrix float32 (n, D) with the rows of these numbers, as they are compared, scaled so that no value is above LARGEST."""
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
    """Ask cuVS for neighbors among the kept rows: int32 (N, w), -1 for none and for the row itself."""
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
