"""Decide, before a run does anything, what it will do and need: pure integers, no input or output.

`stages/` plans the stages of one way through a job. This module lists the ways that there are, takes the fastest that fits
the budget, and refuses a budget that holds none with one that does.
"""

from dataclasses import dataclass, replace

from streamumap.errors import DoesNotFit, InputError
from streamumap.machine.memory import Budget, Device, Footprint, Machine, format_bytes
from streamumap.params import Params
from streamumap.planning.fit import Facts, is_tiny_forced
from streamumap.planning.job import MOST_ROWS, Job, Plan, StagePlan
from streamumap.planning.stages import plan_stages
from streamumap.source.sparse.csr_rows import pays


@dataclass(frozen=True)
class Candidate:
    """One way through a job. `unmet`: the largest needs that the budget does not meet, 0 where all stages fit."""

    stages: tuple[StagePlan, ...]
    unmet: Footprint
    as_csr: bool
    csr_on_disk: bool


def make_plan(job: Job, params: Params, budget: Budget, machine: Machine) -> Plan:
    """Return the fastest plan within the budget. Raises DoesNotFit, which names a budget that is enough, and InputError where no
    budget is."""
    _check_count(job)
    candidates = list_candidates(job, params, budget, machine)
    for candidate in candidates:
        if candidate.unmet == Footprint():
            return Plan(job, budget, machine, candidate.stages, candidate.as_csr, candidate.csr_on_disk)
    raise _does_not_fit(_smallest_caps(candidates), budget, machine.device)


def _check_count(job: Job) -> None:
    """Raise InputError where there are more rows to map than an int32 counts."""
    if job.n_rows > MOST_ROWS:
        raise InputError(
            f"rows: expected at most {MOST_ROWS:,} on a map, as their numbers are int32, found {job.n_rows:,}; map a sample of them with "
            "--sample 1000000000."
        )


def with_edges(plan: Plan, params: Params, n_edges: int) -> Plan:
    """Return the plan for the number of edges that the finished graph has: the first plan assumes an upper bound, usually
    a third too high."""
    exact = make_plan(replace(plan.job, n_edges=n_edges), params, plan.budget, plan.machine)
    stages = tuple(exact[s.name] if s.name in ("start", "layout") else s for s in plan.stages)
    return replace(plan, job=exact.job, stages=stages)


def smallest_budget(job: Job, params: Params, machine: Machine) -> Budget:
    """Return the smallest caps that hold the job, to a megabyte; a GPU run needs both."""
    nothing = Budget(1, 1 if machine.device else None)
    caps = _smallest_caps(list_candidates(job, params, nothing, machine))
    return Budget(caps["host"], caps.get("device"))


def list_candidates(job: Job, params: Params, budget: Budget, machine: Machine) -> list[Candidate]:
    """List the ways through the job, the fastest first, whether they fit or not.

    The order: CSR rows in memory, if no block shrinks by it; CSR rows on disk; dense rows; CSR rows with an exhaustive
    search, which compiles fewer kernels. Rows that are not mostly zeros are dense.
    """
    params = replace(params, n_neighbors=min(params.n_neighbors, job.n_rows))

    def candidate(job: Job, csr_on_disk: bool = False, exhaustive: bool = False) -> Candidate:
        facts = Facts(job, params, budget, machine, csr_on_disk, exhaustive)
        stages, held = plan_stages(facts)
        return Candidate(stages, held.unmet, facts.as_csr, csr_on_disk)

    dense = candidate(replace(job, n_nonzero=None))
    if not _csr_pays(job, params):
        return [dense]
    in_memory, on_disk = candidate(job), candidate(job, csr_on_disk=True)
    same_blocks = [s.blocks for s in in_memory.stages] == [s.blocks for s in on_disk.stages]
    return [
        *([in_memory] if same_blocks and not is_tiny_forced() else []),
        on_disk,
        *([dense] if params.neighbors != "packed" else []),
        candidate(job, csr_on_disk=True, exhaustive=True),
    ]


def _csr_pays(job: Job, params: Params) -> bool:
    """Whether CSR rows are faster than dense ones. Raises InputError where they are asked for and are not possible."""
    if params.neighbors == "packed" and params.reduce != "none":
        raise InputError(
            "--neighbors: packed searches the rows as they came and --reduce makes dense ones; use --neighbors auto or leave --reduce out."
        )
    if job.n_nonzero is None or params.neighbors == "dense" or params.reduce != "none":
        return False
    faster = pays(job.n_rows, job.n_features, job.n_nonzero)
    if params.neighbors == "packed" and not faster:
        share = job.n_nonzero / (job.n_rows * job.n_features)
        raise InputError(
            f"--neighbors: packed is for rows that are mostly zeros, here {share:.0%} of the values are not; use --neighbors dense."
        )
    return faster


def _smallest_caps(candidates: list[Candidate]) -> dict[str, int]:
    """Return the caps in bytes, to a megabyte, that would hold the candidate with the smallest unmet needs: of "device", of
    "host" or of both, in this order."""

    def caps(unmet: Footprint) -> dict[str, int]:
        needs = {"device": unmet.device_bytes, "host": unmet.host_bytes}
        return {place: -(-n_bytes // 10**6) * 10**6 for place, n_bytes in needs.items() if n_bytes}

    return min((caps(candidate.unmet) for candidate in candidates), key=lambda needs: tuple(needs.values()))


def _apart(n_bytes: int, other: int) -> str:
    """Return a size as text, to the megabyte where it would else look like the other."""
    text = format_bytes(n_bytes)
    return f"{n_bytes // 10**6}MB" if text == format_bytes(other) else text


def _does_not_fit(caps: dict[str, int], budget: Budget, device: Device | None) -> DoesNotFit:
    """Make the error that names caps that are enough. Its `smallest_bytes` is that of the device where that is too small."""
    remedy = "raise it to that" if len(caps) == 1 else "raise both to these"
    if device and 0 < device.total_bytes < caps.get("device", 0):
        remedy = f"{device.name} has {format_bytes(device.total_bytes)}, so take a GPU with more memory"
    options = {"device": ("--budget", budget.device_bytes or 0), "host": (budget.host_option, budget.host_bytes)}
    texts = [
        f"{option}: {_apart(given, n)} cannot hold this job, the smallest that can is {n // 10**6}MB"
        for place, n in caps.items()
        for option, given in [options[place]]
    ]
    return DoesNotFit(f"{'; '.join(texts)}; {remedy}.", next(iter(caps.values())))
