import pytest
from planning_checks import GB, GPU, caps

from streamumap.machine.memory import Budget, Machine
from streamumap.params import Params
from streamumap.planning.job import Job, quality_rows
from streamumap.planning.planner import list_candidates, make_plan, smallest_budget


@pytest.mark.sizes
@pytest.mark.parametrize(("n_rows", "size"), [(300, 300), (10_000, 10_000), (10_001, 3_000), (3_000_000, 3_000)])
def test_the_quality_sample_is_measured_in_one_pass_where_there_is_room(n_rows, size):
    job, machine = Job(n_rows, 512, "float32"), Machine(2, 10**11)
    assert quality_rows(n_rows) == size
    roomy = make_plan(job, Params(), Budget(10**11), machine)["quality"]
    assert roomy.blocks["sample_rows"] == size
    tight = make_plan(job, Params(), smallest_budget(job, Params(), machine), machine)["quality"]
    assert min(size, 500) <= tight.blocks["sample_rows"] <= size


@pytest.mark.sizes
def test_rows_without_zeros_stay_on_the_device_where_they_fit_and_else_pass_by():
    def quality(n_rows, budget_gb):
        job = Job(n_rows, 3072, "float16", n_rows * 32, True)
        stages = list_candidates(job, Params(metric="cosine"), caps(GPU, budget_gb * GB), GPU)[0].stages
        return next(stage for stage in stages if stage.name == "quality")

    for n_rows, budget_gb in ((3_000_000, 8), (30_000_000, 8), (100_000_000, 40)):
        assert "pass_rows" not in quality(n_rows, budget_gb).blocks
    passing = quality(100_000_000, 14)
    assert passing.blocks["pass_rows"] > 0 and passing.blocks["sample_rows"] == quality_rows(100_000_000)
    assert passing.predicted.device_bytes <= 14 * GB


@pytest.mark.sizes
def test_new_rows_are_placed_among_rows_that_pass_by_where_those_do_not_fit():
    def place(budget_gb):
        placed = Job(1_000_000, 3072, "float16", 1_000_000 * 32, True)
        job = Job(100_000_000, 3072, "float16", 100_000_000 * 32, True, placed=placed)
        stages = list_candidates(job, Params(metric="cosine"), caps(GPU, budget_gb * GB), GPU)[0].stages
        return next(stage for stage in stages if stage.name == "place")

    assert "pass_rows" not in place(40).blocks
    assert place(12).blocks["pass_rows"] > 0 and place(12).predicted.device_bytes <= 12 * GB
