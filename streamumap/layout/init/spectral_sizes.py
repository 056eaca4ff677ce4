"""Bytes of the spectral start, importable without numba or torch."""

from streamumap.layout.sizes import block_bytes

EXTRA = 6
"""Vectors beside those for the axes of the map. The more vectors, the fewer products it takes: 95 on Fashion-MNIST (70,000
rows) with 3 to 10 of them; on 10,000 points of a line 2,020 with 4, 1,977 with 6, 1,569 with 10."""

PART_ROWS = 1 << 16
"""Rows of the graph read at a time to find its connected components."""

SUMS_BYTES = 1 << 20
"""Bytes of the sums of products of vectors, for all components that are rotated together."""

TASK_ROWS = 4096
"""Rows whose products one thread adds up."""


def _rows(n_rows: int, n_components: int, n_blocks: int) -> int:
    """Bytes of `n_blocks` blocks of vectors, and for each row its degree, its component, whether that is done, and its position in
    the order of components."""
    width = n_components + EXTRA
    sums = n_rows * width * (2 * width + 1) * 8 // TASK_ROWS + 4 * SUMS_BYTES
    return n_rows * (n_blocks * width * 8 + 8 + 4 + 4 + 8) + sums


def host(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Host bytes when a CPU multiplies: two blocks of vectors and the graph, or those of `apart`."""
    solving = _rows(n_rows, n_components, 2) + max(_reading(n_rows, n_edges), block_bytes(n_rows, block_rows, n_edges))
    return max(solving, _moving(n_rows, n_components))


def host_beside_gpu(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Host bytes when a GPU multiplies: two blocks of vectors, twice while they are copied back, and the graph in transit."""
    solving = _rows(n_rows, n_components, 4) + max(_reading(n_rows, n_edges), block_bytes(n_rows, block_rows, n_edges))
    return max(solving, _moving(n_rows, n_components))


def device(n_rows: int, n_components: int, block_rows: int, n_edges: int) -> int:
    """Device bytes when a GPU multiplies: two blocks of vectors, and the graph."""
    return n_rows * (2 * (n_components + EXTRA) * 8 + 4 + 24) + block_bytes(n_rows, block_rows, n_edges)


def kept(n_rows: int, n_components: int) -> int:
    """Host bytes that stay while the default start is made, which places the components: the eigenvectors, and for each row its
    component, its position in the order of components, and its degree."""
    return n_rows * (n_components * 8 + 4 + 8 + 8)


def _moving(n_rows: int, n_components: int) -> int:
    return kept(n_rows, n_components) + n_rows * (6 * n_components * 8 + 16)


def _reading(n_rows: int, n_edges: int) -> int:
    return block_bytes(n_rows, min(n_rows, PART_ROWS), n_edges)
