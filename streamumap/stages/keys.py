"""What the outputs of the stages depend on, as keys: the same key, the same bytes."""

import hashlib
from dataclasses import dataclass

from streamumap import __version__
from streamumap.stages.run import Run
from streamumap.workdir import key_of

LAYOUT_PARAMS = (
    "n_epochs", "min_dist", "spread", "learning_rate", "repulsion_strength", "negative_sample_rate", "n_components", "init", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Keys:
    knn: str
    graph: str
    map: str


def keys_of(run: Run) -> Keys:
    """Those of k-NN graph, fuzzy graph and map, once the rows are read."""
    p = run.params
    reduced = (p.reduce, p.reduce_dims) if p.reduce != "none" else ()
    how = run.given_knn.fingerprint if run.given_knn else run.plan["neighbors"].backend
    dropped = run.kept.rows is not None
    which = [] if run.sample is None else [hashlib.blake2b(run.sample.tobytes(), digest_size=16).hexdigest()]
    knn = key_of(__version__, p.n_neighbors, p.metric, reduced, p.recall, p.seed, how, dropped, *which)
    graph = key_of(knn, p.local_connectivity, p.set_op_mix_ratio)
    layout = run.plan["layout"].backend
    return Keys(knn, graph, key_of(graph, layout, [getattr(p, name) for name in LAYOUT_PARAMS], run.given_start))
