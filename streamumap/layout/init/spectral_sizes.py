"""Bytes of a start along eigenvectors, importable without numba or torch."""

from streamumap.layout.sizes import block_bytes

EXTRA = 6
"""Vectors beside those that are wanted: what lies beyond them all is damped, so the more, the fewer products it takes. On
Fashion-MNIST (70,000 rows) 95 products with 3 to 10 of them, on 10,000 points of a line 2,020 with 4, 1,977 with 6, 1,569
with 10."""

PART_ROWS = 1 << 16
"""Rows of the graph that are read at a time to find its connected components."""

SUMS_BYTES = 1 << 20
"""Bytes of sums of products of vectors, for all the components that are treated together."""

TASK_ROWS = 4096
"""Rows whose products are added up by one thread."""


def _rows(n_rows: int, n_components: int, n_blocks: int) -> int:
    """Blocks of vectors, and of each row its degree, its component, whether that is done, and its place among all."""
    width = n_components + EXTRA
    sums = n_rows * width * (2 * width + 1) * 8 // TASK_ROWS + 4 * SUMS_BYTES
    return n_rows * (n_blocks * width * 8 + 8 + 4 + 4 + 8) + sums


def host(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Where a CPU multiplies: two blocks of vectors and the graph; or what it takes to move components to their places."""
    solving = _rows(n_rows, n_components, 2) + max(_reading(n_rows, n_edges), block_bytes(n_rows, block_rows, n_edges))
    return max(solving, _moving(n_rows, n_components))


def host_beside_gpu(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Where a GPU multiplies: two blocks of vectors, twice while they come back, and the graph on its way."""
    solving = _rows(n_rows, n_components, 4) + max(_reading(n_rows, n_edges), block_bytes(n_rows, block_rows, n_edges))
    return max(solving, _moving(n_rows, n_components))


def device(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Two blocks of vectors, and the graph."""
    return n_rows * (2 * (n_components + EXTRA) * 8 + 4 + 24) + block_bytes(n_rows, block_rows, n_edges)


def kept(n_rows: int, n_components: int) -> int:
    """Bytes that stay while the default start is made to place the components: the eigenvectors, and of each row its
    component, its place among all, and its degree."""
    return n_rows * (n_components * 8 + 4 + 8 + 8)


def _moving(n_rows: int, n_components: int) -> int:
    return kept(n_rows, n_components) + n_rows * (6 * n_components * 8 + 16)


def _reading(n_rows: int, n_edges: int) -> int:
    return block_bytes(n_rows, min(n_rows, PART_ROWS), n_edges)
