"""What the outputs of the stages depend on, as keys: the same key, the same bytes."""

import hashlib
from dataclasses import dataclass

import numpy as np

from streamumap import __version__
from streamumap.run.run import Run
from streamumap.store.workdir import key_of

LAYOUT_PARAMS = (
    "n_epochs", "min_dist", "spread", "learning_rate", "repulsion_strength", "negative_sample_rate", "n_components", "init", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Keys:
    reduced: str
    knn: str
    graph: str
    map: str
    placed: str  # the map with the rows that are placed on it


def keys_of(run: Run) -> Keys:
    """Those of reduced rows, k-NN graph, fuzzy graph, map and rows placed on it, once the rows are read."""
    p = run.params
    reduced = {"none": (), "pca": (p.reduce, p.reduce_dims), "ica": (p.reduce, p.reduce_dims, p.seed)}[p.reduce]
    how = run.given_knn.fingerprint if run.given_knn else run.plan["neighbors"].backend
    rows = rows_key(run)
    by = run.plan["reduce"].backend if reduced else ""
    knn = key_of(__version__, p.n_neighbors, p.metric, reduced, p.recall, p.seed, how, rows)
    graph = key_of(knn, p.local_connectivity, p.set_op_mix_ratio)
    settings = [getattr(p, name) for name in LAYOUT_PARAMS]
    drawn = key_of(graph, run.plan["layout"].backend, settings, run.given_start)
    return Keys(
        reduced=key_of(__version__, reduced, p.metric, by, rows),
        knn=knn,
        graph=graph,
        map=drawn,
        placed=drawn if run.new is None else key_of(drawn, run.plan["place"].backend, hash_of(run.new.kept.rows)),
    )


def input_key(run: Run) -> str:
    """Of what is read of the input, before anything is known of it."""
    return key_of(__version__, run.plan["read"].backend, hash_of(run.sample))


def rows_key(run: Run) -> str:
    """Of the rows that are in the map."""
    return hash_of(run.kept.rows)


def hash_of(rows: np.ndarray | None) -> str:
    return "" if rows is None else hashlib.blake2b(rows.tobytes(), digest_size=16).hexdigest()
