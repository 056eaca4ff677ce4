from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_checks import CPU, GB, GPU, LARGE, MACHINES, caps, smallest

from streamumap.errors import DoesNotFit, InputError
from streamumap.machine.memory import Budget
from streamumap.neighbors.cuda import sizes as cuda
from streamumap.params import Params
from streamumap.planning.job import Job
from streamumap.planning.overheads import CONTEXT_BYTES
from streamumap.planning.planner import make_plan

BACKENDS = [
    (CPU, None, "auto", "dense"),
    (CPU, 32, "auto", "packed"),
    (CPU, 32, "dense", "dense"),
    (CPU, 32, "packed", "packed"),
    (CPU, None, "packed", "dense"),  # until the zeros are counted
    (GPU, None, "auto", "cuda"),
    (GPU, 32, "cuda", "cuda"),
    (GPU, 32, "cuvs", "cuvs"),
    (GPU, None, "cuvs", "cuvs"),
]


@pytest.mark.parametrize(("machine", "active", "option", "backend"), BACKENDS)
def test_the_backend_of_the_search(machine, active, option, backend):
    job = Job(300_000, 3072, "float16", active and 300_000 * active)
    plan = make_plan(job, Params(neighbors=option), caps(machine, 40 * GB), machine)
    assert plan["neighbors"].backend == backend


IMPOSSIBLE = [
    (CPU, 32, dict(neighbors="cuda"), "cuda needs a GPU and this is a CPU run; use --neighbors auto or --device cuda"),
    (CPU, 32, dict(neighbors="cuvs"), "cuvs needs a GPU"),
    (GPU, 32, dict(neighbors="dense"), "dense searches on the CPU and this is a GPU run; use --neighbors auto or --device cpu"),
    (GPU, 32, dict(neighbors="packed"), "packed searches on the CPU"),
    (CPU, 2000, dict(neighbors="packed"), "packed is for rows that are mostly zeros, here 65% of the values are not; use --neighbors dense"),
    (CPU, None, dict(neighbors="packed", reduce="pca"), "packed searches the rows as they came and --reduce makes dense ones"),
]  # fmt: skip


@pytest.mark.parametrize(("machine", "active", "params", "message"), IMPOSSIBLE)
def test_an_impossible_backend_is_refused(machine, active, params, message):
    job = Job(300_000, 3072, "float16", active and 300_000 * active)
    with pytest.raises(InputError, match=f"^--neighbors: {message}"):
        make_plan(job, Params(**params), caps(machine, 40 * GB), machine)


@pytest.mark.sizes
@pytest.mark.parametrize(
    ("n_rows", "recall", "budget", "by_cells", "on_disk"),
    [
        (63_666, 0.95, GB, False, False),
        (1_000_000, 0.95, 2 * GB, True, False),
        (1_000_000, 0.95, GB, True, True),
        (1_000_000, 1.0, GB, False, True),
        (1_000_000, 1.0, 2 * GB, False, False),
        (1_000_000, 0.95, GB * 55 // 100, False, True),
    ],
    ids=["few rows", "many", "on disk", "exact, on disk", "exact", "too many for the budget"],
)
def test_csr_rows_are_searched_by_cells_where_they_are_many(n_rows, recall, budget, by_cells, on_disk):
    job = Job(n_rows, 3072, "float16", n_rows * 32)
    plan = make_plan(job, Params(recall=recall), Budget(budget), CPU)
    assert plan["neighbors"].backend == "packed" and plan.csr_on_disk == on_disk
    assert (plan["neighbors"].blocks["batch_rows"] > 0) == by_cells


def test_csr_rows_that_are_asked_for_are_not_searched_as_dense_ones():
    job = Job(100_000, 12_288, "float16", 100_000 * 300)
    budget = caps(CPU, smallest(replace(job, n_nonzero=None), Params(), CPU))
    assert make_plan(job, Params(), budget, CPU)["neighbors"].backend == "dense"
    with pytest.raises(DoesNotFit):
        make_plan(job, Params(neighbors="packed"), budget, CPU)


def test_cuvs_wants_all_rows_on_both_sides():
    job = Job(3_000_000, 3072, "float16", 3_000_000 * 32)
    plan = make_plan(job, Params(neighbors="cuvs"), caps(GPU, 40 * GB), GPU)
    assert plan["neighbors"].predicted.host_bytes > 3_000_000 * 3072 * 4
    assert plan["neighbors"].predicted.device_bytes > 3_000_000 * 3072 * 2
    with pytest.raises(DoesNotFit, match="--budget: 8 GB.*"):
        make_plan(job, Params(neighbors="cuvs"), caps(GPU, 8 * GB), GPU)


@pytest.mark.parametrize("active", [None, 32])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_a_given_graph_is_no_search(machine, active):
    """Its plan has blocks of the graph alone, and needs less than a search: it is copied, and its recall measured."""
    job = Job(3_000_000, 3072, "float16", active and 3_000_000 * active, knn_columns=64)
    stage = make_plan(job, Params(), caps(machine, 8 * GB), machine)["neighbors"]
    assert stage.backend == "given" and list(stage.blocks) == ["block_rows"]
    least = smallest(job, Params(), machine)
    assert least <= smallest(replace(job, knn_columns=0), Params(), machine)


@pytest.mark.sizes
@pytest.mark.parametrize(("n_bytes", "resident"), [(40 * GB, True), (8 * GB, False)])
def test_three_million_rows_on_a_gpu(n_bytes, resident):
    plan = make_plan(LARGE, Params(), caps(GPU, n_bytes), GPU)
    assert (
        plan.device == "cuda:0"
        and plan["neighbors"].backend == plan["layout"].backend == plan["quality"].backend == "cuda"
    )
    blocks = plan["neighbors"].blocks
    assert (blocks["query_rows"] == LARGE.n_rows) == resident and blocks["other_rows"] % 32 == 0
    assert plan["neighbors"].predicted.device_bytes > (LARGE.matrix_bytes if resident else n_bytes // 4)


@pytest.mark.sizes
@pytest.mark.parametrize("n_features", [3072, 12_288])
def test_three_million_csr_rows_on_a_gpu(n_features):
    """The rows stay on the device as pairs: their width makes them hardly larger."""
    job = Job(3_000_000, n_features, "float16", 3_000_000 * 32)
    for n_bytes in (6 * GB, 8 * GB, 40 * GB):
        plan = make_plan(job, Params(), caps(GPU, n_bytes), GPU)
        assert plan.as_csr and not plan.csr_on_disk
        assert [plan[name].backend for name in ("read", "neighbors", "start", "quality")] == ["cuda"] * 4
        pairs = job.n_nonzero * 4
        for name in ("neighbors", "start", "quality"):
            assert pairs < plan[name].predicted.device_bytes <= n_bytes
        assert plan["neighbors"].predicted.host_bytes > pairs
        assert plan["neighbors"].blocks["chunk_rows"] == plan["neighbors"].blocks["other_rows"]
    assert smallest(job, Params(), GPU) < 5 * GB


@pytest.mark.parametrize(
    ("job", "params", "approximate"),
    [
        (LARGE, Params(), True),
        (LARGE, Params(recall=1.0), False),
        (LARGE, Params(n_neighbors=130), False),
        (LARGE, Params(n_neighbors=129), True),
        (Job(100_000, 3072, "float16"), Params(), False),
        (Job(100_000, 3072, "float16", 100_000 * 32), Params(), False),
    ],
)
def test_the_search_on_a_gpu_is_exhaustive_where_asked_for_or_cheaper(job, params, approximate):
    blocks = make_plan(job, params, caps(GPU, 60 * GB), GPU)["neighbors"].blocks
    assert (blocks["chunk_rows"] > 0) == approximate
    assert list(blocks) == ["query_rows", "other_rows", "chunk_rows", "group_rows", "window_rows"]


def test_an_approximate_search_leaves_room_for_an_exhaustive_one():
    """The search ends in an exhaustive one if its recall is too low."""
    for n_bytes in (9 * GB, 40 * GB):
        plan = make_plan(LARGE, Params(), caps(GPU, n_bytes), GPU)
        blocks, k = plan["neighbors"].blocks, Params().n_neighbors
        query, other = blocks["query_rows"], blocks["other_rows"]
        exact = cuda.exhaustive(3072, "float16", k, query, other, resident=query == LARGE.n_rows)
        assert plan["neighbors"].predicted.device_bytes > CONTEXT_BYTES + exact


@given(
    st.integers(3, 10_000_000),
    st.integers(1, 12_288),
    st.sampled_from(["float16", "float32", "uint8"]),
    st.floats(1, 60),
)
def test_chunks_on_a_gpu_are_whole_groups(n_rows, n_features, dtype, share):
    job = Job(n_rows, n_features, dtype)
    plan = make_plan(job, Params(), caps(GPU, int(smallest(job, Params(), GPU) * share)), GPU)
    blocks = plan["neighbors"].blocks
    assert blocks["other_rows"] % 32 == 0 and 1 <= blocks["query_rows"] <= n_rows
    assert blocks["chunk_rows"] % 64 == 0
    assert plan["neighbors"].predicted.device_bytes >= CONTEXT_BYTES
