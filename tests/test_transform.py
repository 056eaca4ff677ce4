"""New rows are placed on a finished map."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import scipy.sparse
from scipy.spatial import cKDTree

import streamumap
from streamumap import demo, engine
from streamumap.errors import DoesNotFit, InputChanged, InputError, Stopped
from streamumap.params import Params
from streamumap.request import Request
from streamumap.source import Reading
from streamumap.transform import transform

BOUNDS = dict(budget="1GB", device="cpu")
SHORT = Params(n_neighbors=5, n_epochs=12, metric="cosine")
ROOT = str(Path(streamumap.__file__).parent.parent)


def rows(density=0.3, n=90, seed=1):
    random = np.random.default_rng(seed)
    return (np.abs(random.normal(size=(n, 200))) * (random.random((n, 200)) < density)).astype(np.float32)


@pytest.fixture
def made(tmp_path):
    """made(rows, **options) -> the folder of a map of them; their file is beside it."""

    def make(x, params=SHORT, **options):
        np.save(tmp_path / "old.npy", x)
        engine.embed(Request(str(tmp_path / "old.npy"), params, **BOUNDS, **options), tmp_path / "old.umap")
        return tmp_path / "old.umap"

    return make


def placed(run, x, map_input=None, **options):
    """The places of new rows."""
    out = run.parent / "placed"
    transform(run, Request(x, **BOUNDS | options), out, map_input=map_input)
    return np.load(out / "embedding.npy")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("density", [0.05, 0.6])
def test_rows_of_the_map_lie_where_they_are_and_the_run_stays_as_it_is(metric, density, made):
    old, new = rows(density), rows(density, 30, seed=2)
    run = made(old, Params(n_neighbors=5, n_epochs=12, metric=metric))
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    mapped, found = np.load(run / "embedding.npy"), placed(run, np.concatenate([new, old]))
    assert found.dtype == np.float32 and found.shape == (120, 2)
    _, first = np.unique(old, axis=0, return_index=True)
    np.testing.assert_array_equal(found[30:][first], mapped[first])
    assert np.isfinite(found).all() and np.abs(found).max() < np.abs(mapped).max() + 5
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_a_place_depends_on_the_row_and_the_map_alone(made, monkeypatch):
    run, new = made(rows()), rows(n=200, seed=2)
    found = placed(run, new)
    order = np.random.default_rng(0).permutation(200)
    assert placed(run, new[order], fresh=True).tobytes() == found[order].tobytes()
    assert placed(run, new[150:151], fresh=True).tobytes() == found[150:151].tobytes()
    monkeypatch.setenv("STREAMUMAP_FORCE_TINY_BUDGET", "1")
    assert placed(run, new, fresh=True).tobytes() == found.tobytes()


def test_the_number_of_threads_changes_nothing(made, tmp_path):
    run = made(rows())
    np.save(tmp_path / "new.npy", rows(n=300, seed=2))
    found = []
    for threads in ("1", "2"):
        out = tmp_path / threads
        environment = os.environ | {"PYTHONPATH": ROOT, "NUMBA_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = ["-m", "streamumap.cli", "transform", run, tmp_path / "new.npy", "-o", out, "-q", "--budget", "1GB"]
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{out}\n")
        found.append((out / "embedding.npy").read_bytes())
    assert found[0] == found[1]


def test_files(made, tmp_path):
    old, new = rows(), rows(n=20, seed=2)
    new[3] = 0
    run = made(old)
    report = transform(run, Request(new, **BOUNDS), tmp_path / "new.umap")
    assert sorted(os.listdir(tmp_path / "new.umap")) == [
        "embedding.npy", "embedding.parquet", "manifest.json", "run.json", "run.log",
    ]  # fmt: skip
    found = np.load(tmp_path / "new.umap" / "embedding.npy")
    table = pyarrow.parquet.read_table(tmp_path / "new.umap" / "embedding.parquet")
    assert table.schema.names == ["row_id", "x", "y", "is_zero"]
    np.testing.assert_array_equal(np.stack([table["x"], table["y"]], 1), found)
    assert np.flatnonzero(table["is_zero"].to_numpy()).tolist() == [3] and np.isnan(found[3]).all()
    assert report == json.loads((tmp_path / "new.umap" / "run.json").read_text())
    assert report["input"]["rows"] == 20 and report["placed"] == {"rows": 19, "without_neighbors": 1}
    assert report["map"]["run"] == str(run) and report["map"]["rows"] == 90 and report["quality"] == {}
    assert report["map"]["quality"] == json.loads((run / "run.json").read_text())["quality"]
    assert [stage["stage"] for stage in report["stages"]] == ["read", "place", "write"] or "the map" in report["reused"]
    assert "1 of 20 rows to be placed share nothing" in report["warnings"][0]


def test_other_forms_of_the_same_rows(made, tmp_path):
    """A map of one form of rows takes new ones in another."""
    old, new = rows(0.05), rows(0.05, 30, seed=2)
    expected = placed(made(old), new)
    scipy.sparse.save_npz(tmp_path / "new.npz", scipy.sparse.csr_matrix(new))
    np.savez_compressed(tmp_path / "packed.npz", new)
    for x in (
        scipy.sparse.csr_matrix(new),
        str(tmp_path / "new.npz"),
        str(tmp_path / "packed.npz"),
        new.astype(np.float64),
    ):
        assert placed(tmp_path / "old.umap", x, fresh=True).tobytes() == expected.tobytes()
    np.savez_compressed(tmp_path / "old.npz", old)
    engine.embed(Request(str(tmp_path / "old.npz"), SHORT, **BOUNDS), tmp_path / "converted.umap")
    assert placed(tmp_path / "converted.umap", new, fresh=True).tobytes() == expected.tobytes()


def test_rows_that_are_read_as_the_map_was(tmp_path):
    words = (rows().view(np.uint32) >> 16).astype(np.uint16)
    np.save(tmp_path / "old.npy", words)
    np.save(tmp_path / "new.npy", words[:10])
    reading = Reading("bfloat16")
    engine.embed(Request(str(tmp_path / "old.npy"), SHORT, reading=reading, **BOUNDS), tmp_path / "old.umap")
    found = placed(tmp_path / "old.umap", str(tmp_path / "new.npy"))
    np.testing.assert_array_equal(found, np.load(tmp_path / "old.umap" / "embedding.npy")[:10])


def test_features_are_placed_as_they_were_mapped(tmp_path):
    x = rows(0.3)
    x[:, [5, 17]] = 0
    np.save(tmp_path / "old.npy", x)
    params, reading = Params(n_neighbors=5, n_epochs=5), Reading(of="features")
    engine.embed(Request(str(tmp_path / "old.npy"), params, reading=reading, **BOUNDS), tmp_path / "old.umap")
    found = placed(tmp_path / "old.umap", str(tmp_path / "old.npy"))
    np.testing.assert_array_equal(found, np.load(tmp_path / "old.umap" / "embedding.npy"))
    assert np.flatnonzero(np.isnan(found[:, 0])).tolist() == [5, 17], "dead ones are not on the map"


def test_a_map_of_some_rows(made):
    """Those left out, and those placed, are not on it."""
    old = rows()
    old[7, 3] = np.nan
    run = made(old, sample=60, place_rest=True, drop_nonfinite=True)
    mapped = np.load(run / "embedding.npy")
    found = placed(run, old, drop_nonfinite=True)
    on_map = np.load(run / "knn_indices.npy")[:, 0] >= 0
    assert on_map.sum() in (59, 60)
    np.testing.assert_array_equal(found[on_map], mapped[on_map])
    np.testing.assert_array_equal(found, mapped, "what was placed with the run is placed there again")
    assert np.isnan(found[7]).all()


@pytest.mark.parametrize("factor", [2.0**-100, 2.0**90])
@pytest.mark.parametrize("density", [0.05, 0.6])
def test_rows_of_extreme_size(factor, density, tmp_path):
    params, maps = Params(n_neighbors=5, n_epochs=12), []
    for scale, name in ((1, "usual"), (factor, "extreme")):
        old, new = ((rows(density, n, seed) * scale).astype(np.float32) for n, seed in ((90, 1), (30, 2)))
        np.save(tmp_path / f"{name}.npy", old)
        engine.embed(Request(str(tmp_path / f"{name}.npy"), params, **BOUNDS), tmp_path / name)
        maps.append(placed(tmp_path / name, new, fresh=True))
    np.testing.assert_allclose(*maps, atol=1e-3)


@pytest.mark.parametrize("reduce", ["pca", "ica"])
def test_reduced_rows(reduce, made):
    old = rows(0.6)
    run = made(old, Params(n_neighbors=5, n_epochs=12, reduce=reduce, reduce_dims=20))
    mapped, found = np.load(run / "embedding.npy"), placed(run, np.concatenate([old, rows(0.6, 30, seed=2)]))
    assert np.isfinite(found).all() and np.array_equal(found[:90], mapped)
    assert len(np.unique(found[90:], axis=0)) == 30 and not (found[90:, None] == mapped).all(2).any()
    shutil.rmtree(run / "scratch")
    with pytest.raises(InputError, match="--reduce: expected the reduced rows of the map in its folder, found none"):
        placed(run, old, fresh=True)


def test_fewer_rows_than_neighbours_and_a_single_new_one(made):
    run = made(rows(n=4), Params(n_neighbors=5, n_epochs=5))
    assert np.isfinite(placed(run, rows(n=1, seed=2))).all()


@pytest.mark.parametrize("n_components", [1, 3])
def test_maps_of_other_dimensions(n_components, made):
    run = made(rows(), Params(n_neighbors=5, n_epochs=5, n_components=n_components))
    assert placed(run, rows(n=7, seed=2)).shape == (7, n_components)


# Rows of the map that come again


def with_some_alike(density, negative, seed=3):
    """Rows of which 20 are zeros, 12 are copies of one, and 12 multiples of another; at 0.004 many have one value."""
    random = np.random.default_rng(seed)
    x = rows(density, 150, seed) * np.where(negative & (random.random((150, 200)) < 0.5), -1, 1)
    x[20:40] = 0
    x[60:72] = x[5]
    x[80:92] = x[6] * np.arange(2, 14)[:, None]
    return x.astype(np.float32)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("density", [0.004, 0.05, 0.6])
def test_rows_that_come_again_lie_where_the_map_has_them(density, metric, negative, made):
    """A copy of several that are alike, as all rows of zeros are: where the first of them is."""
    old = with_some_alike(density, negative)
    run = made(old, Params(n_neighbors=16, n_epochs=12, metric=metric))
    mapped, order = np.load(run / "embedding.npy"), np.random.default_rng(0).permutation(150)
    _, first, alike = np.unique(old, axis=0, return_index=True, return_inverse=True)
    found = placed(run, old[order])
    np.testing.assert_array_equal(found, mapped[first[alike.ravel()]][order])
    assert np.isfinite(found).all()


# What is refused


def test_values_that_are_not_finite(made):
    run, new = made(rows()), rows(n=10, seed=2)
    new[4, 1] = np.inf
    with pytest.raises(InputError, match="row 4: expected finite"):
        placed(run, new)
    found = placed(run, new, drop_nonfinite=True, fresh=True)
    assert np.flatnonzero(np.isnan(found[:, 0])).tolist() == [4]
    with pytest.raises(InputError, match="expected some with finite values, found none"):
        placed(run, np.full((3, 200), np.nan), drop_nonfinite=True, fresh=True)


def test_rows_of_other_features(made):
    with pytest.raises(InputError, match="features: expected 200, as the rows of .* have, found 7"):
        placed(made(rows()), np.ones((5, 7)))


def test_an_input_that_changed_moved_or_is_gone(made, tmp_path):
    run, new = made(rows()), rows(n=5, seed=2)
    expected = placed(run, new)
    os.utime(tmp_path / "old.npy", ns=(1, 1))
    with pytest.raises(InputChanged, match="time of change: expected .* as when .* was made, .*--input"):
        placed(run, new, fresh=True)
    (tmp_path / "old.npy").rename(tmp_path / "moved.npy")
    with pytest.raises(InputError, match=r"expected its input at .*old\.npy, found none; say with --input"):
        placed(run, new, fresh=True)
    assert placed(run, new, fresh=True, map_input=str(tmp_path / "moved.npy")).tobytes() == expected.tobytes()
    np.save(tmp_path / "other.npy", rows(seed=3))
    with pytest.raises(InputError, match=r"other\.npy: rows: expected those of .*, found others"):
        placed(run, new, fresh=True, map_input=str(tmp_path / "other.npy"))


def test_what_is_no_finished_map(made, tmp_path):
    with pytest.raises(InputError, match=r"expected a finished run, found no run\.json"):
        placed(tmp_path / "nothing", rows())
    run = made(rows())
    placed(run, rows(n=5, seed=2))
    with pytest.raises(InputError, match="expected the report of a map that rows can be placed on"):
        transform(tmp_path / "placed", Request(rows(), **BOUNDS), tmp_path / "twice")
    places = np.load(run / "embedding.npy")
    np.save(run / "embedding.npy", places + 1)
    with pytest.raises(InputError, match=r"embedding\.npy is not what the run wrote there"):
        placed(run, rows(n=5, seed=2))
    np.save(run / "embedding.npy", places)
    for other in (np.arange(90), np.zeros((7, 3), np.int32)):
        np.save(run / "knn_indices.npy", other)
        with pytest.raises(InputError, match=r"expected the files of a finished run, .* of shape"):
            placed(run, rows(n=5, seed=2))
    (run / "knn_indices.npy").write_bytes(b"cut")
    with pytest.raises(InputError, match="expected the files of a finished run"):
        placed(run, rows(n=5, seed=2))


@pytest.mark.parametrize("part, field", [("input", "centred"), ("params", "metric")])
def test_a_report_that_lacks_something(part, field, made):
    run = made(rows())
    report = json.loads((run / "run.json").read_text())
    del report[part][field]
    (run / "run.json").write_text(json.dumps(report))
    with pytest.raises(
        InputError, match=f"run.json: expected .*, found one without {field}; run streamumap embed again"
    ):
        placed(run, rows(n=5, seed=2))


@pytest.mark.one_process
def test_a_map_that_was_begun_anew_is_none(made, tmp_path):
    run, begun = made(rows()), []

    def listen(event):
        begun.extend([event] if type(event).__name__ == "StageStarted" and event.stage == "graph" else [])

    others = Params(n_neighbors=6, n_epochs=12, metric="cosine")
    request = Request(str(tmp_path / "old.npy"), others, **BOUNDS)
    with pytest.raises(Stopped):
        engine.embed(request, run, listener=listen, stopping=lambda: bool(begun))
    with pytest.raises(InputError, match="expected the files of a finished run"):
        placed(run, rows(n=5, seed=2))


def test_a_folder_that_holds_something_else(made, tmp_path):
    run, new = made(rows()), rows(n=5, seed=2)
    with pytest.raises(InputError, match="expected a folder of its own, found the run"):
        transform(run, Request(new, fresh=True, **BOUNDS), run)
    engine.embed(Request(new, SHORT, **BOUNDS), tmp_path / "placed")
    with pytest.raises(InputError, match="holds a run of another input"):
        placed(run, new)
    shutil.rmtree(tmp_path / "placed")
    placed(run, new)
    with pytest.raises(InputError, match="holds a run of another input"):
        engine.embed(Request(new, SHORT, **BOUNDS), tmp_path / "placed")
    with pytest.raises(InputError, match="holds a run of another input"):
        placed(run, rows(n=6, seed=3))


def test_a_budget_that_is_too_small_names_one_that_works(made):
    run, new = made(rows()), rows(n=20, seed=2)
    with pytest.raises(DoesNotFit, match="^--budget: 1 MB cannot hold") as refused:
        placed(run, new, budget="1MB")
    assert not (run.parent / "placed").exists()
    assert len(placed(run, new, budget=refused.value.smallest_bytes)) == 20


@pytest.mark.one_process
def test_one_that_was_stopped_goes_on(made, tmp_path, monkeypatch):
    run, new = made(rows()), rows(n=300, seed=2)
    expected = placed(run, new)
    assert transform(run, Request(new, **BOUNDS), tmp_path / "placed")["reused"] == ["the map"]
    monkeypatch.setenv("STREAMUMAP_FORCE_TINY_BUDGET", "1")
    placing = []

    def listen(event):
        placing.extend([event] if type(event).__name__ == "StageAdvanced" and event.stage == "place" else [])

    request, again = Request(new, **BOUNDS), tmp_path / "again"
    with pytest.raises(Stopped, match="stopped while place was at 64 of 300 rows"):
        transform(run, request, again, listener=listen, stopping=lambda: bool(placing))
    assert transform(run, request, again)["reused"] == ["the placing up to 64 of 300 rows"]
    assert np.load(tmp_path / "again" / "embedding.npy").tobytes() == expected.tobytes()


# Quality


def agreement(labels, places, of, mapped):
    """Of the 15 mapped rows nearest to a row on the map, the share with its label; of a mapped row, itself apart."""
    near = cKDTree(places[mapped]).query(places[of], 16)[1]
    near = near[:, 1:] if of is mapped else near[:, :15]
    return (labels[mapped][near] == labels[of][:, None]).mean()


def test_rows_that_are_placed_lie_as_well_as_those_that_are_mapped(tmp_path):
    data = demo.load()
    x, labels = demo.dense(data)[::2], np.array(data.labels)[::2]
    rest = np.arange(0, len(x), 5)
    mapped = np.setdiff1d(np.arange(len(x)), rest)
    np.save(tmp_path / "old.npy", x[mapped])
    engine.embed(Request(str(tmp_path / "old.npy"), Params(metric="cosine"), **BOUNDS), tmp_path / "old.umap")
    places = np.empty((len(x), 2), np.float32)
    places[mapped], places[rest] = (
        np.load(tmp_path / "old.umap" / "embedding.npy"),
        placed(tmp_path / "old.umap", x[rest]),
    )
    of_mapped, of_placed = (agreement(labels, places, of, mapped) for of in (mapped, rest))
    assert of_mapped > 0.4 and of_placed > of_mapped - 0.03
    near = streamumap_nearest(x, rest, mapped)
    on_map = cKDTree(places[mapped]).query(places[rest], 15)[1]
    kept = np.mean([len(np.intersect1d(a, b)) / 15 for a, b in zip(near, on_map, strict=True)])
    assert kept > 0.3, "of 15 true neighbours"


def streamumap_nearest(x, rest, mapped):
    unit = x.astype(np.float32) / np.linalg.norm(x.astype(np.float32), axis=1, keepdims=True)
    return np.argsort(-(unit[rest] @ unit[mapped].T), axis=1)[:, :15]


# Budgets


@pytest.mark.sizes
@pytest.mark.parametrize(("n_features", "active"), [(1024, None), (3072, 24)])
def test_the_smallest_budget_is_enough_and_one_below_it_is_refused(n_features, active, tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(6000, n_features)).astype(np.float16)
    if active:
        x[random.random(x.shape) > active / n_features] = 0
    np.save(tmp_path / "old.npy", x[:4000])
    np.save(tmp_path / "new.npy", x[4000:])
    engine.embed(Request(str(tmp_path / "old.npy"), Params(n_epochs=5), **BOUNDS), tmp_path / "old.umap")

    def command(budget):
        given = ["transform", "old.umap", "new.npy", "--budget", str(budget), "--json", "-q"]
        environment = os.environ | {"PYTHONPATH": ROOT}
        return subprocess.run(
            [sys.executable, "-m", "streamumap.cli", *given],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    refused = command("1MB")
    assert refused.returncode == 3 and "cannot hold this job" in refused.stderr
    smallest = int(refused.stderr.partition("the smallest that can is ")[2].partition("MB")[0])
    assert command(f"{smallest * 95 // 100}MB").returncode == 3 and not (tmp_path / "new.umap").exists()
    done = command(f"{smallest}MB")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["measured_peak"]["host_bytes"] <= smallest * 10**6
