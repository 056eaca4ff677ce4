"""Checkpoints of SAEs that are not understood whole are refused, by the names of what is not understood."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from sae_checks import LATENTS, LAYOUTS, D, K, linear, matrices, openai, openai_topk, rand, re_n_y_topk, save

from streamumap.errors import InputError
from streamumap.source import open_source
from streamumap.source.sae.checkpoint import FROM_NPZ, read_checkpoint
from streamumap.source.sae.encoder import encode
from streamumap.source.sae.layouts import DICTIONARY_LEARNING, OPENAI, SUPPORTED, recognised
from streamumap.source.sae.layouts import SAE_LENS as OF_SAE_LENS
from streamumap.source.sae.load import make_encoder
from streamumap.source.sae.rows import EncodedRows

SAE_LENS = {"architecture": "standard", "apply_b_dec_to_input": True}
SPARSIFY = {"k": K, "activation": "topk", "transcode": False}
TOPK = {"trainer": {"dict_class": "AutoEncoderTopK", "k": K}}


def refused(path, *parts, n_features=D):
    with pytest.raises(InputError) as caught:
        make_encoder(read_checkpoint(path), n_features)
    message = str(caught.value)
    assert "\n" not in message and [part for part in parts if part not in message] == [], message


def changed(path, change):
    """Writes the tensors of a checkpoint again after `change(tensors)`."""
    file = read_checkpoint(path).name
    tensors = torch.load(file) if file.endswith(".pt") else safetensors.torch.load_file(file)
    change(tensors)
    torch.save(tensors, file) if file.endswith(".pt") else safetensors.torch.save_file(tensors, file)


def with_b_dec(**more):
    t = linear() | {"b_dec": rand(D)} | more
    del t["bias"]
    return t


def of_sparsify(**more):
    t = with_b_dec(W_dec=rand(LATENTS, D)) | more
    del t["decoder.weight"]
    return t


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_no_tensor_may_be_missing_or_unknown(layout, tmp_path):
    path, _ = layout(tmp_path / "whole", rand(3, D))
    names = recognised(read_checkpoint(path)).must
    assert len(names) >= 3
    for name in names:
        path, _ = layout(tmp_path / f"without {name}", rand(3, D))
        changed(path, lambda tensors, name=name: tensors.pop(name))
        refused(path, name, "give the codes as input")
    for name in ("pre_encoder_bias", "b_gate", "W_skip2"):
        path, _ = layout(tmp_path / f"with {name}", rand(3, D))
        changed(path, lambda tensors, name=name: tensors.update({name: rand(2)}))
        refused(path, f"found {name}, which may change the codes")


def test_layouts_that_look_like_others(tmp_path):
    """OpenAI's, Llama Scope's and Qwen Scope's have no config that we read: none of them is a plain ReLU."""
    tensors = {name: value for name, value in openai("", {}).items() if hasattr(value, "shape")}
    refused(save(tmp_path / "openai", tensors, None), "activation: expected one of TopK, ReLU, found none")
    llama = {**linear(), "decoder.bias": rand(D)}
    del llama["bias"]
    save(tmp_path / "llama", llama, {"act_fn": "jumprelu", "jump_relu_threshold": 0.5}, config_name="hyperparams.json")
    refused(tmp_path / "llama", "decoder.bias, decoder.weight, encoder.bias, encoder.weight and no JSON", SUPPORTED)
    save(tmp_path / "llama", llama, {"act_fn": "jumprelu", "jump_relu_threshold": 0.5})
    refused(tmp_path / "llama", "found the tensors", "the fields act_fn, jump_relu_threshold", SUPPORTED)
    qwen = {"W_enc": rand(LATENTS, D), "W_dec": rand(D, LATENTS), "b_enc": rand(LATENTS), "b_dec": rand(D)}
    refused(save(tmp_path / "qwen", qwen, None, "layer3.sae.pt"), "W_dec, W_enc, b_dec, b_enc and no JSON", SUPPORTED)
    refused(save(tmp_path / "bare", linear(), None), "no JSON file beside it")


@pytest.mark.parametrize(
    ("tensors", "config", "says"),
    [
        (matrices(), {"architecture": "abstopk", "k": K}, "architecture: expected one of standard, topk, jumprelu, found 'abstopk'"),
        (matrices(), {"architecture": "batchtopk", "k": K}, "found 'batchtopk' with the tensors W_"),
        (matrices(), {"architecture": "gated"}, "found 'gated'"),
        (matrices(), SAE_LENS | {"activation_fn_str": "abstopk"}, "activation_fn_str: expected relu, found 'abstopk'"),
        (matrices(), SAE_LENS | {"activation_fn": "tanh-relu"}, "activation_fn: expected relu, found 'tanh-relu'"),
        (matrices(), SAE_LENS | {"activation_fn_kwargs": {"k": K}}, "activation_fn_kwargs: expected nothing, found k"),
        (matrices(), SAE_LENS | {"k": K}, "config: expected only fields that are understood for SAELens standard, found k 5"),
        (matrices(), SAE_LENS | {"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm True"),
        (matrices(), SAE_LENS | {"input_scaling": 2.5}, "found input_scaling 2.5"),
        (matrices(), SAE_LENS | {"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input: expected None or True or False, found 'no'"),
        (matrices(), SAE_LENS | {"normalize_activations": True}, "normalize_activations: expected one of none, .*found True"),
        (matrices(), SAE_LENS | {"normalize_activations": "expected_average_only_in"}, "found 'expected_average_only_in'"),
        (matrices(), {"architecture": "topk"}, "k: expected 1 to 40 active latents, found None"),
        (matrices(), {"architecture": "jumprelu"}, "found no threshold among W_"),
        (matrices() | {"scaling_factor": rand(LATENTS)}, SAE_LENS, "scaling_factor: expected ones"),
        (matrices() | {"mean": rand(D)}, SAE_LENS, "found no scale among"),
        (matrices() | {"mean": rand(D), "scale": rand(3)}, {"k": K}, "scale: expected one number"),
        (of_sparsify(), SPARSIFY | {"activation": "groupmax"}, "activation: expected topk, found 'groupmax'"),
        (of_sparsify(), SPARSIFY | {"signed": True}, "found signed True"),
        (of_sparsify(), SPARSIFY | {"gram_lookup": True}, "found gram_lookup True"),
        (of_sparsify(), {"transcode": False}, "k: expected 1 to 40 active latents, found None"),
        (with_b_dec(k=torch.tensor(K + 1)), TOPK, "found 5 in k, 6.0 in the tensor k"),
        (with_b_dec(), {"trainer": {"dict_class": "BatchTopKSAE", "k": K}}, "found no threshold among"),
        (with_b_dec(threshold=torch.tensor(-1.0)), {"trainer": {"dict_class": "BatchTopKSAE", "k": K}}, "threshold: .*found .-1.0."),
        (linear(), {"trainer": {"dict_class": "GatedAutoEncoder"}}, "dict_class: expected one of AutoEncoder, .*'GatedAutoEncoder'"),
        (with_b_dec(), {"trainer": {"dict_class": "topk"}}, "dict_class: expected .*found 'topk'"),
        (linear() | {"r_mag": rand(LATENTS)}, {"pages": LATENTS}, "found r_mag, which may change"),
        (matrices() | {"W_dec": rand(LATENTS, D + 1)}, SAE_LENS, "decoder: expected 40 x 12, found .40, 13.; give"),
        (matrices() | {"W_more": rand(2, 3, 4)}, SAE_LENS, "found W_more, which may change"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(tensors, config, says, tmp_path):
    with pytest.raises(InputError, match=says) as caught:
        EncodedRows(open_source(np.ones((9, D))), read_checkpoint(save(tmp_path / "sae", tensors, config)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"activation": "Identity"}, "activation: expected one of TopK, ReLU, found 'Identity'"),
        ({"activation": "topk"}, "found 'topk'"),
        ({"activation_state_dict": {"k": K, "postact_fn": "Identity"}}, "postact_fn: expected ReLU, found 'Identity'"),
        ({"activation_state_dict": {"postact_fn": "ReLU"}}, "k: expected 1 to 40 active latents, found None"),
        ({"version": 3}, "found version, which may change"),
    ],
)
def test_activations_of_openai(change, says, tmp_path):
    path, _ = openai_topk(tmp_path / "sae", rand(3, D))
    changed(path, lambda tensors: tensors.update(change))
    with pytest.raises(InputError, match=says):
        make_encoder(read_checkpoint(path), D)


def test_what_does_not_matter_may_be_there(tmp_path):
    training = {
        "scale_sparsity_penalty_by_decoder_norm": True, "jumprelu_init_threshold": 0.1, "lr": 3e-4, "context_size": 128,
        "finetuning_scaling_factor": False, "normalize_activations": None, "metadata": {"norm_factor": 3}, "dtype": "float32",
    }  # fmt: skip
    t = matrices() | {"scaling_factor": torch.ones(LATENTS)}
    make_encoder(read_checkpoint(save(tmp_path / "sae", t, SAE_LENS | training)), D)


def test_a_config_one_folder_up_is_taken_only_from_dictionary_learning(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SAE_LENS))
    refused(save(tmp_path / "sae", matrices(), None), "no JSON file beside it")
    (tmp_path / "config.json").write_text("not JSON")
    refused(tmp_path / "sae", "no JSON file beside it")


def test_the_document_names_each_layout():
    text = (Path(__file__).parents[3] / "docs" / "inputs.md").read_text(encoding="utf-8")
    assert [
        name for table in (OF_SAE_LENS, DICTIONARY_LEARNING, OPENAI) for name in table if f"`{name}`" not in text
    ] == []


def test_checkpoints_that_cannot_be_used(tmp_path):
    folder, file = tmp_path / "sae", "model.safetensors"
    path, _ = re_n_y_topk(folder, rand(3, D))
    refused(path, "expected one for rows of 13 features", "(12, 40)", n_features=13)
    (folder / "config.json").write_text("{")
    refused(path, "config", "JSON")
    (folder / "config.json").write_text('{"k": 41, "pages": 40}')
    refused(path, "k: expected 1 to 40 active latents, found 41")
    save(folder, {"weights": rand(3, 3)}, {}, file, "config.json")
    refused(path, "layout: expected a checkpoint of SAELens", "found the tensors weights and no JSON")
    save(folder, matrices() | {"b_dec": rand(3)}, SAE_LENS, file, "config.json")
    refused(path, "b_dec: expected 12 numbers, found 3")
    save(folder, matrices(), {}, "other.safetensors", "config.json")
    (folder / file).unlink()
    save(folder, matrices(), {}, "more.safetensors", "config.json")
    refused(path, "expected one checkpoint", "more.safetensors, other.safetensors")


def test_gemma_scope_is_read_once_it_is_saved_as_the_message_says(tmp_path):
    t = {name: value.numpy() for name, value in (matrices() | {"threshold": rand(LATENTS).abs()}).items()}
    np.savez(tmp_path / "params.npz", **t)
    refused(tmp_path / "params.npz", "another zip file, such as .npz", "safetensors.numpy.save_file", FROM_NPZ)
    safetensors.numpy.save_file(t, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(FROM_NPZ[FROM_NPZ.index("{") :])
    x = rand(90, D).numpy()
    pre = x @ t["W_enc"] + t["b_enc"]
    codes = encode(x, make_encoder(read_checkpoint(tmp_path / "sae.safetensors"), D))
    np.testing.assert_allclose(codes, np.maximum(pre, 0) * (pre > t["threshold"]), rtol=1e-5, atol=1e-6)


def test_a_square_encoder_is_refused_or_settled_by_the_config(tmp_path):
    t = {"W_enc": rand(D, D), "b_enc": rand(D), "b_dec": rand(D)}
    refused(save(tmp_path / "a", t, {"architecture": "standard"}) / "sae.safetensors", "W_enc", "a square of 12")
    save(tmp_path / "b", t, SAE_LENS)
    np.testing.assert_array_equal(make_encoder(read_checkpoint(tmp_path / "b"), D).weights, t["W_enc"])
