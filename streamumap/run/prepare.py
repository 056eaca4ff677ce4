"""What the user asked for, made into a budget, a job and a graph that is given: before a row is read."""

from dataclasses import replace
from typing import Any

import numpy as np

from streamumap.errors import DoesNotFit, InputError
from streamumap.machine import memory
from streamumap.machine.memory import Budget, Machine
from streamumap.neighbors.given import GivenGraph, open_graph
from streamumap.params import Params
from streamumap.planning.job import Job, Plan, job_of, placing_job, sampled_job
from streamumap.planning.planner import make_plan
from streamumap.planning.suggestions import ACTIVE, Outlook, outlook
from streamumap.run import dispatch
from streamumap.source import Reading, RowSource, ToConvert, check_shape, open_source
from streamumap.source.checks import check_dtype
from streamumap.source.sparse.csr_block import nonzero_mask

LOOKS, LOOK_ROWS, LOOK_BYTES = 64, 32, 1 << 18
"""Runs of rows that are looked at before anything is planned, and how many rows, or bytes, each has at most."""


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
    x,
    rows,
    features,
    dtype,
    active,
    budget,
    host_budget,
    device,
    reading=None,
    knn=None,
    sample=None,
    place_rest=False,
    **params,
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
        job = Job(rows, features, check_dtype(dtype or "float16"))
    if active is not None and not 1 <= active <= job.n_features:
        raise InputError(
            f"--active: expected 1 to {job.n_features}, the features of a row, found {active}; give one in this range."
        )
    if sample is not None and not 3 <= sample <= job.n_rows:
        raise InputError(
            f"--sample: expected 3 to {job.n_rows}, the rows of the input, found {sample}; give one in this range."
        )
    p = Params(**params)
    dispatch.check_installed(p)
    graph = given_graph(knn, p, job.n_rows)
    if graph is not None:
        job = replace(job, knn_columns=graph.n_columns)
        graph.close()
    if place_rest and sample is None:
        raise InputError("--place-rest: expected --sample, found none; say how many rows the others are placed beside.")
    job = sampled_job(job, sample)
    job = placing_job(job) if place_rest else job
    if active is not None:  # of every row, also of those of a sample
        placed = job.placed and replace(job.placed, n_nonzero=job.placed.n_rows * active)
        job = replace(job, n_nonzero=job.n_rows * active, placed=placed)
    machine = memory.machine(device)
    if x is None:  # a job to be run anywhere
        machine = replace(machine, host_limits=())
    try:
        return outlook(job, p, budget_for(machine, budget, host_budget), machine)
    except DoesNotFit as error:
        if job.n_nonzero is not None or job.n_features < 4 * ACTIVE:
            raise
        raise DoesNotFit(
            f"{str(error)[:-1]}, or say with --active how many values of a row are not zero: rows of zeros mostly need less.",
            error.smallest_bytes,
        ) from error


def first_plan(source: RowSource | ToConvert, job: Job, p: Params, budget: Budget, machine: Machine) -> Plan:
    """The plan to begin with. Where dense rows do not fit a few of them are looked at: what is mostly zeros needs less. Once all are
    read their zeros are counted, and the plan is made again. Raises DoesNotFit."""
    try:
        return make_plan(job, p, budget, machine)
    except DoesNotFit:
        if job.n_nonzero is not None or job.raw_features or p.neighbors == "dense" or isinstance(source, ToConvert):
            raise
    return make_plan(replace(job, n_nonzero=job.n_rows * most_active(source)), p, budget, machine)


def most_active(source: RowSource) -> int:
    """Values of a row that are not zero, on average, by those of LOOKS runs of rows, evenly spread: as many as in the densest run
    and a quarter more."""
    run_rows = min(LOOK_ROWS, max(1, LOOK_BYTES // source.row_bytes), source.n_rows)
    starts = np.unique(np.linspace(0, source.n_rows - run_rows, LOOKS).astype(np.int64)).tolist()
    runs = (source.read(start, start + run_rows) for start in starts)
    densest = max(int(np.count_nonzero(nonzero_mask(run, source.dtype))) for run in runs) / run_rows
    return min(source.n_features, int(densest * 1.25) + 1)


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
