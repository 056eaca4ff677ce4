"""The definition of the layout in plain NumPy: an epoch, and the position of a new row. For small inputs."""

import numpy as np

from streamumap.layout.schedule import ATTRACTION, CLIP, PUSH_SOFTENING, STEP_LIMIT, LayoutSettings, mix32, rates_of

GOLDEN = 0x9E3779B9


def fires(edge: int, weight: int, epoch: int, settings: LayoutSettings) -> bool:
    """Tells whether edge number `edge` of uint16 weight `weight` fires in this epoch: phase + epoch * rate passes a multiple
    of 2^32."""
    if weight < settings.least_weight:
        return False
    rate = weight * settings.rate_scale
    before = (edge * GOLDEN + settings.phase_key() + epoch * rate) & 0xFFFFFFFF
    return before + rate > 0xFFFFFFFF


def pushers(vertex: int, n_pushes: int, epoch: int, settings: LayoutSettings) -> list[int]:
    """Draws the random vertices that push this one away."""
    key = mix32(vertex ^ settings.epoch_key(epoch))
    return [(mix32(key + s * GOLDEN) * settings.n_vertices) >> 32 for s in range(n_pushes)]


def epoch(
    positions: np.ndarray,
    indptr: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    number: int,
    settings: LayoutSettings,
) -> np.ndarray:
    """Returns the positions after epoch `number`, float32 (N, C) like `positions`. CSR graph: indptr int64, targets int32,
    weights uint16."""
    step = settings.step_size(number)
    new = positions.astype(np.float64)
    for i in range(len(positions)):
        edges = [e for e in range(indptr[i], indptr[i + 1]) if fires(e, int(weights[e]), number, settings)]
        move = np.zeros(positions.shape[1])
        for e in edges:
            move += _pull(positions[i].astype(np.float64) - positions[targets[e]], settings)
        for j in pushers(i, len(edges) * settings.n_pushes(number), number, settings):
            move += _push(positions[i].astype(np.float64) - positions[j], settings, settings.push_strength(number))
        move *= step
        length = np.sqrt((move**2).sum())
        new[i] += move * min(1.0, STEP_LIMIT / length) if length > 0 else 0.0
    return new.astype(np.float32)


def embed_rows(
    mapped: np.ndarray, indices: np.ndarray, distances: np.ndarray, weights: np.ndarray, s: LayoutSettings
) -> np.ndarray:
    """Returns the positions, float32 (M, C), of new rows on the map `mapped`, float32 (N, C).

    `indices` int32 (-1: none), `distances` and `weights` float32 (M, k): the nearest rows of the map, nearest first. A new row
    at distance 0 from a row of the map gets its position; a row without neighbours gets NaN."""
    rates, out = rates_of(weights), np.full((len(indices), mapped.shape[1]), np.nan, np.float32)
    for i in np.flatnonzero(indices[:, 0] >= 0):
        position = mapped[indices[i, 0] if distances[i, 0] == 0 else likeliest(mapped, indices[i], weights[i], s)]
        key = 0
        for j in indices[i].tolist():
            key = mix32(key ^ (j & 0xFFFFFFFF))
        for number in range(s.n_epochs if distances[i, 0] > 0 else 0):
            position = position + _step(position.astype(np.float64), mapped, indices[i], rates[i], key, number, s)
        out[i] = position
    return out


def likeliest(mapped: np.ndarray, indices: np.ndarray, weights: np.ndarray, s: LayoutSettings) -> int:
    """Returns the neighbour at whose position the edges of a row fit their weights best. The mean of the neighbours may lie far
    from all of them."""
    neighbors = indices[indices >= 0]
    d2 = ((mapped[neighbors][:, None].astype(np.float64) - mapped[neighbors]) ** 2).sum(2)
    return neighbors[(weights[indices >= 0] / (1 + s.a * d2**s.b)).sum(1).argmax()]


def _step(position, mapped, neighbors, rates, key, number, s):
    edges = [j for j in range(len(neighbors)) if neighbors[j] >= 0 and fires(key + j, int(rates[j]), number, s)]
    move = np.zeros(len(position))
    for j in edges:
        move += _pull(position - mapped[neighbors[j]], s)
    for i in pushers(key, len(edges) * s.negative_sample_rate, number, s):
        move += _push(position - mapped[i], s, s.repulsion_strength)
    move *= s.step_size(number)
    length = np.sqrt((move**2).sum())
    return move * min(1.0, STEP_LIMIT / length) if length > 0 else move


def _pull(difference, s):
    d2 = max((difference**2).sum(), 1e-12)
    factor = -2 * s.a * s.b * d2 ** (s.b - 1) / (1 + s.a * d2**s.b)
    return ATTRACTION * np.clip(factor * difference, -CLIP, CLIP)


def _push(difference, s, strength):
    d2 = max((difference**2).sum(), 1e-12)
    factor = 2 * strength * s.b / ((PUSH_SOFTENING + d2) * (1 + s.a * d2**s.b))
    return np.clip(factor * difference, -CLIP, CLIP)
