"""Weights of edges from distances on a GPU, in torch: held to `reference.py` by tests."""

import numpy as np
import torch
from torch import Tensor

from streamumap.graph.reference import MIN_SCALE, N_BISECTIONS, TOLERANCE


def sum_finite(distances: Tensor) -> tuple[float, int]:
    """Adds up the finite distances of a part, and counts them."""
    finite = distances.isfinite()
    return float(torch.where(finite, distances, 0.0).sum(dtype=torch.float64)), int(finite.sum())


def weights_of(distances: Tensor, mean_distance: float, local_connectivity: float) -> Tensor:
    """Returns the weights of the edges of these rows: float64 (rows, k)."""
    rho, sigma = smooth_knn(distances, mean_distance, local_connectivity)
    excess = (distances.double() - rho.double()[:, None]).clamp_(min=0.0)
    return excess.div_(-sigma.double()[:, None]).exp_()


def smooth_knn(distances: Tensor, mean_distance: float, local_connectivity: float) -> tuple[Tensor, Tensor]:
    """`reference.smooth_knn` over tensors."""
    rho = _rho(distances, local_connectivity)
    sigma = _sigma(distances[:, 1:], rho.double(), float(np.log2(distances.shape[1])))
    finite = distances.isfinite()
    mean = torch.where(finite, distances, 0.0).sum(1, dtype=torch.float64) / finite.sum(1).clamp(min=1)
    return rho, torch.maximum(sigma, MIN_SCALE * torch.where(rho > 0, mean, mean_distance)).float()


def _rho(distances: Tensor, local_connectivity: float) -> Tensor:
    positive = (distances > 0) & (distances < torch.inf)
    rank = positive.cumsum(1, dtype=torch.int32)
    n_positive = rank[:, -1]

    def at(number) -> Tensor:
        """Returns the positive distance with this number, counted from 1."""
        return torch.where(positive & (rank == number), distances, 0.0).sum(1, dtype=torch.float64)

    whole = int(np.floor(local_connectivity))
    part = local_connectivity - whole
    if whole == 0:
        rho = part * at(1)
    elif part <= TOLERANCE:
        rho = at(whole)
    else:
        rho = at(whole) + part * (at(whole + 1) - at(whole))
    too_few = (n_positive == 0) | (n_positive < local_connectivity)
    return torch.where(too_few, at(n_positive[:, None]), rho).float()


def _sigma(others: Tensor, rho: Tensor, target: float) -> Tensor:
    """Bisects in float64, all rows at once; a row that has converged stays."""
    excess = (others.double() - rho[:, None]).clamp_(min=0.0)
    low, middle = torch.zeros_like(rho), torch.ones_like(rho)
    high, converged = torch.full_like(rho, torch.inf), torch.zeros_like(rho, dtype=torch.bool)
    for _ in range(N_BISECTIONS):
        total = (excess / -middle[:, None]).exp_().sum(1)
        converged |= (total - target).abs() < TOLERANCE
        high = torch.where(total > target, middle, high)
        low = torch.where(total > target, low, middle)
        middle = torch.where(converged, middle, torch.where(high == torch.inf, middle * 2, (low + high) / 2))
    return middle
