"""The search for the k-NN graph after the device ran out of memory."""

import numpy as np
import pytest

from streamumap import engine
from streamumap.machine import gpu
from streamumap.params import Params
from streamumap.planning.fit import is_tiny_forced
from streamumap.request import Request
from streamumap.run import dispatch
from streamumap.store import saved_checkpoint


class OutOfMemoryError(RuntimeError):
    """As torch's, where there is no GPU."""


@pytest.mark.skipif(is_tiny_forced(), reason="blocks are at their smallest")
def test_it_works_in_smaller_blocks_and_does_not_continue_what_was_done_in_others(tmp_path, monkeypatch):
    rows, tried, search = np.random.default_rng(0).random((300, 20), np.float32), [], dispatch.search

    def work(rows, plan, p, sample, enough, advance, checkpoint):
        tried.append((plan["neighbors"].blocks, checkpoint.of("exact").begun))
        if len(tried) > 1:
            return search(rows, plan, p, sample, enough, advance, checkpoint)
        checkpoint.of("exact").save(lambda: ({}, {}), row=5)
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(gpu, "ran_out", lambda error: isinstance(error, OutOfMemoryError))
    monkeypatch.setattr(dispatch, "search", work)
    monkeypatch.setattr(saved_checkpoint, "SAVE_SECONDS", 0)
    params = Params(n_neighbors=5, n_epochs=5)
    engine.embed(Request(rows, params, budget="1GB", device="cpu"), tmp_path / "run")
    (before, _), (after, begun) = tried
    assert after == {name: size // 2 for name, size in before.items()} and not begun
