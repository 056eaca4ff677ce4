"""Rows that stay on the device as pairs."""

import numpy as np
import pytest
from devices import DEVICE, FORMS, GPU, METRICS, as_source, measured, numbers, on_device, part, placed, torch, unit
from neighbor_checks import hard_rows

from streamumap.neighbors.cuda.search import SparseOnDevice
from streamumap.neighbors.metric import named
from streamumap.source.sparse.csr_rows import pack

pytestmark = pytest.mark.usefixtures("few_programs")

N = 300 if GPU else 24
DTYPES = ("float16", "bfloat16", "float32", "float64", "int8")
KEPT = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def ragged_rows(n_features, seed=0):
    """Rows of 0, 1, one less than, exactly, one more than and several times PAIRS non-zeros, whole numbers with signs."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((12, n_features), np.float32)
    for row, n in zip(rows, (0, 1, 31, 32, 33, 64, 100, 3, 32, 65, 1, 0), strict=True):
        row[rng.choice(n_features, n, replace=False)] = rng.integers(1, 9, n) * rng.choice([-1, 1], n)
    rows[1:, 7] = rows[1:, n_features - 1] = 2
    rows[-1] = 0
    return rows


def all_pairs(rows):
    return rows.measure(numbers(rows.n_rows), numbers(rows.n_rows)).cpu().numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_chunks_are_the_rows_and_what_makes_them_one_long(metric, dtype):
    rows = hard_rows(N, negative=True)
    there = on_device(rows, metric, "packed", dtype)
    assert (there.n_rows, there.n_features, there.kept) == (N, 60, KEPT.get(dtype, torch.float32))
    for start, stop in ((0, N), (5, 17), (9, 9)):
        block, scale = there.chunk(start, stop)
        assert (block.dtype, scale.dtype) == (there.kept, torch.float32)
        assert np.array_equal(block.float().cpu().numpy(), rows[start:stop])
        ones = (rows.any(1) if metric == "cosine" else np.ones(N))[start:stop]
        norms = np.sqrt((rows[start:stop] ** 2).sum(1)) if metric == "cosine" else 1
        assert np.allclose(scale.cpu().numpy() * norms, ones, rtol=1e-6)


@pytest.mark.parametrize("n_features", [100, 40_000, 1 << 16, (1 << 16) + 1, 70_000])
def test_features_are_16_bits_wide_where_these_are_enough(n_features):
    rows = ragged_rows(n_features)
    there = on_device(rows, "euclidean", "packed", "float16")
    assert there.features.dtype == (torch.int16 if n_features <= 1 << 16 else torch.int32)
    assert np.array_equal(there.chunk(0, len(rows))[0].cpu().numpy(), rows)
    assert np.allclose(all_pairs(there), measured(rows, "euclidean"), rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("chunk_rows", [1, 7, 64])
def test_streams_all_rows_from_one_on_in_chunks(chunk_rows, start, form):
    rows, at = hard_rows(N), start
    for first, block, scale in on_device(rows, "cosine", form, chunk_rows=64).stream(chunk_rows, start):
        assert first == at and len(block) == len(scale) == min(chunk_rows, N - at)
        assert np.allclose(
            (block * scale[:, None]).cpu().numpy(), unit(rows[at : at + len(block)], "cosine"), atol=1e-6
        )
        at += len(block)
    assert at == N


@pytest.mark.parametrize("form", ["packed", "streamed"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_projections_are_products_with_the_rows_less_their_centre(metric, dtype, form):
    rng, rows, at = np.random.default_rng(1), ragged_rows(150), 0
    rows[1:, 5] = 100  # far from 0, and the same in nearly all
    centre, along = unit(rows, metric).mean(0), rng.normal(size=(150, 32))
    true = (unit(rows, metric) - centre) @ along.astype(np.float32)
    there = on_device(rows, metric, form, dtype)
    by_columns = placed(along.T.astype(np.float32)).T  # as linear algebra on a GPU leaves it
    for first, found in there.projected(placed(centre.astype(np.float32)), by_columns, 7):
        assert first == at and found.dtype == torch.float32
        np.testing.assert_allclose(found.cpu().numpy(), true[at : at + len(found)], rtol=1e-4, atol=1e-4)
        at += len(found)
    assert at == len(rows)


def test_takes_rows_by_number():
    rows = hard_rows(N)
    there = on_device(rows, "cosine", "packed", "bfloat16")
    for wanted in (np.arange(N), np.array([3, 5, N - 1]), np.array([], np.int64)):
        assert np.array_equal(there.take(wanted).float().cpu().numpy(), rows[wanted])


def test_rows_sent_in_any_blocks_are_the_same(monkeypatch):
    rows = ragged_rows(120)
    whole = on_device(rows, "cosine", "packed", "float16")
    monkeypatch.setattr(part("sparse_rows"), "UPLOAD_ROWS", 5)
    monkeypatch.setattr(part("sparse_rows"), "SPREAD_ROWS", 7)
    parts = on_device(rows, "cosine", "packed", "float16")
    for name in ("indptr", "features", "values", "squares"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    assert torch.equal(whole.chunk(1, 12)[0], parts.chunk(1, 12)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_distances_of_hard_rows(metric, dtype):
    rows = hard_rows(N, negative=dtype != "float16")
    found = all_pairs(on_device(rows, metric, "packed", dtype))
    assert found.dtype == np.float32
    assert np.allclose(found, measured(rows, metric), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_of_rows_of_any_length(metric):
    rows = ragged_rows(120)
    assert np.allclose(all_pairs(on_device(rows, metric, "packed")), measured(rows, metric), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_candidates_of_ones_own(metric, monkeypatch):
    """More than are measured together, some of them none; from rows and tensors in any order."""
    monkeypatch.undo()
    rows, rng = hard_rows(N, negative=True), np.random.default_rng(0)
    there, true = on_device(rows, metric, "packed"), measured(rows, metric)
    queries, candidates = np.array([N - 1, 3, 8], np.int32), rng.integers(-1, N, (3, 19)).astype(np.int32)
    true = np.where(candidates >= 0, np.take_along_axis(true[queries], np.maximum(candidates, 0), 1), np.inf)
    found = there.measure(placed(queries), placed(candidates))
    assert np.allclose(found.cpu().numpy(), true, rtol=1e-6, atol=1e-12)
    turned = placed(candidates.T).T
    assert not turned.is_contiguous() and torch.equal(there.measure(placed(queries), turned), found)
    every_other = placed(np.repeat(queries, 2))[::2]
    assert not every_other.is_contiguous() and torch.equal(there.measure(every_other, placed(candidates)), found)


def test_two_calls_say_the_same_of_a_pair():
    """Also of duplicates."""
    rows = hard_rows(N, negative=True)
    rows[:, 5] *= np.float32(0.1)
    there = on_device(rows, "cosine", "packed")
    pairs = there.measure(numbers(N), numbers(N))
    assert torch.equal(pairs[10, 13:], pairs[11, 13:]) and torch.equal(pairs[13:, 10], pairs[13:, 11])
    for i in range(0, N, 7):
        assert torch.equal(there.measure(numbers(N)[i : i + 1], numbers(1, N)), pairs[i : i + 1])


@pytest.mark.parametrize("n_programs", [1, 5])
def test_programs_clean_their_strips(n_programs, monkeypatch):
    monkeypatch.setattr(part("sparse_rows"), "PROGRAMS", n_programs)
    rows = ragged_rows(120)
    there = on_device(rows, "euclidean", "packed")
    assert len(there.strips) == n_programs
    first = all_pairs(there)
    assert not there.strips.any()
    assert np.allclose(first, measured(rows, "euclidean"), rtol=1e-6)
    assert all_pairs(there).tobytes() == first.tobytes()


def test_rows_without_a_common_feature_are_at_1_sharp():
    rng = np.random.default_rng(0)
    rows = (rng.random((12, 40)) * 0.1).astype(np.float32)
    rows[:6, 20:] = rows[6:, :20] = 0
    found = all_pairs(on_device(rows, "cosine", "packed"))
    assert (found[:6, 6:] == 1).all() and (found[6:, :6] == 1).all()
    np.fill_diagonal(found, 0)
    assert (found[:6, :6] < 1).all()


@pytest.mark.parametrize("metric", METRICS)
def test_zero_rows_and_duplicates(metric):
    rows = np.zeros((20, 30), np.float32)
    rows[4:, 3] = 0.1
    rows[9:, 29] = 0.3
    found = all_pairs(on_device(rows, metric, "packed"))
    assert np.allclose(found, measured(rows, metric), rtol=1e-6, atol=1e-12)
    same = [range(4), range(4, 9), range(9, 20)]
    assert all((found[i, j] == 0) == (i != j) for group in same for i in group for j in group)
    if metric == "cosine":
        assert (found[:4, 4:] == 1).all() and (found[4:, :4] == 1).all()


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_all_zeros(metric):
    rows = SparseOnDevice(pack(as_source(np.zeros((9, 5), np.float32)), 4, 0), named(metric), DEVICE)
    found = rows.measure(numbers(9), numbers(9)).cpu().numpy()
    assert np.array_equal(np.isinf(found), np.eye(9, dtype=bool)) and not found[~np.eye(9, dtype=bool)].any()
    block, scale = rows.chunk(0, 9)
    assert not block.any() and (scale == (metric == "euclidean")).all()


@pytest.mark.filterwarnings("ignore:overflow")  # the interpreter counts in NumPy
def test_large_values():
    """Squares beyond float32: an angle all the same, no distance."""
    rows = hard_rows(24)
    rows[:3] *= np.float32(1e30)
    found = all_pairs(on_device(rows, "cosine", "packed"))
    assert np.allclose(found, measured(rows, "cosine"), rtol=1e-6, atol=1e-12)
    found = all_pairs(on_device(rows, "euclidean", "packed"))
    assert np.isinf(found[:3, 3:]).all() and np.isfinite(found[3:, 3:]).sum() == 21 * 20
