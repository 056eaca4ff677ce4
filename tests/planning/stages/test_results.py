import pytest

from streamumap.machine.memory import Budget, Machine
from streamumap.params import Params
from streamumap.planning.job import Job, quality_rows
from streamumap.planning.planner import make_plan, smallest_budget


@pytest.mark.sizes
@pytest.mark.parametrize(("n_rows", "size"), [(300, 300), (10_000, 10_000), (10_001, 3_000), (3_000_000, 3_000)])
def test_the_quality_sample_is_measured_in_one_pass_where_there_is_room(n_rows, size):
    job, machine = Job(n_rows, 512, "float32"), Machine(2, 10**11)
    assert quality_rows(n_rows) == size
    roomy = make_plan(job, Params(), Budget(10**11), machine)["quality"]
    assert roomy.blocks["sample_rows"] == size
    tight = make_plan(job, Params(), smallest_budget(job, Params(), machine), machine)["quality"]
    assert min(size, 500) <= tight.blocks["sample_rows"] <= size
