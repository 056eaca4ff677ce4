"""The parts of the layout that all backends share: constants, the curve, step sizes, and which edge fires when."""

import math
from dataclasses import dataclass, replace

import numpy as np

ATTRACTION = 0.6
"""Weight of a pull. When an edge fires, umap-learn moves both its ends: a vertex is pulled twice, each time from fresh
positions, as with a weight of 2. Here a vertex adds up all its pulls from the positions before the epoch, and 2 overshoots.

The effect of each constant (`bench/layout.py --try NAME=VALUE`; MiniLM embeddings of 63,666 texts and
Fashion-MNIST, exact graphs, one seed, 3,000 rows; standard errors about 0.002, 0.004, 0.002, 0.004 and 0.0005, 0.0014,
0.0005, 0.003). docs/benchmarks.md has three seeds of six data sets beside umap-learn and cuML, and curves.

                          MiniLM: continuity  torn   trust  pres.   Fashion: continuity  torn   trust  pres.
    the constants below           0.946       0.152  0.953  0.347            0.991       0.019  0.982  0.169
    ATTRACTION 0.3                0.946       0.157  0.953  0.361            0.991       0.024  0.984  0.185
    ATTRACTION 1.2                0.948       0.146  0.938  0.325
    FIRST_REPULSION 1             0.944       0.153  0.963  0.363            0.990       0.019  0.984  0.175
    FIRST_REPULSION 0.1           0.944       0.154  0.954  0.350            0.991       0.019  0.982  0.172
    REPULSION_POWER 1             0.951       0.150  0.905  0.279            0.992       0.012  0.975  0.138
    REPULSION_POWER 2             0.947       0.157  0.935  0.324            0.992       0.016  0.979  0.158
    STEP_POWER 1                  0.946       0.152  0.953  0.338
    umap-learn                    0.940       0.144  0.924  0.267            0.992       0.019  0.976  0.130

More attraction, and repulsion that stays weak for longer, mend tears and lose neighbours. Of the values that tear no curve,
these keep the most neighbours (with FIRST_REPULSION 1 a line of 10,000 points is cut in 4 places).
`repulsion_strength` 0.3 restores umap-learn's ratio of attraction to repulsion."""

CLIP = 4.0
"""Largest pull or push along one axis, before the step size (umap-learn)."""

STEP_LIMIT = 4.0
"""Longest move of a vertex in one epoch, in map units. It keeps a hub that adds up a thousand pulls on the map."""

STEP_POWER = 2
"""Exponent of the falling step size. Small last steps keep what random pushes would shake apart: bench/LOG.md has 1 to 6."""

FIRST_REPULSION = 0.02
"""Share of `repulsion_strength` in the first epoch; it grows geometrically to 1 in the last. Neighbours come together before
they are pushed apart; with full repulsion from the start, a curve is cut wherever it crosses itself. The idea is the early
exaggeration of t-SNE (van der Maaten & Hinton 2008); Böhm, Berens & Kobak 2022 (arXiv:2007.08902) describe the effect of more
attraction."""

REPULSION_POWER = 4
"""Exponent of the growth of repulsion: its share is FIRST_REPULSION^(left^REPULSION_POWER), `left` being the share of the
epochs that is left."""

PUSH_SOFTENING = 1e-3
"""Added to the squared distance in a push (umap-learn)."""


DEFAULT_EPOCHS = 500
"""Epochs where none are asked for. umap-learn makes 500 up to 10,000 rows and 200 beyond. On 341,479 rows and two cores 500
take 50 CPU seconds, umap-learn's 200 take 143."""


@dataclass(frozen=True)
class LayoutSettings:
    """The numbers that define one layout. `rate_scale` turns a uint16 weight into a uint32 rate; edges lighter than
    `least_weight` never fire."""

    a: float
    b: float
    n_epochs: int
    learning_rate: float
    repulsion_strength: float
    negative_sample_rate: int
    seed: int
    n_vertices: int
    rate_scale: int
    least_weight: int

    def step_size(self, epoch: int) -> float:
        """Step size, from `learning_rate` down to 0 with the square of the share of epochs left (umap-learn: linearly)."""
        return self.learning_rate * (1.0 - epoch / self.n_epochs) ** STEP_POWER

    def repulsion_share(self, epoch: int) -> float:
        """Share of `repulsion_strength` in this epoch, from FIRST_REPULSION up to 1."""
        return FIRST_REPULSION ** ((1.0 - epoch / self.n_epochs) ** REPULSION_POWER)

    def n_pushes(self, epoch: int) -> int:
        """Random vertices that push for each pull in this epoch: fewer while repulsion is weak."""
        return math.ceil(self.negative_sample_rate * self.repulsion_share(epoch))

    def push_strength(self, epoch: int) -> float:
        """Weight of one push. All pushes of the epoch together have its share of the repulsion."""
        share = self.negative_sample_rate * self.repulsion_share(epoch) / max(self.n_pushes(epoch), 1)
        return self.repulsion_strength * share

    def epoch_key(self, epoch: int) -> int:
        """Seed of all random numbers of this epoch, a uint32."""
        return mix32(epoch * 0x9E3779B9 + mix32(self.seed & 0xFFFFFFFF) + mix32(self.seed >> 32))

    def phase_key(self) -> int:
        """Shift of the epochs in which edges fire, a uint32."""
        return mix32(self.seed ^ 0x5BD1E995)


def layout_settings(
    n_vertices, max_weight, *, n_epochs, min_dist, spread, learning_rate, repulsion_strength, negative_sample_rate, seed
) -> LayoutSettings:
    """Makes the settings of a layout. `max_weight` is the largest uint16 weight of the graph; without `n_epochs` there are
    DEFAULT_EPOCHS."""
    a, b = fit_ab(min_dist, spread)
    n_epochs = DEFAULT_EPOCHS if n_epochs is None else n_epochs
    s = LayoutSettings(
        a=a, b=b, n_epochs=n_epochs, learning_rate=learning_rate, repulsion_strength=repulsion_strength,
        negative_sample_rate=negative_sample_rate, seed=seed, n_vertices=n_vertices, rate_scale=1, least_weight=1,
    )  # fmt: skip
    return on_graph(s, n_vertices, max_weight, n_epochs)


def on_graph(s: LayoutSettings, n_vertices: int, max_weight: int, n_epochs: int) -> LayoutSettings:
    """Adapts the settings to another graph and number of epochs."""
    heaviest = max(int(max_weight), 1)
    return replace(
        s, n_vertices=n_vertices, n_epochs=n_epochs, rate_scale=0xFFFFFFFF // heaviest, least_weight=-(-heaviest // n_epochs)
    )  # fmt: skip


def out_of_sample_settings(n_mapped: int, *, n_epochs, learning_rate, **others) -> LayoutSettings:
    """Makes the settings for new rows on a map: a third of its epochs, a quarter of its step size (umap-learn)."""
    n_epochs = DEFAULT_EPOCHS if n_epochs is None else n_epochs
    return layout_settings(
        n_mapped, RATE_ONE, n_epochs=max(1, n_epochs // 3), learning_rate=learning_rate / 4, **others
    )


RATE_ONE = 65535
"""Rate of an edge that fires in every epoch: the strongest edge of a new row."""


def rates_of(weights: np.ndarray) -> np.ndarray:
    """Turns edge weights of new rows, float32 (M, k), strongest first, into uint16 rates."""
    return np.rint(weights / np.maximum(weights[:, :1], 1e-30) * RATE_ONE).astype(np.uint16)


LAYOUT_PARAMS = (
    "n_epochs",
    "min_dist",
    "spread",
    "learning_rate",
    "repulsion_strength",
    "negative_sample_rate",
    "seed",
)
"""The parameters of `layout_settings` that are fields of Params."""


def fit_ab(min_dist: float, spread: float) -> tuple[float, float]:
    """Fits a, b of 1 / (1 + a d^(2b)) to exp(-(d - min_dist) / spread) beyond min_dist and to 1 before (umap-learn's
    find_ab_params).

    Least squares by Levenberg and Marquardt over log a and b. scipy's curve_fit does the same, and takes half a second to
    import.
    """
    d = np.linspace(0, 3, 300)[1:]  # in units of spread; at 0 any a and b give 1
    target = np.where(d < min_dist / spread, 1.0, np.exp(-(d - min_dist / spread)))
    fitted, damping = np.array([0.0, 1.0]), 1e-3

    def similarity(log_a: float, b: float) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(log_a + 2 * b * np.log(d)))

    now = similarity(*fitted)
    for _ in range(200):  # about 15 are needed
        slopes = -(now * (1 - now)) * np.stack([np.ones_like(d), 2 * np.log(d)])
        curvature = slopes @ slopes.T
        step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), slopes @ (target - now))
        then = similarity(*(fitted + step))
        if ((then - target) ** 2).sum() <= ((now - target) ** 2).sum():
            fitted, now, damping = fitted + step, then, damping / 10
        else:
            damping *= 10
        if np.abs(step).max() < 1e-10:
            break
    log_a, b = fitted
    return float(np.exp(log_a) / spread ** (2 * b)), float(b)


def mix32(x: int) -> int:
    """Hashes 32 bits: the finaliser `lowbias32` (Ellis 2018, "Prospecting for hash functions")."""
    x &= 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
