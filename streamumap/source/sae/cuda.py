"""Encodes rows on a GPU, in float32."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from streamumap.source.sae.encoder import LAYER_NORM_EPSILON, Encoder


def codes(
    blocks: Iterable[np.ndarray], encoder: Encoder, device: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Encodes blocks of rows like `cpu.codes`, on `device`."""

    def to_device(array: np.ndarray | None) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(device)

    weights, bias, centre, mean = (to_device(a) for a in (encoder.weights, encoder.bias, encoder.centre, encoder.mean))
    threshold, out_scale = to_device(encoder.threshold), to_device(encoder.out_scale)
    assert weights is not None and bias is not None and centre is not None and mean is not None
    for rows in blocks:
        x = _normalised((torch.from_numpy(rows).to(device) - mean) / encoder.scale, encoder) - centre
        activations = torch.addmm(bias, x, weights)
        if threshold is not None:
            activations *= activations > threshold
        activations.relu_()
        if out_scale is not None:
            activations *= out_scale
        yield _pairs(activations, encoder)


def _normalised(x: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    if encoder.normalisation == "layer_norm":
        x = x - x.mean(1, keepdim=True)
        return x / (x.std(1, keepdim=True) + LAYER_NORM_EPSILON)
    if encoder.normalisation == "constant_norm_rescale":
        return x * (encoder.n_features**0.5 / x.norm(dim=1, keepdim=True))
    return x


def _pairs(activations: torch.Tensor, encoder: Encoder):
    if encoder.kind == "topk":
        values, indices = activations.topk(encoder.k)
        indices, order = indices.sort()
        values = values.gather(1, order)
        counts = np.full(len(activations), encoder.k)
    else:
        nonzero_mask = activations != 0
        counts, indices, values = (
            nonzero_mask.sum(1).cpu().numpy(),
            nonzero_mask.nonzero()[:, 1],
            activations[nonzero_mask],
        )
    return counts, indices.reshape(-1).cpu().numpy(), values.reshape(-1).cpu().numpy()
