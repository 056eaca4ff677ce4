"""The pieces that a plan lets pass by a GPU reach the algorithms."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from planning_checks import GB, GPU, caps

from streamumap.layout.init import levels
from streamumap.params import Params
from streamumap.planning.job import Job
from streamumap.planning.planner import make_plan
from streamumap.run import dispatch, initialize


@pytest.fixture
def plan():
    """The plan of few rows on a large GPU."""
    return make_plan(Job(5000, 3072, "float16", 5000 * 32, True), Params(), caps(GPU, 20 * GB), GPU)


def with_blocks(plan, name, **more):
    stages = [replace(s, blocks=s.blocks | more) if s.name == name else s for s in plan.stages]
    return replace(plan, stages=tuple(stages))


@pytest.mark.sizes
def test_pairs_of_cells_are_sorted_in_the_pieces_of_the_plan(plan, monkeypatch):
    asked = []

    def start(*args):
        asked.append(args[-1])
        return levels.Start(np.zeros((5000, 2), np.float32), (5000, 500), 0)

    monkeypatch.setattr(levels, "start", start)
    blocks = SimpleNamespace(of=lambda block_rows: [], backend=None)
    for some in (plan, with_blocks(plan, "start", piece_pairs=700)):
        settings = SimpleNamespace(n_vertices=5000)
        initialize._multilevel(lambda numbers: None, "by pca", some, Params(), blocks, settings, lambda n: None)
    assert asked == [None, levels.Pieces(700, 5000 * 16)]


@pytest.mark.sizes
def test_rows_pass_by_as_the_plan_says(plan, monkeypatch):
    from devices import part  # switches Triton's interpreter on where there is no GPU

    count_passing = part("count_passing")
    monkeypatch.setattr(count_passing, "count_closer", lambda *args: args)
    monkeypatch.setattr(dispatch, "backend", lambda name: SimpleNamespace(count_closer=lambda *args: args))
    rows, sample, others = SimpleNamespace(csr=1, to_count=lambda plan: "rows"), np.arange(3), np.zeros((3, 2))
    block_rows = plan["quality"].blocks["block_rows"]
    assert dispatch.count_closer(rows, plan, sample, others) == ("rows", sample, others, block_rows)
    passing = with_blocks(plan, "quality", pass_rows=900)
    assert dispatch.count_closer(rows, passing, sample, others) == ("rows", sample, others, block_rows, 900)


def test_the_smallest_plan_lets_all_pass_by(monkeypatch):
    monkeypatch.setenv("STREAMUMAP_FORCE_TINY_BUDGET", "1")
    plan = make_plan(Job(5000, 3072, "float16", 5000 * 32, True), Params(), caps(GPU, 20 * GB), GPU)
    blocks = {stage.name: stage.blocks for stage in plan.stages}
    assert blocks["graph"]["run_edges"] < 5000 * 15 and blocks["start"]["piece_pairs"] < 5000 * 3
    assert blocks["quality"]["pass_rows"] < 5000
