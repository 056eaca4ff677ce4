import pytest
from planning_checks import CPU, GB, GPU, caps

from streamumap.machine.memory import Budget
from streamumap.params import Params
from streamumap.planning.job import Job
from streamumap.planning.overheads import READING_CONTEXT_BYTES
from streamumap.planning.planner import make_plan
from streamumap.source.base import DEVICE_DTYPES


@pytest.mark.parametrize("dtype", [*DEVICE_DTYPES, "uint16", "int64"])
def test_a_gpu_scans_the_dtypes_that_it_takes_as_stored(dtype):
    stage = make_plan(Job(100_000, 3072, dtype), Params(), caps(GPU, 8 * GB), GPU)["read"]
    assert stage.backend == ("cuda" if dtype in DEVICE_DTYPES else "numpy")
    assert (stage.predicted.device_bytes > READING_CONTEXT_BYTES) == (dtype in DEVICE_DTYPES)


@pytest.mark.sizes
def test_reduced_rows_are_what_the_later_stages_see():
    job, params = Job(100_000, 3072, "float16"), Params(reduce="pca", reduce_dims=64, init="pca")
    plan, whole = (make_plan(job, p, Budget(2 * GB), CPU) for p in (params, Params(init="pca")))
    assert plan["reduce"].blocks["block_rows"] >= 16
    assert plan["start"].predicted.host_bytes < whole["start"].predicted.host_bytes - 2 * 8192 * 3000 * 4
    assert plan.peak.disk_bytes - whole.peak.disk_bytes == 100_000 * 64 * 4 + 65 * 3072 * 8
