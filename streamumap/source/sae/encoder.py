"""`Encoder`: the arrays of an SAE and the reference implementation of encoding.

TopK (Gao et al., "Scaling and evaluating sparse autoencoders", 2024), ReLU, JumpReLU (Rajamanoharan et al., "Jumping
ahead", 2024).
"""

from dataclasses import dataclass

import numpy as np

LAYER_NORM_EPSILON = 1e-5
"""Epsilon of the layer norm in SAELens."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """Encodes a row x as TopK(activation((normalised((x - mean) / scale) - centre) @ weights + bias) * out_scale). `layout` names
    what its checkpoint is."""

    layout: str
    weights: np.ndarray  # float32 (n_features, n_latents), of any strides
    bias: np.ndarray  # float32 (n_latents,)
    centre: np.ndarray  # float32 (n_features,)
    mean: np.ndarray  # float32 (n_features,)
    scale: float
    kind: str  # "topk", "relu" or "jumprelu"
    k: int  # TopK only
    threshold: np.ndarray | None  # float32 (n_latents,), JumpReLU only
    normalisation: str  # "none", "layer_norm" or "constant_norm_rescale"
    out_scale: np.ndarray | None  # float32 (n_latents,)

    @property
    def n_features(self) -> int:
        return self.weights.shape[0]

    @property
    def n_latents(self) -> int:
        return self.weights.shape[1]


def normalised(rows: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Normalises float32 rows (R, n_features): returns a new array, which the decoder gives back."""
    x = (rows - encoder.mean) / np.float32(encoder.scale)
    if encoder.normalisation == "layer_norm":
        x -= x.mean(axis=1, keepdims=True)
        x /= x.std(axis=1, ddof=1, keepdims=True) + np.float32(LAYER_NORM_EPSILON)
    elif encoder.normalisation == "constant_norm_rescale":
        x *= np.float32(encoder.n_features**0.5) / np.linalg.norm(x, axis=1, keepdims=True)
    return x


def centred(rows: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Normalises float32 rows (R, n_features) and subtracts the centre: returns a new array for the weights to multiply."""
    x = normalised(rows, encoder)
    x -= encoder.centre
    return x


def activate(pre: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Applies the threshold, ReLU and scale to products plus bias, float32 (R, n_latents), in place; TopK comes after."""
    if encoder.threshold is not None:
        pre *= pre > encoder.threshold
    np.maximum(pre, 0, out=pre)
    if encoder.out_scale is not None:
        pre *= encoder.out_scale
    return pre


def encode(rows: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Encodes float32 rows (R, n_features) to codes float32 (R, n_latents): the reference."""
    codes = activate(centred(rows, encoder) @ encoder.weights + encoder.bias, encoder)
    if encoder.kind == "topk":
        indices, values = top_k(codes, encoder.k)
        codes = np.zeros_like(codes)
        np.put_along_axis(codes, indices, values, axis=1)
    return codes


def top_k(codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Selects the k largest of each row: (indices int64, values), (R, k), ascending by index. NaN counts as largest."""
    indices = np.sort(np.argpartition(codes, -k, axis=1)[:, -k:], axis=1)
    return indices, np.take_along_axis(codes, indices, axis=1)
