"""cuML's layout on our k-NN graph, for users who want exactly its behaviour. cuML makes its own fuzzy graph and all epochs in
one call."""

import numpy as np

from streamumap.errors import InputError
from streamumap.layout.schedule import LayoutSettings


def layout(
    knn_indices: np.ndarray,
    knn_distances: np.ndarray,
    start: np.ndarray,
    s: LayoutSettings,
    local_connectivity: float,
    set_op_mix_ratio: float,
) -> np.ndarray:
    """Returns the map, float32 (N, n_components), from a k-NN graph, int32 and float32 (N, k) on the host, and first positions
    `start`. Raises InputError when cuML is missing or cannot take the graph.

    With a seed, as here, cuML's result is reproducible and slower.
    """
    try:
        from cuml.manifold import UMAP
    except ImportError as e:
        raise InputError(
            f"--layout: expected cuML, found none ({e}); pip install 'streamumap[cuml]' or use --layout auto."
        ) from e
    if (knn_indices < 0).any():
        raise InputError(
            "--layout: cuML takes no rows with fewer than n_neighbors neighbours, this graph has some; use --layout auto."
        )
    model = UMAP(
        n_neighbors=knn_indices.shape[1], n_components=start.shape[1], n_epochs=s.n_epochs, a=s.a, b=s.b, init=start,
        learning_rate=s.learning_rate, repulsion_strength=s.repulsion_strength, negative_sample_rate=s.negative_sample_rate,
        local_connectivity=local_connectivity, set_op_mix_ratio=set_op_mix_ratio, random_state=s.seed & 0x7FFFFFFF,
        precomputed_knn=(knn_indices, knn_distances), output_type="numpy",
    )  # fmt: skip
    return np.ascontiguousarray(model.fit_transform(start), np.float32)
