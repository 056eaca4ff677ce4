"""Positions and a report, to make the files of a run that pictures need."""

import numpy as np

REPORT = {
    "input": {"name": "/data/a b.npy", "rows": 1234, "features": 3072, "dtype": "float16"},
    "params": {"metric": "cosine", "n_neighbors": 15},
    "quality": {"knn_recall": {"value": 0.98765}, "trustworthiness": {"value": 0.9}},
}


def cloud(n, seed=0, columns=2):
    """Normal positions (n, columns) float32."""
    return np.random.default_rng(seed).normal(size=(n, columns)).astype(np.float32)
