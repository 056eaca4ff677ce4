"""The neighbors stage: the k-NN graph, found by a search or given by the user.

Its recall is measured on a few sampled rows, which tells a search when it is done. The recall in run.json is measured again, on more rows,
by the quality stage."""

import numpy as np

from streamumap import quality as measures
from streamumap.events import Advance, Note
from streamumap.neighbors.copies import join_copies
from streamumap.neighbors.given import GivenGraph, look_at_distances
from streamumap.neighbors.protocol import KnnGraph
from streamumap.planning.job import SEARCH_ROWS
from streamumap.run import dispatch
from streamumap.run.dispatch import Rows
from streamumap.run.recorder import Meter
from streamumap.run.run import Run
from streamumap.run.stages.precision import say_what_is_not_told_apart
from streamumap.run.stages.quality import ranks_of
from streamumap.source.views.normalized import DenseRows
from streamumap.store.saved_checkpoint import SavedCheckpoint
from streamumap.store.workdir import key_of

FILES = {"knn_indices": np.int32, "knn_distances": np.float32}


def neighbors(run: Run, rows: Rows, key: str) -> None:
    """Leaves knn_indices.npy and knn_distances.npy under `key`."""
    is_found = run.work.has("neighbors", key)
    if is_found and "knn_recall" in run.work.facts("neighbors"):
        run.reuse("the k-NN graph")
    elif run.inputs.knn is not None:
        _take(run, rows, key, run.inputs.knn)
    else:
        _search(run, rows, key, is_found)
    say_what_is_not_told_apart(run, rows, _sample(run))


def _search(run: Run, rows: Rows, key: str, is_found: bool) -> None:
    """Searches, unless an earlier run did (`is_found`), and measures the recall."""
    p, sample = run.params, _sample(run)
    recall, reached = -1.0, False

    def enough(others: np.ndarray, ranks: np.ndarray) -> bool:
        nonlocal recall, reached
        recall, reached = measures.recall(ranks, others), measures.reaches(ranks, others, p.recall)
        return reached

    def search(checkpoint: SavedCheckpoint) -> KnnGraph:
        return dispatch.search(rows, run.plan, p, sample, enough, advance, checkpoint)

    planned = run.plan["neighbors"]
    with run.stage("neighbors", dispatch.search_steps(run.plan), "rows", resumable=True) as (advance, result):
        if not is_found:
            indices, distances = run.retry_on_oom("neighbors", lambda: search(_checkpoint(run, key, advance)))
            join_copies(indices, distances, rows.found.duplicate_of)
            run.work.forget("neighbors", "graph", "embedding")
            unit = run.metric.unit
            run.publish("knn_indices", indices, -1, run.kept.numbers_back)
            run.publish("knn_distances", distances, np.nan, lambda block: run.view.unscale(block, unit=unit))
            run.work.done("neighbors", key)
            _checkpoint(run, key, advance).forget()
        if not reached:  # not measured yet, or not since the exhaustive search
            others = run.neighbors_of(sample)[0]
            enough(others, ranks_of(run, rows, sample, others))
        result.append(f"recall@{p.n_neighbors} {recall:.4f} on {len(sample):,} sampled rows, backend {planned.backend}")
        _done(run, key, recall, len(sample))


def _checkpoint(run: Run, key: str, advance: Meter) -> SavedCheckpoint:
    """The checkpoint of the search as it is planned now. Sketches, and the order of rows in files, depend on the rows of a block, so a search
    with other blocks does not continue another one, not even after the device ran out of memory."""
    planned = run.plan["neighbors"]
    blocks = {} if planned.backend == "packed" else planned.blocks
    return run.checkpoint("neighbors", key_of(key, blocks), "the k-NN search", advance)


def _take(run: Run, rows: Rows, key: str, given: GivenGraph) -> None:
    """Copies the graph that the user gives and measures its recall."""
    k, sample = run.params.n_neighbors, _sample(run)
    with run.stage("neighbors", run.input.n_rows, "rows") as (advance, result):
        run.work.forget("neighbors", "graph", "embedding")
        _write_given(run, given, advance)
        given.check_unchanged()
        others, far = run.neighbors_of(sample)
        recall = measures.recall(ranks_of(run, rows, sample, others, "neighbors"), others)
        result.append(f"given by {given.indices.name}, recall@{k} {recall:.4f} on {len(sample):,} sampled rows")
    for text in given.notes(k):
        run.listener(Note("info", text))
    problem = look_at_distances(DenseRows(run.source, unit=rows.metric.unit), sample, others, far, run.metric)
    for text in (*given.warnings(), *([f"--knn: {given.distances.name}: {problem}."] if problem else [])):
        run.warn(text)
    _done(run, key, recall, len(sample))


def _write_given(run: Run, given: GivenGraph, advance: Advance) -> None:
    k, left_out = run.params.n_neighbors, None
    if run.kept.rows is not None:
        left_out = run.kept.back(np.zeros(len(run.kept.rows), bool), True)
    files = [run.work.create(name, (run.input.n_rows, k), dtype) for name, dtype in FILES.items()]
    for start, near, far in given.blocks(k, run.plan["neighbors"].blocks["block_rows"], left_out):
        if left_out is not None:
            gone = left_out[start : start + len(near)]
            near[gone], far[gone] = -1, np.nan
        files[0].write(start, near)
        files[1].write(start, far)
        advance(len(near))
    for file, name in zip(files, FILES, strict=True):
        file.sync()
        file.close()
        run.work.publish_saved(name)


def _sample(run: Run) -> np.ndarray:
    n = run.source.n_rows
    return measures.sample_rows(n, min(SEARCH_ROWS, n), run.params.seed)


def _done(run: Run, key: str, recall: float, sample_size: int) -> None:
    k = run.params.n_neighbors
    run.work.done("neighbors", key, knn_recall={"value": recall, "k": k, "sample_size": sample_size})
