import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import streamumap
from streamumap import StreamUMAP
from streamumap.errors import DoesNotFit, InputChanged, InputError
from streamumap.params import Params

ROOT = str(Path(streamumap.__file__).parent.parent)
FAST = dict(n_epochs=15, budget="2GB", device="cpu", metric="cosine")


@pytest.fixture(scope="module", autouse=True)
def plain_pictures():
    """Runs without the seconds that a picture takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamumap.show.png.draw", lambda embedding, file, picture: file.write(b"a picture"))
        yield


@pytest.fixture(scope="module")
def file(codes, tmp_path_factory):
    path = tmp_path_factory.mktemp("estimator") / "a.npy"
    np.save(path, codes[:300])
    return path


@pytest.fixture(scope="module")
def fitted(codes):
    return StreamUMAP(**FAST).fit(codes[:300])


def test_array_and_path_give_the_map_that_the_command_line_gives(codes, file, fitted):
    command = [
        sys.executable,
        "-m",
        "streamumap.cli",
        "embed",
        str(file),
        "-q",
        "--n-epochs",
        "15",
        "--budget",
        "2GB",
        "--device",
        "cpu",
        "--metric",
        "cosine",
    ]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": ROOT}, check=True, capture_output=True)
    expected = np.load(file.with_suffix(".umap") / "embedding.npy")
    assert expected.dtype == np.float32 and expected.shape == (300, 2)
    assert fitted.embedding_.tobytes() == expected.tobytes()
    assert StreamUMAP(**FAST).fit_transform(str(file)).tobytes() == expected.tobytes()
    assert StreamUMAP(**FAST).fit_transform(codes[:300].tolist()).tobytes() == expected.tobytes()


def test_what_a_fit_leaves(fitted):
    assert fitted.n_features_in_ == 3072 and fitted.run_["input"]["name"] == "the array"
    assert list(fitted.get_feature_names_out()) == ["streamumap0", "streamumap1"]
    json.dumps(fitted.run_, allow_nan=False)


def test_parameters_are_those_of_the_command_line():
    ours = StreamUMAP().get_params()
    random_state = ours.pop("random_state")
    others = {
        "budget": None,
        "host_budget": None,
        "device": "auto",
        "out": None,
        "dtype": None,
        "precomputed_knn": None,
    }
    assert ours == {name: value for name, value in Params().to_json().items() if name != "seed"} | others
    assert random_state == Params().seed


def test_clone_and_set_params():
    model = StreamUMAP(n_neighbors=7, budget="1GB", out="somewhere")
    copy = clone(model)
    assert copy is not model and copy.get_params() == model.get_params()
    assert model.set_params(min_dist=0.5, random_state=3).get_params()["min_dist"] == 0.5 and copy.min_dist == 0.1
    with pytest.raises(ValueError, match="no_such"):
        model.set_params(no_such=1)


def test_a_pickle_holds_the_model_and_no_data(fitted):
    data = pickle.dumps(fitted)
    assert len(data) < fitted.embedding_.nbytes + 20_000
    again = pickle.loads(data)
    assert np.array_equal(again.embedding_, fitted.embedding_) and again.get_params() == fitted.get_params()
    assert len(pickle.dumps(StreamUMAP())) < 2_000


def test_pandas_in_and_out(codes, file):
    frame = pd.DataFrame(codes[:300], index=[f"row {i}" for i in range(300)])
    out = StreamUMAP(**FAST).set_output(transform="pandas").fit_transform(frame)
    assert (
        list(out.columns) == ["streamumap0", "streamumap1"]
        and out.index.equals(frame.index)
        and out.to_numpy().dtype == np.float32
    )
    out = StreamUMAP(**FAST).set_output(transform="pandas").fit_transform(str(file))
    assert list(out.index) == list(range(300))


def test_at_the_end_of_a_pipeline(codes, fitted):
    pipeline = make_pipeline(FunctionTransformer(), StreamUMAP(**FAST))
    assert np.array_equal(pipeline.fit_transform(codes[:300]), fitted.embedding_)
    assert "StreamUMAP" in repr(pipeline) and pipeline._repr_html_()


@pytest.mark.one_process
def test_a_folder_that_is_named_is_kept_and_continued(codes, fitted, tmp_path):
    model = StreamUMAP(**FAST, out=tmp_path / "run").fit(codes[:300])
    assert np.array_equal(np.load(tmp_path / "run" / "embedding.npy"), fitted.embedding_)
    assert model.fit(codes[:300]).run_["reused"] == ["the k-NN graph", "the map"]
    with pytest.raises(InputError, match="another input"):
        model.fit(codes[1:301])


@pytest.mark.filterwarnings("ignore:n_neighbors")  # 15, of nine rows
def test_a_temporary_folder_is_removed(codes, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    StreamUMAP(**FAST).fit(codes[:100])
    with pytest.raises(InputError):
        StreamUMAP(**FAST).fit(np.full((9, 4), np.nan))
    assert os.listdir(tmp_path) == []


def test_numpy_numbers_are_parameters(codes):
    options = FAST | dict(
        n_neighbors=np.int64(5), min_dist=np.float64(0.2), random_state=np.int32(1), n_components=np.int8(1)
    )
    assert StreamUMAP(**options).fit_transform(codes[:50]).shape == (50, 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(metric="manhattan"), InputError, "metric: expected one of"),
        (dict(random_state=None), InputError, "random_state: expected an integer, found None; give one"),
        (dict(random_state=np.random.RandomState(0)), InputError, "random_state: expected an integer"),
        (dict(random_state=-1), InputError, "expected a whole number"),
        (dict(n_neighbors=15.5), InputError, "n_neighbors: expected a whole number"),
        (dict(budget="1MB"), DoesNotFit, "^--budget: 1 MB cannot hold"),
        (dict(device="tpu"), InputError, "--device"),
    ],
)
def test_a_wrong_parameter_is_refused_when_it_is_used(options, error, message, codes):
    model = StreamUMAP(**(FAST | options))
    with pytest.raises(error, match=message):
        model.fit(codes[:50])
    assert not hasattr(model, "embedding_")


def test_errors_are_those_that_python_knows(codes):
    with pytest.raises(ValueError):
        StreamUMAP(**FAST).fit(codes[0])
    with pytest.raises(MemoryError):
        StreamUMAP(**(FAST | {"budget": "1MB"})).fit(codes)
    with pytest.raises((NotFittedError, AttributeError)):
        StreamUMAP().get_feature_names_out()


@pytest.mark.one_process
def test_an_array_that_changes_is_noticed(codes, monkeypatch):
    array = codes[:100].copy()
    monkeypatch.setattr(
        "streamumap.quality.sample_rows", lambda n, size, seed: (array.fill(1), np.arange(min(n, size)))[1]
    )
    with pytest.raises(InputChanged, match="sampled rows"):
        StreamUMAP(**FAST).fit(array)


def test_bfloat16(codes):
    words = (codes[:100].view(np.uint32) >> 16).astype(np.uint16)
    exact = (words.astype(np.uint32) << 16).view(np.float32)
    maps = [
        StreamUMAP(**FAST, dtype=dtype).fit_transform(x)
        for x, dtype in ((words, "bfloat16"), (words.view("V2"), "bfloat16"), (exact, None))
    ]
    assert np.array_equal(maps[0], maps[1]) and np.allclose(maps[0], maps[2], atol=1e-3)


# Warnings


def test_what_a_run_warns_of_is_a_warning_of_python(codes):
    with pytest.warns(UserWarning) as caught:
        model = StreamUMAP(**(FAST | {"n_neighbors": 15})).fit(codes[:9])
    texts = [str(w.message) for w in caught]
    assert texts == model.run_["warnings"] == ["n_neighbors: 15 is more than the 9 rows; 9 are used."]
    assert caught[0].filename == __file__


def test_the_line_that_asked_for_the_map_is_the_one_warned_of(codes):
    with pytest.warns(UserWarning, match="^n_neighbors: 15 is more than the 9 rows") as caught:
        StreamUMAP(**(FAST | {"n_neighbors": 15})).set_output(transform="default").fit_transform(codes[:9])
    assert [w.filename for w in caught] == [__file__]


def test_a_recall_that_is_missed_is_a_warning(codes):
    with pytest.warns(UserWarning, match="^recall: 0.95 was asked for, 0.* leave --reduce out.$") as caught:
        StreamUMAP(**(FAST | {"reduce": "pca", "reduce_dims": 4})).fit(codes[:200])
    assert len(caught) == 1


def test_rows_that_share_nothing_with_the_map_are_warned_of_where_they_are_placed(codes):
    model = StreamUMAP(**(FAST | {"metric": "cosine"})).fit(
        np.eye(60, 80, dtype=np.float32) + np.eye(60, 80, 1, dtype=np.float32)
    )
    with pytest.warns(UserWarning, match="1 of 1 rows to be placed share nothing with a row of the map") as caught:
        model.transform(np.eye(1, 80, 79, dtype=np.float32))
    assert [w.filename for w in caught] == [__file__]


# The package


def test_the_public_names_are_there_before_and_after_the_engine_was_imported():
    code = (
        "import streamumap, sys\n"
        "assert set(streamumap.__all__) <= set(dir(streamumap)) and 'numpy' not in sys.modules\n"
        "from streamumap import StreamUMAP, plan, ActivationWriter\n"
        "import streamumap.engine, streamumap.planning.planner, streamumap.estimator, streamumap.writer.activation_writer, streamumap.cli\n"
        "from streamumap import StreamUMAP, plan, ActivationWriter\n"
        "assert callable(streamumap.plan) and callable(streamumap.StreamUMAP) and callable(streamumap.ActivationWriter)\n"
        "assert len(set(dir(streamumap))) == len(dir(streamumap))\n"
        "from streamumap import *\n"
        "assert {'ActivationWriter', 'StreamUMAP', 'plan', '__version__'} <= set(globals())\n"
        "plan(rows=10, features=5, budget='2GB', device='cpu')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = streamumap.nothing


def test_a_plan(codes, file):
    plan = streamumap.plan(
        rows=3_000_000, features=3072, dtype="float16", active=32, budget="4GB", device="cpu", n_neighbors=30
    )
    assert (
        plan.job.n_nonzero == 96_000_000 and plan["neighbors"].backend == "packed" and plan.peak.host_bytes <= 4 * 10**9
    )
    assert streamumap.plan(codes, budget="2GB", device="cpu").job.dtype == "float32"
    assert streamumap.plan(str(file), budget="2GB", device="cpu").job.n_rows == 300
    with pytest.raises(DoesNotFit) as refused:
        streamumap.plan(rows=300, features=3072, budget="1MB", device="cpu")
    assert streamumap.plan(rows=300, features=3072, budget=refused.value.smallest_bytes, device="cpu")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rows": 5},
        {"x": np.ones((5, 5)), "rows": 5, "features": 5},
        {"rows": 5, "features": 5, "dtype": "half"},
        {"rows": 5, "features": 5, "active": 6},
    ],
)
def test_a_plan_of_nothing_is_refused(options):
    with pytest.raises(InputError):
        streamumap.plan(**options, budget="2GB", device="cpu")


# New rows


def test_new_rows_get_a_place_and_those_of_the_fit_have_theirs(codes, fitted):
    new = fitted.transform(codes[300:340])
    assert new.dtype == np.float32 and new.shape == (40, 2) and np.isfinite(new).all()
    assert np.array_equal(fitted.transform(codes[:300]), fitted.embedding_)
    assert np.array_equal(fitted.transform(codes[310:311]), new[10:11])
    assert np.array_equal(fitted.transform(codes[300:340].astype(np.float64)), new)


def test_transform_goes_by_a_path_and_through_a_pickle(codes, file, fitted, tmp_path):
    new, model = codes[300:340], StreamUMAP(**FAST).fit(str(file))
    expected = fitted.transform(new)
    assert np.array_equal(model.transform(new), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).transform(new), expected)
    with pytest.raises(InputError, match="transform: expected the rows that the model was fitted on, found none"):
        pickle.loads(pickle.dumps(fitted)).transform(new)
    assert fitted.transform(new) is not None, "the model that was pickled still has them"
    with pytest.raises(NotFittedError):
        StreamUMAP().transform(new)
    with pytest.raises(InputError, match="features: expected 3072"):
        fitted.transform(new[:, :5])


@pytest.mark.one_process
def test_blocks_that_passed_once_are_not_there_for_new_rows(codes):
    with pytest.raises(InputError, match="expected the rows that the model was fitted on"):
        StreamUMAP(**FAST).fit(iter([codes[:300]])).transform(codes[300:340])


@pytest.mark.filterwarnings("ignore:recall")  # few dimensions
def test_transform_of_reduced_rows_needs_the_folder(codes, tmp_path):
    reduced = FAST | dict(reduce="pca", reduce_dims=20)
    model = StreamUMAP(**reduced, out=tmp_path / "run").fit(codes[:300])
    assert np.isfinite(model.transform(codes[300:310])).all()
    with pytest.raises(InputError, match="--reduce: expected the reduced rows of the map in its folder"):
        StreamUMAP(**reduced).fit(codes[:300]).transform(codes[300:310])


def test_an_array_that_changed_since_the_fit_is_noticed(codes):
    array = codes[:100].copy()
    model = StreamUMAP(**FAST).fit(array)
    array[:] = 1
    with pytest.raises(
        InputChanged, match="content: expected .* as when the fitted map was made, .* make the map again.$"
    ):
        model.transform(codes[:3])


def test_a_pipeline_places_new_rows_with_names(codes, fitted):
    pipeline = make_pipeline(FunctionTransformer(), StreamUMAP(**FAST)).fit(codes[:300])
    assert np.array_equal(pipeline.transform(codes[300:310]), fitted.transform(codes[300:310]))
    frame = pd.DataFrame(codes[300:303], index=["a", "b", "c"])
    model = StreamUMAP(**FAST).set_output(transform="pandas").fit(codes[:300])
    assert list(model.transform(frame).index) == ["a", "b", "c"]
