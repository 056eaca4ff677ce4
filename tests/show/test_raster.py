import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from show_checks import cloud

from streamumap.show.palette import DARK, LIGHT, linear
from streamumap.show.raster import Layer, View, density, disc_radius, draw_discs, fit_view, rasterise, shade


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 2000), seed=st.integers(0, 99), scale=st.sampled_from([1e-6, 1.0, 1e9]))
def test_an_ordinary_map_is_seen_whole(n, seed, scale):
    X = (np.random.default_rng(seed).uniform(-1, 1, (n, 2)) * scale).astype(np.float32)
    view = fit_view(X)
    assert view.n_outside == 0 and view.n_inside == n
    assert n == 1 or view.side == pytest.approx(1.04 * np.ptp(X.astype(float), axis=0).max())


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 300), map_px=st.integers(150, 400), seed=st.integers(0, 99))
def test_every_row_is_drawn(n, map_px, seed):
    X = cloud(n, seed)
    view = fit_view(X)
    assert view.n_inside + view.n_outside == n
    weight, light = rasterise(X, View(-9, -9, 18, n, 0, 0), map_px, None, linear(["#000000"]))
    assert light is None
    area = np.pi * disc_radius(n, map_px) ** 2
    assert 0.8 * n * area < weight.sum() < 1.7 * n * area  # a pixel on the edge of a disc counts in part
    columns, lines = ((X + 9) / 18 * map_px).astype(int).T
    assert (weight[map_px - 1 - lines, columns] > 0.2).all()


def test_many_rows_are_drawn_in_chunks_as_in_one(monkeypatch):
    X = cloud(5000)
    X[17] = np.nan
    codes, colours = np.arange(5000, dtype=np.uint8) % 3, linear(["#ff0000", "#00ff00", "#0000ff"])
    whole = rasterise(X, fit_view(X), 200, codes, colours)
    monkeypatch.setattr("streamumap.show.raster.CHUNK_ROWS", 700)
    monkeypatch.setattr("streamumap.show.raster.CHUNK_PIXELS", 2000)
    assert fit_view(X).n_missing == 1
    for got, want in zip(rasterise(X, fit_view(X), 200, codes, colours), whole, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-9)
    np.testing.assert_allclose(whole[1].sum(axis=0), whole[0], atol=1e-9)


@pytest.mark.parametrize("radius", [0.5, 0.6, 0.74])
def test_many_small_discs_are_as_the_plain_ones_to_half_a_pixel(radius):
    """Rows in the middle of a quarter pixel are drawn exactly, others as if they lay in the middle of the nearest one."""
    rng, map_px = np.random.default_rng(3), 60
    halves = rng.integers(0, 2 * map_px, (500, 2))
    view, codes, colours = View(0, 0, map_px, 500, 0, 0), rng.integers(0, 4, 500), rng.random((4, 3))
    middles = ((halves + 0.5) / 2).astype(np.float32)
    want = draw_discs(middles, view, map_px, codes, colours, radius)
    for away in 0, 0.2:
        X = middles + rng.uniform(-away, away, middles.shape).astype(np.float32)
        weight, light = rasterise(X, view, map_px, codes, colours, radius)
        np.testing.assert_allclose(weight[::-1], want[0], atol=1e-9)
        np.testing.assert_allclose(light[:, ::-1], want[1:], atol=1e-9)


def test_up_is_up_and_a_pixel_is_the_mean_of_its_labels():
    X = np.array([[0, 1], [0, 1], [1, 0]], np.float32)
    view, colours = View(-0.5, -0.5, 2, 3, 0, 0), linear(["#ff0000", "#0000ff"])
    weight, light = rasterise(X, view, 200, np.array([0, 1, 1]), colours)
    top, bottom = (50, 50), (150, 150)
    assert weight[top] == pytest.approx(2 * weight[bottom]) and weight[150, 50] == 0
    np.testing.assert_allclose(light[:, *top] / weight[top], [0.5, 0, 0.5], atol=1e-9)
    np.testing.assert_allclose(light[:, *bottom] / weight[bottom], [0, 0, 1], atol=1e-9)


def test_denser_is_more_opaque():
    weight = np.array([[0, 1, 2, 50, 900.0]])
    for theme in LIGHT, DARK:
        colour = np.broadcast_to(linear([theme.other]).T[:, :, None], (3, 1, 5))
        for light in None, colour * weight:
            picture = shade([Layer(weight, light)], theme, 3_000_000).astype(int)
            from_page = np.abs(picture - picture[0, 0]).sum(axis=2)[0]
            assert (np.diff(from_page) > 0).all()
    alone = [shade([Layer(np.ones((1, 1)), np.ones((3, 1, 1)))], DARK, n).min() for n in (100, 10_000, 1_000_000)]
    assert alone == sorted(alone, reverse=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=40))
def test_density_is_monotonous_and_within_bounds(weights):
    weight = np.sort(np.array(weights))
    dense = density(weight)
    assert (np.diff(dense) >= -1e-12).all() and dense.min() >= 0 and dense.max() <= 1
