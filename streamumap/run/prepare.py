"""Budget and plan of a request, before a row is read."""

from dataclasses import replace
from typing import Any

import numpy as np

from streamumap.errors import DoesNotFit, InputError
from streamumap.machine import memory
from streamumap.machine.cards import machine_to_plan
from streamumap.machine.memory import Budget, Machine
from streamumap.params import Params
from streamumap.planning.job import Job, Plan, job_of, placing_job, sampled_job
from streamumap.planning.planner import make_plan
from streamumap.planning.suggestions import ACTIVE, Outlook, outlook
from streamumap.request import Request
from streamumap.run import dispatch
from streamumap.run.inputs import open_knn
from streamumap.source import Reading, RowSource, ToConvert, check_no_input, check_shape, open_source
from streamumap.source.checks import check_dtype
from streamumap.source.sparse.csr_block import nonzero_mask

SAMPLE_RUNS, RUN_ROWS, RUN_BYTES = 64, 32, 1 << 18
"""Runs of rows that are read before anything is planned, and the most rows and bytes of each."""


def budget_for(machine: Machine, budget: str | int | None, host_budget: str | int | None) -> Budget:
    """--budget and --host-budget as caps. The default is a share of the free memory; on the host the smallest of the cap and the
    machine's own limits counts. By default the host of a machine elsewhere has no limit."""
    asked = None if budget is None else memory.parse_bytes(budget)
    host = None if host_budget is None else memory.parse_bytes(host_budget, "--host-budget")
    default, device_bytes = int(machine.host_free_bytes * memory.DEFAULT_SHARE), None
    if machine.device:
        device_bytes = asked or int(machine.device.free_bytes * memory.DEFAULT_SHARE)
        caps = [("--host-budget", host or (memory.NO_LIMIT if machine.device.elsewhere else default))]
    else:
        caps = [("--budget", asked or default), *([("--host-budget", host)] if host else [])]
    caps += [(limit.name, max(1, limit.n_bytes - memory.anonymous_bytes())) for limit in machine.host_limits]
    limited_by, host_bytes = min(caps, key=lambda cap: cap[1])
    return Budget(host_bytes, device_bytes, limited_by if host_bytes < memory.NO_LIMIT else "")


def outlook_of(request: Request, matrix: tuple[int, int] | None = None, active: int | None = None) -> Outlook:
    """The plan of a request, and what stands around it, from headers alone: no row is read.

    `matrix`: rows and features where there is no input yet; its dtype is that of the reading, or float16. `active`: values of a row
    that are not zero. The device of the request may be one that is not here, see `machine_to_plan`. Raises InputError, and DoesNotFit
    where the budget cannot hold the job.
    """
    asked = None if request.budget is None else memory.parse_bytes(request.budget)
    machine = machine_to_plan(request.device, asked)
    if not (machine.device and machine.device.elsewhere):
        dispatch.check_installed(request.params)
    job, chosen = _asked_job(request, matrix, active)
    if request.input is None:  # a job to be run anywhere
        machine = replace(machine, host_limits=())
    try:
        found = outlook(job, request.params, budget_for(machine, request.budget, request.host_budget), machine)
        return replace(found, chosen=chosen)
    except DoesNotFit as error:
        if job.n_nonzero is not None or job.n_features < 4 * ACTIVE:
            raise
        raise DoesNotFit(
            f"{str(error)[:-1]}, or say with --active how many values of a row are not zero: rows of zeros mostly need less.",
            error.smallest_bytes,
        ) from error


def matrix_of(input: Any, rows: int | None, features: int | None) -> tuple[int, int] | None:
    """The shape of a matrix that there is no input of; None where there is one. Raises InputError."""
    if (input is None) == (rows is None) or (input is None and features is None):
        raise InputError("plan: expected an input, or --rows and --features, found both or neither; give one of them.")
    return None if rows is None or features is None else (rows, features)


def _asked_job(request: Request, matrix: tuple[int, int] | None, active: int | None) -> tuple[Job, str | None]:
    """The job of a request, and what its rows are where the input holds more than them."""
    chosen = None
    if matrix is not None:
        check_shape("plan", *matrix)
        reading = request.reading or Reading()
        check_no_input(reading)
        job = Job(*matrix, check_dtype(reading.dtype or "float16"))
    else:
        source = open_source(request.input, request.reading)
        job, chosen = job_of(source), getattr(source, "chosen", None)
        source.close()
    for option, size, least, most, what in (
        ("--active", active, 1, job.n_features, "the features of a row"),
        ("--sample", request.sample, 3, job.n_rows, "the rows of the input"),
    ):
        if size is not None and not least <= size <= most:
            raise InputError(f"{option}: expected {least} to {most}, {what}, found {size}; give one in this range.")
    graph = open_knn(request.knn, request.params, job.n_rows)
    if graph is not None:
        job = replace(job, knn_columns=graph.n_columns)
        graph.close()
    if request.place_rest and request.sample is None:
        raise InputError("--place-rest: expected --sample, found none; say how many rows the others are placed beside.")
    job = sampled_job(job, request.sample)
    job = placing_job(job) if request.place_rest else job
    if active is None:
        return job, chosen
    placed = job.placed and replace(job.placed, n_nonzero=job.placed.n_rows * active)
    return replace(job, n_nonzero=job.n_rows * active, placed=placed, active=None), chosen


def first_plan(source: RowSource | ToConvert, job: Job, p: Params, budget: Budget, machine: Machine) -> Plan:
    """The plan before the rows are read; it is made again once their zeros are counted. Where dense rows do not fit, a few rows are
    read: rows that are mostly zeros need less. Raises DoesNotFit."""
    try:
        return make_plan(job, p, budget, machine)
    except DoesNotFit:
        if job.n_nonzero is not None or job.raw_features or p.neighbors == "dense" or isinstance(source, ToConvert):
            raise
    return make_plan(replace(job, n_nonzero=job.n_rows * most_active(source)), p, budget, machine)


def most_active(source: RowSource) -> int:
    """An upper estimate of the values of a row that are not zero: the mean of the densest of SAMPLE_RUNS evenly spread runs of rows, and a
    quarter more."""
    run_rows = min(RUN_ROWS, max(1, RUN_BYTES // source.row_bytes), source.n_rows)
    starts = np.unique(np.linspace(0, source.n_rows - run_rows, SAMPLE_RUNS).astype(np.int64)).tolist()
    runs = (source.read(start, start + run_rows) for start in starts)
    densest = max(int(np.count_nonzero(nonzero_mask(run, source.dtype))) for run in runs) / run_rows
    return min(source.n_features, int(densest * 1.25) + 1)
