import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamumap
from streamumap.errors import DoesNotFit
from streamumap.machine.memory import Budget, Device, Machine
from streamumap.params import Params
from streamumap.planning.job import Job
from streamumap.planning.planner import make_plan, smallest_budget
from streamumap.planning.suggestions import CARD_SIZES_GB, Cards, as_json, cards, fewest_cards, in_memory_needs, outlook

GB = 10**9
CPU = Machine(n_cores=2, host_free_bytes=16 * GB)
H200 = Machine(n_cores=16, host_free_bytes=128 * GB, device=Device(0, "NVIDIA H200", 150 * GB, 149 * GB))
CAPS = {"cpu": (Budget(40 * GB), CPU), "gpu": (Budget(100 * GB, 40 * GB), H200)}

# What people who plan such runs by hand write down: rows, features, dtype -> matrix, with 2 times and 3 times it beside,
# the smallest number of 80 GB cards, cuML's float32 copy on the host. Bytes.
BY_HAND = {
    "CLIP full FP16": (3_000_000, 3_072, "float16", 18_432_000_000, 55_296_000_000, 73_728_000_000, 1, 36_864_000_000),
    "CLIP full FP32": (3_000_000, 3_072, "float32", 36_864_000_000, 110_592_000_000, 147_456_000_000, 2, 36_864_000_000),
    "CLIP 500K": (500_000, 3_072, "float16", 3_072_000_000, 9_216_000_000, 12_288_000_000, 1, 6_144_000_000),
    "FLUX full FP16": (3_000_000, 12_288, "float16", 73_728_000_000, 221_184_000_000, 294_912_000_000, 4, 147_456_000_000),
    "FLUX 1M x 2,048": (1_000_000, 2_048, "float16", 4_096_000_000, 12_288_000_000, 16_384_000_000, 1, 8_192_000_000),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_a_run_in_memory_needs_its_matrix_and_two_to_three_times_it(name):
    n, d, dtype, matrix, low, high, n_80, host = BY_HAND[name]
    job = Job(n, d, dtype)
    needed = in_memory_needs(job, Params())
    assert (job.matrix_bytes, needed.low_bytes, needed.high_bytes, needed.cuml_host_bytes) == (matrix, low, high, host)
    assert next(c.count for c in cards(needed.high_bytes) if c.size_gb == 80) == n_80


@pytest.mark.parametrize("where", CAPS)
@pytest.mark.parametrize("name", BY_HAND)
def test_each_of_them_is_planned_here_within_40_gb(name, where):
    n, d, dtype, *_ = BY_HAND[name]
    found = outlook(Job(n, d, dtype), Params(), *CAPS[where])
    assert found.peak.host_bytes <= found.budget.host_bytes and found.peak.device_bytes <= 40 * GB
    smallest = found.smallest.device_bytes or found.smallest.host_bytes
    assert smallest < 9 * GB, "every one of them fits a card of 16 GB"


def test_what_precision_dimensions_and_samples_save():
    """3M x 3,072 float32: 36.9 GB; 3.7 GB of 300K rows; 6.1 GB of 512 dimensions. 3M x 12,288: 1,024 make 12.3 GB."""
    for features, expected in ((3072, (18_432, 6_144, 3_686)), (12_288, (73_728, 12_288, 14_745))):
        found = outlook(Job(3_000_000, features, "float32"), Params(), *CAPS["gpu"])
        assert [suggestion.name for suggestion in found.suggestions] == [
            "half precision",
            "PCA",
            "sampling",
            "TopK pairs",
        ]
        assert tuple(suggestion.matrix_bytes // 10**6 for suggestion in found.suggestions[:3]) == expected
        pairs = found.suggestions[3]
        assert pairs.matrix_bytes == 3_000_000 * 32 * (2 + 4) and pairs.quality.startswith(
            "none: nothing is lost, where"
        )
        assert all(suggestion.quality and suggestion.smallest.device_bytes for suggestion in found.suggestions)
        assert found.suggestions[1].in_memory.low_bytes == 3 * found.suggestions[1].matrix_bytes


def test_suggestions_that_change_nothing_are_left_out():
    found = outlook(Job(900, 100, "float16"), Params(), *CAPS["cpu"])
    assert found.suggestions == ()
    reduced = outlook(Job(100_000, 3072, "float16"), Params(reduce="pca"), *CAPS["cpu"])
    assert "PCA" not in [suggestion.name for suggestion in reduced.suggestions]
    sparse = outlook(Job(100_000, 3072, "float16", 3_200_000, sparse=True), Params(), *CAPS["cpu"])
    assert "TopK pairs" not in [suggestion.name for suggestion in sparse.suggestions]


@pytest.mark.parametrize(("n_rows", "peak"), [(500_000, 4.6), (3_000_000, 21.6)])
def test_what_cuml_needs_is_what_it_was_measured_to_take(n_rows, peak):
    assert in_memory_needs(Job(n_rows, 3072, "float16"), Params()).cuml_device_bytes == pytest.approx(
        peak * GB, rel=0.01
    )


@given(st.integers(1, 10**13))
def test_cards_are_enough_and_one_fewer_is_not(n_bytes):
    found = cards(n_bytes)
    assert [c.size_gb for c in found] == list(CARD_SIZES_GB)
    assert all((c.count - 1) * c.size_gb * GB < n_bytes <= c.count * c.size_gb * GB for c in found)
    fewest = fewest_cards(n_bytes)
    assert set(fewest) <= set(found) and [c.count for c in fewest] == sorted({c.count for c in found})


def test_the_smallest_card_of_each_number_is_named():
    assert fewest_cards(148 * GB)[:2] == (Cards(1, 192), Cards(2, 80))
    assert fewest_cards(16 * GB) == (Cards(1, 16),)


# Which budget binds


def test_more_memory_changes_nothing_where_no_budget_binds():
    found = outlook(Job(63_666, 3072, "float16"), Params(), *CAPS["gpu"])
    assert found.binding == {"--budget": (), "--host-budget": ()}
    assert outlook(Job(63_666, 3072, "float16"), Params(), *CAPS["cpu"]).binding == {"--budget": ()}


@pytest.mark.sizes
def test_the_budget_that_binds_is_named_with_the_stages():
    job = Job(3_000_000, 3072, "float16")
    smallest = smallest_budget(job, Params(), H200)
    on_device = outlook(job, Params(), replace(smallest, host_bytes=100 * GB), H200).binding
    assert on_device["--host-budget"] == () and "neighbors" in on_device["--budget"]
    with pytest.raises(DoesNotFit) as refused:
        make_plan(job, Params(), Budget(1, 100 * GB), H200)
    assert refused.value.smallest_bytes < smallest.host_bytes  # the smallest device holds a window of the rows only
    on_host = outlook(job, Params(), Budget(refused.value.smallest_bytes, 100 * GB), H200).binding
    assert on_host["--budget"] == () and "neighbors" in on_host["--host-budget"]


@pytest.mark.parametrize("machine", [CPU, H200], ids=["cpu", "gpu"])
@pytest.mark.parametrize("active", [None, 32])
def test_the_smallest_budget_works_and_less_of_either_does_not(machine, active):
    job = Job(1_000_000, 3072, "float16", active and 1_000_000 * active)
    smallest = smallest_budget(job, Params(), machine)
    make_plan(job, Params(), smallest, machine)
    with pytest.raises(DoesNotFit):
        make_plan(job, Params(), replace(smallest, host_bytes=smallest.host_bytes - 2 * 10**6), machine)
    if machine.device:
        with pytest.raises(DoesNotFit):
            make_plan(job, Params(), replace(smallest, device_bytes=smallest.device_bytes - 2 * 10**6), machine)


# What is given out


def test_python_and_json(monkeypatch):
    monkeypatch.setattr("streamumap.machine.memory.machine", lambda device: H200)
    found = streamumap.plan(rows=3_000_000, features=3072, dtype="float16", budget="40GB", host_budget="100GB")
    text = json.loads(json.dumps(as_json(found)))
    assert text["job"]["matrix_bytes"] == 18_432_000_000 and text["in_memory"]["high_bytes"] == 73_728_000_000
    assert text["in_memory"]["cards"]["high"][5] == {"count": 1, "size_gb": 80}
    assert text["smallest_budget"]["device_bytes"] == found.smallest.device_bytes
    assert [suggestion["name"] for suggestion in text["levers"]] == ["PCA", "sampling", "TopK pairs"]
    assert [suggestion.name for suggestion in found.levers] == ["PCA", "sampling", "TopK pairs"]
    layout = next(stage for stage in text["stages"] if stage["name"] == "layout")
    assert layout["expected"]["measured_on"] == "NVIDIA H200" and layout["bound_by"] == []
    assert text["device"] == {"name": "NVIDIA H200", "total_bytes": 150 * GB, "elsewhere": False}
    assert text["budget"]["host_bytes"] == 100 * GB
    assert found["layout"].blocks == layout["blocks"]
