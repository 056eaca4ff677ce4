"""What is planned before the rows are read."""

import numpy as np
import pytest

from streamumap.engine import embed
from streamumap.errors import DoesNotFit
from streamumap.machine.memory import Budget, machine
from streamumap.params import Params
from streamumap.planning.job import job_of
from streamumap.planning.planner import smallest_budget
from streamumap.request import Request
from streamumap.run.prepare import first_plan, most_active, outlook_of
from streamumap.source import open_source

CPU = machine("cpu")
SHAPE = 3000, 16_384  # so wide that a few dense rows take more than the picture at the end


def sparse(active):
    random, rows = np.random.default_rng(0), np.zeros(SHAPE, np.float16)
    np.put_along_axis(rows, random.integers(SHAPE[1], size=(SHAPE[0], active)), 1 - random.random((SHAPE[0], 1)), 1)
    return rows


def needs(n_nonzero=None):
    job = job_of(open_source(np.zeros(SHAPE, np.float16)))
    job = job.__class__(job.n_rows, job.n_features, job.dtype, n_nonzero)
    return smallest_budget(job, Params(), CPU).host_bytes


def test_the_bound_is_above_what_rows_have():
    assert 8 < most_active(open_source(sparse(8))) < 16
    assert most_active(open_source(np.ones(SHAPE, np.float16))) == SHAPE[1]
    assert most_active(open_source(np.zeros((3, 4), np.float32))) == 1


@pytest.mark.sizes
def test_rows_of_zeros_mostly_are_planned_so_where_dense_rows_do_not_fit():
    dense, csr = needs(), needs(SHAPE[0] * 12)
    assert csr < dense - 10 * 10**6
    source = open_source(sparse(8))
    for n_bytes, as_csr in ((dense + 10**6, False), (csr + 10**6, True)):
        assert first_plan(source, job_of(source), Params(), Budget(n_bytes), CPU).as_csr == as_csr
    with pytest.raises(DoesNotFit):
        first_plan(open_source(np.ones(SHAPE, np.float16)), job_of(source), Params(), Budget(csr + 10**6), CPU)


@pytest.mark.sizes
def test_what_is_denser_than_it_looked_is_refused_once_it_is_counted(tmp_path):
    rows = sparse(4)
    step = (SHAPE[0] - 32) / 63
    for gap in range(63):
        rows[int(gap * step) + 34 : int((gap + 1) * step) - 2] = 1  # between the runs that are looked at
    assert most_active(open_source(rows)) < 12
    budget = needs(SHAPE[0] * 12) + 2 * 10**6
    with pytest.raises(DoesNotFit, match="the smallest that can is") as refused:
        embed(Request(rows, Params(), budget=budget, device="cpu"), tmp_path / "run")
    assert refused.value.smallest_bytes > budget


def test_plan_reads_no_row_and_says_what_would_help(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros(SHAPE, np.float16))
    request = Request(tmp_path / "rows.npy", budget="1MB", device="cpu")
    with pytest.raises(DoesNotFit, match="say with --active how many values of a row are not zero"):
        outlook_of(request)
    with pytest.raises(DoesNotFit) as refused:
        outlook_of(request, active=8)
    assert "--active" not in str(refused.value)
