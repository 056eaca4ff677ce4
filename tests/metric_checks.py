"""Metrics that nobody has, made as one would be added, and how every backend is asked."""

from dataclasses import replace

import numpy as np
from neighbor_checks import search_request

from streamumap.neighbors.metric import COSINE, EUCLIDEAN, Metric
from streamumap.neighbors.protocol import NearestRequest
from streamumap.source.formats.array import ArraySource


def _angle(squares, xp):
    """Half turns, from the chord between two rows of length 1."""
    return xp.where(squares < xp.inf, 2 / np.pi * xp.arcsin(xp.clip(xp.sqrt(squares) / 2, 0, 1)), xp.inf)


MADE_UP = {
    "angular": Metric(
        "angular", True, _angle, lambda rows, others: np.arccos(1 - COSINE.reference(rows, others)) / np.pi
    ),
    "squared": Metric(
        "squared", False, lambda squares, xp: 1 * squares, lambda rows, others: EUCLIDEAN.reference(rows, others) ** 2
    ),
}


def unknown(metric):
    """Returns a metric under a name that no backend has."""
    return replace(metric, name="unknown", backends=())


def searched(backend, rows, k, blocks, **more):
    return backend.search(search_request(rows, k, blocks, **more))


def others_of(backend, rows, new, k):
    """The neighbours of float32 rows among ComparedRows, by a NearestBackend."""
    with backend.open_search(NearestRequest(rows, ArraySource(new), k, len(new), 64)) as search:
        return search(0, len(new))
