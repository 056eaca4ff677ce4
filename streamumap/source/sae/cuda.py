"""Rows through an encoder on a GPU, in float32."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from streamumap.source.sae.encoder import LAYER_NORM_EPSILON, Encoder


def codes(
    blocks: Iterable[np.ndarray], encoder: Encoder, device: str
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """As `cpu.codes`."""

    def placed(array: np.ndarray | None) -> torch.Tensor | None:
        return None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(device)

    weights, bias, centre, mean = (placed(a) for a in (encoder.weights, encoder.bias, encoder.centre, encoder.mean))
    threshold, out_scale = placed(encoder.threshold), placed(encoder.out_scale)
    assert weights is not None and bias is not None and centre is not None and mean is not None
    for rows in blocks:
        x = _normalised((torch.from_numpy(rows).to(device) - mean) / encoder.scale, encoder) - centre
        found = torch.addmm(bias, x, weights)
        if threshold is not None:
            found *= found > threshold
        found.relu_()
        if out_scale is not None and encoder.kind != "topk":
            found *= out_scale
        yield _pairs(found, encoder, out_scale)


def _normalised(x: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    if encoder.normalisation == "layer_norm":
        x = x - x.mean(1, keepdim=True)
        return x / (x.std(1, keepdim=True) + LAYER_NORM_EPSILON)
    if encoder.normalisation == "constant_norm_rescale":
        return x * (encoder.n_features**0.5 / x.norm(dim=1, keepdim=True))
    return x


def _pairs(found: torch.Tensor, encoder: Encoder, out_scale: torch.Tensor | None):
    if encoder.kind == "topk":
        values, indices = found.topk(encoder.k)
        indices, order = indices.sort()
        values = values.gather(1, order)
        if out_scale is not None:
            values *= out_scale[indices]
        counts = np.full(len(found), encoder.k)
    else:
        there = found != 0
        counts, indices, values = there.sum(1).cpu().numpy(), there.nonzero()[:, 1], found[there]
    return counts, indices.reshape(-1).cpu().numpy(), values.reshape(-1).cpu().numpy()
