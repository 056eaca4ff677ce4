"""How well the map keeps the neighbours of sampled rows."""

import numpy as np

from streamumap import backends
from streamumap import quality as measures
from streamumap.backends import Rows
from streamumap.plans import QUALITY_NEIGHBORS, QUALITY_ROWS
from streamumap.stages.run import Run


def quality(run: Run, rows: Rows, embedding: np.ndarray) -> None:
    """Puts it into what the run has measured."""
    n = run.source.n_rows
    k, size = min(QUALITY_NEIGHBORS, n - 2), min(QUALITY_ROWS, n)
    with run.stage("quality", 1, "pass") as (tick, result):
        sample = measures.sample_rows(n, size, run.params.seed)
        near = run.fitting("quality", lambda: backends.nearest_on_map(run.plan, embedding, sample, k))
        ranks = ranks_of(run, rows, sample, near)
        trust, kept = measures.trustworthiness(ranks, n), measures.preservation(ranks)
        tick(1)
        result.append(f"trustworthiness@{k} {trust:.4f}, kNN preservation@{k} {kept:.4f} on {size:,} sampled rows")
    run.measured["quality"] = {
        **run.work.facts("neighbors"),
        "knn_preservation": {"value": kept, "k": k, "sample_size": size},
        "trustworthiness": {"value": trust, "k": k, "sample_size": size},
        "far_share": {"value": measures.far_share(embedding), "sample_size": n},
    }


def ranks_of(run: Run, rows: Rows, sample: np.ndarray, others: np.ndarray, stage: str = "quality") -> np.ndarray:
    """int64 (S, m): how many rows are closer to row sample[i] than row others[i, j] is. By the blocks of `stage`."""
    return run.fitting(stage, lambda: backends.count_closer(rows, run.plan, sample, others, stage))
