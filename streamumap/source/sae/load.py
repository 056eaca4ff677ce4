"""Loads an SAE checkpoint and makes an `Encoder` of it.

Layouts, each as its project writes it:

- RE-N-Y/sae (CLIP and FLUX): `config.json` {features, pages, k} and `model.safetensors` {encoder.weight (pages, features),
  encoder.bias, decoder.weight (features, pages), bias; logthres}; its plain SAE scales codes by the norms of the decoder.
- SAELens: `cfg.json` {architecture, k or activation_fn_kwargs, apply_b_dec_to_input, normalize_activations} and
  `sae_weights.safetensors` {W_enc (features, latents), b_enc, W_dec (latents, features), b_dec, threshold}.
- sparsify (EleutherAI): `cfg.json` {k, transcode} and `sae.safetensors` {encoder.weight, encoder.bias, W_dec, b_dec}.
- dictionary_learning: `config.json` {trainer: {dict_class, k}} and `ae.pt` {encoder.weight, encoder.bias, decoder.weight,
  b_dec or bias or decoder.bias, k, threshold}; its JumpReLU scales codes by the norms of the decoder.
- any of these with `mean` and `scale` of the rows, by which rows are normalised first.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamumap.source.base import widen
from streamumap.source.checks import short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.npy import FileRows
from streamumap.source.formats.safetensors import DTYPES, read_tensors
from streamumap.source.formats.torch_file import load_tensors
from streamumap.source.sae.encoder import Encoder

WEIGHT_FILES = ("sae_weights.safetensors", "sae.safetensors", "model.safetensors", "ae.pt")
CONFIG_FILES = ("cfg.json", "config.json")
MAX_JSON_BYTES = 1 << 20
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")


@dataclass(frozen=True)
class SaeCheckpoint:
    """The float32 arrays of a checkpoint by name, and its configuration, flattened."""

    name: str
    arrays: dict[str, np.ndarray]
    config: dict[str, Any]
    fingerprint: dict


def read_checkpoint(path: str | os.PathLike) -> SaeCheckpoint:
    """Reads a file of weights, or the one in a folder, and the JSON beside it. Raises InputError."""
    path = os.fspath(path)
    file = _weight_file(path) if os.path.isdir(path) else path
    config = _config(file)
    with OpenFile(file, "an SAE checkpoint (.safetensors or .pt)") as opened:
        fingerprint = {"blake2b": opened.sampled_hash(0, 0, opened.n_bytes), "config": config} | opened.identity
        arrays = _pt_arrays(opened) if opened.head(2) == b"PK" else _safetensors_arrays(opened)
    return SaeCheckpoint(file, arrays, config, fingerprint)


def make_encoder(checkpoint: SaeCheckpoint, n_features: int) -> Encoder:
    """Makes the encoder for rows of `n_features` features. Raises InputError if the checkpoint is incomplete or is for rows of
    another width."""
    arrays, config = checkpoint.arrays, checkpoint.config
    weights = _encoder_weights(checkpoint, n_features)
    n_latents = weights.shape[1]
    kind, k, threshold = _activation(checkpoint, n_latents)
    bias = _vector(checkpoint, ("b_enc", "encoder.bias"), n_latents)
    normalisation = config.get("normalize_activations") or "none"
    if normalisation not in NORMALISATIONS or config.get("rescale_acts_by_decoder_norm"):
        found = normalisation if normalisation not in NORMALISATIONS else "rescale_acts_by_decoder_norm"
        remedy = "fold it into the weights before saving"
        raise wrong(checkpoint.name, "normalize_activations", f"one of {', '.join(NORMALISATIONS)}", found, remedy)
    centre = (
        _vector(checkpoint, ("b_dec", "bias"), n_features)
        if _takes_centre_off(config)
        else np.zeros(n_features, np.float32)
    )
    scales = _decoder(checkpoint, n_features, n_latents)
    return Encoder(
        weights=weights, bias=bias, centre=centre, kind=kind, k=k, threshold=threshold,
        mean=_vector(checkpoint, ("mean",), n_features), scale=float(arrays.get("scale", np.ones(1)).reshape(-1)[0]),
        normalisation=normalisation, out_scale=np.linalg.norm(scales, axis=1) if _scales_codes(checkpoint) else None,
    )  # fmt: skip


def decoder_rows(checkpoint: SaeCheckpoint) -> np.ndarray:
    """Returns the directions of the latents, float32 (n_latents, n_features). Raises InputError."""
    for name in ("W_dec", "decoder.weight"):
        if name in checkpoint.arrays:
            weights = checkpoint.arrays[name]
            bias = next((checkpoint.arrays[b] for b in ("b_enc", "encoder.bias") if b in checkpoint.arrays), None)
            n_latents = None if bias is None else bias.size
            is_square = weights.shape[0] == weights.shape[1]
            if n_latents in weights.shape and not is_square:
                return weights if weights.shape[0] == n_latents else weights.T
            return weights.T if name == "decoder.weight" else weights
    raise wrong(
        checkpoint.name, "arrays", "W_dec or decoder.weight", ", ".join(checkpoint.arrays), "give another checkpoint"
    )


def _encoder_weights(checkpoint: SaeCheckpoint, n_features: int) -> np.ndarray:
    """Returns the weights (n_features, n_latents); their shape tells whether they were saved transposed."""
    arrays, name = checkpoint.arrays, checkpoint.name
    if "r_mag" in arrays:
        raise wrong(name, "architecture", "TopK, ReLU or JumpReLU", "a gated one", "give another checkpoint")
    if "encoder.weight" in arrays:
        weights = arrays["encoder.weight"].T
    elif "W_enc" in arrays:
        weights = arrays["W_enc"]
        if weights.ndim == 2 and weights.shape[0] == weights.shape[1] and not _is_sae_lens(checkpoint.config):
            remedy = "put the config of SAELens or dictionary_learning beside it, which say (features, latents)"
            raise wrong(name, "W_enc", "sides of different length, or a config", f"a square of {len(weights)}", remedy)
        if weights.ndim == 2 and weights.shape[0] != n_features and weights.shape[1] == n_features:
            weights = weights.T
    else:
        found = ", ".join(list(arrays)[:8]) or "none"
        raise wrong(name, "arrays", "W_enc or encoder.weight", found, "give the checkpoint of a sparse autoencoder")
    if weights.ndim != 2 or weights.shape[0] != n_features:
        expected = f"one for rows of {n_features} features"
        raise wrong(
            name, "encoder", expected, f"weights {weights.shape}", "give the checkpoint that belongs to these rows"
        )
    return weights


def _activation(checkpoint: SaeCheckpoint, n_latents: int) -> tuple[str, int, np.ndarray | None]:
    """Returns ("topk", k, None), ("relu", 0, None) or ("jumprelu", 0, thresholds)."""
    arrays, config = checkpoint.arrays, checkpoint.config
    named = str(config.get("dict_class") or config.get("architecture") or config.get("activation_fn_str") or "").lower()
    if "gated" in named or config.get("activation") == "groupmax":
        found = named or "groupmax"
        raise wrong(checkpoint.name, "architecture", "TopK, ReLU or JumpReLU", found, "give another checkpoint")
    thresholds = next((arrays[name] for name in ("threshold",) if name in arrays), None)
    for name in ("logthres", "log_threshold"):
        if name in arrays:
            thresholds = np.exp(arrays[name])
    is_batch = "batchtopk" in named.replace("_", "")
    if thresholds is not None and (thresholds.size == n_latents > 1 or (is_batch and float(thresholds.max()) >= 0)):
        return "jumprelu", 0, np.broadcast_to(thresholds.reshape(-1), n_latents).astype(np.float32)
    k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    k = int(arrays["k"].reshape(-1)[0]) if k is None and "k" in arrays else k
    if "topk" in named or str(config.get("activation_fn_str")) == "topk" or k is not None:
        if type(k) is not int or not 1 <= k <= n_latents:
            raise wrong(
                checkpoint.name,
                "k",
                f"1 to {n_latents} active latents",
                k,
                "put it into the JSON beside the checkpoint",
            )
        return "topk", k, None
    return "relu", 0, None


def _takes_centre_off(config: dict[str, Any]) -> bool:
    if config.get("transcode") or config.get("dict_class") == "JumpReluAutoEncoder":
        return False
    return bool(config.get("apply_b_dec_to_input", True))


def _scales_codes(checkpoint: SaeCheckpoint) -> bool:
    """Tells whether codes are multiplied by the norms of the decoder's directions."""
    config = checkpoint.config
    plain = "pages" in config and "k" not in config and "logthres" not in checkpoint.arrays
    return plain or config.get("dict_class") == "JumpReluAutoEncoder"


def _is_sae_lens(config: dict[str, Any]) -> bool:
    known = ("apply_b_dec_to_input", "sae_lens_version", "normalize_activations", "activation_fn_str", "dict_class")
    return any(name in config for name in known)


def _decoder(checkpoint: SaeCheckpoint, n_features: int, n_latents: int) -> np.ndarray:
    if not _scales_codes(checkpoint):
        return np.zeros((0, 1), np.float32)
    rows = decoder_rows(checkpoint)
    if rows.shape != (n_latents, n_features):
        raise wrong(checkpoint.name, "decoder", f"{n_latents} x {n_features}", rows.shape, "give another checkpoint")
    return rows


def _vector(checkpoint: SaeCheckpoint, names: tuple[str, ...], size: int) -> np.ndarray:
    """Returns the first array among `names`, flattened; zeros if there is none. Raises InputError for another size."""
    for name in names:
        if name in checkpoint.arrays:
            vector = checkpoint.arrays[name].reshape(-1)
            if len(vector) != size:
                raise wrong(checkpoint.name, name, f"{size} numbers", len(vector), "give the checkpoint of these rows")
            return vector
    return np.zeros(size, np.float32)


def _weight_file(folder: str) -> str:
    names = sorted(os.listdir(folder))
    found = [name for name in WEIGHT_FILES if name in names]
    found = found or [name for name in names if name.endswith((".safetensors", ".pt", ".pth"))]
    if len(found) != 1:
        expected = f"one checkpoint, such as {WEIGHT_FILES[0]}"
        raise wrong(folder, "--sae", expected, ", ".join(found) or "none", "name the file")
    return os.path.join(folder, found[0])


def _config(file: str) -> dict[str, Any]:
    """Reads the JSON beside the weights, with the fields of its trainer or SAE moved to the top level."""
    folder, stem = os.path.dirname(file), os.path.splitext(os.path.basename(file))[0]
    for name in (f"{stem}.json", *CONFIG_FILES):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            try:
                if os.path.getsize(path) > MAX_JSON_BYTES:
                    raise ValueError("too large")
                with open(path, encoding="utf-8") as opened:
                    config = json.load(opened)
            except (OSError, ValueError, RecursionError) as error:
                raise wrong(path, "config", "JSON", short(str(error)), "mend it or take it away") from error
            if not isinstance(config, dict):
                raise wrong(path, "config", "names and values", short(config), "mend it or take it away")
            inner = config.get("trainer", config.get("sae"))
            return config | (inner if isinstance(inner, dict) else {})
    return {}


def _safetensors_arrays(file: OpenFile) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in read_tensors(file).items():
        if tensor.dtype in DTYPES and len(tensor.shape) <= 2:
            shape = (int(np.prod(tensor.shape[:-1], dtype=np.int64)), tensor.shape[-1]) if tensor.shape else (1, 1)
            dtype = "bfloat16" if tensor.dtype == "BF16" else None
            rows = FileRows(file, name, tensor.start, shape, np.dtype(DTYPES[tensor.dtype]), dtype)
            arrays[name] = widen(rows.read(0, rows.n_rows), rows.dtype).reshape(tensor.shape)
    return arrays


def _pt_arrays(file: OpenFile) -> dict[str, np.ndarray]:
    try:
        return {name: tensor.float().numpy().copy() for name, tensor in load_tensors(file).items() if tensor.ndim <= 2}
    except (TypeError, RuntimeError) as error:
        raise wrong(
            file.name, "tensors", "dense ones", short(str(error)), "save the state_dict of the autoencoder"
        ) from error
