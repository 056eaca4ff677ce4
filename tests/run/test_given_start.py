"""First positions that a user gives, in a file or an array."""

import numpy as np
import pytest

from streamumap import StreamUMAP, engine
from streamumap.errors import InputError
from streamumap.layout.init import pca
from streamumap.params import Params
from streamumap.request import Request
from streamumap.run import initialize

BOUNDS = dict(budget="1GB", device="cpu")


def rows(n=120):
    return np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """started(positions) -> (the start of a run, what was said of it, its warnings)."""

    def make(positions, name="init.npy"):
        np.save(tmp_path / name, positions)
        seen, begin = [], initialize.first_positions
        monkeypatch.setattr(
            "streamumap.run.stages.layout.first_positions", lambda *args: seen.append(begin(*args)) or seen[-1]
        )
        params = Params(n_epochs=1, init=str(tmp_path / name))
        run = engine.embed(Request(rows(), params, fresh=True, **BOUNDS), tmp_path / "run")
        return *seen[0], run["warnings"]

    return make


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_a_file_of_any_dtype_is_scaled(dtype, started):
    positions = (np.random.default_rng(1).normal(size=(120, 2)) * 100).astype(dtype)
    start, said, warnings = started(positions)
    np.testing.assert_array_equal(start, pca.given(positions.astype(np.float64), 42))
    assert said.endswith("init.npy, scaled to 10") and warnings == []


def test_what_float32_cannot_hold_is_not_lost(started):
    positions = np.random.default_rng(1).normal(size=(120, 2))
    far = started(positions + 1e9)[0]
    np.testing.assert_allclose(far, started(positions, "other.npy")[0], atol=1e-5)


@pytest.mark.parametrize("value", [0, 3.5])
def test_one_position_for_all_rows_says_nothing_and_that_is_said(value, started, tmp_path):
    start, said, warnings = started(np.full((120, 2), value))
    assert said == "by pca" and len(warnings) == 1
    assert warnings[0].startswith(f"--init: {tmp_path / 'init.npy'}: all rows have the same position")
    engine.embed(Request(rows(), Params(n_epochs=1), **BOUNDS), tmp_path / "default")
    assert (tmp_path / "default" / "embedding.npy").read_bytes() == (tmp_path / "run" / "embedding.npy").read_bytes()


@pytest.mark.parametrize("given", [np.asarray, np.ndarray.tolist], ids=["array", "list"])
def test_an_array_is_taken_as_its_file_is(given, tmp_path):
    positions = np.random.default_rng(1).normal(size=(120, 2)) * 50
    np.save(tmp_path / "init.npy", positions)
    short = dict(n_epochs=5, **BOUNDS)
    expected = StreamUMAP(init=str(tmp_path / "init.npy"), **short).fit_transform(rows())
    model = StreamUMAP(init=given(positions), **short)
    assert model.fit_transform(rows()).tobytes() == expected.tobytes()
    assert StreamUMAP(init=tmp_path / "init.npy", **short).fit_transform(rows()).tobytes() == expected.tobytes()
    assert np.isfinite(model.transform(rows()[:5] + 0.1)).all()


def test_positions_that_do_not_fit_are_refused():
    for positions, said in (
        (np.zeros((7, 2)), "expected 120 x 2 positions, found 7 x 2"),
        (np.zeros((120, 3)), "120 x 3"),
    ):
        with pytest.raises(InputError, match=said):
            StreamUMAP(init=positions, **BOUNDS).fit(rows())
    with pytest.raises(InputError, match="expected finite positions"):
        StreamUMAP(init=np.full((120, 2), np.nan), **BOUNDS).fit(rows())
