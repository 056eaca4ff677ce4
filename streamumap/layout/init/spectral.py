"""First positions along the eigenvectors of the graph: those of its symmetric normalised Laplacian with the smallest
eigenvalues but 0, of each connected component apart (Belkin and Niyogi 2003, "Laplacian Eigenmaps").

Chebyshev-filtered subspace iteration (Zhou, Saad, Tiago, Chelikowsky 2006): a block of random vectors is multiplied by a
polynomial of the Laplacian that damps all but the smallest eigenvalues, then turned to the best approximations in its
span, and so on until these are so near to eigenvectors that they cannot be others. It takes about 100 products with the
graph where clusters part, 2,000 on 10,000 points of a line, and gives up after a bounded number: it cannot hang.

All components go together, each with a polynomial of its own. L = I - W/d is used, whose eigenvectors, times the root of
the degree d, are those of I - d^-1/2 W d^-1/2; vectors are orthogonal with the degrees for weights.
`spectral_cpu.py` (numba) and `spectral_cuda.py` (Triton) multiply.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.layout import epochs
from streamumap.layout.init import spectral_cpu
from streamumap.layout.init.spectral_sizes import EXTRA, SUMS_BYTES, TASK_ROWS

GAIN = 8.0
"""A polynomial makes what is wanted e^GAIN times as large as what lies beyond the block, at most: more would leave too few
digits of float64 to the vectors between."""

MOST_DEGREE = 1000
"""The highest degree of a polynomial; even, so that its result lies where its vectors were."""

LEAST_PRODUCTS, EDGE_VISITS = 1000, 2 * 10**9
"""It gives up after so many products, or on small graphs after so many visits of edges: half a minute on one core."""

NEAR, NEARLY_EQUAL = 0.1, 1e-3
"""How far a vector may be from an eigenvector: a part of the gap to the next eigenvalue (Davis and Kahan 1970: the angle
is below this part), or, where there is nearly none, of the eigenvalue itself."""

ROUNDING = 1e-14
"""The distance to an eigenvector below which rounding lets no vector come, in units of the largest eigenvalue."""

DEPENDENT = 1e-10
"""The share of a vector's squared length that must be left without the others: less, and it depends on them."""

NO_VALUE = 4.0
"""Stands for the eigenvalue of a vector that depends on the others: above all, which are at most 2."""


@dataclass(frozen=True)
class Parts:
    """The connected components with enough vertices for eigenvectors of their own."""

    part: np.ndarray  # int32 (N,): a vertex's component, or -1
    order: np.ndarray  # int64: the vertices that have one, component after component
    bounds: np.ndarray  # int64 (P + 1,): where each begins there
    degrees: np.ndarray  # float64 (N,)
    mass: np.ndarray  # float64 (P,): the sum of a component's degrees

    @property
    def n_parts(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True)
class Eigenvectors:
    """float64 (N, C); whether they are those, after how many products with the graph."""

    vectors: np.ndarray
    converged: bool
    n_products: int


def split(roots: np.ndarray, degrees: np.ndarray, n_components: int) -> Parts:
    """`roots` int32 (N,): a vertex of each vertex's connected component; `degrees` float64 (N,). Components so small that
    umap-learn gives their vertices random places are left out."""
    sizes = np.bincount(roots, minlength=len(roots))
    large = sizes >= max(2 * n_components, n_components + 2)
    number = np.where(large, np.cumsum(large) - 1, -1).astype(np.int32)
    part = number[roots]
    order = np.argsort(part, kind="stable")[int((part < 0).sum()) :]
    bounds = np.concatenate([[0], np.cumsum(sizes[large])])
    mass = np.bincount(part[order], degrees[order], len(bounds) - 1)
    return Parts(part, order, bounds, degrees, mass)


def solve(
    read_blocks: Callable[[], Iterable[tuple]],
    parts: Parts,
    n_components: int,
    n_edges: int,
    seed: int,
    backend: epochs.Backend,
    advance: Advance = no_advance,
) -> Eigenvectors:
    """The eigenvectors of each component of the graph whose blocks `read_blocks` goes through, as `epochs.block_reader` gives it,
    `n_edges` in all. Ticks 0 with each product."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0x1B]))
    vectors = random.standard_normal((len(parts.part), n_components + EXTRA))
    images = np.zeros_like(vectors)
    open_parts, cuts = np.ones(parts.n_parts, bool), np.ones(parts.n_parts)
    most, n_products, n_steps = max(LEAST_PRODUCTS, EDGE_VISITS // max(1, n_edges)), 0, 0  # at first as they are drawn
    while open_parts.any():
        if n_products + n_steps + 1 > most:
            return Eigenvectors(np.empty((0, n_components)), False, n_products)
        n_products += n_steps + 1
        part = np.where(open_parts[parts.part], parts.part, np.int32(-1))
        filters = _filters(cuts, n_steps)
        vectors, images = _multiplied(read_blocks, vectors, images, part, filters, backend, advance)
        for chosen in _together(open_parts, vectors.shape[1]):
            values, residuals = _turned(vectors, images, parts, chosen)
            open_parts[chosen] = ~_near(values, residuals, n_components)
            cuts[chosen] = np.clip(values[:, -1], 1e-12, 1.0)
        n_steps = _steps(cuts[open_parts].min(initial=1.0))
    del images
    return Eigenvectors(np.sqrt(parts.degrees)[:, None] * vectors[:, :n_components], True, n_products)


def apart(found: Eigenvectors, parts: Parts, others: np.ndarray) -> np.ndarray:
    """float64 (N, C): each component's eigenvectors where `others`, positions float32 (N, C), have the component, as
    wide; the vertices of small ones where `others` have them."""
    rows, part, size = parts.order, parts.part[parts.order], np.diff(parts.bounds)

    def means(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(part, column, parts.n_parts) / size for column in values.T], 1)

    def centred(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of the vertices with a component from its centre, float64; its centre, and its width."""
        lying = positions[rows].astype(np.float64)
        centres = means(lying)
        lying -= centres[part]
        return lying, centres, np.sqrt(means(lying**2).sum(1))

    _, centres, widths = centred(others)
    lying, _, own_widths = centred(found.vectors)
    out = others.astype(np.float64)
    out[rows] = centres[part] + lying * (widths / np.where(own_widths > 0, own_widths, 1.0))[part, None]
    return out


def _steps(cut: float) -> int:
    """The degree of a polynomial that gains e^GAIN from `cut` to 0."""
    return min(MOST_DEGREE, 2 * int(np.ceil(GAIN / 4 / np.sqrt(cut / 2))))


def _filters(cuts: np.ndarray, n_steps: int) -> Iterator[np.ndarray]:
    """float64 (P, 3) for each product: the factors with which `product` makes Chebyshev's polynomials of L, scaled to 1 at
    0, that are small from `cuts` (P,) to 2; and last those that make L itself."""
    if n_steps:
        yield from _chebyshev(cuts, n_steps)
    yield np.tile([-1.0, 1.0, 0.0], (len(cuts), 1))


def _chebyshev(cuts: np.ndarray, n_steps: int) -> Iterator[np.ndarray]:
    low = np.minimum(cuts, 2 * (GAIN / (2 * n_steps)) ** 2)  # where a shorter one would do, no more is gained
    half, middle = (2.0 - low) / 2, (2.0 + low) / 2
    first = ratio = -half / middle
    none = np.zeros_like(low)
    yield np.stack([-ratio / half, ratio / half * (1 - middle), none], 1)
    for _ in range(n_steps - 1):
        before, ratio = ratio, 1 / (2 / first - ratio)
        yield np.stack([-2 * ratio / half, 2 * ratio / half * (1 - middle), -before * ratio], 1)


def _multiplied(read_blocks, vectors, images, part, filters, backend: epochs.Backend, advance: Advance):
    """The polynomials of L times the vectors, and the images of these under L. Rows of part -1 keep their vectors."""
    old, new, part = backend.to_device(vectors), backend.to_device(images), backend.to_device(part)
    for factors in filters:
        on_device = backend.to_device(factors)
        for first_row, _, *block in read_blocks():
            backend.product(old, new, part, on_device, first_row, *block)
        old, new = new, old
        advance(0)
    return np.asarray(backend.to_host(new)), np.asarray(backend.to_host(old))


def _together(open_parts: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Numbers of the components that are not done, so many at a time that their sums take SUMS_BYTES."""
    numbers, step = np.flatnonzero(open_parts), max(1, SUMS_BYTES // (width * (2 * width + 1) * 8))
    return (numbers[at : at + step] for at in range(0, len(numbers), step))


def _turned(vectors, images, parts: Parts, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns the vectors of the chosen components to the best approximations of eigenvectors in their span (Rayleigh and
    Ritz), of length 1. Their eigenvalues, ascending, and how far they are from eigenvectors, both float64 (chosen, M)."""
    tasks = _tasks(parts.bounds, chosen)
    first = np.searchsorted(tasks[:, 2], np.arange(len(chosen)))
    sums = np.add.reduceat(spectral_cpu.moments(vectors, images, parts.degrees, parts.order, tasks), first, axis=0)
    rotations, shifts, values = _best(sums, parts.mass[chosen])
    squares = spectral_cpu.turn(vectors, images, parts.degrees, parts.order, tasks, rotations, shifts, values)
    return values, np.sqrt(np.add.reduceat(squares, first, axis=0))


def _tasks(bounds: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """int64 (T, 3): TASK_ROWS places of `order` at most, from, to, and which of the chosen they belong to."""
    tasks = [
        (start, min(start + TASK_ROWS, bounds[p + 1]), number)
        for number, p in enumerate(chosen)
        for start in range(bounds[p], bounds[p + 1], TASK_ROWS)
    ]
    return np.array(tasks, np.int64)


def _best(sums: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From the sums of `moments`, of each component: a rotation (M, M), a shift (M,), which takes the trivial eigenvector
    out, and eigenvalues (M,). Vectors that depend on the others become 0, with NO_VALUE."""
    width = sums.shape[1]
    total = sums[:, :, -1]
    inner = sums[:, :, :width] - total[:, :, None] * total[:, None, :] / mass[:, None, None]
    form = sums[:, :, width:-1]
    squares = np.diagonal(inner, axis1=1, axis2=2)
    scale = np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)
    lengths, axes = np.linalg.eigh(inner * scale[:, :, None] * scale[:, None, :])
    free = lengths > DEPENDENT
    basis = scale[:, :, None] * axes * np.where(free, 1 / np.sqrt(np.where(free, lengths, 1.0)), 0.0)[:, None, :]
    projected = basis.transpose(0, 2, 1) @ (form + form.transpose(0, 2, 1)) @ basis / 2
    projected[:, range(width), range(width)] += np.where(free, 0.0, NO_VALUE)
    values, turn = np.linalg.eigh(projected)
    rotations = basis @ turn
    return rotations, (total[:, None, :] @ rotations)[:, 0] / mass[:, None], values


def _near(values: np.ndarray, residuals: np.ndarray, n_components: int) -> np.ndarray:
    """bool (P,): whether the first vectors are the eigenvectors. The next one counts as well: while it is far from any, its
    value says nothing of the gap."""
    last = values[:, n_components - 1]
    far = np.maximum(np.maximum(NEAR * (values[:, n_components] - last), NEARLY_EQUAL * last), ROUNDING)
    return residuals[:, : n_components + 1].max(1) <= far
