"""Plans of measuring the map and of writing the results."""

from streamumap.neighbors import points_sizes as points
from streamumap.neighbors.cuda import passing_sizes
from streamumap.neighbors.cuda import points_sizes as cuda_points
from streamumap.planning.fit import TINY_ROWS, Blocks, Facts, Held, Shape, block_sizes, fit, is_tiny_forced, one_block
from streamumap.planning.job import QUALITY_NEIGHBORS, StagePlan, quality_rows
from streamumap.planning.overheads import WRITING_BYTES
from streamumap.planning.stages.counting import (
    count_device_bytes,
    count_host_bytes,
    csr_device_bytes,
    passes,
    passing_bytes,
)

LEAST_SAMPLE_ROWS = 500
"""Fewest sampled rows that are compared with all rows in one pass over these, where the sample has as many."""

SMALL_BLOCK_ROWS = 2_048
"""Rows of a block below which another pass over the rows in larger blocks is faster."""


def quality(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan the measuring of the map: neighbors on it are searched, then their ranks are counted among the rows."""
    n, c, k = held.rows.n_rows, facts.params.n_components, facts.params.n_neighbors
    n_sample, n_others = quality_rows(n), QUALITY_NEIGHBORS + k - 1

    def host(shape: Shape) -> int:
        figures = n * (c + 1) * 4 + n_sample * n_others * points.FIGURE_BYTES
        searching = points.host(n, k, c, shape["query_rows"]) + (0 if facts.on_gpu else points.tree(n, c))
        counting = count_host_bytes(facts, held, n_others, shape["block_rows"], shape["sample_rows"])
        if "pass_rows" in shape:
            counting += passing_sizes.host(n, held.rows.n_nonzero or 0, shape["sample_rows"], n_others)
        return figures + max(searching, counting, n * c * 12)

    def device(shape: Shape) -> int:
        counting = count_device_bytes(facts, n_others, shape["block_rows"], shape["sample_rows"])
        n_sample = shape["sample_rows"]
        rows_bytes = passing_bytes(held, n_sample, shape) if "pass_rows" in shape else csr_device_bytes(held)
        return max(rows_bytes + counting, cuda_points.device(n, k, c, shape["query_rows"]))

    backend = "cuda" if facts.on_gpu else "dense" if held.rows.n_nonzero is None else "packed"
    shapes = [
        shape | passing
        for shape in _quality_shapes(n, _quality_blocks(facts, held), facts.on_gpu)
        for passing in passes(facts, held)
    ]
    return fit(facts, held, "quality", backend, Blocks(shapes, host, device if facts.on_gpu else None))


def _quality_blocks(facts: Facts, held: Held) -> list[int]:
    n = held.rows.n_rows
    if facts.on_gpu:
        return block_sizes(min(n, 16_384), 256)
    if held.rows.n_nonzero is None:
        cell_rows = min(n, held.cell_rows)
        return block_sizes(cell_rows, min(cell_rows, 64))
    return block_sizes(min(n, 65_536), 256)


def _quality_shapes(n_rows: int, blocks: list[int], on_gpu: bool) -> list[Shape]:
    """List the blocks of the measuring: a smaller sample at once comes before blocks below SMALL_BLOCK_ROWS."""
    n_sample, least = quality_rows(n_rows), TINY_ROWS if is_tiny_forced() else LEAST_SAMPLE_ROWS
    large, small = [b for b in blocks if b >= SMALL_BLOCK_ROWS], [b for b in blocks if b < SMALL_BLOCK_ROWS]
    return [
        {"sample_rows": sample, "block_rows": block, "query_rows": query}
        for some_blocks in (large, small)
        for sample in block_sizes(n_sample, min(n_sample, least))
        for block in some_blocks
        for query in _map_queries(n_rows, on_gpu)
    ]


def _map_queries(n_rows: int, on_gpu: bool) -> list[int]:
    """List the numbers of rows whose neighbors on the map are searched together. They are large on a GPU: the further apart the
    points of a tile lie, the more tiles of other points it meets."""
    most = min(n_rows, 1 << 22 if on_gpu else 1 << 17)
    return block_sizes(most, min(most, TINY_ROWS if is_tiny_forced() else 1 << 14))


def write(facts: Facts, held: Held) -> tuple[StagePlan, Held]:
    """Plan the writing of the tables and of the picture, which is smaller where there is little memory."""
    job, c = facts.job, facts.params.n_components
    n = job.placed.n_rows if job.mapped and job.placed else job.n_rows + job.n_left_out
    libraries = 0 if facts.on_gpu else WRITING_BYTES
    blocks = one_block("size_px", [1600, 800, 400], lambda b: libraries + n * (c * 4 + 64) + 60 * b * b)
    return fit(facts, held, "write", "pyarrow", blocks)
