"""The loop over epochs: stops, blocks, threads, and graphs that are hard to lay out."""

import numpy as np
import pytest
from layout_checks import as_blocks, make_graph, make_positions, make_settings, symmetric

from streamumap.errors import Stopped
from streamumap.layout import epochs, reference


def laid_out(graph, start, n_epochs, cuts=None, state=None, until=None, **more):
    n = len(start)
    s = make_settings(n, n_epochs=n_epochs)
    state = epochs.LayoutState(start) if state is None else state
    return epochs.run(state, until or n_epochs, as_blocks(graph, cuts or (0, n)), s, epochs.cpu_backend(), **more)


@pytest.mark.parametrize("n_components", [2, 3])
def test_a_run_is_the_reference_epoch_after_epoch(n_components):
    graph, start = make_graph(30, (1, 3, 6)), make_positions(30, n_components)
    true, s = start, make_settings(30, n_epochs=8)
    for number in range(8):
        true = reference.epoch(true, *graph, number, s)
    state = laid_out(graph, start, 8)
    assert state.epoch == 8 and np.abs(state.positions - true).max() < 0.02


def test_a_run_does_not_depend_on_blocks_or_threads(with_threads):
    graph, start = make_graph(700), make_positions(700, 2)
    kept = start.copy()
    first = with_threads(1, laid_out, graph, start, 20).positions.tobytes()
    assert with_threads(2, laid_out, graph, start, 20).positions.tobytes() == first
    assert laid_out(graph, start, 20, (0, 1, 300, 300, 700)).positions.tobytes() == first
    assert np.array_equal(start, kept) and kept.tobytes() != first


@pytest.mark.parametrize("n_components", [1, 3])
def test_threads_change_nothing_in_other_dimensions(with_threads, n_components):
    graph, start = make_graph(700), make_positions(700, n_components)
    one, two = (with_threads(n, laid_out, graph, start, 5).positions.tobytes() for n in (1, 2))
    assert one == two


@pytest.mark.parametrize("stops", [(1,), (3, 4, 19), (10, 20), tuple(range(1, 20))])
def test_a_run_in_pieces_is_the_run(stops):
    graph, start = make_graph(40), make_positions(40, 2)
    whole = laid_out(graph, start, 20)
    state = epochs.LayoutState(start)
    for until in (*stops, 20):
        state = laid_out(graph, start, 20, state=state, until=until)
        assert state.epoch == until
    assert state.positions.tobytes() == whole.positions.tobytes()
    assert laid_out(graph, start, 20, state=state, until=20).positions.tobytes() == whole.positions.tobytes()


@pytest.mark.parametrize("n_blocks", [1, 3])
@pytest.mark.parametrize("stop_at", [1, 5, 6, 13])
def test_a_stopped_run_goes_on_from_what_was_fetched(stop_at, n_blocks):
    graph, start = make_graph(40), make_positions(40, 2)
    cuts = tuple(np.linspace(0, 40, n_blocks + 1).astype(int))
    kept, done = [epochs.LayoutState(start)], []

    def keep(epoch, get):
        done.append(epoch)
        if epoch % 5 == 0:
            kept.append(get())

    def keep_and_stop(epoch, get):
        keep(epoch, get)
        if epoch == stop_at:
            raise Stopped("stop")

    with pytest.raises(Stopped):
        laid_out(graph, start, 20, cuts, after_epoch=keep_and_stop)
    assert done == list(range(1, stop_at + 1)) and kept[-1].epoch == stop_at // 5 * 5
    state = laid_out(graph, start, 20, cuts, state=kept[-1], after_epoch=keep)
    assert [s.epoch for s in kept] == [0, 5, 10, 15, 20]
    assert state.positions.tobytes() == kept[-1].positions.tobytes() == laid_out(graph, start, 20).positions.tobytes()
    assert kept[2].positions.tobytes() == laid_out(graph, start, 20, until=10).positions.tobytes()


def test_a_graph_of_one_block_is_read_once():
    graph, start, reads = make_graph(40), make_positions(40, 2), []

    def counted(read):
        return lambda: reads.append(1) or read()

    for cuts, n_reads in (((0, 40), 1), ((0, 20, 40), 14)):
        reads.clear()
        epochs.run(
            epochs.LayoutState(start),
            7,
            [counted(r) for r in as_blocks(graph, cuts)],
            make_settings(40),
            epochs.cpu_backend(),
        )
        assert len(reads) == n_reads


def test_nothing_is_read_that_was_not_written(poison):
    graph, start = make_graph(40), make_positions(40, 2)
    before = laid_out(graph, start, 5).positions.tobytes()
    poison()
    assert laid_out(graph, start, 5).positions.tobytes() == before


def hard_graph():
    """Makes 1300 vertices: a hub with a thousand edges, a second component, vertices without an edge."""
    rng = np.random.default_rng(8)
    pairs = [(0, j, rng.integers(100, 65536)) for j in range(1, 1001)]
    pairs += [(i, i + d, 65535) for i in range(1, 990) for d in (1, 3)]
    pairs += [(i, j, rng.integers(1, 65536)) for i in range(1001, 1250) for j in rng.integers(1001, 1250, 4) if i != j]
    return symmetric(pairs, 1300)


@pytest.mark.parametrize("n_components", [1, 2, 3])
@pytest.mark.parametrize("scale", [10.0, 0.0])
def test_hubs_components_and_duplicates_stay_in_bounds(n_components, scale):
    start = (make_positions(1300, n_components) / 3 * scale).astype(np.float32)
    start[500:800] = start[500]
    if not scale:
        start += 1e-4 * make_positions(1300, n_components, seed=3)
    state = laid_out(hard_graph(), start, 100)
    assert np.isfinite(state.positions).all()
    assert np.abs(state.positions).max() < 60
    assert len(np.unique(state.positions, axis=0)) > 1200


def test_a_vertex_without_edges_stays():
    graph, start = hard_graph(), make_positions(1300, 2)
    assert np.array_equal(laid_out(graph, start, 3).positions[1250:], start[1250:])
