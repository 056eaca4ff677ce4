"""Seconds of plans: where runs were measured, between these, and far beyond."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import streamumap
from streamumap.machine.memory import Budget, Device, Machine
from streamumap.params import Params
from streamumap.planning import timing
from streamumap.planning.job import Job, placing_job, sampled_job
from streamumap.planning.planner import make_plan
from streamumap.planning.timing import expected_seconds, total_seconds
from tools.make_rates import OUT, ROOT, rates

GB = 10**9
WIDE = Budget(10**14, 10**14)
H200 = Machine(16, 128 * GB, Device(0, "NVIDIA H200", 150 * GB, 149 * GB))
ELSEWHERE = Machine(16, 128 * GB, Device(0, "a GPU of 40 GB", 0, 40 * GB, elsewhere=True))
DENSE = Job(3_000_000, 3072, "float16")


def pairs(n_rows, n_features=3072, active=32):
    return Job(n_rows, n_features, "float16", n_rows * active, sparse=True)


def seconds_of(job, machine=H200, **params):
    params = Params(**params)
    return expected_seconds(make_plan(job, params, WIDE if machine.device else Budget(10**14), machine), params)


def entry(stage, n_rows, seconds, device="NVIDIA H200", **others):
    """A measured stage of rows of 32 pairs."""
    sizes = {"n_features": 3072, "dtype": "float16", "packed": True, "n_pairs": n_rows * 32, "n_nonzero": n_rows * 32}
    run = {
        "reduce_dims": None,
        "n_neighbors": 15,
        "n_epochs": None,
        "backend": "cuda",
        "blocks": {"chunk_rows": 65_536},
    }
    return {"device": device, "stage": stage, "n_rows": n_rows, "seconds": seconds} | sizes | run | others


@pytest.fixture
def measured(monkeypatch):
    """measured(entries): these, and not those of the package, are what was measured."""

    def measured(*entries):
        monkeypatch.setattr(timing, "_measured_stages", lambda: list(entries))

    return measured


def test_rates_are_those_of_the_results():
    assert json.loads(OUT.read_text()) == rates(ROOT / "bench" / "results"), "python tools/make_rates.py"


def test_rates_go_with_the_package():
    assert OUT.parent == Path(streamumap.__file__).parent / "planning"


def test_seconds_are_those_measured_where_the_job_was_measured():
    found = seconds_of(DENSE, metric="cosine")
    seconds = [r["seconds"] for r in json.loads(OUT.read_text()) if (r["n_rows"], r["stage"]) == (3_000_000, "layout")]
    assert min(seconds) - 0.1 <= found["layout"].seconds <= max(seconds) + 0.1
    assert {expected.measured_on for expected in found.values()} == {"NVIDIA H200"}
    assert not any(expected.extrapolated for expected in found.values())


def test_nothing_is_said_of_other_machines():
    other = replace(H200, device=replace(H200.device, name="Another"))
    assert seconds_of(DENSE, other) == {} == seconds_of(DENSE, replace(H200, device=None, n_cores=999))


def test_a_search_grows_faster_than_the_rows_and_the_rest_with_them(measured):
    measured(entry("neighbors", 10**6, 2.0), entry("neighbors", 10**7, 20.0), entry("layout", 10**7, 2.0, blocks={}))
    found = seconds_of(pairs(10**9))
    assert found["neighbors"].seconds == pytest.approx(20 * 100**1.1, rel=0.05)
    assert found["layout"].seconds == pytest.approx(2 * 100, rel=0.05)
    assert {(e.extrapolated, e.measured_rows) for e in found.values()} == {(True, 10**7)}


def test_extrapolated_seconds_have_two_digits_and_begin_at_four_times_the_measured_work(measured):
    measured(entry("layout", 10**7, 2.34, blocks={}))
    near, far = (seconds_of(pairs(n))["layout"] for n in (4 * 10**7, 4 * 10**7 + 1))
    assert (near.seconds, near.extrapolated) == (9.4, False) and far.extrapolated
    assert seconds_of(pairs(10**9))["layout"].seconds == 230


def test_a_search_of_all_with_all_is_extrapolated_as_one(measured):
    measured(entry("neighbors", 10**5, 1.0, blocks={"chunk_rows": 0}), entry("neighbors", 10**6, 5.0))
    assert seconds_of(pairs(10**7), recall=1.0)["neighbors"].seconds == 10_000


@pytest.mark.sizes
def test_a_search_on_a_cpu_that_compares_all_with_all_is_none_by_cells():
    """63,666 rows were compared all with all, 1,000,000 by cells."""
    cpu = Machine(2, 16 * GB)
    cells = seconds_of(pairs(2_000_000), cpu)["neighbors"]
    assert (cells.measured_rows, cells.extrapolated) == (1_000_000, False) and 220 < cells.seconds < 400
    exhaustive = seconds_of(pairs(1_000_000), cpu, recall=1.0)["neighbors"]
    assert (exhaustive.measured_rows, exhaustive.extrapolated) == (63_666, True)
    assert seconds_of(pairs(10**9), cpu)["neighbors"].seconds > 1000 * cells.seconds / 2


def test_seconds_of_pairs_do_not_grow_with_features_that_are_zero():
    narrow, wide = (seconds_of(pairs(10**7, d)) for d in (3072, 12_288))
    assert wide["neighbors"] == narrow["neighbors"] and wide["quality"] == narrow["quality"]
    assert wide["start"] == narrow["start"]


def test_seconds_grow_with_the_rows_up_to_the_most_that_a_map_has():
    sizes = (3 * 10**6, 10**7, 10**8, 10**9, 2**31 - 1)
    plans = [make_plan(pairs(n), Params(), WIDE, H200) for n in sizes]
    totals = [total_seconds(plan, expected_seconds(plan, Params())) for plan in plans]
    assert None not in totals and totals == sorted(totals)
    assert totals[3] == float(f"{totals[3]:.1e}") > 100 * totals[0]


def test_there_is_no_sum_where_a_stage_was_not_measured():
    plan = make_plan(DENSE, Params(), WIDE, H200)
    found = expected_seconds(plan, Params())
    assert "neighbors" not in found and total_seconds(plan, found) is None and total_seconds(plan, {}) is None


def test_a_gpu_elsewhere_gets_the_seconds_of_the_one_measured_most(measured):
    measured(
        entry("layout", 10**7, 2.0, "Seldom", blocks={}),
        entry("graph", 10**7, 3.0, "Seldom", blocks={}),
        entry("layout", 10**7, 4.0, "Often", blocks={}),
        entry("read", 10**7, 1.0, "Often", blocks={}),
        entry("read", 10**6, 1.0, "Often", blocks={}),
    )
    unknown = seconds_of(pairs(10**7), ELSEWHERE)
    assert {name: (e.seconds, e.measured_on) for name, e in unknown.items()} == {
        "read": (1.0, "Often"), "graph": (3.0, "Seldom"), "layout": (4.0, "Often"),
    }  # fmt: skip
    named = replace(ELSEWHERE, device=replace(ELSEWHERE.device, name="Seldom"))
    assert seconds_of(pairs(10**7), named)["layout"].measured_on == "Seldom"


def test_seconds_of_a_sample_are_those_of_its_rows_but_all_are_written(measured):
    """The pairs of a sample are bounded by those of all rows; what is read between its rows counts."""
    measured(
        entry("neighbors", 5 * 10**6, 3.0),
        entry("read", 10**7, 4.0, blocks={}),
        entry("write", 10**7, 5.0, backend="pyarrow", blocks={}),
    )
    job = sampled_job(pairs(10**7), 5 * 10**6)
    assert job.n_nonzero == 10**7 * 32
    for planned in (job, placing_job(job)):
        assert {name: e.seconds for name, e in seconds_of(planned).items()} == {
            "neighbors": 3.0, "read": 4.0, "write": 5.0,
        }  # fmt: skip
    dense = sampled_job(replace(DENSE, n_rows=10**7, n_nonzero=10**7 * 32), 10**6)
    measured(entry("read", 10**7, 40.0, n_pairs=None, blocks={}), entry("read", 10**5, 0.4, n_pairs=None, blocks={}))
    assert seconds_of(dense)["read"].seconds == 4.0 and seconds_of(placing_job(dense))["read"].seconds == 40.0
