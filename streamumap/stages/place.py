"""The rows beside a sample, placed on its map."""

import numpy as np

from streamumap.backends import Rows
from streamumap.place import Mapped, place
from streamumap.source import RowSource
from streamumap.stages.reduce import reduced_like
from streamumap.stages.run import New, Run


def place_rest(run: Run, rows: Rows, embedding: np.ndarray, key: str) -> None:
    """Leaves embedding.npy with a place for these rows as well, made from what `key` stands for. The map of the sample,
    `embedding`, stays as it is."""
    if run.new is None:
        return
    reduced = rows.searched is not rows.original
    non_negative = rows.found.non_negative and not reduced
    there = Mapped(rows.searched, rows.packed, embedding, non_negative)
    new = reduced_like(run, run.new.source) if reduced else run.new.source
    positions = place_new(run, there, new, key)
    everything = run.kept.back(embedding, np.nan)
    everything[run.new.kept.rows] = positions
    run.work.retract()
    run.work.save("embedding", everything)
    run.work.publish_saved("embedding")
    run.work.done("embedding", key)


def place_new(run: Run, there: Mapped, new: RowSource, key: str) -> np.ndarray:
    """float32 (M, C): the places of the rows of `new`. Says how many have none."""
    with run.stage("place", new.n_rows, "rows", patient=True) as (tick, result):
        units = run.units("place", key, "the placing", tick)
        positions = run.fitting("place", lambda: place(there, new, run.plan, run.params, tick, units))
        result.append(f"on the map of {len(there.positions):,} rows, backend {run.plan['place'].backend}")
    return positions


def say_who_has_no_place(run: Run, new: New, positions: np.ndarray) -> None:
    """Also into what the run has measured: how many rows were placed, and how many could not be."""
    n_lost = int(np.isnan(positions[:, 0]).sum())
    run.measured["placed"] = {"rows": len(positions) - n_lost, "without_neighbors": n_lost}
    if n_lost:
        run.warn(
            f"{new.source.name}: {n_lost:,} of {len(positions):,} rows to be placed share nothing with a row of the map: "
            "without a neighbour there they are NaN."
        )
