"""What the user asked for, made into a budget, a job and a graph that is given: before a row is read."""

from dataclasses import replace
from typing import Any

from streamumap import backends, memory
from streamumap.errors import InputError
from streamumap.levers import Outlook, outlook
from streamumap.memory import Budget, Machine
from streamumap.neighbors.given import GivenGraph, open_graph
from streamumap.params import Params
from streamumap.planner import resolve_name
from streamumap.plans import Job, job_of, sampled_job
from streamumap.source import Reading, check_shape, open_source


def budget_for(machine: Machine, budget: str | int | None, host_budget: str | int | None) -> Budget:
    """--budget and --host-budget as caps; what is not given is a share of what is free. On the host the least of these and
    the machine's own limits holds."""
    given = None if budget is None else memory.parse_bytes(budget)
    host = None if host_budget is None else memory.parse_bytes(host_budget, "--host-budget")
    default, device_bytes = int(machine.host_free_bytes * memory.DEFAULT_SHARE), None
    if machine.device:
        device_bytes = given or int(machine.device.free_bytes * memory.DEFAULT_SHARE)
        caps = [("--host-budget", host or default)]
    else:
        caps = [("--budget", given or default), *([("--host-budget", host)] if host else [])]
    caps += [(limit.name, max(1, limit.n_bytes - memory.anonymous_bytes())) for limit in machine.host_limits]
    limited_by, host_bytes = min(caps, key=lambda cap: cap[1])
    return Budget(host_bytes, device_bytes, limited_by)


def plan_for(
    x, rows, features, dtype, active, budget, host_budget, device, reading=None, knn=None, sample=None, **params
) -> Outlook:
    """`streamumap.plan`; `reading` instead of `dtype` and `features` of an input."""
    if (x is None) == (rows is None) or (x is None and features is None):
        raise InputError("plan: expected an input, or --rows and --features, found both or neither; give one of them.")
    if x is not None:
        source = open_source(x, reading or Reading(dtype, features))
        job = job_of(source)
        source.close()
    else:
        check_shape("plan", rows, features)
        job = Job(rows, features, resolve_name(dtype or "float16"))
    if active is not None:
        if not 1 <= active <= job.n_features:
            raise InputError(
                f"--active: expected 1 to {job.n_features}, the features of a row, found {active}; give one in this range."
            )
        job = replace(job, n_nonzero=job.n_rows * active)
    if sample is not None and not 3 <= sample <= job.n_rows:
        raise InputError(
            f"--sample: expected 3 to {job.n_rows}, the rows of the input, found {sample}; give one in this range."
        )
    p = Params(**params)
    backends.check_installed(p)
    graph = given_graph(knn, p, job.n_rows)
    if graph is not None:
        job = replace(job, knn_columns=graph.n_columns)
        graph.close()
    job = sampled_job(job, sample)
    machine = memory.machine(device)
    if x is None:  # a job to be run anywhere
        machine = replace(machine, host_limits=())
    return outlook(job, p, budget_for(machine, budget, host_budget), machine)


def given_graph(knn: Any, p: Params, n_rows: int) -> GivenGraph | None:
    """The k-NN graph that is given instead of searched for, if one is. Raises InputError where it cannot be used."""
    if knn is None:
        return None
    for option, value, default in (("neighbors", p.neighbors, "auto"), ("reduce", p.reduce, "none")):
        if value != default:
            raise InputError(
                f"--{option}: {value} says how neighbours are searched, and --knn gives them; leave one of the two out."
            )
    graph = open_graph(knn, n_rows)
    try:
        graph.check_width(min(p.n_neighbors, n_rows))
    except BaseException:
        graph.close()
        raise
    return graph
