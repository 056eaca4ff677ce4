"""What is measured of the map, and its files."""

from streamumap.neighbors import points_sizes as on_map
from streamumap.neighbors.cuda import points_sizes as on_device
from streamumap.planning.fit import TINY_ROWS, BudgetFit, Shape, powers, tiny
from streamumap.planning.job import QUALITY_NEIGHBORS, StagePlan, quality_rows
from streamumap.planning.overheads import WRITING_BYTES
from streamumap.planning.stages.neighbors import counting, device_rows, ranking

LEAST_SAMPLE_ROWS = 500
"""Sampled rows that are compared with all rows in one pass over these, at least, where there are as many."""

SMALL_BLOCK_ROWS = 2_048
"""Rows of a block below which another pass with larger ones is faster."""


def quality(f: BudgetFit, cell_rows: int) -> StagePlan:
    """The map first, then the rows. `cell_rows`: of dense neighbours on a CPU."""
    job, c, k = f.job, f.params.n_components, f.params.n_neighbors
    n, n_sample, n_others = job.n_rows, quality_rows(job.n_rows), QUALITY_NEIGHBORS + k - 1
    if f.gpu:
        blocks = powers(min(n, 16_384), 256)
    elif job.n_nonzero is None:
        blocks = powers(cell_rows, min(cell_rows, 64))
    else:
        blocks = powers(min(n, 65_536), 256)
    shapes = [
        {"sample_rows": sample, "block_rows": block, "query_rows": query}
        for some in ([b for b in blocks if b >= SMALL_BLOCK_ROWS], [b for b in blocks if b < SMALL_BLOCK_ROWS])
        for sample in powers(n_sample, min(n_sample, TINY_ROWS if tiny() else LEAST_SAMPLE_ROWS))
        for block in some
        for query in _queries(n, bool(f.gpu))
    ]

    def host(shape: Shape) -> int:
        figures = n * (c + 1) * 4 + n_sample * n_others * on_map.FIGURE_BYTES
        looking = on_map.host(n, k, c, shape["query_rows"]) + (0 if f.gpu else on_map.tree(n, c))
        counted = ranking(f, n_others, shape["block_rows"], shape["sample_rows"])
        return figures + max(looking, counted, n * c * 12)

    def device(shape: Shape) -> int:
        counted = device_rows(f) + counting(f, n_others, shape["block_rows"], shape["sample_rows"])
        return max(counted, on_device.device(n, k, c, shape["query_rows"]))

    backend = "cuda" if f.gpu else "dense" if job.n_nonzero is None else "packed"
    return f.fit("quality", backend, shapes, host, device if f.gpu else None)


def _queries(n_rows: int, gpu: bool) -> list[int]:
    """Rows that are looked up on the map together. On a GPU many: the further they lie from each other, the more tiles of
    points a tile of them meets."""
    most = min(n_rows, 1 << 22 if gpu else 1 << 17)
    return powers(most, min(most, TINY_ROWS if tiny() else 1 << 14))


def write(f: BudgetFit) -> StagePlan:
    job, c = f.original, f.params.n_components
    n = job.placed.n_rows if job.mapped and job.placed else job.n_rows + job.n_left_out
    libraries = 0 if f.gpu else WRITING_BYTES
    return f.solve("write", "pyarrow", "size_px", [1600, 800, 400], lambda b: libraries + n * (c * 4 + 64) + 60 * b * b)
