"""What happens when the device runs out of memory in the middle of a stage."""

import pytest

from streamumap.errors import DoesNotFit
from streamumap.machine import gpu
from streamumap.machine.memory import Budget, Footprint, Machine
from streamumap.planning.job import Job, Plan, StagePlan
from streamumap.run.recorder import LEAST_BLOCK, Recorder


class OutOfMemoryError(RuntimeError):
    """As torch's, where there is no GPU."""


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(gpu, "ran_out", lambda error: isinstance(error, OutOfMemoryError))
    stage = StagePlan("neighbors", "cuda", {"query_rows": 1000, "other_rows": 64, "chunk_rows": 0}, Footprint(1, 1, 1))
    plan = Plan(Job(10, 10, "float16"), Budget(10**9, 10**9), Machine(1, 10**9, None), (stage,))
    recorder = Recorder(plan, lambda event: None, lambda: False)
    yield recorder
    recorder.close()


def test_what_does_not_fit_is_done_again_in_blocks_of_half_the_size(recorder):
    tried = []

    def work():
        tried.append(dict(recorder.plan["neighbors"].blocks))
        if len(tried) < 3:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return "done"

    assert recorder.retry_on_oom("neighbors", work) == "done"
    assert [blocks["query_rows"] for blocks in tried] == [1000, 500, 250]
    assert tried[-1]["other_rows"] == LEAST_BLOCK and tried[-1]["chunk_rows"] == 0
    assert len(recorder.measured["warnings"]) == 2 and "half the size" in recorder.measured["warnings"][0]


def test_what_never_fits_is_refused_in_one_sentence(recorder):
    def work():
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(DoesNotFit, match="wait until other processes have left"):
        recorder.retry_on_oom("neighbors", work)


def test_another_error_is_not_touched(recorder):
    def work():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        recorder.retry_on_oom("neighbors", work)
    assert not recorder.measured["warnings"]
