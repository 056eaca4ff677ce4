from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_checks import CPU, GB, GPU

from streamumap.machine.memory import Budget, Footprint
from streamumap.params import Params
from streamumap.planning import overheads
from streamumap.planning.fit import Blocks, Facts, Held, block_sizes, fit, held_at_start, hold_kernels, one_block
from streamumap.planning.job import Job
from streamumap.planning.planner import make_plan


@given(st.integers(1, 10**8), st.integers(1, 10**4))
def test_block_sizes_descend_from_the_largest_by_powers_of_two(largest, least):
    sizes = block_sizes(largest, least)
    assert sizes[0] == largest and sizes == sorted(set(sizes), reverse=True)
    assert all(size & (size - 1) == 0 and size >= least for size in sizes[1:])
    assert len(sizes) == 1 or sizes[-1] < 2 * least or least >= largest


JOB = Job(1000, 8, "float32")
NO_LIBRARIES = Footprint(0, 100)


def facts(host_bytes, device_bytes=None, machine=CPU):
    return Facts(JOB, Params(), Budget(host_bytes, device_bytes), machine)


@pytest.mark.sizes
def test_the_largest_blocks_that_fit_on_top_of_what_is_held_are_taken():
    blocks = one_block("rows", [8, 4, 2], lambda rows: 10 * rows)
    for host_bytes, rows, unmet in [(90, 8, 0), (89, 4, 0), (30, 2, 0), (29, 2, 30)]:
        stage, held = fit(facts(host_bytes), Held(JOB, host_bytes=10), "write", "x", blocks, NO_LIBRARIES)
        assert stage.blocks == {"rows": rows} and stage.predicted == Footprint(10 + 10 * rows)
        assert held == Held(JOB, host_bytes=10, unmet=Footprint(unmet))


def test_a_device_that_was_used_once_keeps_its_context():
    given = facts(1000, 1000, GPU)
    computing = one_block("rows", [8], lambda rows: 0, lambda rows: 20 * rows)
    stage, held = fit(given, Held(JOB), "layout", "cuda", computing, NO_LIBRARIES)
    assert stage.predicted.device_bytes == 100 + 160 * 1.05
    stage, after = fit(given, held, "write", "x", one_block("rows", [8], lambda rows: 0), NO_LIBRARIES)
    assert stage.predicted.device_bytes == 100 and after == held


def test_the_largest_need_of_each_kind_is_what_is_missing():
    given, held = facts(50, 150, GPU), Held(JOB)
    for sizes in [(80, 0), (60, 200), (10, 100)]:
        arrays = dict(zip(("host", "device"), sizes, strict=True))
        blocks = Blocks([arrays], lambda shape: shape["host"], lambda shape: shape["device"])
        _, held = fit(given, held, "layout", "cuda", blocks, NO_LIBRARIES)
    assert held.unmet == Footprint(80, 310)


def test_kernels_are_held_once_compiled_and_spared_once_kept():
    kept = replace(CPU, compiled=frozenset({"a", "b"}))
    given, held = facts(GB, machine=kept), held_at_start(facts(GB))
    assert hold_kernels(given, held, ("a", "b"), 5) == replace(held, host_bytes=5, spared_bytes=5)
    assert hold_kernels(given, held, ("a", "c"), 5) == replace(held, host_bytes=5)
    three = replace(given, params=Params(n_components=3))
    assert hold_kernels(three, held, ("a",), 5) == replace(held, host_bytes=5), "three dimensions have other kernels"


COMPILED = frozenset(
    overheads.GRAPH_AND_LAYOUT_KERNELS + overheads.SPARSE_KERNELS + overheads.SPARSE_APPROXIMATE_KERNELS
)


@pytest.mark.sizes
@pytest.mark.parametrize("budget", [GB * 6 // 10, GB * 8 // 10, 2 * GB])
def test_compiled_kernels_lower_the_prediction_and_decide_nothing(budget):
    """The first run must make the same map as those after it."""
    job = Job(1_000_000, 3072, "float16", 32_000_000)
    first, later = (
        make_plan(job, Params(), Budget(budget), machine) for machine in (CPU, replace(CPU, compiled=COMPILED))
    )
    assert [s.blocks for s in first.stages] == [s.blocks for s in later.stages]
    assert first.csr_on_disk == later.csr_on_disk
    spared = [a.predicted.host_bytes - b.predicted.host_bytes for a, b in zip(first.stages, later.stages, strict=True)]
    assert (
        spared[0] == 0 and all(a <= b for a, b in zip(spared, spared[1:], strict=False)) and spared[-1] >= 120 * 10**6
    )
