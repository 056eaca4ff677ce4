"""Some rows are mapped, the others keep their place."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import streamumap
from streamumap import engine
from streamumap.errors import InputError
from streamumap.params import Params
from streamumap.request import Request
from streamumap.run.sampling import sampled, shares, stratified, uniform

BOUNDS = dict(budget="1GB", device="cpu")
SHORT = Params(n_neighbors=5, n_epochs=4)


def rows(density=0.05):
    random = np.random.default_rng(1)
    return (np.abs(random.normal(size=(80, 200))) * (random.random((80, 200)) < density)).astype(np.float32)


@pytest.fixture
def file(tmp_path):
    """file(lines) -> path of a text file."""

    def make(lines):
        (tmp_path / "lines.txt").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path / "lines.txt"

    return make


# Which rows


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), st.data())
def test_every_stratum_is_kept_and_shares_are_within_a_row(counts, data):
    counts = np.array(counts, np.int64)
    size = data.draw(st.integers(len(counts), int(counts.sum())))
    found = shares(counts, size)
    assert found.sum() == size and (found >= 1).all() and (found <= counts).all()
    exact = counts * size / counts.sum()
    if (exact >= 1).all():
        assert (np.abs(found - exact) < 1 + 1e-9).all()
    large = found > 1
    left, total = size - int((~large).sum()), counts[large].sum()
    assert (np.abs(found - counts * left / max(total, 1))[large] < 2).all()


@given(st.integers(3, 400), st.integers(0, 2**63 - 1), st.data())
def test_a_sample_is_of_different_rows_and_the_same_every_time(n, seed, data):
    size = data.draw(st.integers(1, n))
    found = uniform(n, size, seed)
    assert found.dtype == np.int64 and len(np.unique(found)) == size and (np.diff(found) > 0).all()
    assert found[0] >= 0 and found[-1] < n and np.array_equal(found, uniform(n, size, seed))
    codes = np.arange(n) % min(size, 3)
    chosen = stratified(codes, size, seed)
    assert (np.diff(chosen) > 0).all() and np.array_equal(np.bincount(codes[chosen]), shares(np.bincount(codes), size))


def test_every_row_is_as_likely():
    times = np.bincount(np.concatenate([uniform(50, 10, seed) for seed in range(2000)]), minlength=50)
    assert (np.abs(times - 400) < 100).all()


def test_labels_and_row_numbers(file):
    labels = ["a"] * 70 + ["b"] * 9 + ["c"]
    found = sampled(80, 20, file(labels), 42)
    assert np.bincount(np.digitize(found, [70, 79])).tolist() == [17, 2, 1]
    assert sampled(80, None, file([7, 3, 79]), 42).tolist() == [3, 7, 79]
    assert sampled(80, 3, file([7, 3, 79]), 42).tolist() == [3, 7, 79] and sampled(80, None, None, 42) is None


@pytest.mark.parametrize(
    ("size", "lines", "text"),
    [
        (2, None, "--sample: expected 3 to 80, the rows of the input, found 2"),
        (81, None, "--sample: expected 3 to 80, the rows of the input, found 81"),
        (9, ["a"] * 81, "expected 80 labels, one a row, or fewer row numbers, found 81 lines"),
        (None, ["a"] * 80, "expected --sample beside labels"),
        (9, range(80), "expected at most 9 labels, as --sample has rows, found 80"),
        (None, [1, 2, 80], "row numbers from 0 to 79, found 3 lines, one of them '80'"),
        (None, [1, 2, "x"], "found 3 lines, one of them 'x'"),
        (None, [1, 2, 2, 3], "expected at least 3 row numbers, each once, found 4, 3 different"),
        (4, [1, 2, 3], "expected 4 different row numbers, as --sample says, found 3"),
    ],
)
def test_what_is_no_sample_is_refused(size, lines, text, file):
    with pytest.raises(InputError) as refused:
        sampled(80, size, None if lines is None else file(lines), 42)
    assert text in str(refused.value)


# A run


@pytest.mark.one_process
@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("density", [0.05, 0.6])
def test_sampled_rows_are_mapped_as_if_they_were_alone(form, density, tmp_path):
    given, chosen = rows(density), uniform(80, 30, SHORT.seed)
    as_input = given if form == "dense" else scipy.sparse.csr_matrix(given)
    run = engine.embed(Request(as_input, SHORT, sample=30, **BOUNDS), tmp_path / "all")
    engine.embed(Request(given[chosen], SHORT, **BOUNDS), tmp_path / "alone")
    found, alone = (np.load(tmp_path / out / "embedding.npy") for out in ("all", "alone"))
    np.testing.assert_array_equal(found[chosen], alone)
    left_out = np.setdiff1d(np.arange(80), chosen)
    assert np.isnan(found[left_out]).all()
    indices, alone = (np.load(tmp_path / out / "knn_indices.npy") for out in ("all", "alone"))
    assert (indices[left_out] == -1).all()
    np.testing.assert_array_equal(indices[chosen], np.where(alone >= 0, chosen[alone], -1))
    assert pyarrow.parquet.read_table(tmp_path / "all" / "embedding.parquet").num_rows == 80
    assert [run["input"][key] for key in ("rows", "sampled_rows", "dropped_rows")] == [80, 30, 0]
    again = engine.embed(Request(as_input, SHORT, sample=30, **BOUNDS), tmp_path / "all")
    assert again["reused"] == ["the k-NN graph", "the map"]
    assert engine.embed(Request(as_input, SHORT, sample=31, **BOUNDS), tmp_path / "all")["reused"] == []


def test_sampled_rows_that_are_not_finite_are_left_out_as_well(tmp_path):
    given, chosen = rows(), uniform(80, 30, SHORT.seed)
    outside = np.setdiff1d(np.arange(80), chosen)[0]
    given[outside, 3] = np.nan
    assert engine.embed(Request(given, SHORT, sample=30, **BOUNDS), tmp_path / "fine")["warnings"] == []
    given[chosen[[4, 20]], 5] = np.inf
    with pytest.raises(InputError, match="expected finite"):
        engine.embed(Request(given, SHORT, sample=30, **BOUNDS), tmp_path / "refused")
    run = engine.embed(Request(given, SHORT, sample=30, drop_nonfinite=True, **BOUNDS), tmp_path / "run")
    mapped = np.isfinite(np.load(tmp_path / "run" / "embedding.npy")).all(1)
    np.testing.assert_array_equal(np.flatnonzero(mapped), np.delete(chosen, [4, 20]))
    assert [run["input"][key] for key in ("rows", "sampled_rows", "dropped_rows")] == [80, 30, 2]


def test_another_seed_takes_other_rows_and_a_file_its_own(tmp_path, file):
    maps = []
    for seed, out in ((1, "one"), (2, "two")):
        engine.embed(Request(rows(), replace(SHORT, seed=seed), sample=20, **BOUNDS), tmp_path / out)
        maps.append(np.isfinite(np.load(tmp_path / out / "embedding.npy")[:, 0]))
    assert maps[0].sum() == maps[1].sum() == 20 and (maps[0] != maps[1]).any()
    engine.embed(Request(rows(), SHORT, stratify=file(range(0, 80, 5)), **BOUNDS), tmp_path / "named")
    named = np.load(tmp_path / "named" / "embedding.npy")[:, 0]
    assert np.flatnonzero(np.isfinite(named)).tolist() == list(range(0, 80, 5))


def test_a_sample_is_planned_as_the_rows_it_has():
    whole, part, alone = (
        streamumap.plan(rows=n, features=3072, budget="40GB", device="cpu", sample=sample)
        for n, sample in ((3_000_000, None), (3_000_000, 300_000), (300_000, None))
    )
    assert part.peak.host_bytes < whole.peak.host_bytes / 2 and part.job.n_rows == 300_000
    assert part["neighbors"].predicted.host_bytes == alone["neighbors"].predicted.host_bytes
    table_bytes = 2_700_000 * (2 * 4 + 64)
    assert part["write"].predicted.host_bytes - alone["write"].predicted.host_bytes == table_bytes
    with pytest.raises(InputError, match="--sample: expected 3 to 9, .* found 10"):
        streamumap.plan(rows=9, features=5, sample=10, device="cpu")


@pytest.mark.parametrize("place_rest", [False, True])
def test_a_plan_counts_the_values_of_the_sampled_rows(place_rest):
    bounds = dict(rows=300_000, features=3072, active=32, sample=60_000, budget="4GB", device="cpu")
    planned = streamumap.plan(**bounds, place_rest=place_rest)
    assert planned.job.n_nonzero == 60_000 * 32 and planned["neighbors"].backend == "packed"
    assert planned.job.placed is None or planned.job.placed.n_nonzero == 240_000 * 32
