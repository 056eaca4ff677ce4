"""The nearest of some rows for each of others on a GPU, or by torch on the CPU where there is none."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from devices import DEVICE, FORMS, GPU, METRICS, as_source, compared, part
from neighbor_checks import hard_rows

from streamumap.events import no_advance
from streamumap.machine.memory import Budget, Footprint, Machine
from streamumap.neighbors import reference
from streamumap.neighbors.protocol import NearestRequest
from streamumap.params import Params
from streamumap.planning.job import Job, Plan, StagePlan
from streamumap.run.out_of_sample import Mapped, place
from streamumap.source.sparse.csr_rows import pack
from streamumap.source.views.centered import ComparedView

PLAN = Plan(Job(150, 3072, "float32"), Budget(10**9), Machine(2, 10**9), ())


def by_torch(
    rows, others, k, metric, form, dtype="float32", other_dtype="float32", other_rows=64, query_rows=1000, pass_rows=0
):
    there = compared(others, metric, form, other_dtype)
    request = NearestRequest(there, as_source(rows, dtype), k, query_rows, other_rows, pass_rows)
    with part("nearest").open_search(request) as search:
        found = [search(at, min(at + query_rows, len(rows))) for at in range(0, len(rows), query_rows)]
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("dtype", "other_dtype"), [("float32", "float32"), ("float16", "float16"), ("float32", "float16")]
)
@pytest.mark.parametrize("negative", [False, True])
def test_right_distances_to_right_rows(form, metric, dtype, other_dtype, negative):
    rows = hard_rows(66, negative=negative)
    k = 9  # with the margin, more than a program measures together
    new, others = rows[::3], np.delete(rows, np.s_[::3], axis=0)
    indices, distances = by_torch(new, others, k, metric, form, dtype, other_dtype, 32)
    true_indices, true_distances = reference.nearest(new, others, k, metric, not negative)
    assert (indices.shape, indices.dtype, distances.dtype) == ((len(new), k), np.int32, np.float32)
    assert np.array_equal(indices < 0, true_indices < 0) and np.array_equal(np.isinf(distances), indices < 0)
    there = indices >= 0
    np.testing.assert_allclose(distances[there], true_distances[there], rtol=1e-5, atol=1e-5)
    true = np.take_along_axis(reference.distance_matrix(new, others, metric), np.maximum(indices, 0), 1)
    np.testing.assert_allclose(distances[there], true[there], rtol=1e-5, atol=1e-5)
    again = by_torch(new, others, k, metric, form, dtype, other_dtype, 20, 10)
    np.testing.assert_allclose(again[1][there], distances[there], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_that_pass_by_give_the_same_neighbours(metric, dtype):
    rows = hard_rows(66)
    new, others = rows[::3], np.delete(rows, np.s_[::3], axis=0)
    whole = by_torch(new, others, 9, metric, "packed", "float32", dtype, 8)
    for pass_rows in (5, 17, 1000):
        ours = by_torch(new, others, 9, metric, "packed", "float32", dtype, 8, pass_rows=pass_rows)
        assert all(np.array_equal(a, b) for a, b in zip(ours, whole, strict=True))


def placed_by(backend, others, new, metric, form, dtype="float32"):
    """Places of `new` on a map of `others`, and that map."""
    source, positions = (
        as_source(others, dtype),
        np.random.default_rng(0).normal(size=(len(others), 2)).astype(np.float32),
    )
    csr = pack(source, 100, int(np.count_nonzero(others))) if form == "packed" else None
    stage = StagePlan("place", backend, {"query_rows": 16, "other_rows": 32}, Footprint())
    device = SimpleNamespace(label=DEVICE) if backend == "cuda" else None
    plan = replace(PLAN, stages=(stage,), machine=Machine(2, 10**9, device))
    there, asked = Mapped(source, csr, positions, True, ComparedView()), Params(metric=metric, n_epochs=30)
    return place(there, as_source(new, dtype), plan, asked, no_advance), positions


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_places_are_those_that_the_cpu_finds(form, metric, codes):
    others, new = codes[:80], codes[80:100]
    backends = ("cuda", "packed" if form == "packed" else "dense")
    found = [placed_by(backend, others, new, metric, form)[0] for backend in backends]
    np.testing.assert_allclose(*found, atol=1e-3)
    assert np.isfinite(found[0]).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_of_the_map_stay_where_they_are(form, metric, dtype, codes):
    codes = codes if GPU else codes[:40]
    found, positions = placed_by("cuda", codes, codes, metric, form, dtype)
    assert np.array_equal(found, positions)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
def test_copies_multiples_and_zero_rows_lie_where_the_map_has_them(form, metric):
    random = np.random.default_rng(0)
    rows = (random.random((60, 30)) * (random.random((60, 30)) < 0.3)).astype(np.float32)
    rows[20:30], rows[40:46] = 0, rows[3]
    rows[50:54] = rows[4] * np.array([[2], [3], [5], [7]], np.float32)
    found, positions = placed_by("cuda", rows, rows[::-1].copy(), metric, form)
    for row, lies in zip(rows, found[::-1], strict=True):  # of copies, any of them
        assert (positions[(rows == row).all(1)] == lies).all(1).any()
