"""The passes of the levels in Triton, on a GPU or in Triton's interpreter."""

import numpy as np
import pytest
from devices import GPU
from levels_checks import (
    check_coarse_graph,
    check_join_cells,
    check_join_roots,
    check_scattered,
    check_smooth,
    many_pieces,
    ring,
    started,
)

from streamumap.layout import epochs
from streamumap.layout.init import levels

DEVICE = epochs.cuda_backend("cuda" if GPU else "cpu")
N = 400 if GPU else 19


def test_cells_are_the_reference():
    check_join_cells(DEVICE, N)


def test_roots_are_the_reference():
    check_join_roots(DEVICE, N)
    check_scattered(DEVICE)


def test_the_coarse_graph_is_the_reference():
    check_coarse_graph(DEVICE, N)


@pytest.mark.parametrize("n_components", [1, 2, 3])
def test_smoothing_is_the_reference(n_components):
    check_smooth(DEVICE, n_components, N)


def test_the_levels_are_those_of_the_cpu(monkeypatch):
    """Checks that cells and coarser graphs have the same bits; positions come after epochs in other arithmetic."""
    monkeypatch.setattr(levels, "TOP", 8)
    for name in ("TOP_EPOCHS", "LEVEL_EPOCHS"):
        monkeypatch.setattr(levels, name, 300 if GPU else 2)
    graph = many_pieces() if GPU else ring(60, 2)
    graphs = []
    coarse = levels._coarse
    monkeypatch.setattr(levels, "_coarse", lambda *args: graphs.append(coarse(*args)) or graphs[-1])
    starts = [started(graph, backend=backend) for backend in (epochs.cpu_backend(), DEVICE)]
    half = len(graphs) // 2
    for ours, theirs in zip(graphs[:half], graphs[half:], strict=True):
        assert all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in ("indptr", "targets"))
        assert np.abs(ours.weights.astype(int) - theirs.weights).max() <= 1
    assert starts[0].level_sizes == starts[1].level_sizes and starts[0].n_unreached == starts[1].n_unreached
    assert np.isfinite(starts[1].positions).all()
    if GPU:
        again = started(graph, backend=DEVICE).positions
        assert again.tobytes() == starts[1].positions.tobytes()
