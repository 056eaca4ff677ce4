"""First positions along eigenvectors of the graph: those of its symmetric normalised Laplacian with the smallest eigenvalues
above 0, for each connected component by itself (Belkin and Niyogi 2003, "Laplacian Eigenmaps").

The method is Chebyshev-filtered subspace iteration (Zhou, Saad, Tiago, Chelikowsky 2006). A block of random vectors is
multiplied by a polynomial of the Laplacian that damps all but the smallest eigenvalues, then rotated to the best
approximations in its span; both are repeated until each vector is nearer to one eigenvector than to any other. It takes about
100 products with the graph where clusters separate, and 2,000 on 10,000 points of a line. It gives up after a bounded number:
it cannot hang.

All components are solved together, each with a polynomial of its own. The eigenvectors of L = I - W/d, times the root of the
degree d, are those of I - d^-1/2 W d^-1/2; vectors are orthogonal when weighted by degree.
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
"""A polynomial multiplies vectors of the smallest eigenvalues by at most e^GAIN as much as those beyond the block. More would
leave the vectors in between too few digits of float64."""

MOST_DEGREE = 1000
"""Highest degree of a polynomial; even, so that the result is in the buffer of its input."""

LEAST_PRODUCTS, EDGE_VISITS = 1000, 2 * 10**9
"""Products after which it gives up; on small graphs, visits of edges: half a minute on one core."""

NEAR, NEARLY_EQUAL = 0.1, 1e-3
"""Largest distance of a vector from an eigenvector, as a part of the gap to the next eigenvalue (by Davis and Kahan 1970, the
angle is below this part), or, where there is nearly no gap, of the eigenvalue itself."""

ROUNDING = 1e-14
"""Distance to an eigenvector that rounding leaves in any case, in units of the largest eigenvalue."""

DEPENDENT = 1e-10
"""Share of the squared length of a vector outside the span of the others, below which it counts as dependent on them."""

NO_VALUE = 4.0
"""Stand-in for the eigenvalue of a dependent vector, above all eigenvalues: they are at most 2."""


@dataclass(frozen=True)
class Parts:
    """The connected components with enough vertices for eigenvectors of their own."""

    part: np.ndarray  # int32 (N,): a vertex's component, or -1
    order: np.ndarray  # int64: the vertices that have one, component after component
    bounds: np.ndarray  # int64 (P + 1,): where each component begins in `order`
    degrees: np.ndarray  # float64 (N,)
    mass: np.ndarray  # float64 (P,): the sum of a component's degrees

    @property
    def n_parts(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True)
class Eigenvectors:
    """The result of `solve`."""

    vectors: np.ndarray  # float64 (N, C); (0, C) when they have not converged
    converged: bool
    n_products: int  # with the graph


def split(roots: np.ndarray, degrees: np.ndarray, n_components: int) -> Parts:
    """Finds the components with eigenvectors of their own. `roots` int32 (N,): one vertex of the connected component of each
    vertex; `degrees` float64 (N,). Components in which umap-learn would place vertices at random are left out."""
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
    """Finds the eigenvectors of each component. `read_blocks` reads the graph, `n_edges` in all: see `epochs.block_reader`.
    Advances by 0 with each product."""
    random = np.random.Generator(np.random.Philox(key=[seed, 0x1B]))
    vectors = random.standard_normal((len(parts.part), n_components + EXTRA))
    images = np.zeros_like(vectors)
    open_parts, cuts = np.ones(parts.n_parts, bool), np.ones(parts.n_parts)
    most_products = max(LEAST_PRODUCTS, EDGE_VISITS // max(1, n_edges))
    n_products = n_steps = 0  # the first round has no polynomial
    while open_parts.any():
        if n_products + n_steps + 1 > most_products:
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


def apart(eigenvectors: Eigenvectors, parts: Parts, others: np.ndarray) -> np.ndarray:
    """Moves the eigenvectors of each component to the centre and the width that the component has in `others`, positions
    float32 (N, C). Vertices of small components stay as in `others`. Returns float64 (N, C)."""
    rows, part, size = parts.order, parts.part[parts.order], np.diff(parts.bounds)

    def means(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(part, column, parts.n_parts) / size for column in values.T], 1)

    def centred(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the positions of the vertices with a component relative to its centre, float64, its centre, and its width."""
        relative = positions[rows].astype(np.float64)
        centres = means(relative)
        relative -= centres[part]
        return relative, centres, np.sqrt(means(relative**2).sum(1))

    _, centres, widths = centred(others)
    relative, _, own_widths = centred(eigenvectors.vectors)
    out = others.astype(np.float64)
    out[rows] = centres[part] + relative * (widths / np.where(own_widths > 0, own_widths, 1.0))[part, None]
    return out


def _steps(cut: float) -> int:
    """Returns the degree of a polynomial with gain e^GAIN from `cut` to 0."""
    return min(MOST_DEGREE, 2 * int(np.ceil(GAIN / 4 / np.sqrt(cut / 2))))


def _filters(cuts: np.ndarray, n_steps: int) -> Iterator[np.ndarray]:
    """Yields the factors of each product, float64 (P, 3). All but the last make Chebyshev's polynomials of L, scaled to 1 at 0,
    which are small from `cuts` (P,) to 2; the last makes L itself."""
    if n_steps:
        yield from _chebyshev(cuts, n_steps)
    yield np.tile([-1.0, 1.0, 0.0], (len(cuts), 1))


def _chebyshev(cuts: np.ndarray, n_steps: int) -> Iterator[np.ndarray]:
    # Components that need fewer steps damp from further below: the gain of all is e^GAIN.
    low = np.minimum(cuts, 2 * (GAIN / (2 * n_steps)) ** 2)
    half, middle = (2.0 - low) / 2, (2.0 + low) / 2
    first = ratio = -half / middle
    none = np.zeros_like(low)
    yield np.stack([-ratio / half, ratio / half * (1 - middle), none], 1)
    for _ in range(n_steps - 1):
        before, ratio = ratio, 1 / (2 / first - ratio)
        yield np.stack([-2 * ratio / half, 2 * ratio / half * (1 - middle), -before * ratio], 1)


def _multiplied(read_blocks, vectors, images, part, filters, backend: epochs.Backend, advance: Advance):
    """Multiplies the vectors by the polynomials of L. Returns the products and their images under L. Rows of part -1 stay."""
    old, new, part = backend.to_device(vectors), backend.to_device(images), backend.to_device(part)
    for factors in filters:
        on_device = backend.to_device(factors)
        for first_row, _, *block in read_blocks():
            backend.product(old, new, part, on_device, first_row, *block)
        old, new = new, old
        advance(0)
    return np.asarray(backend.to_host(new)), np.asarray(backend.to_host(old))


def _together(open_parts: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Yields the numbers of the open components, in groups whose sums take SUMS_BYTES."""
    numbers, step = np.flatnonzero(open_parts), max(1, SUMS_BYTES // (width * (2 * width + 1) * 8))
    return (numbers[at : at + step] for at in range(0, len(numbers), step))


def _turned(vectors, images, parts: Parts, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotates the vectors of the chosen components, in place, to the best approximations of eigenvectors in their span (Rayleigh
    and Ritz), of length 1. Returns their eigenvalues, ascending, and their distances from eigenvectors, both float64
    (chosen, M)."""
    tasks = _tasks(parts.bounds, chosen)
    first = np.searchsorted(tasks[:, 2], np.arange(len(chosen)))
    sums = np.add.reduceat(spectral_cpu.moments(vectors, images, parts.degrees, parts.order, tasks), first, axis=0)
    rotations, shifts, values = _best(sums, parts.mass[chosen])
    squares = spectral_cpu.turn(vectors, images, parts.degrees, parts.order, tasks, rotations, shifts, values)
    return values, np.sqrt(np.add.reduceat(squares, first, axis=0))


def _tasks(bounds: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Cuts `order` into tasks of TASK_ROWS vertices at most: int64 (T, 3), start, stop, and the index in `chosen`."""
    tasks = [
        (start, min(start + TASK_ROWS, bounds[p + 1]), number)
        for number, p in enumerate(chosen)
        for start in range(bounds[p], bounds[p + 1], TASK_ROWS)
    ]
    return np.array(tasks, np.int64)


def _best(sums: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solves the small problem of each component from the sums of `moments`: a rotation (M, M), a shift (M,) that removes the
    trivial eigenvector, and eigenvalues (M,). Vectors that depend on the others become 0, with NO_VALUE."""
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
    """Tells for each component, bool (P,), whether its first n_components vectors are its eigenvectors. The next vector must be
    near one as well: until then its value says nothing about the gap."""
    last = values[:, n_components - 1]
    largest = np.maximum(np.maximum(NEAR * (values[:, n_components] - last), NEARLY_EQUAL * last), ROUNDING)
    return residuals[:, : n_components + 1].max(1) <= largest
