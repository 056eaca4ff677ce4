"""Predict the seconds of the stages of a plan from runs that were measured (`rates.json`, made by `tools/make_rates.py`)."""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from streamumap.layout.schedule import DEFAULT_EPOCHS
from streamumap.machine.memory import Machine
from streamumap.params import Params
from streamumap.planning.job import Job, Plan, StagePlan

FURTHEST = 4.0
"""Largest multiple of the measured work at which seconds count as known. Further on they are extrapolated, and marked so."""

SEARCH_GROWTH = {"cuda": 1.1, "packed": 1.5}
"""Exponents with which approximate searches grow with the rows, by backend: on a GPU as centres in two levels make it; on a CPU as
comparing all rows with 8 sqrt(n) centres does in the end."""


@dataclass(frozen=True)
class Expected:
    """Predicted seconds, and the machine on which they were measured. `measured_rows`: rows of the largest run that was measured by the
    same method. `extrapolated`: the work is more than FURTHEST times that run's."""

    seconds: float
    measured_on: str
    measured_rows: int
    extrapolated: bool


@dataclass(frozen=True)
class Sizes:
    """Sizes with which the time of a stage grows. `n_read`: values, or pairs of a sparse source, that are read. `n_nonzero`: pairs of the
    rows that are searched, None where they are dense. `n_written`: rows of the results. `reduce_dims`: None where rows are not reduced.
    `n_epochs`: None for the default."""

    n_rows: int
    n_features: int
    itemsize: int
    n_read: float
    n_nonzero: float | None
    n_written: int
    reduce_dims: int | None
    n_neighbors: int
    n_epochs: int | None

    @property
    def searched(self) -> float:
        """Values of the rows that are searched."""
        return self.n_nonzero or self.n_rows * (self.reduce_dims or self.n_features)


def expected_seconds(plan: Plan, params: Params) -> dict[str, Expected]:
    """Return predictions by stage, for those that some run did on such a machine by the same method; for a GPU elsewhere that was not
    measured, on the GPU with the most measurements."""
    machines = _machine_names(plan.machine)
    found = (
        (stage.name, next(filter(None, (_expected(m, stage, plan, params) for m in machines)), None))
        for stage in plan.stages
    )
    return {name: expected for name, expected in found if expected is not None}


def total_seconds(plan: Plan, expected: dict[str, Expected]) -> float | None:
    """Return the seconds of all stages, None where some are not known; of two digits where some are extrapolated."""
    if not expected or any(stage.name not in expected for stage in plan.stages):
        return None
    return _rounded(sum(e.seconds for e in expected.values()), any(e.extrapolated for e in expected.values()))


def _expected(machine: str, stage: StagePlan, plan: Plan, params: Params) -> Expected | None:
    """Scale the seconds of the runs nearest in work. The shortest measured are start-up, so no prediction is less."""
    sizes = _planned_sizes(plan, params)
    method = _method(stage.name, stage.backend, stage.blocks, plan.as_csr, plan.job.sparse)
    by_work: dict[float, list[dict]] = {}
    for run in _measured_stages():
        if run["device"] == machine and _measured_method(run) == method:
            by_work.setdefault(_work(stage, _measured_sizes(run)), []).append(run)
    if not by_work:
        return None
    work, largest = _work(stage, sizes), max(by_work)
    nearest = min(by_work, key=lambda w: max(w, work) / min(w, work))
    usual = {w: median(run["seconds"] for run in runs) for w, runs in by_work.items()}
    seconds, is_far = max(usual[nearest] * work / nearest, min(usual.values())), work > FURTHEST * largest
    return Expected(_rounded(seconds, is_far), machine, max(run["n_rows"] for run in by_work[largest]), is_far)


def _rounded(seconds: float, extrapolated: bool) -> float:
    """Round to a tenth of a second; to two digits where more would claim too much."""
    return float(f"{seconds:.1e}") if extrapolated else round(seconds, 1)


def _planned_sizes(plan: Plan, params: Params) -> Sizes:
    """Return the sizes of a plan. Of a sparse source, rows between the sampled ones are read too."""
    job, n_all = plan.job, plan.job.n_rows + plan.job.n_left_out
    active = job.active or (job.n_nonzero or 0) / job.n_rows
    dense_rows = job.n_rows + (job.placed.n_rows if job.placed else 0)
    n_read = active * n_all if job.sparse else dense_rows * job.n_features
    n_nonzero = active * job.n_rows if plan.as_csr else None
    reduce_dims = params.reduce_dims if params.reduce != "none" else None
    others = reduce_dims, params.n_neighbors, params.n_epochs
    return Sizes(job.n_rows, job.n_features, job.itemsize, n_read, n_nonzero, n_all, *others)


def _measured_sizes(run: dict) -> Sizes:
    job = Job(run["n_rows"], run["n_features"], run["dtype"])
    n_read, n_nonzero = run["n_pairs"] or job.n_rows * job.n_features, run["n_nonzero"] if run["packed"] else None
    others = (run[name] for name in ("reduce_dims", "n_neighbors", "n_epochs"))
    return Sizes(job.n_rows, job.n_features, job.itemsize, n_read, n_nonzero, job.n_rows, *others)


def _measured_method(run: dict) -> tuple:
    return _method(run["stage"], run["backend"], run["blocks"], run["packed"], run["n_pairs"] is not None)


def _method(name: str, backend: str, blocks: dict[str, int], as_csr: bool, sparse: bool) -> tuple:
    """Return a key that is equal for stages with comparable times: backend, pairs or dense rows, exhaustive search or not."""
    as_pairs = sparse if name == "read" else as_csr and name in ("neighbors", "start", "quality")
    return name, backend, as_pairs, name == "neighbors" and not _is_exhaustive(backend, blocks)


def _is_exhaustive(backend: str, blocks: dict[str, int]) -> bool:
    """Whether a search with these blocks compares all rows with all."""
    return {"packed": not blocks.get("batch_rows"), "cuda": not blocks.get("chunk_rows")}.get(backend, False)


def _work(stage: StagePlan, sizes: Sizes) -> float:
    """Return a number to which the time of the stage is proportional."""
    n, d, width = sizes.n_rows, sizes.n_features, sizes.reduce_dims or sizes.n_features
    edges = n * sizes.n_neighbors
    exhaustive = n * n * width
    approximate = sizes.searched * n ** (SEARCH_GROWTH.get(stage.backend, 1.0) - 1)
    return {
        "read": sizes.n_read * sizes.itemsize,
        "reduce": n * d * (d + width),
        "neighbors": exhaustive if _is_exhaustive(stage.backend, stage.blocks) else approximate,
        "graph": edges,
        "start": edges,
        "layout": edges * (sizes.n_epochs or DEFAULT_EPOCHS),
        "place": exhaustive,
        "quality": sizes.n_nonzero or n * d,
        "write": sizes.n_written,
    }[stage.name]


def _machine_names(machine: Machine) -> list[str]:
    """Name the machines whose seconds count for this one, the best first. A GPU is named as `run/report.py` does; CPUs are compared by
    their number of cores."""
    if machine.device is None:
        return [f"cpu, {machine.n_cores} cores"]
    measured = Counter(run["device"] for run in _measured_stages() if not run["device"].startswith("cpu"))
    others = [name for name, _ in measured.most_common()] if machine.device.elsewhere else []
    return list(dict.fromkeys([machine.device.name, *others]))


@cache
def _measured_stages() -> list[dict]:
    """Read the measured stages, each with the sizes and the machine of its run."""
    return json.loads((Path(__file__).parent / "rates.json").read_text(encoding="utf-8"))
