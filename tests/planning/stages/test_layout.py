from dataclasses import replace

import pytest
from planning_checks import CPU, GB, GPU, caps

from streamumap.params import Params
from streamumap.planning.job import Job
from streamumap.planning.planner import list_candidates, make_plan


def test_a_map_of_a_sample_has_its_graph_on_disk_twice():
    some = Job(100_000, 3072, "float16")
    disk = [
        make_plan(job, Params(), caps(CPU, 20 * GB), CPU)["graph"].predicted.disk_bytes
        for job in (some, replace(some, n_left_out=1))
    ]
    assert 100_000 * 15 * 8 <= disk[1] - disk[0] < 100_000 * 15 * 8 + 10_000


def stages_of(n_rows, budget_gb):
    """The stages of rows like codes on a GPU, whether they fit or not."""
    job = Job(n_rows, 3072, "float16", n_rows * 32, True)
    in_memory = list_candidates(job, Params(metric="cosine"), caps(GPU, budget_gb * GB), GPU)[0]
    return {stage.name: stage for stage in in_memory.stages}


@pytest.mark.sizes
def test_pairs_of_cells_are_sorted_at_once_where_they_fit_and_else_in_pieces():
    assert set(stages_of(3_000_000, 8)["start"].blocks) == {"block_rows", "sample_rows"}
    assert set(stages_of(30_000_000, 40)["start"].blocks) == {"block_rows", "sample_rows"}
    for n_rows, budget_gb in ((30_000_000, 8), (100_000_000, 40), (100_000_000, 16), (10**9, 40)):
        start = stages_of(n_rows, budget_gb)["start"]
        assert start.blocks["piece_pairs"] > 0
        assert start.predicted.device_bytes <= budget_gb * GB


@pytest.mark.sizes
def test_the_knn_graph_stays_on_the_device_where_it_fits_and_else_passes_by():
    for n_rows, budget_gb in ((3_000_000, 8), (30_000_000, 8), (100_000_000, 16)):
        graph = stages_of(n_rows, budget_gb)["graph"]
        assert set(graph.blocks) == {"block_edges"} and graph.predicted.device_bytes <= budget_gb * GB
    resident = stages_of(100_000_000, 40)
    for n_rows, budget_gb in ((100_000_000, 12), (100_000_000, 8), (10**9, 40)):
        stages = stages_of(n_rows, budget_gb)
        assert stages["graph"].blocks["run_edges"] > 0
        assert stages["graph"].predicted.device_bytes <= budget_gb * GB
        files = stages["graph"].predicted.disk_bytes - stages["start"].predicted.disk_bytes
        assert files == 16 * 15 * n_rows
    assert resident["graph"].predicted.disk_bytes == resident["start"].predicted.disk_bytes
