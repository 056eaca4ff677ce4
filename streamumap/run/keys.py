"""Keys of the results of stages. Equal keys mean equal bytes, so a result under the same key is used again."""

import hashlib
from dataclasses import dataclass

import numpy as np

from streamumap import __version__
from streamumap.run.run import Run
from streamumap.store.workdir import key_of

KEYED_LAYOUT_PARAMS = (
    "n_epochs", "min_dist", "spread", "learning_rate", "repulsion_strength", "negative_sample_rate", "n_components", "init", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Keys:
    """A key for the result of each stage that can be used again."""

    reduced: str
    knn: str
    graph: str
    map: str
    final_map: str  # the map with the rows beside the sample, where these get a position


def keys_of(run: Run) -> Keys:
    """The keys of a run, once its rows are read."""
    p = run.params
    reduced = {"none": (), "pca": (p.reduce, p.reduce_dims), "ica": (p.reduce, p.reduce_dims, p.seed)}[p.reduce]
    how = run.inputs.knn.fingerprint if run.inputs.knn else run.plan["neighbors"].backend
    rows = rows_key(run)
    by = run.plan["reduce"].backend if reduced else ""
    knn = key_of(__version__, p.n_neighbors, p.metric, reduced, p.recall, p.seed, how, rows)
    graph = key_of(knn, p.local_connectivity, p.set_op_mix_ratio)
    settings = [getattr(p, name) for name in KEYED_LAYOUT_PARAMS]
    map_key = key_of(graph, run.plan["layout"].backend, settings, run.given_start)
    return Keys(
        reduced=key_of(__version__, reduced, p.metric, by, rows),
        knn=knn,
        graph=graph,
        map=map_key,
        final_map=map_key
        if run.new is None
        else key_of(map_key, run.plan["place"].backend, hash_of(run.new.kept.rows)),
    )


def input_key(run: Run) -> str:
    """The key of the pass over the input."""
    return key_of(__version__, run.plan["read"].backend, hash_of(run.inputs.sample))


def rows_key(run: Run) -> str:
    """The key of the choice of rows that are mapped."""
    return hash_of(run.kept.rows)


def hash_of(rows: np.ndarray | None) -> str:
    """A digest of row numbers; "" for None, which means all rows."""
    return "" if rows is None else hashlib.blake2b(rows.tobytes(), digest_size=16).hexdigest()
