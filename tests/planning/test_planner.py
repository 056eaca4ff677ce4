import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamumap.errors import DoesNotFit, InputError
from streamumap.machine.memory import Budget, Device, Machine, parse_bytes
from streamumap.neighbors.cuda import sizes as cuda
from streamumap.params import Params
from streamumap.planning import job as plans
from streamumap.planning import stages
from streamumap.planning.job import Job
from streamumap.planning.overheads import READING_CONTEXT_BYTES
from streamumap.planning.planner import make_plan, resolve_name, smallest_budget
from streamumap.planning.stages import powers
from streamumap.source.base import DEVICE_DTYPES
from streamumap.source.sparse.csr_rows import pays

GB = 10**9
CPU = Machine(n_cores=2, host_free_bytes=16 * GB)
GPU = Machine(n_cores=16, host_free_bytes=128 * GB, device=Device(0, "Fake", 150 * GB, 149 * GB))
PACKED_KERNELS = ("cells", "count", "join", "measure", "probe")
MACHINES = {"cpu": CPU, "gpu": GPU}


def caps(machine, n_bytes, host_bytes=100 * GB):
    """--budget n_bytes."""
    return Budget(host_bytes, n_bytes) if machine.device else Budget(n_bytes)


def smallest(job, params, machine):
    with pytest.raises(DoesNotFit) as refused:
        make_plan(job, params, caps(machine, 1), machine)
    return refused.value.smallest_bytes


@st.composite
def jobs(draw):
    n_rows, n_features = draw(st.integers(3, 10_000_000)), draw(st.integers(1, 12_288))
    active = draw(st.none() | st.integers(1, n_features))
    dtypes = st.sampled_from(["float16", "bfloat16", "float32", "float64", "int8", "bool"])
    job = Job(n_rows, n_features, draw(dtypes), active and n_rows * active)
    n_placed = draw(st.just(0) | st.integers(1, 10_000_000))
    if n_placed:
        job = replace(job, placed=Job(n_placed, n_features, draw(dtypes)), mapped=draw(st.booleans()))
    return job


some_params = st.builds(
    Params,
    n_neighbors=st.integers(2, 100),
    n_components=st.integers(1, 5),
    reduce=st.sampled_from(["none", "none", "pca", "ica"]),
    reduce_dims=st.integers(1, 600),
)
machines = st.sampled_from(list(MACHINES.values()))


# Whatever the job: the plan holds the budget, or is refused with one that is enough


@given(jobs(), some_params, machines, st.integers(1, 200 * GB), st.integers(1, 200 * GB))
def test_every_stage_stays_within_the_budget_or_the_job_is_refused(job, params, machine, n_bytes, host_bytes):
    budget = caps(machine, n_bytes, host_bytes)
    try:
        plan = make_plan(job, params, budget, machine)
    except DoesNotFit as refused:
        assert refused.smallest_bytes > (n_bytes if "--budget" in str(refused) else host_bytes)
        return
    for stage in plan.stages:
        assert 0 < stage.predicted.host_bytes <= budget.host_bytes
        assert 0 <= stage.predicted.device_bytes <= (budget.device_bytes or 0)
        assert (
            all(size >= (name not in ("chunk_rows", "batch_rows")) for name, size in stage.blocks.items())
            and stage.blocks
        )
    assert plan.peak.host_bytes == max(s.predicted.host_bytes for s in plan.stages)


@given(jobs(), some_params, machines)
def test_the_smallest_budget_works_and_a_smaller_one_does_not(job, params, machine):
    n_bytes = smallest(job, params, machine)
    assert make_plan(job, params, caps(machine, n_bytes), machine).peak
    with pytest.raises(DoesNotFit) as refused:
        make_plan(job, params, caps(machine, n_bytes * 95 // 100), machine)
    assert refused.value.smallest_bytes == n_bytes


@given(jobs(), some_params, st.integers(1, 3 * GB), st.integers(1, 3 * GB))
def test_a_budget_too_small_on_both_sides_names_both(job, params, device_bytes, host_bytes):
    """What it names is then enough, taken together."""
    try:
        make_plan(job, params, Budget(host_bytes, device_bytes), GPU)
    except DoesNotFit as refused:
        budget = Budget(named(refused, "--host-budget") or host_bytes, named(refused, "--budget") or device_bytes)
        assert make_plan(job, params, budget, GPU)
        assert refused.smallest_bytes == named(refused, "--budget") or not named(refused, "--budget")


def named(refused, option):
    """The size that a message names for an option."""
    for part in str(refused).split("; "):
        if part.startswith(option + ":"):
            return parse_bytes(part.rpartition(" is ")[2])
    return None


@given(jobs(), some_params, machines, st.floats(1, 30), st.floats(1, 10))
def test_a_larger_budget_never_makes_a_block_smaller(job, params, machine, share, more):
    n_bytes = int(smallest(job, params, machine) * share)
    small, large = (make_plan(job, params, caps(machine, int(n)), machine) for n in (n_bytes, n_bytes * more))
    if small.as_csr != large.as_csr:
        return  # another way altogether
    for a, b in zip(small.stages, large.stages, strict=True):
        if a.backend == b.backend and a.name not in ("neighbors", "place"):
            assert all(a.blocks[name] <= b.blocks[name] for name in a.blocks), (a, b)
        elif a.backend == b.backend:
            assert list(a.blocks.values()) <= list(b.blocks.values()), (a, b)  # query rows first, then other rows


# What is planned


def test_dense_rows_on_a_cpu():
    plan = make_plan(Job(63_666, 3072, "float16"), Params(), Budget(1 * GB), CPU)
    assert [s.name for s in plan.stages] == ["read", "neighbors", "graph", "start", "layout", "quality", "write"]
    assert [s.backend for s in plan.stages] == ["numpy", "dense", "numba", "numba", "cpu", "dense", "pyarrow"]
    assert plan.device is None and not plan.csr_on_disk and plan.peak.device_bytes == 0
    assert "reduce" not in plan and "read" in plan and plan["graph"].name == "graph"


@pytest.mark.sizes
def test_rows_mostly_of_zeros_are_packed_on_a_cpu():
    job = Job(63_666, 3072, "float16", 63_666 * 32)
    plan = make_plan(job, Params(), Budget(1 * GB), CPU)
    assert plan["neighbors"].backend == plan["quality"].backend == "packed" and not plan.csr_on_disk


@pytest.mark.sizes
@pytest.mark.parametrize(("n_rows", "size"), [(300, 300), (10_000, 10_000), (10_001, 3_000), (3_000_000, 3_000)])
def test_as_many_rows_are_measured_as_errors_want_in_one_pass_where_there_is_room(n_rows, size):
    job, machine = Job(n_rows, 512, "float32"), Machine(2, 10**11)
    assert plans.quality_rows(n_rows) == size
    roomy = make_plan(job, Params(), Budget(10**11), machine)["quality"]
    assert roomy.blocks["sample_rows"] == size
    tight = make_plan(job, Params(), smallest_budget(job, Params(), machine), machine)["quality"]
    assert min(size, 500) <= tight.blocks["sample_rows"] <= size


@pytest.mark.sizes
def test_packed_rows_go_to_disk_when_the_blocks_need_the_memory():
    job = Job(1_000_000, 3072, "float16", 1_000_000 * 60)
    on_disk, in_memory = (make_plan(job, Params(), Budget(n), CPU) for n in (7 * GB // 10, 8 * GB))
    assert on_disk.csr_on_disk and not in_memory.csr_on_disk
    assert on_disk.peak.disk_bytes - in_memory.peak.disk_bytes >= 60_000_000 * 4


def test_rows_are_searched_as_they_are_where_packed_ones_do_not_fit():
    job = Job(100_000, 12_288, "float16", 100_000 * 300)
    assert pays(job.n_rows, job.n_features, job.n_nonzero)
    plan = make_plan(job, Params(), Budget(smallest(replace(job, n_nonzero=None), Params(), CPU)), CPU)
    assert plan["neighbors"].backend == "dense" and not plan.csr_on_disk


@pytest.mark.parametrize(
    ("params", "machine", "active"),
    [
        (Params(reduce="pca", reduce_dims=8), CPU, 32),
        (Params(reduce="pca", reduce_dims=8), GPU, 32),
        (Params(), CPU, 3000),
        (Params(), GPU, 3000),
    ],
    ids=["pca", "gpu-pca", "full", "gpu-full"],
)
def test_rows_that_are_not_packed_are_planned_as_they_are(params, machine, active):
    job = Job(100_000, 3072, "float16")
    plans = [
        make_plan(j, params, caps(machine, 4 * GB), machine).stages
        for j in (job, replace(job, n_nonzero=job.n_rows * active))
    ]
    assert plans[0] == plans[1]


WAYS = [
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


@pytest.mark.parametrize(("machine", "active", "wanted", "backend"), WAYS)
def test_the_backend_of_the_neighbours(machine, active, wanted, backend):
    job = Job(300_000, 3072, "float16", active and 300_000 * active)
    plan = make_plan(job, Params(neighbors=wanted), caps(machine, 40 * GB), machine)
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
def test_packed_rows_are_searched_by_cells_where_they_are_many(n_rows, recall, budget, by_cells, on_disk):
    job = Job(n_rows, 3072, "float16", n_rows * 32)
    plan = make_plan(job, Params(recall=recall), Budget(budget), CPU)
    assert plan["neighbors"].backend == "packed" and plan.csr_on_disk == on_disk
    assert (plan["neighbors"].blocks["batch_rows"] > 0) == by_cells


def test_packed_rows_that_are_asked_for_are_not_searched_as_dense_ones():
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
    """Whatever was asked of one: blocks of it, and what measures its recall."""
    job = Job(3_000_000, 3072, "float16", active and 3_000_000 * active, knn_columns=64)
    stage = make_plan(job, Params(), caps(machine, 8 * GB), machine)["neighbors"]
    assert stage.backend == "given" and list(stage.blocks) == ["block_rows"]
    least = smallest(job, Params(), machine)
    assert least <= smallest(replace(job, knn_columns=0), Params(), machine)


def test_a_map_of_some_rows_has_their_graph_on_disk_once_more():
    some = Job(100_000, 3072, "float16")
    disk = [
        make_plan(job, Params(), caps(CPU, 20 * GB), CPU)["graph"].predicted.disk_bytes
        for job in (some, replace(some, n_left_out=1))
    ]
    assert 100_000 * 15 * 8 <= disk[1] - disk[0] < 100_000 * 15 * 8 + 10_000


@pytest.mark.sizes
def test_reduced_rows_are_what_the_later_stages_see():
    job, params = Job(100_000, 3072, "float16"), Params(reduce="pca", reduce_dims=64, init="pca")
    plan, whole = (make_plan(job, p, Budget(2 * GB), CPU) for p in (params, Params(init="pca")))
    assert plan["reduce"].blocks["block_rows"] >= 16
    assert plan["start"].predicted.host_bytes < whole["start"].predicted.host_bytes - 2 * 8192 * 3000 * 4
    assert plan.peak.disk_bytes - whole.peak.disk_bytes == 100_000 * 64 * 4 + 65 * 3072 * 8


def test_neighbours_are_no_more_than_rows():
    plans = [make_plan(Job(20, 8, "float32"), Params(n_neighbors=k), Budget(2 * GB), CPU).stages for k in (20, 1000)]
    assert plans[0] == plans[1]


SEED = Job(3_000_000, 3072, "float16")


@pytest.mark.sizes
@pytest.mark.parametrize(("n_bytes", "resident"), [(40 * GB, True), (8 * GB, False)])
def test_three_million_rows_on_a_gpu(n_bytes, resident):
    plan = make_plan(SEED, Params(), caps(GPU, n_bytes), GPU)
    assert (
        plan.device == "cuda:0"
        and plan["neighbors"].backend == plan["layout"].backend == plan["quality"].backend == "cuda"
    )
    blocks = plan["neighbors"].blocks
    assert (blocks["query_rows"] == SEED.n_rows) == resident and blocks["other_rows"] % 32 == 0
    assert plan["neighbors"].predicted.device_bytes > (SEED.matrix_bytes if resident else n_bytes // 4)


@pytest.mark.sizes
@pytest.mark.parametrize("n_features", [3072, 12_288])
def test_three_million_rows_of_zeros_mostly_on_a_gpu(n_features):
    """They stay on the device as pairs: the width of the rows makes them hardly larger."""
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


@pytest.mark.sizes
def test_packed_rows_on_a_gpu_go_to_disk_when_the_host_needs_the_memory():
    job = Job(3_000_000, 3072, "float16", 3_000_000 * 150)
    in_memory, on_disk = (make_plan(job, Params(), Budget(n, 40 * GB), GPU) for n in (60 * GB, 3 * GB))
    assert in_memory.as_csr and on_disk.as_csr and on_disk.csr_on_disk and not in_memory.csr_on_disk
    assert in_memory["neighbors"].blocks == on_disk["neighbors"].blocks
    assert on_disk.peak.disk_bytes - in_memory.peak.disk_bytes >= job.n_nonzero * 4


def test_rows_pass_by_a_gpu_that_cannot_hold_their_pairs():
    job = Job(3_000_000, 24_576, "float16", 3_000_000 * 1500)
    n_bytes = smallest(job, Params(), GPU)
    assert n_bytes == smallest(replace(job, n_nonzero=None), Params(), GPU)
    plan = make_plan(job, Params(), caps(GPU, n_bytes), GPU)
    assert not plan.as_csr and plan["neighbors"].backend == "cuda"
    assert make_plan(job, Params(), caps(GPU, 60 * GB), GPU).as_csr


@pytest.mark.parametrize(
    ("job", "params", "way_around"),
    [
        (SEED, Params(), True),
        (SEED, Params(recall=1.0), False),
        (SEED, Params(n_neighbors=130), False),
        (SEED, Params(n_neighbors=129), True),
        (Job(100_000, 3072, "float16"), Params(), False),
        (Job(100_000, 3072, "float16", 100_000 * 32), Params(), False),
    ],
)
def test_all_with_all_on_a_gpu_where_it_is_asked_for_or_cheaper(job, params, way_around):
    blocks = make_plan(job, params, caps(GPU, 60 * GB), GPU)["neighbors"].blocks
    assert (blocks["chunk_rows"] > 0) == way_around
    assert list(blocks) == ["query_rows", "other_rows", "chunk_rows"]


def test_the_way_around_leaves_room_for_all_with_all():
    """What is found may not be enough."""
    for n_bytes in (9 * GB, 40 * GB):
        plan = make_plan(SEED, Params(), caps(GPU, n_bytes), GPU)
        blocks, k = plan["neighbors"].blocks, Params().n_neighbors
        query, other = blocks["query_rows"], blocks["other_rows"]
        exact = cuda.exhaustive(3072, "float16", k, query, other, resident=query == SEED.n_rows)
        assert plan["neighbors"].predicted.device_bytes > stages.CONTEXT_BYTES + exact


@pytest.mark.parametrize("dtype", [*DEVICE_DTYPES, "uint16", "int64"])
def test_a_gpu_reads_what_it_takes_as_it_is(dtype):
    stage = make_plan(Job(100_000, 3072, dtype), Params(), caps(GPU, 8 * GB), GPU)["read"]
    assert stage.backend == ("cuda" if dtype in DEVICE_DTYPES else "numpy")
    assert (stage.predicted.device_bytes > READING_CONTEXT_BYTES) == (dtype in DEVICE_DTYPES)


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
    assert plan["neighbors"].predicted.device_bytes >= stages.CONTEXT_BYTES


def test_a_refusal_says_which_option_and_how_much():
    with pytest.raises(
        DoesNotFit, match=r"^--budget: 100 MB cannot hold this job, the smallest that can is \d+MB; raise it to that\.$"
    ) as refused:
        make_plan(SEED, Params(), Budget(100 * 10**6), CPU)
    assert refused.value.exit_code == 3 and f"{refused.value.smallest_bytes // 10**6}MB" in str(refused.value)
    with pytest.raises(DoesNotFit, match="^--host-budget: 100 MB cannot"):
        make_plan(SEED, Params(), Budget(100 * 10**6, 40 * GB), GPU)
    with pytest.raises(
        DoesNotFit,
        match="^--budget: 800 MB cannot hold .*; --host-budget: 100 MB cannot hold .*; raise both to these.$",
    ):
        make_plan(SEED, Params(), Budget(100 * 10**6, 8 * GB // 10), GPU)


def test_planning_does_no_work(tmp_path):
    """No file but modules is opened, and no compute library is loaded."""
    code = (
        "import sys\n"
        "from streamumap.planning.planner import make_plan\n"
        "from streamumap.planning.job import Job\n"
        "from streamumap.params import Params\n"
        "from streamumap.machine.memory import Budget, Device, Machine\n"
        "from streamumap.source.scan import cpu\n"
        "from streamumap.reduce import ica, pca\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(args) if event in ('open', 'os.listdir', 'subprocess.Popen') else None)\n"
        "for device in (None, Device(0, 'x', 10**11, 10**11)):\n"
        "    for p in (Params(), Params(reduce='pca'), Params(reduce='ica')):\n"
        "        make_plan(Job(10**6, 3072, 'float16', 32 * 10**6), p, Budget(10**11, device and 10**11), Machine(2, 10**11, device))\n"
        "assert not opened, opened\n"
        "assert not {'torch', 'numba', 'triton', 'sklearn', 'pyarrow', 'matplotlib', 'scipy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize(
    "params",
    [Params(), Params(reduce="pca"), Params(reduce="ica"), Params(init="random")],
    ids=lambda p: p.reduce + p.init,
)
def test_tiny_blocks_are_those_of_the_smallest_budget(machine, params, monkeypatch):
    job = Job(100_000, 3072, "float16", 100_000 * 32)
    monkeypatch.setenv(stages.TINY, "0")
    narrow, wide = (
        make_plan(job, params, budget, machine)
        for budget in (smallest_budget(job, params, machine), caps(machine, 100 * GB))
    )
    monkeypatch.setenv(stages.TINY, "1")
    forced = make_plan(job, params, caps(machine, 100 * GB), machine)
    for ours, small, large in zip(forced.stages, narrow.stages, wide.stages, strict=True):
        assert ours.backend == large.backend
        if ours.backend == small.backend:
            assert list(ours.blocks.values()) <= list(small.blocks.values()) <= list(large.blocks.values())
    assert forced["neighbors"].blocks != wide["neighbors"].blocks and forced.csr_on_disk == forced.as_csr


# Small parts


@given(st.integers(1, 10**8), st.integers(1, 10**4))
def test_powers_descend_from_the_largest_by_powers_of_two(largest, least):
    sizes = powers(largest, least)
    assert sizes[0] == largest and sizes == sorted(set(sizes), reverse=True)
    assert all(size & (size - 1) == 0 and size >= least for size in sizes[1:])
    assert len(sizes) == 1 or sizes[-1] < 2 * least or least >= largest


@pytest.mark.parametrize("name", ["bool", "bfloat16", "float16", "float64", "uint8"])
def test_names_of_dtypes(name):
    assert resolve_name(name) == name and Job(10, 3, name).matrix_bytes == 30 * Job(10, 3, name).itemsize


@pytest.mark.parametrize("name", ["", "half", "complex64", "object", "f2", "float8"])
def test_other_dtypes_are_refused(name):
    with pytest.raises(InputError, match="^--dtype: expected one of bool, .*, found .*; choose one of these"):
        resolve_name(name)


COMPILED = frozenset(
    {"graph.cpu", "layout.cpu", "layout.init.levels_cpu"} | {f"neighbors.sparse.{name}" for name in PACKED_KERNELS}
)


@pytest.mark.sizes
@pytest.mark.parametrize("budget", [GB * 6 // 10, GB * 8 // 10, 2 * GB])
def test_compiled_kernels_are_spared_and_decide_nothing(budget):
    """The first run must give the same bytes as those after it."""
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
