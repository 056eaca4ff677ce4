from dataclasses import replace

from planning_checks import CPU, GB, caps

from streamumap.params import Params
from streamumap.planning.job import Job
from streamumap.planning.planner import make_plan


def test_a_map_of_a_sample_has_its_graph_on_disk_twice():
    some = Job(100_000, 3072, "float16")
    disk = [
        make_plan(job, Params(), caps(CPU, 20 * GB), CPU)["graph"].predicted.disk_bytes
        for job in (some, replace(some, n_left_out=1))
    ]
    assert 100_000 * 15 * 8 <= disk[1] - disk[0] < 100_000 * 15 * 8 + 10_000
