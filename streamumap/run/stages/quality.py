"""The quality stage: figures of the map on sampled rows, and the distortion of every row."""

from dataclasses import dataclass

import numpy as np

from streamumap import quality as measures
from streamumap.machine import gpu
from streamumap.planning.job import QUALITY_NEIGHBORS, quality_rows
from streamumap.quality import Figure, figure
from streamumap.run import dispatch
from streamumap.run.dispatch import Rows
from streamumap.run.run import Run


@dataclass(frozen=True)
class Sampled:
    """Sampled rows int64 (S,). `near` int64 (S, k): the nearest on the map. `neighbors` int64 (S, m): those in the k-NN graph, -1 where
    there is none. `ranks` int64 and `distances` float64: where the neighbours lie on the map."""

    rows: np.ndarray
    near: np.ndarray
    neighbors: np.ndarray
    ranks: np.ndarray
    distances: np.ndarray


def quality(run: Run, rows: Rows, embedding: np.ndarray) -> np.ndarray:
    """Records the figures and returns the distortion, float32 (N,): the share of a row's m neighbours in the k-NN graph that are not among its
    m nearest on the map; NaN where it has no neighbour."""
    n = run.source.n_rows
    with run.stage("quality", 2, "passes") as (advance, result):
        sample = measures.sample_rows(n, quality_rows(n), run.params.seed)
        sample = sample[np.isfinite(embedding[sample]).all(1)]
        sampled, distortion = run.retry_on_oom("quality", lambda: _measure_map(run, embedding, sample))
        advance(1)
        gpu.release()  # makes room for the rows
        ranks = _ranks_in_rows(run, rows, sampled)
        figures = _figures(run, sampled, ranks, measures.radius(embedding))
        advance(1)
        said = {name: value.to_json() for name, value in figures.items()}
        on = "all rows" if len(sample) == n else f"{len(sample):,} sampled rows"
        result.append(f"{measures.say_all(said)} on {on}")
    run.measured["quality"] = said | {
        "distortion": _mean(distortion) | {"k": run.params.n_neighbors - 1},
        "far_share": {"value": measures.far_share(embedding), "sample_size": n},
    }
    _say_what_was_missed(run, figures["knn_recall"])
    return distortion


def ranks_of(run: Run, rows: Rows, sample: np.ndarray, others: np.ndarray, stage: str = "quality") -> np.ndarray:
    """Exact ranks int64 (S, m): how many rows are closer to row sample[i] than row others[i, j] is. Uses the blocks of `stage`."""
    return run.retry_on_oom(stage, lambda: dispatch.count_closer(rows, run.plan, sample, others, stage))


def _measure_map(run: Run, embedding: np.ndarray, sample: np.ndarray) -> tuple[Sampled, np.ndarray]:
    points = dispatch.points(run.plan, embedding)
    neighbors = np.empty((len(sample), run.params.n_neighbors - 1), np.int64)
    distortion = np.empty(len(embedding), np.float32)
    for start, block in run.neighbor_blocks(run.plan["quality"].blocks["query_rows"]):
        stop = start + len(block)
        low, high = np.searchsorted(sample, [start, stop])
        neighbors[low:high] = block[sample[low:high] - start]
        distortion[start:stop] = points.lost(np.arange(start, stop), block)
    near = points.nearest(sample, min(QUALITY_NEIGHBORS, len(embedding) - 2))
    first = neighbors[:, :QUALITY_NEIGHBORS]
    distances = measures.distances(embedding, sample, first)
    return Sampled(sample, near, neighbors, points.ranks(sample, first), distances), distortion


def _ranks_in_rows(run: Run, rows: Rows, sampled: Sampled) -> np.ndarray:
    """Exact ranks int64 (S, k + m) among all rows: of the nearest on the map, then of the neighbours. The plan says how many sampled rows
    are measured at a time."""
    others = np.concatenate([sampled.near, sampled.neighbors], axis=1)
    ranks, done = np.empty(others.shape, np.int64), 0
    while done < len(others):
        part = slice(done, done + run.plan["quality"].blocks["sample_rows"])
        ranks[part] = ranks_of(run, rows, sampled.rows[part], others[part])
        done = part.stop
    return ranks


def _figures(run: Run, sampled: Sampled, ranks: np.ndarray, radius: float) -> dict[str, Figure]:
    n, (near, found) = run.source.n_rows, np.split(ranks, [sampled.near.shape[1]], axis=1)
    k, m = near.shape[1], sampled.ranks.shape[1]
    is_true = (sampled.neighbors[:, :m] >= 0) & (found[:, :m] < m)
    torn = measures.torn_shares(sampled.distances, is_true, radius)
    return {
        "knn_recall": figure(measures.recalls(found, sampled.neighbors), run.params.n_neighbors, n),
        "knn_preservation": figure(measures.preservations(near), k, n),
        "trustworthiness": figure(measures.trusts(near, n), k, n),
        "continuity": figure(measures.continuities(sampled.ranks, is_true, n), m, n),
        "torn_share": figure(torn, m, n),
    }


def _mean(distortion: np.ndarray) -> dict:
    """The mean distortion for run.json, and over how many rows it is taken."""
    there = distortion[np.isfinite(distortion)]
    return {"value": float(there.mean(dtype=np.float64)) if len(there) else None, "sample_size": len(there)}


def _say_what_was_missed(run: Run, recall: Figure) -> None:
    wanted, found = run.params.recall, recall.value
    if found is None or found >= wanted:
        return
    if run.inputs.knn is not None:
        remedy = "check that the given graph is of these rows, in this order and metric"
    elif run.params.reduce != "none":
        remedy = "neighbours of reduced rows are not those of the rows, leave --reduce out"
    elif run.plan["neighbors"].backend == "cuvs":
        remedy = "--neighbors auto searches on until it is reached"
    elif wanted < 1:
        remedy = "--recall 1 compares all rows with all"
    else:
        remedy = "float32, in which rows are compared, does not tell these apart"
    run.warn(f"recall: {wanted:g} was asked for, {found:.4f} was reached, {wanted - found:.4f} short; {remedy}.")
