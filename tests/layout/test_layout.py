import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layout_checks import (
    as_blocks,
    check_blocks,
    check_epoch,
    check_equal_positions,
    check_many_vertices,
    check_step_limit,
    check_which_edges_fire,
    make_graph,
    make_positions,
    make_settings,
    symmetric,
)

from streamumap.errors import Stopped
from streamumap.layout import cpu, epochs, reference, schedule

U32 = st.integers(0, 2**32 - 1)


def epoch(old, first_row, indptr, targets, weights, first_edge, number, s):
    new = np.full_like(old, np.nan)
    cpu.epoch(old, new, first_row, indptr, targets, weights, first_edge, number, s)
    rows = slice(first_row, first_row + len(indptr) - 1)
    assert np.isfinite(new[rows]).all()
    new[rows], left = old[rows], new[rows].copy()
    assert np.isnan(np.delete(new, np.r_[rows], axis=0)).all()
    new[rows] = left
    return new


@pytest.mark.parametrize("n_components", [1, 2, 3, 10])
def test_epoch_is_the_reference(n_components):
    check_epoch(epoch, n_components, n=100)


@pytest.mark.parametrize("changes", [dict(negative_sample_rate=0), dict(repulsion_strength=0.0), dict(min_dist=0.9)])
def test_epoch_is_the_reference_whatever_the_parameters(changes):
    for n_components in (2, 3):
        check_epoch(epoch, n_components, n=60, **changes)


@pytest.mark.parametrize("first_edge", [0, 2**31 - 100, 2**32 - 100, 2**33 + 5])
def test_the_same_edges_fire(first_edge):
    check_which_edges_fire(epoch, 301, range(0, 200, 11), first_edge)


@pytest.mark.parametrize("changes", [dict(n_epochs=2), dict(max_weight=40_000), dict(seed=2**63 - 1)])
def test_the_same_edges_fire_whatever_the_parameters(changes):
    check_which_edges_fire(epoch, 300, range(2), 12345, **changes)


def test_pushes_come_from_all_vertices():
    check_many_vertices(epoch)


@pytest.mark.parametrize("n_components", [2, 3])
def test_any_blocks_give_the_same_bytes(n_components):
    check_blocks(epoch, 600, n_components)


@pytest.mark.parametrize("n_components", [1, 2, 10])
def test_no_vertex_moves_further_than_the_limit(n_components):
    check_step_limit(epoch, n_components)


@pytest.mark.parametrize("n_components", [1, 2, 10])
def test_equal_positions_stay(n_components):
    check_equal_positions(epoch, n_components)


@given(st.floats(2.0**-39, 2.0**39, width=32), st.floats(0.125, 3.0, width=32))
def test_pow_is_as_right_as_it_says(x, b):
    true = float(x) ** float(b)
    if 1e-37 < true < 1e37:
        assert float(cpu.power(np.float32(x), np.float32(b))) == pytest.approx(true, rel=1e-4 * max(1.0, b))


# --- the loop


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


def test_the_seed_changes_the_map():
    graph, start = make_graph(50), make_positions(50, 2)
    maps = [epoch(start, 0, *graph, 0, 3, make_settings(50, seed=seed)).tobytes() for seed in (0, 1, 2**32, 2**33)]
    assert len(set(maps)) == 4


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
    """1300 vertices: a hub with a thousand edges, a component of its own, vertices without an edge."""
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


# --- the schedule


@pytest.mark.parametrize(
    ("min_dist", "spread"), [(0.1, 1.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5), (0.25, 1.5), (0.8, 1.1), (0.1, 5.0)]
)
def test_the_curve_is_umap_learns(umap_learn, min_dist, spread):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its fit takes 0 to a negative power on the way
        theirs = umap_learn.find_ab_params(spread, min_dist)
    assert schedule.fit_ab(min_dist, spread) == pytest.approx(theirs, rel=1e-5)


@given(st.floats(0, 1), st.floats(1e-3, 100))
def test_the_curve_fits_for_any_spread(share, spread):
    min_dist = share * spread
    a, b = schedule.fit_ab(min_dist, spread)
    d = np.linspace(0, 3 * spread, 100)
    wanted = np.where(d < min_dist, 1.0, np.exp(-(d - min_dist) / spread))
    assert np.abs(1 / (1 + a * d ** (2 * b)) - wanted).max() < 0.13


def test_default_epochs():
    assert [make_settings(n, n_epochs=None).n_epochs for n in (3, 20_000)] == [500, 500]


def test_the_step_falls_with_the_square_to_nothing():
    s = make_settings(10, n_epochs=50, learning_rate=2.0)
    assert [s.step_size(e) for e in (0, 25, 50)] == [2.0, 0.5, 0.0]


@given(st.integers(1, 2000), st.integers(0, 50), st.floats(0, 10))
def test_repulsion_grows_to_its_strength(n_epochs, rate, strength):
    s = make_settings(10, n_epochs=n_epochs, negative_sample_rate=rate, repulsion_strength=strength)
    shares = [s.repulsion_share(e) for e in range(n_epochs + 1)]
    assert shares[0] == pytest.approx(schedule.FIRST_REPULSION) and shares[-1] == 1 and (np.diff(shares) > 0).all()
    for epoch in range(0, n_epochs, max(1, n_epochs // 7)):
        n_pushes = s.n_pushes(epoch)
        assert 0 <= n_pushes <= rate and n_pushes * s.push_strength(epoch) == pytest.approx(
            rate * strength * shares[epoch]
        )
        assert s.push_strength(epoch) <= strength * (1 + 1e-12), "more pushes before stronger ones"


def test_a_vertex_is_pushed_by_few_at_first_and_by_all_at_last():
    s = make_settings(10, n_epochs=500, negative_sample_rate=5)
    assert [s.n_pushes(e) for e in (0, 200, 300, 499)] == [1, 4, 5, 5]
    none = dataclasses.replace(s, negative_sample_rate=0)
    assert {none.n_pushes(e) for e in range(500)} == {0} and none.push_strength(0) == 0


def mix32_in_numpy(x):
    x = x.astype(np.uint32)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


@given(st.lists(U32, min_size=1))
def test_mix32_is_lowbias32(numbers):
    mixed = mix32_in_numpy(np.array(numbers, np.uint64)).tolist()
    assert [schedule.mix32(x) for x in numbers] == mixed
    assert [schedule.mix32(x + 2**32) for x in numbers] == mixed


def test_mix32_of_neighbours_has_nothing_in_common():
    bits = np.unpackbits(mix32_in_numpy(np.arange(65_536)).view(np.uint8)).reshape(65_536, 32)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(bits[:-1].T, bits[1:].T)[:32, 32:]).max() < 0.03


@given(
    weights=st.lists(st.integers(1, 65535), min_size=1, max_size=20), n_epochs=st.integers(1, 300), seed=st.integers(0, 2**63 - 1),
    edge=st.integers(0, 2**40),
)  # fmt: skip
def test_an_edge_fires_in_its_share_of_the_epochs(weights, n_epochs, seed, edge):
    s = make_settings(10, max(weights), n_epochs=n_epochs, seed=seed)
    for weight in weights:
        share = sum(reference.fires(edge, weight, e, s) for e in range(n_epochs)) / n_epochs
        wanted = weight / max(weights)
        if wanted < 1 / n_epochs:
            assert share == 0
        else:
            assert abs(share - wanted) <= 1 / n_epochs + 1e-4


def test_edges_of_one_weight_fire_at_different_times():
    s = make_settings(10, n_epochs=100)
    fired = np.array([[reference.fires(edge, 6554, e, s) for e in range(100)] for edge in range(300)])
    assert abs(fired.mean(0) - 0.1).max() < 0.06


def test_pushes_are_spread_over_all_vertices():
    s = dataclasses.replace(make_settings(100), n_vertices=100)
    counts = np.bincount(
        [j for v in range(50) for e in range(20) for j in reference.pushers(v, 10, e, s)], minlength=100
    )
    assert len(counts) == 100 and counts.min() > 50 and counts.max() < 160
