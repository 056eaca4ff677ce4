"""Makes an `Encoder` of an SAE checkpoint, as its layout and its config say."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from streamumap.source.checks import short, wrong
from streamumap.source.sae.checkpoint import SaeCheckpoint
from streamumap.source.sae.encoder import Encoder
from streamumap.source.sae.layouts import LENS_MARKS, OPENAI, OTHERWISE, SCALES, SPARSIFY, Layout, recognised

NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
THESE_ROWS = "give the checkpoint that belongs to these rows"


def make_encoder(checkpoint: SaeCheckpoint, n_features: int) -> Encoder:
    """Makes the encoder for rows of `n_features` features. Raises InputError if the checkpoint is not understood whole, is
    incomplete or is for rows of another width."""
    layout = recognised(checkpoint)
    weights = _encoder_weights(checkpoint, layout, n_features)
    n_latents = weights.shape[1]
    _check_activation(checkpoint, layout)
    normalisation = _normalisation(checkpoint, layout)
    centred = _is_centred(checkpoint, layout)
    zeros = np.zeros(n_features, np.float32)
    return Encoder(
        layout=layout.name,
        weights=weights,
        bias=_vector(checkpoint, layout.bias, n_latents),
        centre=_vector(checkpoint, layout.offset, n_features) if centred else zeros,
        kind=layout.kind,
        k=_k(checkpoint, n_latents) if layout.kind == "topk" else 0,
        threshold=_thresholds(checkpoint, layout, n_latents),
        mean=_vector(checkpoint, "mean", n_features) if "mean" in checkpoint.arrays else zeros,
        scale=_scale(checkpoint),
        normalisation=normalisation,
        out_scale=_lengths(checkpoint, n_features, n_latents) if _is_scaled(checkpoint, layout) else None,
    )


def decoder_rows(checkpoint: SaeCheckpoint) -> np.ndarray:
    """Returns the directions of the latents, float32 (n_latents, n_features). Raises InputError."""
    for name in ("W_dec", "decoder.weight"):
        if name in checkpoint.arrays:
            weights = checkpoint.arrays[name]
            if weights.ndim != 2:
                raise wrong(checkpoint.name, name, "2 dimensions", weights.ndim, "give another checkpoint")
            biases = (bias for bias in ("b_enc", "encoder.bias", "latent_bias") if bias in checkpoint.arrays)
            n_latents = next((checkpoint.arrays[bias].size for bias in biases), None)
            is_square = weights.shape[0] == weights.shape[1]
            if n_latents in weights.shape and not is_square:
                return weights if weights.shape[0] == n_latents else weights.T
            return weights.T if name == "decoder.weight" else weights
    raise wrong(
        checkpoint.name, "arrays", "W_dec or decoder.weight", ", ".join(checkpoint.arrays), "give another checkpoint"
    )


def decoder_of(checkpoint: SaeCheckpoint, encoder: Encoder) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the directions of the latents and what is added to their sum; None if the checkpoint has no decoder of its own
    rows."""
    layout, arrays = recognised(checkpoint), checkpoint.arrays
    skips = checkpoint.config.get("transcode") or "W_skip" in arrays
    if skips or layout.decoder not in arrays:
        return None
    directions = _directions(checkpoint, encoder.n_features, encoder.n_latents)
    return directions, _vector(checkpoint, layout.offset, encoder.n_features)


def _encoder_weights(checkpoint: SaeCheckpoint, layout: Layout, n_features: int) -> np.ndarray:
    """Returns the weights (n_features, n_latents); their shape tells whether W_enc was saved transposed."""
    weights, name = checkpoint.arrays[layout.weights], checkpoint.name
    if layout.weights == "encoder.weight":
        weights = weights.T
    elif weights.ndim == 2 and weights.shape[0] == weights.shape[1]:
        if not any(field in checkpoint.config for field in (*LENS_MARKS, "dict_class")):
            remedy = "put the config of SAELens or dictionary_learning beside it, which say (features, latents)"
            raise wrong(name, "W_enc", "sides of different length, or a config", f"a square of {len(weights)}", remedy)
    elif weights.ndim == 2 and weights.shape[0] != n_features and weights.shape[1] == n_features:
        weights = weights.T
    if weights.ndim != 2 or weights.shape[0] != n_features:
        raise wrong(name, "encoder", f"one for rows of {n_features} features", f"weights {weights.shape}", THESE_ROWS)
    return weights


def _check_activation(checkpoint: SaeCheckpoint, layout: Layout) -> None:
    """Raises InputError if the config names another activation than that of the layout."""
    config = checkpoint.config
    allowed = {"relu": ("relu",), "jumprelu": ("relu", "jumprelu"), "topk": ("topk",)}[layout.kind]
    if layout is SPARSIFY:
        _check(checkpoint, "activation", config.get("activation", "topk"), allowed)
    elif layout is OPENAI["TopK"]:
        name = "activation_state_dict.postact_fn"
        _check(checkpoint, name, checkpoint.values.get(name, "ReLU"), ("ReLU",))
    else:
        for name in ("activation_fn", "activation_fn_str"):
            _check(checkpoint, name, config.get(name) or allowed[0], allowed)
    expected = ("k",) if layout.kind == "topk" else ()
    others = [name for name in _arguments(checkpoint) if name not in expected]
    if others:
        expected_text = " or ".join((*expected, "nothing"))
        raise wrong(checkpoint.name, "activation_fn_kwargs", expected_text, ", ".join(others), OTHERWISE)
    for name in SCALES:
        if name in checkpoint.arrays and not np.all(checkpoint.arrays[name] == 1):
            raise wrong(checkpoint.name, name, "ones", "other numbers", "fold it into the weights before saving")


def _check(checkpoint: SaeCheckpoint, field: str, found: Any, allowed: Iterable[Any]) -> None:
    """Raises InputError unless the value is one of those allowed, whole and of the same type."""
    if not any(type(found) is type(value) and found == value for value in allowed):
        raise wrong(checkpoint.name, field, " or ".join(map(str, allowed)), short(found), OTHERWISE)


def _arguments(checkpoint: SaeCheckpoint) -> dict[str, Any]:
    """Returns the arguments of the activation, as SAELens saved them before its version 6."""
    found = checkpoint.config.get("activation_fn_kwargs") or {}
    if not isinstance(found, dict):
        raise wrong(checkpoint.name, "activation_fn_kwargs", "names and values", short(found), OTHERWISE)
    return found


def _k(checkpoint: SaeCheckpoint, n_latents: int) -> int:
    """Returns the number of active latents. All places that say it must agree."""
    arrays, name = checkpoint.arrays, "activation_state_dict.k"
    said = {
        "k": checkpoint.config.get("k"),
        "activation_fn_kwargs.k": _arguments(checkpoint).get("k"),
        "the tensor k": arrays["k"].reshape(-1)[0].item() if "k" in arrays and arrays["k"].size else None,
        name: checkpoint.values.get(name),
    }
    said = {place: value for place, value in said.items() if value is not None}
    if len({*map(repr, map(_whole, said.values()))}) > 1:
        found = ", ".join(f"{value} in {place}" for place, value in said.items())
        raise wrong(checkpoint.name, "k", "one number of active latents", found, "mend the JSON beside the checkpoint")
    k = _whole(next(iter(said.values()), None))
    if type(k) is not int or not 1 <= k <= n_latents:
        remedy = "put it into the JSON beside the checkpoint"
        raise wrong(checkpoint.name, "k", f"1 to {n_latents} active latents", short(k), remedy)
    return k


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _thresholds(checkpoint: SaeCheckpoint, layout: Layout, n_latents: int) -> np.ndarray | None:
    """Returns the thresholds of JumpReLU, (n_latents,), or None."""
    name = next((name for name in layout.threshold if name in checkpoint.arrays), None)
    if name is None:
        return None
    found = checkpoint.arrays[name]
    if layout.one_threshold:
        if found.size != 1 or not float(found.reshape(-1)[0]) >= 0:
            remedy = "train on past threshold_start_step: until then it has none, and its codes depend on the batch"
            raise wrong(checkpoint.name, name, "one number from 0", short(found.reshape(-1)[:3].tolist()), remedy)
        return np.full(n_latents, found.reshape(-1)[0], np.float32)
    found = _vector(checkpoint, name, n_latents)
    return found if name == "threshold" else np.exp(found)


def _normalisation(checkpoint: SaeCheckpoint, layout: Layout) -> str:
    if "normalize" in layout.fields:
        said = checkpoint.config.get("normalize")
        _check(checkpoint, "normalize", said, (None, True, False))
        return layout.normalisation if said is None else "layer_norm" if said else "none"
    found = checkpoint.config.get("normalize_activations") or "none"
    if found not in NORMALISATIONS:
        remedy = "fold it into the weights before saving"
        expected = f"one of {', '.join(NORMALISATIONS)}"
        raise wrong(checkpoint.name, "normalize_activations", expected, short(found), remedy)
    return found


def _is_centred(checkpoint: SaeCheckpoint, layout: Layout) -> bool:
    """Tells whether the decoder's offset is subtracted from the rows."""
    if layout is SPARSIFY:
        return not _flag(checkpoint, "transcode", False)
    if "apply_b_dec_to_input" in layout.fields:
        return _flag(checkpoint, "apply_b_dec_to_input", True)
    return layout.centred


def _is_scaled(checkpoint: SaeCheckpoint, layout: Layout) -> bool:
    return layout.scaled or (layout.kind == "topk" and _flag(checkpoint, "rescale_acts_by_decoder_norm", False))


def _flag(checkpoint: SaeCheckpoint, field: str, default: bool) -> bool:
    found = checkpoint.config.get(field)
    _check(checkpoint, field, found, (None, True, False))
    return default if found is None else found


def _lengths(checkpoint: SaeCheckpoint, n_features: int, n_latents: int) -> np.ndarray:
    """Returns the lengths of the decoder's directions, (n_latents,)."""
    return np.linalg.norm(_directions(checkpoint, n_features, n_latents), axis=1)


def _directions(checkpoint: SaeCheckpoint, n_features: int, n_latents: int) -> np.ndarray:
    rows = decoder_rows(checkpoint)
    if rows.shape != (n_latents, n_features):
        raise wrong(checkpoint.name, "decoder", f"{n_latents} x {n_features}", rows.shape, "give another checkpoint")
    return rows


def _scale(checkpoint: SaeCheckpoint) -> float:
    found = checkpoint.arrays.get("scale", np.ones(1))
    if found.size != 1 or not np.isfinite(found).all() or not found.all():
        raise wrong(checkpoint.name, "scale", "one number, not 0", short(found.reshape(-1)[:3].tolist()), THESE_ROWS)
    return float(found.reshape(-1)[0])


def _vector(checkpoint: SaeCheckpoint, name: str, size: int) -> np.ndarray:
    """Returns the array of this name, flattened. Raises InputError for another size."""
    vector = checkpoint.arrays[name].reshape(-1) if name in checkpoint.arrays else None
    if vector is None or len(vector) != size:
        found = "none" if vector is None else len(vector)
        raise wrong(checkpoint.name, name, f"{size} numbers", found, THESE_ROWS)
    return vector
