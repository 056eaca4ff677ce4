"""Rows that are compared otherwise than they are stored, from the file to the map and back: what a user sees of it."""

import numpy as np
import pytest

from streamumap.engine import embed
from streamumap.events import Note
from streamumap.params import Params
from streamumap.request import Request
from streamumap.transform import transform

N = 300
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.standard_normal((N, 8))


def with_multiples():
    rows = 1 + 0.01 * NOISE
    rows[:40], rows[40:60] = 0, 3 * rows[60:80]
    return rows


def two_clusters():
    return np.concatenate([1e-3 * NOISE[:150], 1e6 + NOISE[150:]]).astype(np.float32)


CASES = {
    "an offset of 1e9": (NOISE + 1e9, {}),
    "extremely small": (1e-25 + 1e-27 * NOISE, {}),
    "extremely large, equal as float32": (1e20 + 1e12 * NOISE, {}),
    "clusters far apart": (two_clusters(), {}),
    "near one direction": (with_multiples(), {"metric": "cosine"}),
    "near one direction, whitened": (with_multiples(), {"metric": "cosine", "reduce": "ica", "reduce_dims": 6}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_row_is_found_told_apart_and_placed_where_it_lies(case, tmp_path):
    rows, wanted = CASES[case]
    np.save(tmp_path / "rows.npy", rows)
    told: list[str] = []

    def listen(event):
        if isinstance(event, Note) and event.level == "warning":
            told.append(event.text)

    options = dict(budget="2GB", device="cpu")
    run = tmp_path / "run"
    done = embed(Request(tmp_path / "rows.npy", Params(n_epochs=20, **wanted), **options), run, listener=listen)
    zero = ~rows.any(1)
    assert done["input"]["duplicate_rows"] == max(0, zero.sum() - 1) and done["input"]["dtype"] == rows.dtype.name
    assert (np.load(run / "knn_indices.npy") >= 0).all()
    if "reduce" not in wanted:
        assert not told and done["quality"]["knn_recall"]["value"] == 1.0
    transform(run, Request(tmp_path / "rows.npy", **options), tmp_path / "placed")
    moved = np.abs(np.load(tmp_path / "placed" / "embedding.npy") - np.load(run / "embedding.npy")).max(1)
    assert "reduce" in wanted or moved[~zero].max() == 0
