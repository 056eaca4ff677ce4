"""The curve, step sizes, repulsion, and which edge fires when."""

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layout_checks import make_settings

from streamumap.layout import reference, schedule

U32 = st.integers(0, 2**32 - 1)


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
    expected = np.where(d < min_dist, 1.0, np.exp(-(d - min_dist) / spread))
    assert np.abs(1 / (1 + a * d ** (2 * b)) - expected).max() < 0.13


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
        expected = weight / max(weights)
        if expected < 1 / n_epochs:
            assert share == 0
        else:
            assert abs(share - expected) <= 1 / n_epochs + 1e-4


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
