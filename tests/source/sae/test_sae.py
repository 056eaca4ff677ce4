"""SAE codes: the checkpoint of each project encodes as its own code does, and real rows give the codes published with them."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamumap import engine
from streamumap.errors import InputError
from streamumap.params import Params
from streamumap.planning.job import job_of
from streamumap.request import Request
from streamumap.source import Reading, SparseSource, in_place, open_source
from streamumap.source.sae import cuda, sizes
from streamumap.source.sae.cpu import codes, fast_top_k
from streamumap.source.sae.encoder import encode, top_k
from streamumap.source.sae.load import decoder_rows, make_encoder, read_checkpoint
from streamumap.source.scan.cpu import scan

DEBIAN = Path(os.environ.get("STREAMUMAP_DATA", "")) / "debian"
D, LATENTS, K = 12, 40, 5


def rand(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32))


def linear():
    return {
        "encoder.weight": rand(LATENTS, D), "encoder.bias": rand(LATENTS) / 3,
        "decoder.weight": rand(D, LATENTS), "bias": rand(D),
    }  # fmt: skip


def matrices():
    return {"W_enc": rand(D, LATENTS), "b_enc": rand(LATENTS) / 3, "W_dec": rand(LATENTS, D), "b_dec": rand(D)}


def chosen(codes_, k=K):
    values, indices = codes_.topk(k, dim=-1)
    return torch.zeros_like(codes_).scatter_(-1, indices, values)


def save(folder, tensors, config, file="sae.safetensors", config_name="cfg.json"):
    folder.mkdir(exist_ok=True)
    if file.endswith(".pt"):
        torch.save(tensors, folder / file)
    else:
        safetensors.torch.save_file(tensors, folder / file)
    if config is not None:
        (folder / config_name).write_text(json.dumps(config))
    return folder


# Each function returns a checkpoint and, by the project's own formula, its codes of x.


def re_n_y_topk(folder, x):
    t = linear()
    save(folder, t, {"features": D, "pages": LATENTS, "k": K}, "model.safetensors", "config.json")
    return folder, chosen(torch.relu((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"]))


def re_n_y_plain(folder, x):
    t = linear()
    save(folder, t, {"features": D, "pages": LATENTS}, "model.safetensors", "config.json")
    return folder, torch.relu((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"]) * t["decoder.weight"].norm(
        dim=0
    )


def re_n_y_jumprelu(folder, x):
    t = linear() | {"logthres": rand(LATENTS)}
    save(folder, t, {"features": D, "pages": LATENTS}, "model.safetensors", "config.json")
    pre = torch.relu((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"])
    return folder, pre * (pre > t["logthres"].exp())


def sae_lens_topk(folder, x):
    t = matrices()
    save(folder, t, {"architecture": "topk", "k": K, "d_in": D, "d_sae": LATENTS}, "sae_weights.safetensors")
    pre = (x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    return folder / "sae_weights.safetensors", torch.relu(chosen(pre))


def sae_lens_old_topk(folder, x):
    t = matrices()
    config = {
        "architecture": "standard",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "apply_b_dec_to_input": False,
    }
    save(folder, t, config, "sae_weights.safetensors")
    return folder, torch.relu(chosen(x @ t["W_enc"] + t["b_enc"]))


def sae_lens_jumprelu(folder, x):
    t = matrices() | {"threshold": rand(LATENTS).abs()}
    save(folder, t, {"architecture": "jumprelu", "apply_b_dec_to_input": False}, "sae_weights.safetensors")
    pre = x @ t["W_enc"] + t["b_enc"]
    return folder, torch.relu(pre) * (pre > t["threshold"])


def sae_lens_layer_norm(folder, x):
    t = matrices()
    save(folder, t, {"architecture": "standard", "normalize_activations": "layer_norm"}, "sae_weights.safetensors")
    y = x - x.mean(-1, keepdim=True)
    y = y / (y.std(-1, keepdim=True) + 1e-5)
    return folder, torch.relu((y - t["b_dec"]) @ t["W_enc"] + t["b_enc"])


def sae_lens_constant_norm(folder, x):
    t = matrices()
    save(
        folder,
        t,
        {"architecture": "standard", "normalize_activations": "constant_norm_rescale"},
        "sae_weights.safetensors",
    )
    y = x * (D**0.5 / x.norm(dim=-1, keepdim=True))
    return folder, torch.relu((y - t["b_dec"]) @ t["W_enc"] + t["b_enc"])


def sparsify(folder, x):
    t = {
        "encoder.weight": rand(LATENTS, D),
        "encoder.bias": rand(LATENTS) / 3,
        "W_dec": rand(LATENTS, D),
        "b_dec": rand(D),
    }
    save(folder, t, {"k": K, "d_in": D, "num_latents": LATENTS, "activation": "topk", "transcode": False})
    return folder, chosen(torch.relu((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]))


def sparsify_transcoder(folder, x):
    t = {
        "encoder.weight": rand(LATENTS, D),
        "encoder.bias": rand(LATENTS) / 3,
        "W_dec": rand(LATENTS, D),
        "b_dec": rand(D),
    }
    save(folder, t, {"k": K, "d_in": D, "transcode": True})
    return folder, chosen(torch.relu(x @ t["encoder.weight"].T + t["encoder.bias"]))


def dictionary_learning_topk(folder, x):
    t = linear() | {"b_dec": rand(D), "k": torch.tensor(K), "threshold": torch.tensor(0.7)}
    del t["bias"]
    save(folder, t, {"trainer": {"dict_class": "AutoEncoderTopK"}}, "ae.pt", "config.json")
    return folder, chosen(torch.relu((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]))


def dictionary_learning_batch_topk(folder, x):
    t = linear() | {"b_dec": rand(D), "k": torch.tensor(K), "threshold": torch.tensor(0.7)}
    del t["bias"]
    save(folder, t, {"trainer": {"dict_class": "BatchTopKSAE", "k": K}}, "ae.pt", "config.json")
    pre = torch.relu((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"])
    return folder, pre * (pre > 0.7)


def dictionary_learning_relu(folder, x):
    t = linear()
    save(folder, t, {"trainer": {"dict_class": "AutoEncoder"}}, "ae.pt", "config.json")
    return folder / "ae.pt", torch.relu((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"])


def dictionary_learning_new(folder, x):
    t = linear() | {"decoder.bias": rand(D)}
    del t["bias"]
    save(folder, t, {"trainer": {"dict_class": "AutoEncoderNew"}}, "ae.pt", "config.json")
    return folder, torch.relu(x @ t["encoder.weight"].T + t["encoder.bias"])


def dictionary_learning_jumprelu(folder, x):
    t = matrices() | {"threshold": rand(LATENTS).abs()}
    save(folder, t, {"trainer": {"dict_class": "JumpReluAutoEncoder"}}, "ae.pt", "config.json")
    pre = x @ t["W_enc"] + t["b_enc"]
    return folder, torch.relu(pre * (pre > t["threshold"])) * t["W_dec"].norm(dim=1)


def with_mean_and_scale(folder, x):
    t = {
        "W_enc": rand(LATENTS, D),
        "b_enc": rand(LATENTS) / 3,
        "b_dec": rand(D),
        "mean": rand(D, seed=1),
        "scale": torch.tensor([0.3]),
    }
    save(folder, t, {"architecture": "topk", "k": K}, "my.safetensors", "my.json")
    return folder / "my.safetensors", chosen(
        torch.relu(((x - t["mean"]) / 0.3 - t["b_dec"]) @ t["W_enc"].T + t["b_enc"])
    )


LAYOUTS = [
    re_n_y_topk, re_n_y_plain, re_n_y_jumprelu, sae_lens_topk, sae_lens_old_topk, sae_lens_jumprelu, sae_lens_layer_norm,
    sae_lens_constant_norm, sparsify, sparsify_transcoder, dictionary_learning_topk, dictionary_learning_batch_topk,
    dictionary_learning_relu, dictionary_learning_new, dictionary_learning_jumprelu, with_mean_and_scale,
]  # fmt: skip


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


def refused(path, *parts, n_features=D):
    with pytest.raises(InputError) as caught:
        make_encoder(read_checkpoint(path), n_features)
    message = str(caught.value)
    assert "\n" not in message and [part for part in parts if part not in message] == [], message


def test_checkpoints_that_cannot_be_used(tmp_path):
    folder = tmp_path / "sae"
    path, _ = re_n_y_topk(folder, rand(3, D))
    refused(path, "expected one for rows of 13 features", "(12, 40)", n_features=13)
    (folder / "config.json").write_text("{")
    refused(path, "config", "JSON")
    (folder / "config.json").write_text('{"k": 41, "pages": 40}')
    refused(path, "k: expected 1 to 40 active latents, found 41")
    save(folder, linear() | {"r_mag": rand(LATENTS)}, {}, "model.safetensors", "config.json")
    refused(path, "gated")
    save(
        folder,
        matrices(),
        {"normalize_activations": "expected_average_only_in"},
        "model.safetensors",
        "config.json",
    )
    refused(path, "normalize_activations", "expected_average_only_in")
    save(folder, {"weights": rand(3, 3)}, {}, "model.safetensors", "config.json")
    refused(path, "W_enc or encoder.weight", "found weights")
    save(folder, matrices() | {"b_dec": rand(3)}, {}, "model.safetensors", "config.json")
    refused(path, "b_dec: expected 12 numbers, found 3")
    save(folder, matrices(), {}, "other.safetensors", "config.json")
    (folder / "model.safetensors").unlink()
    save(folder, matrices(), {}, "more.safetensors", "config.json")
    refused(path, "expected one checkpoint", "more.safetensors, other.safetensors")


def test_a_square_encoder_is_refused_or_settled_by_the_config(tmp_path):
    t = {"W_enc": rand(D, D), "b_enc": rand(D), "b_dec": rand(D)}
    refused(save(tmp_path / "a", t, None) / "sae.safetensors", "W_enc", "a square of 12")
    save(tmp_path / "b", t, {"architecture": "standard", "apply_b_dec_to_input": True})
    np.testing.assert_array_equal(make_encoder(read_checkpoint(tmp_path / "b"), D).weights, t["W_enc"])


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
