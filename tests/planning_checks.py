"""Machines, jobs and budgets for the tests of plans."""

import pytest

from streamumap.errors import DoesNotFit
from streamumap.machine.memory import Budget, Device, Machine
from streamumap.planning.job import Job
from streamumap.planning.planner import make_plan

GB = 10**9
CPU = Machine(n_cores=2, host_free_bytes=16 * GB)
GPU = Machine(n_cores=16, host_free_bytes=128 * GB, device=Device(0, "Fake", 150 * GB, 149 * GB))
MACHINES = {"cpu": CPU, "gpu": GPU}

LARGE = Job(3_000_000, 3072, "float16")
"""The rows that fill most of a large GPU: 18.4 GB of float16."""


def caps(machine, n_bytes, host_bytes=100 * GB):
    """Return the caps that `--budget n_bytes` gives."""
    return Budget(host_bytes, n_bytes) if machine.device else Budget(n_bytes)


def smallest(job, params, machine):
    """Return the bytes that the refusal of a far too small budget names."""
    with pytest.raises(DoesNotFit) as refused:
        make_plan(job, params, caps(machine, 1), machine)
    return refused.value.smallest_bytes
