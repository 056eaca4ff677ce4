"""The device bytes that plans are made of are enough: measured on a GPU, where alone they can be."""

from dataclasses import replace

import numpy as np
import pytest
from devices import DEVICE, GPU, torch
from neighbor_checks import search_request

from streamumap.events import no_advance
from streamumap.machine import memory
from streamumap.neighbors.cuda import search as cuda
from streamumap.neighbors.cuda import sizes
from streamumap.neighbors.cuda.decide import measure_chunk
from streamumap.neighbors.cuda.device_rows import on_device
from streamumap.neighbors.cuda.passing import passing
from streamumap.neighbors.metric import COSINE
from streamumap.neighbors.protocol import ComparedRows
from streamumap.source import open_source
from streamumap.source.sparse.csr_rows import pack
from streamumap.store.checkpoint import NoCheckpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPU, reason="needs a GPU: its memory is measured"),
    pytest.mark.parametrize("dtype", ["float16", "float32"]),
]

N, FEATURES, K, OTHER_ROWS, SAMPLE = 50_000, 2048, 15, 4096, np.arange(0, 50_000, 50)


@pytest.fixture(scope="module", params=[32, 120])
def codes(request):
    """Rows of so many non-zeros, float16 (N, FEATURES), in groups."""
    rng = np.random.default_rng(0)
    rows = np.zeros((N, FEATURES), np.float16)
    near = rng.integers(0, FEATURES, (500, 2 * request.param))[rng.integers(0, 500, N)]
    for _ in range(request.param):
        rows[np.arange(N), near[np.arange(N), rng.integers(0, near.shape[1], N)]] = rng.random(N) + 0.1
    return rows


@pytest.fixture
def peak():
    """peak(function, ...): the most device bytes that were in use meanwhile, beyond what was before."""

    def measure(function, *args, **kwargs):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = function(*args, **kwargs)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, result

    torch.mm(torch.ones(64, 64, device=DEVICE), torch.ones(64, 64, device=DEVICE))  # cuBLAS and its workspace
    return measure


def packed_rows(codes, dtype):
    return pack(open_source(codes.astype(dtype)), 4096, int(np.count_nonzero(codes)))


def streamed(codes, dtype):
    return ComparedRows(open_source(codes.astype(dtype)), None, COSINE, True, DEVICE)


def packed(csr):
    return ComparedRows(csr, csr, COSINE, True, DEVICE)  # no dense form is asked for


def search(rows, query_rows, chunk_rows, reached):
    blocks = dict(query_rows=query_rows, other_rows=OTHER_ROWS, chunk_rows=chunk_rows, group_rows=0, window_rows=0)
    return cuda.search(replace(search_request(rows, K, blocks, sample=SAMPLE), reached=reached))


def limit(dtype, csr, query_rows, chunk_rows):
    """As a plan has it, without packed rows themselves."""
    exact = sizes.exhaustive(FEATURES, dtype, K, query_rows, OTHER_ROWS, resident=query_rows == N)
    counting = sizes.count_closer(len(SAMPLE), K - 1, FEATURES, OTHER_ROWS)
    if chunk_rows == 0:
        return max(exact, counting)
    way = sizes.approximate(N, FEATURES, K, dtype, csr, chunk_rows, query_rows, OTHER_ROWS)
    return max(exact, counting, way)


def counted(neighbors, count):
    """`reached` as a run has it: it counts, then says yes."""
    count(SAMPLE, neighbors)
    return True


def never(neighbors, count):
    return False


def test_packed_rows(codes, dtype, peak):
    rows = packed_rows(codes, dtype)
    used, there = peak(cuda.SparseOnDevice, rows, COSINE, DEVICE)
    allowed = sizes.csr_rows(N, FEATURES, rows.n_nonzero, dtype)
    assert allowed / 3 < used <= allowed


@pytest.mark.parametrize("query_rows", [N, 16_384, 2048])
@pytest.mark.parametrize("chunk_rows", [0, 4096])
def test_a_search_of_packed_rows(codes, dtype, chunk_rows, query_rows, peak):
    rows = packed_rows(codes, dtype)
    allowed = sizes.csr_rows(N, FEATURES, rows.n_nonzero, dtype)
    used, _ = peak(search, packed(rows), query_rows, chunk_rows, counted)
    assert used <= allowed + limit(dtype, True, query_rows, chunk_rows)


@pytest.mark.parametrize("query_rows", [N, 16_384, 2048])
@pytest.mark.parametrize("chunk_rows", [0, 4096])
def test_a_search_of_dense_rows(codes, dtype, chunk_rows, query_rows, peak):
    used, _ = peak(search, streamed(codes, dtype), query_rows, chunk_rows, counted)
    assert used <= limit(dtype, False, query_rows, chunk_rows)


def test_all_rounds_and_all_with_all_in_the_end(codes, dtype, peak):
    used, _ = peak(search, streamed(codes, dtype), N, 4096, never)
    assert used <= limit(dtype, False, N, 4096)


@pytest.mark.parametrize("csr", [False, True])
def test_ranks(codes, dtype, csr, peak):
    rows = packed(packed_rows(codes, dtype)) if csr else streamed(codes, dtype)
    others = np.random.default_rng(0).integers(0, N, (len(SAMPLE), K - 1))
    with on_device(rows, OTHER_ROWS) as brought:
        used, _ = peak(brought.count_closer, SAMPLE, others, OTHER_ROWS, no_advance)
    assert used <= sizes.count_closer(len(SAMPLE), K - 1, FEATURES, OTHER_ROWS)


# A window of the rows

MANY, FEW_FEATURES = 2_000_000, 64


def made_many(n):
    """Rows of at most 8 non-zeros, float16 (n, FEW_FEATURES), in groups."""
    rng = np.random.default_rng(0)
    rows = np.zeros((n, FEW_FEATURES), np.float16)
    near = rng.integers(0, FEW_FEATURES, (n // 100 + 1, 12), dtype=np.int8)[rng.integers(0, n // 100 + 1, n)]
    for _ in range(8):
        rows[np.arange(n), near[np.arange(n), rng.integers(0, 12, n)]] = rng.random(n, np.float32) + 0.1
    return rows


@pytest.fixture(scope="module")
def many():
    return made_many(MANY)


def search_windows(rows, sizes_, query_rows, create):
    names = ("other_rows", "chunk_rows", "group_rows", "window_rows")
    blocks = {name: getattr(sizes_, name) for name in names} | {"query_rows": query_rows}
    request = search_request(rows, K, blocks, sample=SAMPLE, checkpoint=NoCheckpoint(create))
    return cuda.search(replace(request, reached=lambda neighbors, count=None: True))


@pytest.mark.parametrize("csr", [True, False])
@pytest.mark.parametrize("group_rows", [MANY // 2, MANY // 8])
def test_a_search_by_windows(many, dtype, csr, group_rows, peak, create):
    """On the device, and on the host beyond what stays of libraries."""
    nonzero = int(np.count_nonzero(many)) if csr else None
    rows = packed(packed_rows(many, dtype)) if csr else streamed(many, dtype)
    sizes_ = sizes.Passing(MANY, FEW_FEATURES, nonzero, dtype, K, group_rows, 3 * group_rows, OTHER_ROWS, OTHER_ROWS)
    query_rows = MANY if csr else sizes_.decide_rows(sizes_.device())
    few = made_many(N)
    given = packed(packed_rows(few, dtype)) if csr else streamed(few, dtype)
    search_windows(given, sizes_, 2048, create)  # compiles, and starts libraries
    memory.trim()
    watch = memory.Watch()
    watch.lap()
    before = memory.anonymous_bytes()
    used, _ = peak(search_windows, rows, sizes_, query_rows, create)
    used_by_host = watch.lap()[0] - before
    watch.close()
    allowed = max(sizes_.device(), 0 if csr else sizes_.deciding(query_rows))
    assert allowed / 4 < used <= allowed
    assert used_by_host <= sizes_.host()


def test_dense_rows_decide_in_their_bytes(many, dtype, peak):
    """Candidates of some rows, all of which are among the others."""
    sizes_ = sizes.Passing(MANY, FEW_FEATURES, None, dtype, K, MANY // 8, MANY // 2, OTHER_ROWS, OTHER_ROWS)
    query_rows = MANY // 4
    candidates = torch.randint(MANY, (query_rows, sizes_.width), dtype=torch.int32)
    with passing(streamed(many, dtype), OTHER_ROWS) as rows:
        used, _ = peak(lambda: measure_chunk(rows, candidates.to(DEVICE), 0, OTHER_ROWS))
    assert sizes_.deciding(query_rows) / 4 < used <= sizes_.deciding(query_rows)
