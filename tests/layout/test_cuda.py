"""The epoch in Triton, on a GPU or in Triton's interpreter, which `devices` switches on before Triton is imported."""

import numpy as np
import pytest
from devices import DEVICE, GPU, torch
from layout_checks import (
    check_blocks,
    check_epoch,
    check_equal_positions,
    check_many_vertices,
    check_step_limit,
    check_which_edges_fire,
    make_graph,
    make_positions,
    make_settings,
)

from streamumap.graph.files import GraphBlock
from streamumap.layout import cuda, epochs

N = 1000 if GPU else 9


def epoch(old, first_row, indptr, targets, weights, first_edge, number, s):
    before = cuda.to_device(old, DEVICE)
    new = torch.full_like(before, torch.nan)
    arrays = (cuda.to_device(a, DEVICE) for a in (indptr, targets, weights))
    cuda.epoch(before, new, first_row, *arrays, first_edge, number, s)
    new = new.cpu().numpy()
    rows = np.zeros(len(old), bool)
    rows[first_row : first_row + len(indptr) - 1] = True
    assert np.isfinite(new[rows]).all() and np.isnan(new[~rows]).all()
    return np.where(rows[:, None], new, old)


@pytest.mark.parametrize("n_components", [1, 2, 3, 10])
def test_epoch_is_the_reference(n_components):
    check_epoch(epoch, n_components, N, numbers=(0, 50, 90, 150))


@pytest.mark.parametrize(
    "changes", [dict(negative_sample_rate=0), dict(negative_sample_rate=1, repulsion_strength=0.5), dict(seed=7)]
)
def test_epoch_is_the_reference_whatever_the_parameters(changes):
    check_epoch(epoch, 2, N, numbers=(3, 120), **changes)


@pytest.mark.parametrize("first_edge", [2**31 - 9, 2**32 - 9, 2**33 + 5])
def test_the_same_edges_fire(first_edge):
    check_which_edges_fire(epoch, 25, (0, 198), first_edge)


@pytest.mark.parametrize("changes", [dict(n_epochs=2), dict(max_weight=40_000), dict(seed=2**63 - 1)])
def test_the_same_edges_fire_whatever_the_parameters(changes):
    check_which_edges_fire(epoch, 30, (0, 1), 12345, **changes)


def test_pushes_come_from_all_vertices():
    check_many_vertices(epoch)


@pytest.mark.parametrize("n_components", [2, 3])
def test_any_blocks_give_the_same_bytes(n_components):
    check_blocks(epoch, N, n_components)


@pytest.mark.parametrize("n_components", [2, 10])
def test_no_vertex_moves_further_than_the_limit(n_components):
    check_step_limit(epoch, n_components, 6)


@pytest.mark.parametrize("n_components", [1, 3])
def test_equal_positions_stay(n_components):
    check_equal_positions(epoch, n_components, 10)


def test_weights_keep_their_bits():
    weights = np.array([0, 1, 32767, 32768, 65535], np.uint16)
    on_device = cuda.to_device(weights, DEVICE)
    assert on_device.dtype == torch.int16 and on_device.cpu().numpy().view(np.uint16).tolist() == weights.tolist()


@pytest.mark.parametrize("x", [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**33 + 5])
def test_keys_are_32_bits_with_a_sign(x):
    """One type for all keys lets Triton compile the kernel once."""
    signed = cuda._signed(x)
    assert -(2**31) <= signed < 2**31 and (signed - x) % 2**32 == 0


def test_a_run_in_pieces_and_blocks_is_the_run():
    n = 9
    indptr, targets, weights = make_graph(n, (2, 5, 33))
    start, s = make_positions(n, 2), make_settings(n, n_epochs=4)
    cut, edge = 5, indptr[5]
    one = [lambda: GraphBlock(0, 0, indptr, targets, weights)]
    two = [
        lambda: GraphBlock(0, 0, indptr[: cut + 1], targets[:edge], weights[:edge]),
        lambda: GraphBlock(cut, int(edge), indptr[cut:] - edge, targets[edge:], weights[edge:]),
    ]
    backend = epochs.cuda_backend(DEVICE)
    whole = epochs.run(
        epochs.LayoutState(start.copy()), 4, one, s, backend
    )  # on the CPU, tensors share memory with their arrays
    state = epochs.run(epochs.LayoutState(start.copy()), 1, two, s, backend)
    state = epochs.run(state, 4, two, s, backend)
    assert (whole.epoch, state.epoch) == (4, 4)
    assert state.positions.tobytes() == whole.positions.tobytes() != start.tobytes()


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU: a whole layout takes hours in Triton's interpreter")
def test_a_whole_layout_is_close_to_the_cpus_and_repeats():
    n = 5000
    rng = np.random.default_rng(0)
    group = rng.integers(0, 10, n)
    members = [np.flatnonzero(group == g) for g in range(10)]
    indptr = np.arange(0, 15 * n + 1, 15, dtype=np.int64)
    targets = np.concatenate([rng.choice(members[g], 15) for g in group]).astype(np.int32)
    weights = rng.integers(1, 65536, 15 * n).astype(np.uint16)
    start, s = make_positions(n, 2) * 3, make_settings(n, n_epochs=200)
    blocks = [lambda: GraphBlock(0, 0, indptr, targets, weights)]
    first, again, cpu = (
        epochs.run(epochs.LayoutState(start), 200, blocks, s, backend).positions
        for backend in (epochs.cuda_backend(DEVICE), epochs.cuda_backend(DEVICE), epochs.cpu_backend())
    )
    assert first.tobytes() == again.tobytes() and np.isfinite(first).all()

    def spread(positions):
        inner = np.mean([positions[m].std(0).mean() for m in members])
        return inner / positions.std(0).mean()

    assert spread(first) == pytest.approx(spread(cpu), rel=0.1)
