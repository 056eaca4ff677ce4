"""What a run will do and need, before it does anything: pure integers, no input or output.

Each stage's bytes are a formula beside the stage; `stage_plans/` adds them to what stays in memory and finds the largest
block sizes that fit the budget. Here the way through is chosen, and a budget that cannot hold it is refused with one that can.
"""

from dataclasses import replace

from streamumap.errors import DoesNotFit, InputError
from streamumap.machine.memory import Budget, Machine, format_bytes
from streamumap.params import Params
from streamumap.planning.job import Job, Plan, StagePlan
from streamumap.planning.stages import BudgetFit, plan_stages, tiny

Stages = tuple[StagePlan, ...]


def make_plan(job: Job, params: Params, budget: Budget, machine: Machine) -> Plan:
    """The fastest plan within the budget. Raises DoesNotFit, which names a budget that is enough."""
    ways = _ways(job, params, budget, machine)
    for planner, stages in ways:
        if not planner.missing:
            return Plan(job, budget, machine, stages, planner.as_csr, planner.csr_on_disk)
    raise _does_not_fit(_least(ways), budget)


def with_edges(plan: Plan, params: Params, n_edges: int) -> Plan:
    """The plan once the graph is there: until then it has as many edges as it can have at most, mostly a third more than
    there are."""
    found = make_plan(replace(plan.job, n_edges=n_edges), params, plan.budget, plan.machine)
    stages = tuple(found[s.name] if s.name in ("start", "layout") else s for s in plan.stages)
    return replace(plan, job=found.job, stages=stages)


def smallest_budget(job: Job, params: Params, machine: Machine) -> Budget:
    """The smallest caps that hold the job, to a megabyte; a GPU run needs both."""
    missing = _least(_ways(job, params, Budget(1, 1 if machine.device else None), machine))
    return Budget(missing["host"], missing.get("device"))


def _ways(job: Job, params: Params, budget: Budget, machine: Machine) -> list[tuple[BudgetFit, Stages]]:
    """Ways through, the fastest first, whether they fit or not.

    Rows that are mostly zeros are packed: in memory where that makes no block of any stage smaller, else on disk.
    Where even that does not fit they are searched as they are.
    """
    params = replace(params, n_neighbors=min(params.n_neighbors, job.n_rows))

    def attempt(job: Job, csr_on_disk: bool = False) -> tuple[BudgetFit, Stages]:
        return plan_stages(job, params, budget, machine, csr_on_disk)

    ways = [attempt(replace(job, n_nonzero=None))]
    if _packs(job, params):
        memory, disk = attempt(job), attempt(job, csr_on_disk=True)
        in_memory = not tiny() and [s.blocks for s in memory[1]] == [s.blocks for s in disk[1]]
        dense = [] if params.neighbors == "packed" else ways
        ways = [*([memory] if in_memory else []), disk, *dense]
    return ways


def _packs(job: Job, params: Params) -> bool:
    from streamumap.source.sparse.csr_rows import pays

    if params.neighbors == "packed" and params.reduce != "none":
        raise InputError(
            "--neighbors: packed searches the rows as they came and --reduce makes dense ones; use --neighbors auto or leave --reduce out."
        )
    if job.n_nonzero is None or params.neighbors == "dense" or params.reduce != "none":
        return False
    found = pays(job.n_rows, job.n_features, job.n_nonzero)
    if params.neighbors == "packed" and not found:
        share = job.n_nonzero / (job.n_rows * job.n_features)
        raise InputError(
            f"--neighbors: packed is for rows that are mostly zeros, here {share:.0%} of the values are not; use --neighbors dense."
        )
    return found


def _least(ways: list[tuple[BudgetFit, Stages]]) -> dict[str, int]:
    """Of ways that do not fit, what the one with the smallest needs is short of: bytes, to a megabyte, of "device" and
    "host"."""

    def needs(planner: BudgetFit) -> dict[str, int]:
        places = [place for place in ("device", "host") if place in dict(planner.missing)]
        return {p: -(-max(n for place, n in planner.missing if place == p) // 10**6) * 10**6 for p in places}

    return min((needs(planner) for planner, _ in ways), key=lambda found: tuple(found.values()))


def _does_not_fit(smallest: dict[str, int], budget: Budget) -> DoesNotFit:
    """`smallest_bytes` is that of the device where the device is too small."""
    options = {"device": ("--budget", budget.device_bytes or 0), "host": (budget.host_option, budget.host_bytes)}
    texts = [
        f"{options[where][0]}: {format_bytes(options[where][1])} cannot hold this job, the smallest that can is {n // 10**6}MB"
        for where, n in smallest.items()
    ]
    return DoesNotFit(
        f"{'; '.join(texts)}; raise {'it to that' if len(texts) == 1 else 'both to these'}.",
        next(iter(smallest.values())),
    )


def resolve_name(dtype: str) -> str:
    """A dtype as the user names it -> as sources name it. Raises InputError."""
    names = (
        "bool",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
    )
    if dtype not in names:
        raise InputError(f"--dtype: expected one of {', '.join(names)}, found {dtype!r}; choose one of these.")
    return dtype
