"""SAE codes: the checkpoint of each project encodes as its own code does, and real rows give the codes published with them."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_checks import LATENTS, LAYOUTS, D, matrices, rand, re_n_y_plain, re_n_y_topk, sae_lens_topk, save

from streamumap import engine
from streamumap.errors import InputError
from streamumap.params import Params
from streamumap.planning.job import job_of
from streamumap.request import Request
from streamumap.source import Reading, SparseSource, in_place, open_source
from streamumap.source.sae import cuda, sizes
from streamumap.source.sae.checkpoint import read_checkpoint
from streamumap.source.sae.cpu import codes, fast_top_k
from streamumap.source.sae.encoder import encode, top_k
from streamumap.source.sae.load import decoder_rows, make_encoder
from streamumap.source.scan.cpu import scan

DEBIAN = Path(os.environ.get("STREAMUMAP_DATA", "")) / "debian"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_checkpoint_encodes_as_its_project_does(layout, tmp_path):
    x = rand(300, D, seed=5)
    path, expected = layout(tmp_path / "sae", x)
    np.testing.assert_allclose(
        encode(x.numpy(), make_encoder(read_checkpoint(path), D)), expected, rtol=1e-5, atol=1e-6
    )
    np.save(tmp_path / "x.npy", x.numpy())
    source = open_source(tmp_path / "x.npy", Reading(sae=path))
    planned = job_of(source)
    assert planned.sparse and planned.raw_features == D and planned.n_features == LATENTS and len(source.notes) == 1
    with in_place(source) as found:
        assert isinstance(found, SparseSource) and found.dtype == "float32" and found.fingerprint == source.fingerprint
        np.testing.assert_allclose(found.read(0, 300), expected, rtol=1e-5, atol=1e-6)
        assert scan(found, 50).n_nonzero == np.count_nonzero(expected) <= planned.n_nonzero
        found.close()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_torch_encodes_as_the_reference_does(layout, device, tmp_path):
    """The code for GPUs also runs on the CPU device of torch."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    x = rand(120, D, seed=5)
    path, expected = layout(tmp_path / "sae", x)
    encoder, found = make_encoder(read_checkpoint(path), D), np.zeros((120, LATENTS), np.float32)
    row = 0
    for counts, indices, values in cuda.codes(np.split(x.numpy(), 4), encoder, device):
        found[np.repeat(np.arange(row, row + len(counts)), counts), indices] = values
        row += len(counts)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)  # sums are in another order


@settings(max_examples=100)
@given(st.integers(1, 30), st.integers(1, 200), st.integers(1, 12), st.integers(0, 999), st.floats(0, 1))
def test_fast_top_k_is_top_k(n_rows, n_latents, k, seed, density):
    k = min(k, n_latents)
    random = np.random.default_rng(seed)
    values = random.random((n_rows, n_latents), np.float32) * (random.random((n_rows, n_latents)) < density)
    found, expected = np.zeros_like(values), np.zeros_like(values)
    for out, (indices, amounts) in ((found, fast_top_k(values, k)), (expected, top_k(values, k))):
        rows = np.repeat(np.arange(n_rows), k)[amounts.reshape(-1) > 0]
        out[rows, indices[amounts > 0]] = amounts[amounts > 0]
    np.testing.assert_array_equal(found, expected)


def test_codes_do_not_depend_on_threads(tmp_path, monkeypatch):
    x = rand(500, D).numpy()
    path, _ = re_n_y_plain(tmp_path / "sae", torch.from_numpy(x))
    encoder, results = make_encoder(read_checkpoint(path), D), []
    for n in (1, 3):
        monkeypatch.setattr("streamumap.source.pieces.n_threads", lambda n=n: n)
        results.append([np.concatenate(parts) for parts in zip(*codes(np.split(x, 10), encoder), strict=True)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_that_are_not_finite_are_found_by_the_scan(tmp_path):
    x = rand(300, D, seed=5).numpy()
    x[[7, 9], [0, 3]] = [np.nan, np.inf]
    path, _ = re_n_y_topk(tmp_path / "sae", torch.from_numpy(x))
    with in_place(open_source(x, Reading(sae=path))) as found:
        assert scan(found, 50).nonfinite_rows.tolist() == [7, 9]


def test_the_wrong_orientation_is_seen_by_its_shape(tmp_path):
    x = rand(50, D)
    t = matrices()
    save(tmp_path / "a", t, {"architecture": "standard", "apply_b_dec_to_input": True})
    save(tmp_path / "b", t | {"W_enc": t["W_enc"].T.contiguous()}, {"architecture": "standard"})
    one, other = (encode(x.numpy(), make_encoder(read_checkpoint(tmp_path / name), D)) for name in "ab")
    np.testing.assert_array_equal(one, other)
    for name, decoder in (
        ("W_dec", t["W_dec"]),
        ("decoder.weight", t["W_dec"].T.contiguous()),
        ("W_dec", t["W_dec"].T.contiguous()),
    ):
        saved = {"b_enc": t["b_enc"], "W_enc": t["W_enc"], name: decoder}
        np.testing.assert_array_equal(decoder_rows(read_checkpoint(save(tmp_path / "c", saved, None))), t["W_dec"])


@pytest.mark.parametrize("sparse", [True, False])
def test_features_are_the_rows_of_the_transposed_matrix(sparse, tmp_path, monkeypatch):
    x = rand(90, D, seed=5)
    path, expected = re_n_y_topk(tmp_path / "sae", x)
    monkeypatch.setattr("streamumap.source.views.transposed.PASS_PAIRS", 100)
    given, reading = (
        (x.numpy(), Reading(sae=path, of="features")) if sparse else (expected.numpy(), Reading(of="features"))
    )
    with in_place(open_source(given, reading)) as found:
        np.testing.assert_allclose(found.read(0, LATENTS), expected.numpy().T, rtol=1e-5, atol=1e-6)


def test_a_map_of_features_leaves_dead_ones_out_aloud(tmp_path):
    rows = np.abs(rand(90, 30).numpy()) * (np.random.default_rng(0).random((90, 30)) < 0.2)
    rows[:, [3, 17]] = 0
    bounds = dict(budget="1GB", device="cpu")
    params = Params(n_neighbors=5, n_epochs=3, metric="cosine")
    run = engine.embed(Request(rows, params, reading=Reading(of="features"), **bounds), tmp_path / "run")
    found = np.load(tmp_path / "run" / "embedding.npy")
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [3, 17]
    assert any("2 of 30 features are dead, active in no row" in text for text in run["warnings"])
    engine.embed(Request(np.delete(rows.T, [3, 17], axis=0), params, **bounds), tmp_path / "plain")
    np.testing.assert_array_equal(np.delete(found, [3, 17], axis=0), np.load(tmp_path / "plain" / "embedding.npy"))


def test_a_map_of_the_decoder(tmp_path):
    path, _ = sae_lens_topk(tmp_path / "sae", rand(3, D))
    for rows, reading in ((path, Reading(of="decoder")), (np.ones((3, D)), Reading(of="decoder", sae=path))):
        np.testing.assert_array_equal(open_source(rows, reading).read(0, LATENTS), matrices()["W_dec"])
    with pytest.raises(InputError, match="--of: value: expected rows, features or decoder"):
        open_source(rand(9, 3).numpy(), Reading(of="columns"))


def test_the_footprint_covers_the_peak(tmp_path, monkeypatch):
    monkeypatch.setattr("streamumap.source.pieces.n_threads", lambda: 2)
    monkeypatch.setattr(sizes, "n_threads", lambda: 2)
    monkeypatch.setattr(sizes, "CPU_BLOCK_BYTES", 1 << 20)
    x = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float16)
    t = {
        "encoder.weight": rand(2048, 64),
        "encoder.bias": rand(2048),
        "decoder.weight": rand(64, 2048),
        "bias": rand(64),
    }
    save(tmp_path / "sae", t, {"pages": 2048, "k": 8}, "model.safetensors", "config.json")
    tracemalloc.start()
    try:
        with in_place(open_source(x, Reading(sae=tmp_path / "sae"))):
            peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    limit = sizes.cpu(4000, 64, 2048)
    assert limit / 4 < peak_bytes < limit


@pytest.mark.skipif(not DEBIAN.exists(), reason="needs STREAMUMAP_DATA, a folder with the real rows in debian/")
def test_real_rows_give_the_codes_that_came_with_them():
    indices, values = (np.load(DEBIAN / f"topk_{name}.npy", mmap_mode="r") for name in ("indices", "values"))
    rows = np.load(DEBIAN / "minilm.npy", mmap_mode="r")[:8000]
    with in_place(open_source(rows, Reading(sae=DEBIAN / "sae.safetensors"))) as found:
        pairs, expected = found.pairs(0, 8000), open_source((indices[:8000], values[:8000], 3072)).pairs(0, 8000)
        one, other = (np.repeat(np.arange(8000), np.diff(p.indptr)) * 3072 + p.indices for p in (pairs, expected))
        shared, at, of = np.intersect1d(one, other, return_indices=True)
        assert len(shared) / len(other) >= 0.999
        np.testing.assert_allclose(pairs.values[at], expected.values[of].astype(np.float32), atol=2e-3)
