"""The fuzzy graph, first positions and the layout."""

from collections.abc import Callable

from streamumap.errors import InputError
from streamumap.graph import sizes as graph_footprint
from streamumap.layout import sizes as drawn
from streamumap.layout.init import spectral_sizes as eigen
from streamumap.layout.sizes import TOP
from streamumap.neighbors.sparse.sizes import UNEVEN
from streamumap.planning.fit import BudgetFit, Shape, powers
from streamumap.planning.job import StagePlan
from streamumap.planning.overheads import DRAWING, SPECTRAL


def graph(f: BudgetFit) -> StagePlan:
    n, k = f.job.n_rows, f.params.n_neighbors
    if not f.gpu:
        f.compile(DRAWING)
    f.disk += graph_footprint.disk_bytes(n, k)
    if f.job.n_left_out:  # the k-NN graph once more, of those rows only
        f.disk += n * k * 8
    if f.gpu:
        return f.solve(
            "graph", "cuda", "block_edges", powers(min(2 * n * k, graph_footprint.MOST_EDGES), min(2 * n * k, n)),
            lambda b: graph_footprint.cuda_host(n, k, b), lambda b: graph_footprint.cuda(n, k, b),
        )  # fmt: skip
    return f.solve("graph", "numba", "block_rows", powers(n, min(n, 4096)), lambda b: graph_footprint.build(n, k, b))


def start(f: BudgetFit) -> StagePlan:
    """Multilevel; `sample_rows` at a time, the rows that the coarsest level stands for, or all few rows, come for their PCA."""
    if f.params.init == "spectral":
        f.compile(SPECTRAL)
    job, c, on_device = f.job, f.params.n_components, _draws_on_device(f)
    per_row = job.n_features * 4 if job.n_nonzero is None else int(job.n_nonzero / job.n_rows * 8 * UNEVEN) + 8
    shapes = [
        {"block_rows": block_rows, "sample_rows": sample_rows}
        for sample_rows in powers(min(2 * TOP, job.n_rows), min(job.n_rows, 256))
        for block_rows in powers(job.n_rows, min(job.n_rows, 1024))
    ]

    def levels(shape: Shape, n_bytes: Callable[[int, int, int, int], int]) -> int:
        return n_bytes(job.n_rows, c, shape["block_rows"], f.n_edges)

    def host(shape: Shape) -> int:
        top = int(shape["sample_rows"] * per_row * 2.5) + (job.n_features * 40 + 2 * TOP * c * 3) * 8
        first, kept, _ = _before(f, shape["block_rows"])
        return max(first, kept + top + levels(shape, drawn.start_host if on_device else drawn.start_bytes))

    def device(shape: Shape) -> int:
        return max(_before(f, shape["block_rows"])[2], levels(shape, drawn.start_device))

    return f.fit("start", "cuda" if on_device else "numba", shapes, host, device if on_device else None)


def _draws_on_device(f: BudgetFit) -> bool:
    return f.gpu is not None and f.params.layout != "cpu"


def _before(f: BudgetFit, block_rows: int) -> tuple[int, int, int]:
    """Counts bytes of what comes before the levels are made: on the host, those that stay there beside the levels, and on the
    device."""
    n, c = f.job.n_rows, f.params.n_components
    if f.params.init == "spectral":
        sizes = n, c, block_rows, f.n_edges
        if _draws_on_device(f):
            return eigen.host_beside_gpu(*sizes), eigen.kept(n, c), eigen.device(*sizes)
        return eigen.host(*sizes), eigen.kept(n, c), 0
    if f.params.init.endswith(".npy"):  # as stored, as float64, scaled, ordered to find those that coincide
        return n * (c * 8 * 4 + 8), 0, 0
    return 0, 0, 0


def layout(f: BudgetFit) -> StagePlan:
    n, c, k = f.job.n_rows, f.params.n_components, f.params.n_neighbors
    backend = f.params.layout
    if backend == "auto":
        backend = "cuda" if f.gpu else "cpu"
    if backend != "cpu" and not f.gpu:
        raise InputError(f"--layout: {backend} needs a GPU and this is a CPU run; use --layout cpu or --device cuda.")
    if backend == "cuml":
        return f.solve(
            "layout", "cuml", "block_rows", [n], lambda b: n * (k * 8 + c * 12), lambda b: drawn.cuml_bytes(n, k)
        )
    return f.solve(
        "layout", backend, "block_rows", powers(n, min(n, 1024)),
        lambda b: drawn.layout_host(n, c, b, f.n_edges),
        (lambda b: drawn.layout_device(n, c, b, f.n_edges)) if backend == "cuda" else lambda b: 0,
    )  # fmt: skip
