"""Predict the seconds of the stages of a plan from runs that were measured (`rates.json`, made by `tools/make_rates.py`)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from streamumap.layout.schedule import DEFAULT_EPOCHS
from streamumap.machine.memory import Machine
from streamumap.params import Params
from streamumap.planning.job import Job, Plan, StagePlan

FURTHEST = 4.0
"""Largest multiple of the measured work for which seconds are predicted."""


@dataclass(frozen=True)
class Expected:
    """Predicted seconds, and the machine on which they were measured."""

    seconds: float
    measured_on: str


@dataclass(frozen=True)
class Sizes:
    """Sizes with which the time of a stage grows. `n_pairs`: pairs of a sparse source, else None. `reduce_dims`: None where rows
    are not reduced. `n_epochs`: None for the default."""

    n_rows: int
    n_features: int
    itemsize: int
    n_pairs: int | None
    reduce_dims: int | None
    n_neighbors: int
    n_epochs: int | None


def expected_seconds(plan: Plan, params: Params) -> dict[str, Expected]:
    """Return predictions by stage, for those that some run did on such a machine, by the same method, at about this size."""
    machine = _machine_name(plan.machine)
    seconds = {stage.name: _seconds(machine, stage, plan, params) for stage in plan.stages}
    return {name: Expected(round(n, 1), machine) for name, n in seconds.items() if n is not None}


def _seconds(machine: str, stage: StagePlan, plan: Plan, params: Params) -> float | None:
    """Scale the seconds of the runs nearest in work. The shortest measured are start-up, so no prediction is less."""
    sizes = _planned_sizes(plan.job, params)
    method = _method(stage.name, stage.backend, stage.blocks, plan.as_csr, sizes.n_pairs)
    by_work: dict[float, list[float]] = {}
    for run in _measured_stages():
        if run["device"] == machine and _measured_method(run) == method:
            by_work.setdefault(_work(stage, _measured_sizes(run)), []).append(run["seconds"])
    work = _work(stage, sizes)
    if not by_work or work > FURTHEST * max(by_work):
        return None
    nearest = min(by_work, key=lambda w: max(w, work) / min(w, work))
    return max(median(by_work[nearest]) * work / nearest, min(map(median, by_work.values())))


def _planned_sizes(job: Job, params: Params) -> Sizes:
    n_pairs = job.n_nonzero if job.sparse else None
    reduce_dims = params.reduce_dims if params.reduce != "none" else None
    return Sizes(job.n_rows, job.n_features, job.itemsize, n_pairs, reduce_dims, params.n_neighbors, params.n_epochs)


def _measured_sizes(run: dict) -> Sizes:
    job = Job(run["n_rows"], run["n_features"], run["dtype"])
    others = (run[name] for name in ("n_pairs", "reduce_dims", "n_neighbors", "n_epochs"))
    return Sizes(job.n_rows, job.n_features, job.itemsize, *others)


def _measured_method(run: dict) -> tuple:
    return _method(run["stage"], run["backend"], run["blocks"], run["packed"], run["n_pairs"])


def _method(name: str, backend: str, blocks: dict[str, int], as_csr: bool, n_pairs: int | None) -> tuple:
    """Return a key that is equal for stages with comparable times: backend, pairs or dense rows, exhaustive search or not."""
    as_pairs = n_pairs is not None if name == "read" else as_csr and name in ("neighbors", "start", "quality")
    return name, backend, as_pairs, name == "neighbors" and blocks.get("chunk_rows", 0) > 0


def _work(stage: StagePlan, sizes: Sizes) -> float:
    """Return a number to which the time of the stage is proportional."""
    n, d, width = sizes.n_rows, sizes.n_features, sizes.reduce_dims or sizes.n_features
    exhaustive = stage.backend == "packed" or (stage.backend == "cuda" and not stage.blocks.get("chunk_rows", 0))
    return {
        "read": (sizes.n_pairs or n * d) * sizes.itemsize,
        "reduce": n * d * (d + width),
        "neighbors": n * n * width if exhaustive else n * width,
        "graph": n * sizes.n_neighbors,
        "start": n * width,
        "layout": n * sizes.n_neighbors * (sizes.n_epochs or DEFAULT_EPOCHS),
        "place": n * n * width,
        "quality": n * d,
        "write": n,
    }[stage.name]


def _machine_name(machine: Machine) -> str:
    """Name a GPU as `run/report.py` does; CPUs are compared by their number of cores."""
    return machine.device.name if machine.device else f"cpu, {machine.n_cores} cores"


@cache
def _measured_stages() -> list[dict]:
    """Read the measured stages, each with the sizes and the machine of its run."""
    return json.loads((Path(__file__).parent / "rates.json").read_text(encoding="utf-8"))
