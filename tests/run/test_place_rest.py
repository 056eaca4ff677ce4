"""The rows beside a sample are placed on its map."""

import json

import numpy as np
import pyarrow.parquet
import pytest
import scipy.sparse

import streamumap
from streamumap import engine
from streamumap.errors import InputError, Stopped
from streamumap.events import ignore
from streamumap.layout.schedule import LAYOUT_PARAMS, out_of_sample_settings
from streamumap.params import Params
from streamumap.planning.fit import is_tiny_forced
from streamumap.request import Request
from streamumap.run.sampling import uniform
from streamumap.show.saved_run import describe

BOUNDS = dict(budget="1GB", device="cpu")
SHORT = Params(n_neighbors=5, n_epochs=12)


def rows(density=0.05, n=90):
    random = np.random.default_rng(1)
    return (np.abs(random.normal(size=(n, 200))) * (random.random((n, 200)) < density)).astype(np.float32)


def embed(x, out, params=SHORT, sample=40, place_rest=True, listener=ignore, stopping=lambda: False, **options):
    request = Request(x, params, sample=sample, place_rest=place_rest, **BOUNDS, **options)
    return engine.embed(request, out, listener=listener, stopping=stopping)


def by_reference(given, chosen, positions, params, n_epochs=4):
    """Where the plain versions of all that is done put the other rows."""
    from streamumap.graph.reference import strengths
    from streamumap.layout.reference import embed_rows
    from streamumap.neighbors.reference import nearest

    rest = np.setdiff1d(np.arange(len(given)), chosen)
    near, far = nearest(given[rest], given[chosen], params.n_neighbors, params.metric, True)
    settings = out_of_sample_settings(len(chosen), **{name: getattr(params, name) for name in LAYOUT_PARAMS})
    assert settings.n_epochs == n_epochs
    return rest, embed_rows(positions, near, far, strengths(far, params.local_connectivity), settings)


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize("density", [0.05, 0.6])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_sample_stays_and_the_others_get_a_place(form, density, metric, tmp_path):
    given, chosen = rows(density), uniform(90, 40, SHORT.seed)
    params = Params(n_neighbors=5, n_epochs=12, metric=metric)
    as_input = given if form == "dense" else scipy.sparse.csr_matrix(given)
    run = embed(as_input, tmp_path / "run", params)
    embed(as_input, tmp_path / "alone", params, place_rest=False)
    found, alone = (np.load(tmp_path / out / "embedding.npy") for out in ("run", "alone"))
    np.testing.assert_array_equal(found[chosen], alone[chosen])
    rest, expected = by_reference(given, chosen, alone[chosen], params)
    np.testing.assert_allclose(found[rest], expected, atol=5e-3)
    for name in ("knn_indices", "knn_distances"):
        files = [np.load(tmp_path / out / f"{name}.npy") for out in ("run", "alone")]
        np.testing.assert_array_equal(*files, "those of the sample")
    table = pyarrow.parquet.read_table(tmp_path / "run" / "embedding.parquet")
    assert np.array_equal(np.flatnonzero(table["placed"].to_numpy()), rest)
    np.testing.assert_array_equal(np.stack([table[axis] for axis in "xy"], 1), found)
    assert "placed" not in pyarrow.parquet.read_schema(tmp_path / "alone" / "embedding.parquet").names
    n_lost = int(np.isnan(found).any(1).sum())
    assert run["placed"] == {"rows": 50 - n_lost, "without_neighbors": n_lost}
    assert [run["input"][key] for key in ("rows", "sampled_rows", "dropped_rows")] == [90, 40, 0]
    assert (
        describe(run)[1].partition("; ")[2].startswith(f"{50 - n_lost} of them placed on the map of the others; recall")
    )
    assert run["quality"] == json.loads((tmp_path / "alone" / "run.json").read_text())["quality"], "of the sample"


def test_odd_rows(tmp_path):
    """One that is there, one of zeros, one that shares nothing with the sample."""
    given, chosen = rows(0.3), uniform(90, 40, SHORT.seed)
    rest = np.setdiff1d(np.arange(90), chosen)
    given[:, :10] = 0
    given[rest[0]] = given[chosen[7]]
    given[rest[1]] = 0
    given[rest[2]] = 0
    given[rest[2], :3] = 1
    given[rest[3]] = 2 * given[chosen[9]]
    run = embed(given, tmp_path / "run", Params(n_neighbors=5, n_epochs=12, metric="cosine"))
    found = np.load(tmp_path / "run" / "embedding.npy")
    assert np.array_equal(found[rest[0]], found[chosen[7]])
    assert np.isnan(found[rest[1:3]]).all() and np.isfinite(np.delete(found, rest[1:3], 0)).all()
    assert np.abs(found[rest[3]] - found[chosen[9]]).max() < 1
    assert run["placed"] == {"rows": 48, "without_neighbors": 2}
    assert "2 of 50 rows to be placed share nothing with a row of the map" in run["warnings"][0]
    is_zero = pyarrow.parquet.read_table(tmp_path / "run" / "embedding.parquet")["is_zero"].to_numpy()
    assert np.flatnonzero(is_zero).tolist() == [rest[1]]


def test_rows_that_are_not_finite(tmp_path):
    given, chosen = rows(0.3), uniform(90, 40, SHORT.seed)
    rest = np.setdiff1d(np.arange(90), chosen)
    given[rest[5], 3], given[chosen[2], 4] = np.nan, np.inf
    with pytest.raises(InputError, match="expected finite"):
        embed(given, tmp_path / "refused")
    given[chosen[2], 4] = 0
    with pytest.raises(InputError, match=f"row {rest[5]}: expected finite"):
        embed(given, tmp_path / "refused as well")
    given[chosen[2], 4] = np.inf
    run = embed(given, tmp_path / "run", drop_nonfinite=True)
    found = np.load(tmp_path / "run" / "embedding.npy")
    assert np.flatnonzero(np.isnan(found[:, 0])).tolist() == sorted([rest[5], chosen[2]])
    assert run["placed"] == {"rows": 49, "without_neighbors": 0} and len(run["warnings"]) == 2
    placed = pyarrow.parquet.read_table(tmp_path / "run" / "embedding.parquet")["placed"].to_numpy()
    assert placed.sum() == 49 and not placed[rest[5]]


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_rows_of_extreme_size(scale, tmp_path):
    maps = []
    for factor, out in ((1.0, "usual"), (scale, "extreme")):
        embed((rows(0.3) * 2.0 ** np.round(np.log2(factor))).astype(np.float32), tmp_path / out)
        maps.append(np.load(tmp_path / out / "embedding.npy"))
    np.testing.assert_allclose(*maps, atol=1e-3)


def test_reduced_rows(tmp_path):
    params = Params(n_neighbors=5, n_epochs=12, reduce="pca", reduce_dims=20)
    given, chosen = rows(0.6), uniform(90, 40, params.seed)
    rest = np.setdiff1d(np.arange(90), chosen)
    given[rest[0]] = given[chosen[7]]
    embed(given, tmp_path / "run", params)
    found = np.load(tmp_path / "run" / "embedding.npy")
    assert np.isfinite(found).all() and np.array_equal(found[rest[0]], found[chosen[7]])


@pytest.mark.one_process
def test_what_is_there_is_used_again(tmp_path):
    x = rows(0.3)
    assert embed(x, tmp_path, place_rest=False)["reused"] == []
    sampled = np.load(tmp_path / "embedding.npy")
    assert embed(x, tmp_path)["reused"] == ["the k-NN graph", "the map of the sample"]
    found = np.load(tmp_path / "embedding.npy")
    assert embed(x, tmp_path)["reused"] == ["the k-NN graph", "the map"]
    np.testing.assert_array_equal(found, np.load(tmp_path / "embedding.npy"))
    mapped = np.isfinite(sampled)
    assert np.isfinite(found).all() and np.array_equal(found[mapped], sampled[mapped])


@pytest.mark.one_process
def test_a_run_that_is_stopped_while_it_places_goes_on(tmp_path, monkeypatch):
    x = rows(0.3, n=400)
    embed(x, tmp_path / "whole")
    monkeypatch.setenv("STREAMUMAP_FORCE_TINY_BUDGET", "1")  # blocks of 64 rows
    placing = [False]

    def listen(event):
        placing[0] = placing[0] or (type(event).__name__ == "StageAdvanced" and event.stage == "place")

    with pytest.raises(Stopped, match="place"):
        embed(x, tmp_path / "run", listener=listen, stopping=lambda: placing[0])
    run = embed(x, tmp_path / "run")
    assert "the map of the sample" in run["reused"] and "the placing up to 64 of 360 rows" in run["reused"]
    if is_tiny_forced():
        embed(x, tmp_path / "whole", fresh=True)
    maps = [np.load(tmp_path / out / "embedding.npy") for out in ("whole", "run")]
    np.testing.assert_allclose(*maps, atol=1e-3)


def test_a_sample_that_is_all_leaves_nothing_to_place(tmp_path):
    run = embed(rows(0.3), tmp_path, sample=90)
    assert np.isfinite(np.load(tmp_path / "embedding.npy")).all() and "placed" not in run


def test_without_a_sample_it_is_refused(tmp_path):
    with pytest.raises(InputError, match="--place-rest: expected --sample or --stratify, found neither"):
        embed(rows(), tmp_path, sample=None)


@pytest.mark.sizes
def test_a_plan_has_the_bytes_of_placing():
    with_rest, without = (
        streamumap.plan(rows=1_000_000, features=512, budget="2GB", device="cpu", sample=100_000, place_rest=place_rest)
        for place_rest in (True, False)
    )
    assert "place" in with_rest and "place" not in without
    assert with_rest["place"].predicted.host_bytes <= 2 * 10**9
    with pytest.raises(InputError, match="--place-rest: expected --sample"):
        streamumap.plan(rows=1000, features=512, device="cpu", place_rest=True)
