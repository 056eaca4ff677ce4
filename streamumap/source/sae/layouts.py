"""The layouts of SAE checkpoints that are understood, as a table, and which of them a checkpoint has.

A checkpoint must be understood whole: each of its tensors is used by its layout or known not to matter for encoding, and so is
each field of its config whose name sounds as if it did. Names of activations are compared whole. The sources:

- dictionary_learning (github.com/saprmarks/dictionary_learning, dictionary.py and trainers/): `ae.pt` and `config.json`
  {trainer: {dict_class, k}} beside it or one folder up. BatchTopK encodes by its threshold, as its `encode` does.
- OpenAI (github.com/openai/sparse_autoencoder, model.py): `torch.save(autoencoder.state_dict())`, which holds the name of its
  activation. With TopK rows are normalised, as its `from_state_dict` has it.
- sparsify (github.com/EleutherAI/sparsify, sparse_coder.py): `sae.safetensors` and `cfg.json` {k, activation, transcode}.
- RE-N-Y/sae (CLIP and FLUX; autoencoder.py): `model.safetensors` and `config.json` {features, pages, k or jumpthreshold}.
- SAELens (github.com/decoderesearch/SAELens, saes/): `sae_weights.safetensors` and `cfg.json` {architecture, k, ...}; before
  version 6 activation_fn_str and activation_fn_kwargs.
- streamumap's own: W_enc (latents, features), b_enc, b_dec, mean, scale, and a JSON file with k.

`mean` and `scale` of the rows, by which they are normalised first, may be in each of them, both or neither.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from streamumap.source.checks import short, wrong
from streamumap.source.sae.checkpoint import SaeCheckpoint

FOR_ALL = ("mean", "scale")
"""Tensors that are understood in each layout."""

OTHERWISE = "encode the rows with the SAE's own tool and give the codes as input"
"""The remedy for a checkpoint that is not understood."""


@dataclass(frozen=True)
class Layout:
    """Names of tensors, and what encoding does with them. `threshold`: one of these must be there. `may`: others that are
    understood or do not matter. `fields`: those of the config that are understood. `scaled`: codes are multiplied by the lengths
    of the decoder's directions."""

    name: str
    kind: str  # "topk", "relu" or "jumprelu"
    weights: str
    bias: str
    offset: str  # added by the decoder
    decoder: str
    centred: bool = True  # `offset` is subtracted from the rows, unless the config says otherwise
    threshold: tuple[str, ...] = ()
    one_threshold: bool = False  # of all latents, negative until training sets it
    may: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    scaled: bool = False
    normalisation: str = "none"

    @property
    def must(self) -> tuple[str, ...]:
        needed = (self.weights, self.bias, self.offset, *self.threshold[:1])
        return (*needed, self.decoder) if self.scaled else needed

    @property
    def known(self) -> tuple[str, ...]:
        named = (self.weights, self.bias, self.offset, self.decoder, *self.threshold)
        return tuple(dict.fromkeys((*named, *self.may, *FOR_ALL)))


LINEAR = ("encoder.weight", "encoder.bias")
MATRICES = ("W_enc", "b_enc", "b_dec", "W_dec")

LENS_FIELDS = (
    "activation_fn", "activation_fn_str", "activation_fn_kwargs", "apply_b_dec_to_input", "normalize_activations",
    "finetuning_scaling_factor", "reshape_activations",
)  # fmt: skip
LENS_MARKS = ("apply_b_dec_to_input", "sae_lens_version", "normalize_activations", "activation_fn_str", "activation_fn")
SCALES = ("scaling_factor", "finetuning_scaling_factor")
SAE_LENS = {
    "standard": Layout("SAELens standard", "relu", *MATRICES, may=SCALES, fields=LENS_FIELDS),
    "topk": Layout(
        "SAELens topk", "topk", *MATRICES, may=SCALES, fields=(*LENS_FIELDS, "k", "rescale_acts_by_decoder_norm")
    ),
    "jumprelu": Layout(
        "SAELens jumprelu", "jumprelu", *MATRICES, threshold=("threshold", "log_threshold"), may=SCALES, fields=LENS_FIELDS
    ),
}  # fmt: skip

DICTIONARY_LEARNING = {
    "AutoEncoder": Layout("dictionary_learning AutoEncoder", "relu", *LINEAR, "bias", "decoder.weight"),
    "AutoEncoderNew": Layout(
        "dictionary_learning AutoEncoderNew", "relu", *LINEAR, "decoder.bias", "decoder.weight", centred=False
    ),
    "AutoEncoderTopK": Layout(
        "dictionary_learning AutoEncoderTopK", "topk", *LINEAR, "b_dec", "decoder.weight", may=("k", "threshold"), fields=("k",)
    ),
    "BatchTopKSAE": Layout(
        "dictionary_learning BatchTopKSAE", "jumprelu", *LINEAR, "b_dec", "decoder.weight", threshold=("threshold",),
        one_threshold=True, may=("k",), fields=("k",),
    ),
    "MatryoshkaBatchTopKSAE": Layout(
        "dictionary_learning MatryoshkaBatchTopKSAE", "jumprelu", *MATRICES, threshold=("threshold",), one_threshold=True,
        may=("k", "group_sizes"), fields=("k", "group_sizes", "group_fractions", "group_weights"),
    ),
    "JumpReluAutoEncoder": Layout(
        "dictionary_learning JumpReluAutoEncoder", "jumprelu", *MATRICES, centred=False, threshold=("threshold",)
    ),
}  # fmt: skip

OPENAI_TENSORS = ("encoder.weight", "latent_bias", "pre_bias", "decoder.weight")
OPENAI_MAY = (
    "stats_last_nonzero", "latents_activation_frequency", "latents_mean_square",  # of its training
    "decoder.linear.weight",  # the encoder's, where they are tied
    "activation", "activation_state_dict.k", "activation_state_dict.postact_fn",
)  # fmt: skip
OPENAI_FIELDS = ("activation", "k", "normalize")
OPENAI = {
    "TopK": Layout(
        "OpenAI TopK", "topk", *OPENAI_TENSORS, may=OPENAI_MAY, fields=OPENAI_FIELDS, normalisation="layer_norm"
    ),
    "ReLU": Layout("OpenAI ReLU", "relu", *OPENAI_TENSORS, may=OPENAI_MAY, fields=OPENAI_FIELDS),
}  # fmt: skip

SPARSIFY = Layout(
    "sparsify TopK", "topk", *LINEAR, "b_dec", "W_dec", may=("W_skip",), fields=("activation", "k", "transcode", "skip_connection")
)  # fmt: skip

RE_N_Y = {
    "standard": Layout("RE-N-Y/sae standard", "relu", *LINEAR, "bias", "decoder.weight", scaled=True),
    "topk": Layout("RE-N-Y/sae topk", "topk", *LINEAR, "bias", "decoder.weight", fields=("k",)),
    "jumprelu": Layout("RE-N-Y/sae jumprelu", "jumprelu", *LINEAR, "bias", "decoder.weight", threshold=("logthres",)),
}

OWN = {
    "standard": Layout("streamumap standard", "relu", *MATRICES, fields=("normalisation",)),
    "topk": Layout("streamumap topk", "topk", *MATRICES, fields=("k", "normalisation")),
    "jumprelu": Layout(
        "streamumap jumprelu", "jumprelu", *MATRICES, threshold=("threshold",), fields=("normalisation",)
    ),
}

SUPPORTED = (
    f"SAELens ({', '.join(SAE_LENS)}), dictionary_learning ({', '.join(DICTIONARY_LEARNING)}), "
    f"OpenAI ({', '.join(OPENAI)}), sparsify (topk) and RE-N-Y/sae ({', '.join(RE_N_Y)})"
)

SOUNDS = {
    "act", "acts", "activation", "activations", "norm", "normalize", "normalise", "normalization", "scale", "scaling",
    "rescale", "threshold", "thresholds", "bias", "centre", "center", "centered", "mean", "std", "temperature",
    "gate", "gated", "skip", "group", "groups", "topk", "k", "signed", "lookup", "residual",
}  # fmt: skip
"""Words in names of fields of a config that may change encoding."""

OF_TRAINING = {
    "activation_dim", "threshold_beta", "threshold_start_step", "k_anneal_steps", "top_k_aux", "k_aux",
    "dead_feature_threshold", "normalize_decoder", "multi_topk", "normalize_sae_decoder",
    "scale_sparsity_penalty_by_decoder_norm", "decoder_heuristic_init_norm", "decoder_init_norm",
    "jumprelu_init_threshold", "jumprelu_tanh_scale", "noise_scale", "mse_loss_normalization", "lp_norm",
    "use_cached_activations", "cached_activations_path", "new_cached_activations_path", "activations_mixing_fraction",
    "use_sparse_activations", "pre_act_loss_coefficient", "k_decay_steps", "act_store_device",
    "n_batches_for_norm_estimate", "log_activations_store_to_wandb",
}  # fmt: skip
"""Fields with such words that say how an SAE was trained."""


def recognised(checkpoint: SaeCheckpoint) -> Layout:
    """Returns the layout of a checkpoint that is understood whole. Raises InputError, with what is not understood."""
    layout = _layout(checkpoint)
    given = [*checkpoint.arrays, *checkpoint.values]
    threshold = next((name for name in layout.threshold if name in checkpoint.arrays), None)
    there = {*checkpoint.arrays, *(layout.threshold if threshold else ())}
    both = FOR_ALL if set(FOR_ALL) & there else ()
    missing = [name for name in (*layout.must, *both) if name not in there]
    if missing:
        found = f"no {' and no '.join(missing)} among {_listed(given)}"
        raise wrong(checkpoint.name, "tensors", f"those of {layout.name}, {_listed(layout.must)}", found, OTHERWISE)
    unknown = [name for name in given if name not in layout.known]
    if unknown:
        found = f"{_listed(unknown)}, which may change the codes"
        raise wrong(
            checkpoint.name, "tensors", f"only those of {layout.name}, {_listed(layout.known)}", found, OTHERWISE
        )
    fields = [name for name, value in checkpoint.config.items() if _matters(name, value) and name not in layout.fields]
    if fields:
        found = ", ".join(f"{name} {short(checkpoint.config[name])}" for name in fields[:8])
        expected = f"only fields that are understood for {layout.name}"
        raise wrong(
            checkpoint.name, "config", expected, found, f"take them away if they do not change codes, else {OTHERWISE}"
        )
    return layout


def _layout(checkpoint: SaeCheckpoint) -> Layout:
    """Finds the layout by what only its checkpoints have."""
    config, names = checkpoint.config, {*checkpoint.arrays, *checkpoint.values}
    marked = any(name in config for name in LENS_MARKS)
    if "dict_class" in config:
        return _named(checkpoint, "dict_class", DICTIONARY_LEARNING, config["dict_class"])
    if names & {"pre_bias", "latent_bias"} and "W_enc" not in names:
        said = checkpoint.values.get("activation", config.get("activation"))
        return _named(checkpoint, "activation", OPENAI, said)
    if {"encoder.weight", "W_dec"} <= names:
        return SPARSIFY
    if "pages" in config and "encoder.weight" in names:
        kind = (
            "jumprelu" if "logthres" in names or "jumpthreshold" in config else "topk" if "k" in config else "standard"
        )
        return RE_N_Y[kind]
    if "W_enc" in names and set(FOR_ALL) <= names and not marked:
        return _named(checkpoint, "architecture", OWN, config.get("architecture", "topk" if "k" in config else None))
    if "W_enc" in names and (marked or "architecture" in config):
        said = config.get("architecture", "standard")
        is_old_topk = said == "standard" and "topk" in (config.get("activation_fn_str"), config.get("activation_fn"))
        return _named(checkpoint, "architecture", SAE_LENS, "topk" if is_old_topk else said)
    fields = f"the fields {_listed(config)} in its JSON file" if config else "no JSON file beside it"
    found = f"the tensors {_listed(sorted(names))} and {fields}" if names else "no tensors"
    remedy = f"put the config of its project beside it, or {OTHERWISE}"
    raise wrong(checkpoint.name, "layout", f"a checkpoint of {SUPPORTED}", found, remedy)


def _named(checkpoint: SaeCheckpoint, field: str, table: dict[str, Layout], said: Any) -> Layout:
    """Returns the layout that is called so, whole. Raises InputError."""
    if isinstance(said, str) and said in table:
        return table[said]
    found = "none" if said is None else f"{short(said)} with the tensors {_listed(checkpoint.arrays)}"
    remedy = f"say it in the JSON file beside the checkpoint, or {OTHERWISE}" if said is None else OTHERWISE
    raise wrong(checkpoint.name, field, f"one of {', '.join(table)}", found, remedy)


def _matters(name: str, value: Any) -> bool:
    """Tells whether a field of a config may change encoding: by the words of its name, unless it is off."""
    if value in (None, False, "none", "", [], {}) or name in OF_TRAINING:
        return False
    return not SOUNDS.isdisjoint(re.split(r"[_\W]+", name.lower()))


def _listed(names: Iterable[str], most: int = 12) -> str:
    """Spells at most `most` names."""
    shown = [name if len(name) <= 60 else name[:57] + "..." for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
