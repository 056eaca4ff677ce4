"""Checkpoints of SAEs with random weights as their projects save them, each with its codes by the project's own formula."""

import json

import numpy as np
import safetensors.torch
import torch

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
    config = {"features": D, "pages": LATENTS, "bandwidth": 0.001, "jumpthreshold": 0.001}
    save(folder, t, config, "model.safetensors", "config.json")
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


def sparsify_tensors():
    return {
        "encoder.weight": rand(LATENTS, D),
        "encoder.bias": rand(LATENTS) / 3,
        "W_dec": rand(LATENTS, D),
        "b_dec": rand(D),
    }


def sparsify(folder, x):
    t = sparsify_tensors()
    save(folder, t, {"k": K, "d_in": D, "num_latents": LATENTS, "activation": "topk", "transcode": False})
    return folder, chosen(torch.relu((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]))


def sparsify_transcoder(folder, x):
    t = sparsify_tensors()
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
    save(folder, t, {"trainer": {"dict_class": "JumpReluAutoEncoder", "bandwidth": 0.001}}, "ae.pt", "config.json")
    pre = x @ t["W_enc"] + t["b_enc"]
    return folder, torch.relu(pre * (pre > t["threshold"]))


def above(folder, layout, x):
    """dictionary_learning keeps the checkpoints of a training in a folder below its config."""
    _, expected = layout(folder, x)
    (folder / "checkpoints").mkdir()
    (folder / "ae.pt").rename(folder / "checkpoints" / "ae_2000.pt")
    return folder / "checkpoints", expected


def dictionary_learning_batch_topk_above(folder, x):
    return above(folder, dictionary_learning_batch_topk, x)


def dictionary_learning_jumprelu_above(folder, x):
    return above(folder, dictionary_learning_jumprelu, x)


def dictionary_learning_matryoshka(folder, x):
    t = matrices() | {
        "k": torch.tensor(K), "threshold": torch.tensor(0.7), "group_sizes": torch.tensor([LATENTS // 4, LATENTS * 3 // 4]),
    }  # fmt: skip
    config = {"dict_class": "MatryoshkaBatchTopKSAE", "k": K, "threshold_beta": 0.999, "group_fractions": [0.25, 0.75]}
    save(folder, t, {"trainer": config, "buffer": {"ctx_len": 128}}, "ae.pt", "config.json")
    pre = torch.relu((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
    return folder, pre * (pre > 0.7)


def openai(activation, state):
    """The state_dict of OpenAI's Autoencoder, with the statistics of its training."""
    return {
        "pre_bias": rand(D), "latent_bias": rand(LATENTS) / 3, "encoder.weight": rand(LATENTS, D),
        "decoder.weight": rand(D, LATENTS), "stats_last_nonzero": torch.zeros(LATENTS, dtype=torch.long),
        "latents_activation_frequency": torch.ones(LATENTS), "latents_mean_square": torch.zeros(LATENTS),
        "activation": activation, "activation_state_dict": state,
    }  # fmt: skip


def layer_normed(x):
    x = x - x.mean(dim=-1, keepdim=True)
    return x / (x.std(dim=-1, keepdim=True) + 1e-5)


def openai_topk(folder, x):
    t = openai("TopK", {"k": K, "postact_fn": "ReLU"})
    save(folder, t, None, "layer_8.pt")
    pre = (layer_normed(x) - t["pre_bias"]) @ t["encoder.weight"].T + t["latent_bias"]
    return folder, torch.relu(chosen(pre))


def openai_relu(folder, x):
    t = openai("ReLU", {})
    save(folder, t, None, "layer_8.pt")
    return folder, torch.relu((x - t["pre_bias"]) @ t["encoder.weight"].T + t["latent_bias"])


def openai_topk_in_safetensors(folder, x):
    t = {name: value for name, value in openai("", {}).items() if hasattr(value, "shape")}
    save(folder, t, {"activation": "TopK", "k": K, "normalize": False}, "model.safetensors", "config.json")
    pre = (x - t["pre_bias"]) @ t["encoder.weight"].T + t["latent_bias"]
    return folder, torch.relu(chosen(pre))


def sae_lens_rescaled_topk(folder, x):
    """As SAELens trains them by default."""
    t = matrices()
    config = {
        "architecture": "topk", "k": K, "d_in": D, "d_sae": LATENTS, "rescale_acts_by_decoder_norm": True, "dtype": "float32",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"hook_name": "blocks.0.hook_z", "sae_lens_version": "6.12.1"},
    }  # fmt: skip
    save(folder, t, config, "sae_weights.safetensors")
    pre = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]) * t["W_dec"].norm(dim=-1)
    return folder, torch.relu(chosen(pre))


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
    dictionary_learning_batch_topk_above, dictionary_learning_jumprelu_above, dictionary_learning_matryoshka, openai_topk,
    openai_relu, openai_topk_in_safetensors, sae_lens_rescaled_topk,
]  # fmt: skip
