import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from streamumap import engine
from streamumap.errors import DoesNotFit, InputChanged, InputError, OutputError, Stopped
from streamumap.events import Note, StageAdvanced, StageDone, StageStarted
from streamumap.neighbors import reference
from streamumap.params import Params
from streamumap.request import Request
from streamumap.source import Reading

ROOT = str(Path(engine.__file__).parent.parent)
STAGES = ["read", "neighbors", "graph", "start", "layout", "quality", "write"]
BOUNDS = dict(budget="2GB", device="cpu")
SHORT = Params(metric="cosine", n_epochs=30)
FILES = ["embedding.npy", "knn_indices.npy", "knn_distances.npy"]


@pytest.fixture(scope="module", autouse=True)
def plain_pictures():
    """Runs without the seconds that a picture takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamumap.show.png.draw", lambda embedding, file, picture: file.write(b"a picture"))
        yield


@pytest.fixture(scope="module")
def rows(codes):
    """300 codes: 290 real ones, of which two are repeated five times each, and rows 3 and 200 are zero."""
    rows = codes[:300].copy()
    rows[[3, 200]] = 0
    rows[290:295], rows[295:] = rows[0], rows[1]
    return rows


@pytest.fixture(scope="module")
def finished(rows, tmp_path_factory):
    """(folder, run.json) of a finished run of `rows`."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, engine.embed(Request(rows, SHORT, **BOUNDS), out)


@pytest.fixture
def run(rows, tmp_path):
    """run(**changed parameters): (bytes of the files, what was used again) of a run of `rows` in tmp_path / "run"."""

    def run(out=tmp_path / "run", **changed):
        report = engine.embed(Request(rows, replace(SHORT, **changed), **BOUNDS), out)
        return contents(out), report["reused"]

    return run


def contents(out):
    return {name: (out / name).read_bytes() for name in FILES}


class StopAt:
    """Listens, and says stop once `stage` has done `amount` units."""

    def __init__(self, stage, amount):
        self.stage, self.amount, self.now = stage, amount, False

    def listen(self, event):
        self.now = self.now or (
            isinstance(event, StageAdvanced) and event.stage == self.stage and event.done >= self.amount
        )

    def stopping(self):
        return self.now


def stopped(rows, params, out, stage, amount=2):
    stop = StopAt(stage, amount)
    with pytest.raises(
        Stopped, match=f"^stopped (while {stage} was at .*|after {stage}); the same command continues the run\\.$"
    ):
        engine.embed(Request(rows, params, **BOUNDS), out, listener=stop.listen, stopping=stop.stopping)


# What a run leaves


def test_files(finished, rows):
    out, _ = finished
    assert sorted(os.listdir(out)) == sorted(
        [*FILES, "embedding.parquet", "map.png", "run.json", "manifest.json", "run.log"]
    )
    embedding, indices, distances = (np.load(out / name) for name in FILES)
    assert (embedding.dtype, embedding.shape) == (np.float32, (300, 2)) and np.isfinite(embedding).all()
    assert (indices.dtype, indices.shape, distances.dtype, distances.shape) == (
        np.int32,
        (300, 15),
        np.float32,
        (300, 15),
    )
    assert np.array_equal(indices[:, 0], np.arange(300)) and not distances[:, 0].any()
    assert (distances[:, 1:] >= distances[:, :-1]).all() and np.array_equal(indices == -1, np.isinf(distances))
    assert all(len(set(row) - {-1}) == 15 - row.count(-1) for row in indices.tolist())
    assert (indices[[3, 200], 1] == [200, 3]).all() and (indices[[3, 200], 2:] == -1).all()


def test_the_neighbours_are_the_nearest_rows(finished, rows):
    out, report = finished
    indices, distances = (np.load(out / name) for name in FILES[1:])
    not_zero = rows.any(1)
    exact = reference.search(rows, 15, "cosine")[1]
    assert np.allclose(distances[not_zero], exact[not_zero], atol=1e-5)
    assert report["quality"]["knn_recall"]["value"] >= 0.99


def test_the_table(finished):
    out, _ = finished
    table = pyarrow.parquet.read_table(out / "embedding.parquet").to_pydict()
    assert np.array_equal(np.column_stack([table["x"], table["y"]]).astype(np.float32), np.load(out / "embedding.npy"))
    assert [i for i, zero in enumerate(table["is_zero"]) if zero] == [3, 200]
    assert table["duplicate_of"] == [3 if i == 200 else None for i in range(290)] + [0] * 5 + [1] * 5


@pytest.mark.one_process
def test_the_report(finished):
    out, report = finished
    assert report == json.loads((out / "run.json").read_text())
    assert report["params"] == SHORT.to_json() and report["exit_status"] == 0 and report["warnings"] == []
    assert (
        report["input"].items()
        >= {"rows": 300, "features": 3072, "dtype": "float32", "zero_rows": 2, "duplicate_rows": 11}.items()
    )
    assert (
        report["versions"]["numpy"] == np.__version__
        and report["device"].startswith("cpu")
        and report["input"]["fingerprint"]
    )
    assert [stage["stage"] for stage in report["stages"]] == STAGES
    for stage in report["stages"]:
        assert stage["seconds"] >= 0 and stage["predicted"]["host_bytes"] > 0 and stage["measured"]["host_bytes"] >= 0
    assert report["predicted_peak"]["host_bytes"] <= report["budget"]["host_bytes"] == 2 * 10**9
    assert report["measured_peak"]["host_bytes"] == max(s["measured"]["host_bytes"] for s in report["stages"])
    for name in ("knn_recall", "knn_preservation", "trustworthiness", "continuity", "torn_share"):
        figure = report["quality"][name]
        assert 0 <= figure["value"] <= 1 and figure["sample_size"] >= 298 and figure["k"] in (14, 15)
        assert (figure["standard_error"] == 0) == (figure["sample_size"] == 300)


def test_what_the_map_did_is_what_its_files_show(finished):
    """Plain definitions, from the map and the k-NN graph: rows 3 and 200, which are zero, have one neighbour."""
    out, report = finished
    map_, neighbors = np.load(out / "embedding.npy").astype(np.float64), np.load(out / "knn_indices.npy")[:, 1:]
    apart = np.sqrt(((map_[:, None] - map_[None]) ** 2).sum(2))
    np.fill_diagonal(apart, np.inf)
    radius = np.sqrt(((map_ - map_.mean(0)) ** 2).sum(1).mean())
    lost, torn = [], []
    for row, theirs in enumerate(neighbors):
        theirs = theirs[theirs >= 0]
        nearest = np.argsort(apart[row])[: len(theirs)]
        lost.append(1 - np.isin(theirs, nearest).mean())
        torn.append((apart[row, theirs] > radius / 4).mean())
    column = pyarrow.parquet.read_table(out / "embedding.parquet")["distortion"].to_numpy()
    assert column.dtype == np.float32 and np.allclose(column, lost, atol=1e-6)
    assert report["quality"]["distortion"] == {"value": pytest.approx(np.mean(lost)), "k": 14, "sample_size": 300}
    assert report["quality"]["torn_share"]["value"] == pytest.approx(np.mean(torn), abs=0.002)  # the graph is exact


@pytest.mark.one_process
def test_events_tell_every_stage_from_start_to_end(rows, tmp_path):
    events = []
    engine.embed(Request(rows, SHORT, **BOUNDS), tmp_path / "run", listener=events.append)
    assert (
        [e.stage for e in events if isinstance(e, StageStarted)]
        == [e.stage for e in events if isinstance(e, StageDone)]
        == STAGES
    )
    total = {e.stage: e.total for e in events if isinstance(e, StageStarted)}
    done = {e.stage: e.done for e in events if isinstance(e, StageAdvanced)}
    assert done == {stage: total[stage] for stage in done} and {"read", "neighbors", "graph", "layout"} <= set(done)
    texts = [e.text for e in events if isinstance(e, Note)]
    assert texts == [
        "2 rows are all zeros; they are marked is_zero",
        "11 rows repeat an earlier row; they are marked duplicate_of",
    ]


# What is there is used again


@pytest.mark.one_process
def test_the_same_command_uses_all_of_it_again(finished, run):
    first, reused = run()
    assert reused == [] and first == contents(finished[0])
    assert run() == (first, ["the k-NN graph", "the map"])


@pytest.mark.one_process
@pytest.mark.parametrize(
    "changed",
    [
        {"min_dist": 0.5},
        {"seed": 1, "recall": 0.95},
        {"set_op_mix_ratio": 0.5},
        {"n_epochs": 31},
        {"init": "random"},
        {"n_components": 3},
    ],
    ids=str,
)
def test_what_changes_the_map_alone_keeps_the_neighbours(changed, finished, run, tmp_path):
    old, _ = run()
    new, reused = run(**changed)
    assert new["embedding.npy"] != old["embedding.npy"] and new["knn_indices.npy"] == old["knn_indices.npy"]
    assert reused == ([] if "seed" in changed else ["the k-NN graph"])
    assert new == run(out=tmp_path / "other", **changed)[0]


@pytest.mark.one_process
@pytest.mark.parametrize("changed", [{"n_neighbors": 10}, {"metric": "euclidean"}], ids=str)
def test_what_changes_the_neighbours_keeps_nothing(changed, run, tmp_path):
    old, _ = run()
    new, reused = run(**changed)
    assert reused == [] and all(new[name] != old[name] for name in FILES)
    assert new == run(out=tmp_path / "other", **changed)[0]
    assert run() == (old, [])


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_somebody_removed_or_cut_is_made_again(name, run, tmp_path):
    first, _ = run()
    (tmp_path / "run" / name).unlink()
    assert run()[0] == first
    os.truncate(tmp_path / "run" / name, 200)
    assert run()[0] == first


def test_another_input_is_refused(finished, rows):
    with pytest.raises(InputError, match="holds a run of another input"):
        engine.embed(Request(rows[1:], SHORT, **BOUNDS), finished[0])


# Stopped and continued


@pytest.mark.one_process
@pytest.mark.parametrize(
    ("stage", "amount"),
    [("read", 1), ("neighbors", 1), ("graph", 1), ("layout", 2), ("layout", 17), ("quality", 1), ("write", 1)],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(stage, amount, finished, rows, run, tmp_path):
    stopped(rows, SHORT, tmp_path / "run", stage, amount)
    assert not (tmp_path / "run" / "run.json").exists()
    files, reused = run()
    assert files == contents(finished[0])
    if stage == "layout":
        assert reused == ["the k-NN graph", "the fuzzy graph", f"the layout up to {amount} of 30 epochs"]
    assert not (tmp_path / "run" / "scratch").exists()


@pytest.mark.one_process
def test_a_run_that_is_stopped_again_and_again_gets_there(finished, rows, run, tmp_path):
    for amount in (5, 10, 15):
        stopped(rows, SHORT, tmp_path / "run", "layout", amount)
    assert run() == (contents(finished[0]), ["the k-NN graph", "the fuzzy graph", "the layout up to 15 of 30 epochs"])


@pytest.mark.one_process
def test_a_run_that_dies_goes_on_from_its_last_checkpoint(finished, rows, run, tmp_path, monkeypatch):
    """Not asked to stop: what is there then is what it saved on the way."""
    monkeypatch.setattr("streamumap.store.saved_checkpoint.SAVE_SECONDS", 0)

    def die(event):
        if isinstance(event, StageAdvanced) and event.stage == "layout" and event.done == 12:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.embed(Request(rows, SHORT, **BOUNDS), tmp_path / "run", listener=die)
    files, reused = run()
    assert files == contents(finished[0]) and reused[-1].startswith("the layout up to 1")


@pytest.mark.parametrize("stage", ["graph", "layout"])
def test_another_command_in_between_spoils_nothing(stage, finished, rows, run, tmp_path):
    """The other one overwrites a part of what the first one left in scratch, and is stopped itself."""
    stopped(rows, SHORT, tmp_path / "run", "layout", 5)
    stopped(rows, replace(SHORT, set_op_mix_ratio=0.3), tmp_path / "run", stage)
    assert run()[0] == contents(finished[0])


def test_snapshots_are_positions_on_the_way(finished, rows, tmp_path):
    engine.embed(Request(rows, SHORT, snapshots=3, **BOUNDS), tmp_path / "run")
    shots = {p.name: np.load(p) for p in (tmp_path / "run" / "snapshots").iterdir()}
    assert sorted(shots) == ["epoch_000010.npy", "epoch_000020.npy", "epoch_000030.npy"]
    assert np.array_equal(shots["epoch_000030.npy"], np.load(finished[0] / "embedding.npy"))
    assert not np.array_equal(shots["epoch_000010.npy"], shots["epoch_000020.npy"])


# The same bytes


def test_the_number_of_threads_changes_nothing(codes, tmp_path):
    np.save(tmp_path / "a.npy", np.concatenate([codes, codes * 2, codes[:300] + codes[300:]])[:1500])
    maps = []
    for n in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "streamumap.cli",
            "embed",
            "a.npy",
            "--metric",
            "cosine",
            "--n-epochs",
            "20",
            "-o",
            n,
            "-q",
            "--device",
            "cpu",
        ]
        environment = os.environ | {
            "PYTHONPATH": ROOT,
            "NUMBA_NUM_THREADS": n,
            "OMP_NUM_THREADS": n,
            "OPENBLAS_NUM_THREADS": n,
        }
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)
        maps.append(contents(tmp_path / n))
    assert maps[0] == maps[1]


# Failures


def test_values_that_are_not_finite(tmp_path):
    array = np.ones((20, 4))
    array[7, 1], array[9] = np.inf, np.nan
    with pytest.raises(
        InputError, match="row 7: expected finite values, found NaN or infinite ones .* in 2 of 20 rows"
    ):
        engine.embed(Request(array, SHORT, **BOUNDS), tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.npy"))


@pytest.mark.one_process
def test_an_array_that_changes_is_noticed(rows, tmp_path):
    array = rows.copy()

    def change(event):
        if isinstance(event, StageDone) and event.stage == "layout":
            array[:] = array[::-1].copy()

    with pytest.raises(InputChanged):
        engine.embed(Request(array, SHORT, **BOUNDS), tmp_path / "run", listener=change)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.one_process
def test_a_failure_lets_the_folder_go(rows, run, tmp_path):
    with pytest.raises(OutputError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "streamumap.show.table.write_parquet",
            lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")),
        )
        run()
    assert not (tmp_path / "run" / "embedding.parquet").exists() and (tmp_path / "run" / "embedding.npy").exists()
    assert run()[1] == ["the k-NN graph", "the map"]


@pytest.mark.parametrize("density", [0.01, 0.5])
def test_the_smallest_budget_is_enough(density, tmp_path):
    """Also for rows that turn out to be mostly zeros, which the plan cannot know before they are read."""
    random = np.random.default_rng(0)
    array = (random.random((600, 2000)) * (random.random((600, 2000)) < density)).astype(np.float32)
    with pytest.raises(DoesNotFit) as refused:
        engine.embed(Request(array, SHORT, budget="1MB", device="cpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    n_bytes = refused.value.smallest_bytes
    with pytest.raises(DoesNotFit):
        engine.embed(Request(array, SHORT, budget=n_bytes * 95 // 100, device="cpu"), tmp_path / "run")
    report = engine.embed(Request(array, SHORT, budget=n_bytes, device="cpu"), tmp_path / "run")
    assert report["predicted_peak"]["host_bytes"] <= report["budget"]["host_bytes"] == n_bytes


# Rows of every kind


@pytest.mark.parametrize("n_components", [1, 3])
def test_maps_of_other_dimensions(n_components, run, tmp_path):
    run(n_components=n_components)
    assert np.load(tmp_path / "run" / "embedding.npy").shape == (300, n_components)
    names = pyarrow.parquet.read_schema(tmp_path / "run" / "embedding.parquet").names
    assert names == ["row_id", *"xyz"[:n_components], "is_zero", "duplicate_of", "distortion"]
    assert (tmp_path / "run" / "map.png").exists() == (n_components > 1)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    "make",
    [
        lambda codes: codes[:3],
        lambda codes: codes[:4],
        lambda codes: codes[:15],
        lambda codes: np.zeros((40, 6), np.float32),
        lambda codes: np.ones((40, 6), np.float32),
        lambda codes: np.concatenate([codes[:40], np.zeros((200, 3072), np.float32)]),
        lambda codes: np.repeat(codes[:3], 100, axis=0),
        lambda codes: np.arange(60, dtype=np.float32)[:, None],
        lambda codes: np.eye(64, dtype=np.float32),
        lambda codes: np.concatenate([np.eye(20, dtype=np.float32), 1e18 * np.eye(20, dtype=np.float32)]),
    ],
    ids=[
        "3 rows",
        "4 rows",
        "as many as neighbours",
        "zeros",
        "ones",
        "mostly zero rows",
        "hundreds of duplicates",
        "1 feature",
        "equidistant",
        "huge",
    ],
)
def test_odd_rows_get_a_place_on_the_map(make, metric, codes, tmp_path):
    array = make(codes)
    report = engine.embed(Request(array, Params(metric=metric, n_epochs=5), **BOUNDS), tmp_path / "run")
    embedding, indices, distances = (np.load(tmp_path / "run" / name) for name in FILES)
    k = min(15, len(array))
    assert embedding.shape == (len(array), 2) and np.isfinite(embedding).all()
    assert indices.shape == (len(array), k) and np.array_equal(indices[:, 0], np.arange(len(array)))
    assert (distances >= 0).all() and np.array_equal(indices == -1, np.isinf(distances)) and indices.max() < len(array)
    assert metric == "cosine" or np.isfinite(distances).all()
    assert (len(array) >= 15) == (
        not any(text.startswith("n_neighbors: 15 is more than") for text in report["warnings"])
    )


def as_words(array):
    return (array.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize(
    ("make", "dtype", "name"),
    [
        (lambda a: a, None, "float32"),
        (lambda a: a.astype(np.float64), None, "float64"),
        (lambda a: np.asfortranarray(a), None, "float32"),
        (lambda a: np.repeat(a, 2, axis=0)[::2], None, "float32"),
        (lambda a: a.astype(">f4"), None, "float32"),
        (lambda a: a.astype(np.uint8), None, "uint8"),
        (lambda a: a.astype(np.int64), None, "int64"),
        (lambda a: as_words(a), "bfloat16", "bfloat16"),
        (lambda a: as_words(a).view("V2"), "bfloat16", "bfloat16"),
        (lambda a: a.astype(np.float16).tolist(), None, "float64"),
    ],
    ids=[
        "float32",
        "float64",
        "Fortran",
        "strided",
        "big-endian",
        "uint8",
        "int64",
        "uint16 as bfloat16",
        "V2 as bfloat16",
        "list",
    ],
)
def test_the_same_numbers_give_the_same_map_whatever_keeps_them(make, dtype, name, tmp_path):
    """Whole numbers up to 255, which all of these hold exactly."""
    array = np.random.default_rng(0).integers(0, 256, (80, 8)).astype(np.float32)
    maps = []
    for out, rows, how in (("plain", array, None), ("other", make(array), dtype)):
        report = engine.embed(Request(rows, Params(n_epochs=5), reading=Reading(how), **BOUNDS), tmp_path / out)
        maps.append(np.load(tmp_path / out / "embedding.npy"))
    assert report["input"]["dtype"] == name and np.array_equal(*maps)


def test_booleans(tmp_path):
    array = np.random.default_rng(0).random((80, 30)) < 0.5
    maps = []
    for rows in (array, array.astype(np.float32)):
        engine.embed(Request(rows, Params(n_epochs=5), **BOUNDS), tmp_path / str(rows.dtype))
        maps.append(np.load(tmp_path / str(rows.dtype) / "embedding.npy"))
    assert np.array_equal(*maps)


def test_a_feature_that_decides_every_distance_is_named(tmp_path):
    array = np.random.default_rng(0).random((60, 8)).astype(np.float32)
    array[:, 5] *= 1e8
    report = engine.embed(Request(array, Params(n_epochs=5), **BOUNDS), tmp_path / "run")
    assert [text for text in report["warnings"] if text.startswith("feature 5: ")]


# Reduced rows


@pytest.mark.one_process
def test_reduced_rows_and_how_much_recall_they_cost(codes, tmp_path):
    notes = []
    report = engine.embed(
        Request(codes[:400], replace(SHORT, reduce="pca", reduce_dims=20), **BOUNDS),
        tmp_path / "run",
        listener=notes.append,
    )
    recall = report["quality"]["knn_recall"]["value"]
    assert recall < 0.9 and [s["stage"] for s in report["stages"]][:3] == ["read", "reduce", "neighbors"]
    expected = (
        f"recall: 0.95 was asked for, {recall:.4f} was reached, {0.95 - recall:.4f} short; "
        "neighbours of reduced rows are not those of the rows, leave --reduce out."
    )
    assert report["warnings"] == [expected] and Note("warning", expected) in notes
    assert sorted(os.listdir(tmp_path / "run")) == sorted(
        [*FILES, "embedding.parquet", "map.png", "run.json", "manifest.json", "run.log", "scratch"]
    )
    indices = np.load(tmp_path / "run" / "knn_indices.npy")
    exact = reference.search(codes[:400], 15, "cosine")[0]
    found = np.mean([len(set(a[1:]) & set(b[1:])) / 14 for a, b in zip(indices.tolist(), exact.tolist(), strict=True)])
    assert abs(found - recall) < 0.02


def test_as_many_dimensions_as_there_are_lose_nothing(tmp_path):
    array = np.random.default_rng(0).random((100, 8)).astype(np.float32)
    report = engine.embed(Request(array, Params(n_epochs=5, reduce="pca"), **BOUNDS), tmp_path / "run")
    assert report["quality"]["knn_recall"]["value"] > 0.98 and report["warnings"] == []


def test_the_search_of_dense_rows_stops_where_the_recall_is_reached(tmp_path, monkeypatch):
    from streamumap.neighbors.dense import search as dense

    monkeypatch.setattr(dense, "all_with_all_is_cheaper", lambda n_rows, n_features: False)
    monkeypatch.setattr(dense, "all_with_all", lambda work, checkpoint: pytest.fail("all rows were compared with all"))
    plane = np.random.default_rng(0).standard_normal((5000, 4)).astype(np.float32)
    rows = plane @ np.random.default_rng(1).standard_normal((4, 30)).astype(np.float32)
    report = engine.embed(Request(rows, Params(n_epochs=5), device="cpu", budget="1GB"), tmp_path / "run")
    assert report["stages"][1]["backend"] == "dense"
    assert 0.95 <= report["quality"]["knn_recall"]["value"] < 1 or not report["warnings"]


def test_a_run_leaves_no_file_open(tmp_path):
    """A scratch file that is deleted while it is open takes its room until the process ends."""
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)

    def opened():
        return {
            os.readlink(f"/proc/self/fd/{n}")
            for n in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{n}")
        }

    engine.embed(Request(rows, Params(n_epochs=5), device="cpu"), tmp_path / "run")
    gc.collect()
    assert not [name for name in opened() if name.startswith(str(tmp_path))]
