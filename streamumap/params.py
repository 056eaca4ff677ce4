"""Every parameter of the method, with its default, range, unit and origin."""

from dataclasses import asdict, dataclass, field, fields

from streamumap.errors import InputError

UMAP = "umap-learn"
OURS = "streamumap"


def knob(default, help, *, low=None, high=None, choices=None, unit="", source=UMAP):
    """Makes a field of Params. `low` and `high` are inclusive."""
    return field(
        default=default, metadata=dict(help=help, low=low, high=high, choices=choices, unit=unit, source=source)
    )


@dataclass(frozen=True)
class Params:
    """The parameters that decide what the map is, not how much memory it may take. Raises InputError where one is out of range."""

    n_neighbors: int = knob(15, "Neighbours of a row, itself included.", low=2, high=1000)
    min_dist: float = knob(0.1, "Smallest distance of two points on the map.", low=0.0, high=100.0, unit="map units")
    spread: float = knob(1.0, "Scale of the map; min_dist may not exceed it.", low=1e-3, high=100.0, unit="map units")
    n_components: int = knob(2, "Dimensions of the map.", low=1, high=64)
    metric: str = knob("euclidean", "Distance between rows.", choices=("euclidean", "cosine"))
    n_epochs: int | None = knob(None, "Epochs of the layout. Default: 500.", low=1, high=100_000, unit="epochs")
    init: str = knob(
        "auto",
        "First positions of the coarsest level of the graph, or of the rows where they are fewer than 512; auto is pca. Or the path of a .npy "
        "file of positions, which are scaled.",
        choices=("auto", "pca", "spectral", "random"),
    )
    learning_rate: float = knob(1.0, "First step size of the layout.", low=1e-6, high=1e3)
    repulsion_strength: float = knob(1.0, "Weight of repulsion.", low=0.0, high=1e3)
    negative_sample_rate: int = knob(5, "Random rows pushed away for each neighbour pulled.", low=0, high=1000)
    local_connectivity: float = knob(1.0, "Neighbours a row is fully connected to.", low=0.0, high=100.0)
    set_op_mix_ratio: float = knob(
        1.0, "Fuzzy union (1) to fuzzy intersection (0) of the two directions.", low=0.0, high=1.0
    )
    neighbors: str = knob(
        "auto",
        "Backend of the k-NN search; auto: cuda on a GPU, else packed for rows that are mostly zeros and dense for others.",
        choices=("auto", "packed", "dense", "cuda", "cuvs"),
        source=OURS,
    )
    layout: str = knob(
        "auto",
        "Backend of the layout; auto: cuda on a GPU, else cpu.",
        choices=("auto", "cpu", "cuda", "cuml"),
        source=OURS,
    )
    reduce: str = knob(
        "none",
        "Reduce the features before the search for neighbours; pca: to principal components; ica: to independent components (FastICA), "
        "which all have the same weight.",
        choices=("none", "pca", "ica"),
        source=OURS,
    )
    reduce_dims: int = knob(512, "Dimensions kept by --reduce.", low=1, high=1_000_000, unit="features", source=OURS)
    recall: float = knob(
        0.95, "Floor for the recall of the k-NN graph, measured on sampled rows.", low=0.0, high=1.0, source=OURS
    )
    seed: int = knob(42, "Seed of everything random.", low=0, high=2**63 - 1, source="umap-learn's random_state")

    def __post_init__(self):
        for f in fields(self):
            _check(
                f.name, getattr(self, f.name), f.metadata, whole=f.type in (int, int | None), optional=f.default is None
            )
        if self.min_dist > self.spread:
            raise InputError(
                f"min_dist: expected at most spread ({self.spread:g}), found {self.min_dist:g}; lower it or raise spread."
            )

    def to_json(self) -> dict:
        return asdict(self)


def _check(name, value, metadata, whole, optional):
    if value is None and optional:
        return
    if metadata["choices"] is not None:
        if value not in metadata["choices"] and not (name == "init" and str(value).endswith(".npy")):
            raise InputError(
                f"{name}: expected one of {', '.join(metadata['choices'])}, found {value!r}; choose one of these."
            )
        return
    low, high = metadata["low"], metadata["high"]
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
        kind = "whole number" if whole else "number"
        raise InputError(
            f"{name}: expected a {kind} from {low:g} to {high:g}, found {value!r}; give one in this range."
        )
