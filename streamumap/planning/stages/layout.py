"""Plans of the fuzzy graph, the first positions and the layout."""

from streamumap.errors import InputError
from streamumap.graph import sizes as graph_sizes
from streamumap.layout import sizes as layout_sizes
from streamumap.layout.init import levels_sizes, spectral_sizes
from streamumap.neighbors.sparse.sizes import UNEVEN_NONZEROS
from streamumap.planning.fit import (
    Blocks,
    Facts,
    Held,
    Shape,
    block_sizes,
    fit,
    hold_kernels,
    is_tiny_forced,
    one_block,
)
from streamumap.planning.job import StagePlan
from streamumap.planning.overheads import GRAPH_AND_LAYOUT_KERNELS, SPECTRAL_KERNELS


def graph(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan the fuzzy graph, which is kept on disk."""
    n, k = held.rows.n_rows, facts.params.n_neighbors
    again = n * k * 8 if facts.job.n_left_out else 0  # the k-NN graph once more, of the sampled rows only
    held = held.plus(disk_bytes=graph_sizes.disk_bytes(n, k) + again)
    if facts.on_gpu:
        return _graph_on_device(facts, held)
    held = hold_kernels(facts, held, GRAPH_AND_LAYOUT_KERNELS)
    blocks = one_block("block_rows", block_sizes(n, min(n, 4096)), lambda b: graph_sizes.build(n, k, b))
    return fit(facts, held, "graph", "numba", blocks)


def _graph_on_device(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan the graph on a GPU: the k-NN graph stays there where it fits, or else passes by."""
    n, k = held.rows.n_rows, facts.params.n_neighbors
    sizes = block_sizes(min(2 * n * k, graph_sizes.MOST_EDGES), min(2 * n * k, n, 1 << 20))
    blocks = one_block(
        "block_edges", sizes, lambda b: graph_sizes.cuda_host(n, k, b), lambda b: graph_sizes.cuda(n, k, b)
    )
    resident = fit(facts, held, "graph", "cuda", blocks)
    budget, predicted = facts.budget.device_bytes, resident[0].predicted.device_bytes
    if not is_tiny_forced() and (budget is None or predicted <= budget):
        return resident
    shapes = [{"block_edges": b, "run_edges": run} for b in sizes for run in graph_sizes.run_sizes(n, k)]
    passing = Blocks(
        shapes,
        lambda shape: graph_sizes.cuda_passing_host(n, k, shape["block_edges"], shape["run_edges"]),
        lambda shape: graph_sizes.cuda_passing(n, shape["block_edges"], shape["run_edges"]),
    )
    files = graph_sizes.passing_disk_bytes(n, k)
    stage, left = fit(facts, held.plus(disk_bytes=files), "graph", "cuda", passing)
    return stage, left.plus(disk_bytes=-files)  # removed once the graph is there


def start(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan the first positions, which come from coarser levels of the graph. The rows of the coarsest level, or all where they
    are few, are read `sample_rows` at a time for their PCA."""
    if facts.params.init == "spectral":
        held = hold_kernels(facts, held, SPECTRAL_KERNELS)
    rows, c, on_device = held.rows, facts.params.n_components, _lays_out_on_device(facts)
    per_row = (
        rows.n_features * 4 if rows.n_nonzero is None else int(rows.n_nonzero / rows.n_rows * 8 * UNEVEN_NONZEROS) + 8
    )

    def host(shape: Shape) -> int:
        top = levels_sizes.TOP
        pca = int(shape["sample_rows"] * per_row * 2.5) + (rows.n_features * 40 + 2 * top * c * 3) * 8
        beside_gpu = levels_sizes.host_in_pieces if "piece_pairs" in shape else levels_sizes.host_beside_gpu
        levels = beside_gpu if on_device else levels_sizes.host
        before, kept = _before_levels_host(facts, shape["block_rows"])
        return max(before, kept + pca + levels(rows.n_rows, c, shape["block_rows"], facts.n_edges))

    def device(shape: Shape) -> int:
        sizes = rows.n_rows, c, shape["block_rows"], facts.n_edges
        before = spectral_sizes.device(*sizes) if facts.params.init == "spectral" else 0
        if "piece_pairs" in shape:
            return max(before, levels_sizes.device_in_pieces(*sizes, shape["piece_pairs"]))
        return max(before, levels_sizes.device(*sizes))

    shapes = [
        {"block_rows": block_rows, "sample_rows": sample_rows} | pieces
        for sample_rows in block_sizes(min(2 * levels_sizes.TOP, rows.n_rows), min(rows.n_rows, 256))
        for block_rows in block_sizes(rows.n_rows, min(rows.n_rows, 1024))
        for pieces in (_pieces(rows.n_rows) if on_device else [{}])
    ]
    blocks = Blocks(shapes, host, device if on_device else None)
    return fit(facts, held, "start", "cuda" if on_device else "numba", blocks)


def _pieces(n_rows: int) -> list[Shape]:
    """List the ways in which a GPU sorts the pairs of cells: all at once, where they are not too many, or in pieces."""
    at_once: list[Shape] = [{}] if n_rows * levels_sizes.KEPT <= levels_sizes.MOST_AT_ONCE else []
    return at_once + [{"piece_pairs": n_pairs} for n_pairs in levels_sizes.piece_sizes(n_rows)]


def _lays_out_on_device(facts: Facts) -> bool:
    return facts.on_gpu and facts.params.layout != "cpu"


def _before_levels_host(facts: Facts, block_rows: int) -> tuple[int, int]:
    """Count the host bytes of what comes before the levels, and those of them that stay beside the levels."""
    n, c = facts.job.n_rows, facts.params.n_components
    if facts.params.init == "spectral":
        host = spectral_sizes.host_beside_gpu if _lays_out_on_device(facts) else spectral_sizes.host
        return host(n, c, block_rows, facts.n_edges), spectral_sizes.kept(n, c)
    if facts.params.init.endswith(".npy"):  # as stored, as float64, scaled, ordered to find those that coincide
        return n * (c * 8 * 4 + 8), 0
    return 0, 0


def layout(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan the layout. Raises InputError where its backend needs a GPU that is not there."""
    n, c, k = held.rows.n_rows, facts.params.n_components, facts.params.n_neighbors
    backend = facts.params.layout
    if backend == "auto":
        backend = "cuda" if facts.on_gpu else "cpu"
    if backend != "cpu" and not facts.on_gpu:
        raise InputError(f"--layout: {backend} needs a GPU and this is a CPU run; use --layout cpu or --device cuda.")
    if backend == "cuml":
        blocks = one_block("block_rows", [n], lambda b: n * (k * 8 + c * 12), lambda b: layout_sizes.cuml_bytes(n, k))
        return fit(facts, held, "layout", "cuml", blocks)

    def host(block_rows: int) -> int:
        return layout_sizes.layout_host(n, c, block_rows, facts.n_edges)

    def device(block_rows: int) -> int:
        return layout_sizes.layout_device(n, c, block_rows, facts.n_edges)

    blocks = one_block("block_rows", block_sizes(n, min(n, 1024)), host, device if backend == "cuda" else None)
    return fit(facts, held, "layout", backend, blocks)
