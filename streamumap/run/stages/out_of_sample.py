"""The out-of-sample stage: positions on the map for rows that are not part of it."""

from collections.abc import Callable

import numpy as np

from streamumap.run.dispatch import Rows
from streamumap.run.out_of_sample import Mapped, place
from streamumap.run.run import New, Run
from streamumap.run.stages.reduce import reduced_like
from streamumap.source import RowSource


def place_rest(run: Run, rows: Rows, embedding: np.ndarray, key: str) -> None:
    """Adds positions of the rows beside the sample to embedding.npy, under `key`. The map of the sample, `embedding`, does not change."""
    if run.new is None:
        return
    reduced = rows.searched is not rows.original
    non_negative = rows.found.non_negative and not reduced
    there = Mapped(rows.searched, rows.csr, embedding, non_negative, rows.view, reduced)
    new = reduced_like(run, run.new.source) if reduced else run.new.source
    rest = run.new.kept.rows

    def everything(positions: np.ndarray) -> np.ndarray:
        out = run.kept.back(embedding, np.nan)
        out[rest] = positions
        return out

    place_new(run, there, new, key, everything)


def place_new(
    run: Run, there: Mapped, new: RowSource, key: str, everything: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Finds positions float32 (M, C) of the rows of `new`, and leaves `everything(positions)` as embedding.npy under `key`; returns it."""
    with run.stage("place", new.n_rows, "rows", resumable=True) as (advance, result):
        checkpoint = run.checkpoint("place", key, "the placing", advance)
        out = everything(
            run.retry_on_oom("place", lambda: place(there, new, run.plan, run.params, advance, checkpoint))
        )
        run.work.retract()
        run.work.save("embedding", out)
        run.work.publish_saved("embedding")
        run.work.done("embedding", key)
        checkpoint.forget()
        result.append(f"on the map of {len(there.positions):,} rows, backend {run.plan['place'].backend}")
    return out


def say_who_has_no_place(run: Run, new: New, positions: np.ndarray) -> None:
    """Records how many rows got a position, and warns of those that share nothing with the map."""
    n_lost = int(np.isnan(positions[:, 0]).sum())
    run.measured["placed"] = {"rows": len(positions) - n_lost, "without_neighbors": n_lost}
    if n_lost:
        run.warn(
            f"{new.source.name}: {n_lost:,} of {len(positions):,} rows to be placed share nothing with a row of the map: "
            "without a neighbour there they are NaN."
        )
