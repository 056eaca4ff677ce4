"""Equal keys on a device: those that the host finds, for any ranges."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from streamumap.source.scan import equal_cuda  # noqa: E402
from streamumap.source.scan.totals import _first_equal  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def some_keys(name):
    random = np.random.default_rng(3)
    if name == "small":
        return random.integers(0, 300, 5000).astype(np.uint64)
    keys = random.integers(0, 1 << 64, 5000, np.uint64)
    if name == "copies":
        return keys[random.integers(0, 2000, 5000)]
    if name == "zeros":
        keys[random.random(5000) < 0.6] = 0
    return np.zeros(5000, np.uint64) if name == "one" else keys


@pytest.mark.parametrize("name", ["small", "different", "copies", "zeros", "one"])
def test_ranges_find_what_the_host_finds(name, monkeypatch):
    keys = some_keys(name)
    true = _first_equal(keys.copy())
    assert np.array_equal(equal_cuda.first_equal(keys, DEVICE), true)
    monkeypatch.setattr(equal_cuda, "EQUAL_SORTED", 700)
    monkeypatch.setattr(equal_cuda, "EQUAL_CHUNK", 330)
    most = []
    once = equal_cuda._once
    monkeypatch.setattr(equal_cuda, "_once", lambda *args: most.append(len(args[0])) or once(*args))
    found = equal_cuda.first_equal(keys, DEVICE)
    assert found.dtype == np.int64 and np.array_equal(found, true)
    if name != "small":
        assert max(most) <= 700, "keys of many rows take no room"
