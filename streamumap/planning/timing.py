"""Seconds that the stages of a plan will take, from runs that were measured (`rates.json`, made by `tools/make_rates.py`)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from streamumap.machine.memory import Machine
from streamumap.params import Params
from streamumap.planning.job import Job, Plan, StagePlan

FURTHEST = 4.0
"""Beyond this many times the work that was measured nothing is said."""

EPOCHS = 300


@dataclass(frozen=True)
class Expected:
    """`measured_on`: the machine."""

    seconds: float
    measured_on: str


def expected_seconds(plan: Plan, params: Params) -> dict[str, Expected]:
    """By stage; without those that no run has shown on a machine like this, in this way, at about this size."""
    name, out = _machine_name(plan.machine), {}
    for stage in plan.stages:
        seconds = _seconds(name, stage, plan.as_csr, plan.job, params)
        if seconds is not None:
            out[stage.name] = Expected(round(seconds, 1), name)
    return out


def _seconds(name: str, stage: StagePlan, packed: bool, job: Job, params: Params) -> float | None:
    """In proportion to the work of the run nearest in size; never less than the shortest measured, which is start-up."""
    n_pairs = job.n_nonzero if job.sparse else None
    way = _way(stage.name, stage.backend, stage.blocks, packed, n_pairs)
    runs = [
        r
        for r in _measured()
        if r["device"] == name and _way(r["stage"], r["backend"], r["blocks"], r["packed"], r["n_pairs"]) == way
    ]
    dims = params.reduce_dims if params.reduce != "none" else None
    work = _work(stage, job.n_rows, job.n_features, job.itemsize, n_pairs, dims, params.n_neighbors, params.n_epochs)
    by_work: dict[float, list[float]] = {}
    for run in runs:
        of_run = Job(run["n_rows"], run["n_features"], run["dtype"])
        sizes = (
            of_run.n_rows,
            of_run.n_features,
            of_run.itemsize,
            run["n_pairs"],
            run["reduce_dims"],
            run["n_neighbors"],
            run["n_epochs"],
        )
        by_work.setdefault(_work(stage, *sizes), []).append(run["seconds"])
    if not by_work or work > FURTHEST * max(by_work):
        return None
    nearest = min(by_work, key=lambda w: max(w, work) / min(w, work))
    return max(median(by_work[nearest]) * work / nearest, min(map(median, by_work.values())))


def _way(name: str, backend: str, blocks: dict[str, int], packed: bool, n_pairs: int | None) -> tuple:
    """What makes a stage another one: who does it, with pairs or rows, and whether all rows meet all."""
    as_pairs = n_pairs is not None if name == "read" else packed and name in ("neighbors", "start", "quality")
    return name, backend, as_pairs, name == "neighbors" and blocks.get("chunk_rows", 0) > 0


def _work(
    stage: StagePlan, n: int, d: int, itemsize: int, n_pairs: int | None, dims: int | None, k: int, epochs: int | None
) -> float:
    """What a stage's time goes with."""
    width = dims or d
    all_with_all = stage.backend == "packed" or (stage.backend == "cuda" and not stage.blocks.get("chunk_rows", 0))
    return {
        "read": (n_pairs or n * d) * itemsize,
        "reduce": n * d * (d + width),
        "neighbors": n * n * width if all_with_all else n * width,
        "graph": n * k,
        "start": n * width,
        "layout": n * k * (epochs or EPOCHS),
        "place": n * n * width,
        "quality": n * d,
        "write": n,
    }[stage.name]


def _machine_name(machine: Machine) -> str:
    """As `report.py` writes it of a GPU; of a CPU, what can be compared is the number of cores."""
    return machine.device.name if machine.device else f"cpu, {machine.n_cores} cores"


@cache
def _measured() -> list[dict]:
    return json.loads((Path(__file__).parent / "rates.json").read_text(encoding="utf-8"))
