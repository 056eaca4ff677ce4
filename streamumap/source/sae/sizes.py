"""Bytes of memory that encoding takes."""

from streamumap.source.pieces import n_threads

CPU_BLOCK_BYTES = 16 << 20
"""Bytes of the products of a block with all latents, on the CPU."""

CUDA_BLOCK_BYTES = 64 << 20
"""Bytes of the products of a block with all latents, on a GPU."""


def block_rows(block_bytes: int, n_latents: int) -> int:
    return max(1, block_bytes // (4 * n_latents))


def cpu(n_rows: int, n_features: int, n_latents: int) -> int:
    """Counts host bytes on the CPU: the weights and the decoder, the bounds of the rows, and the blocks of each thread."""
    rows = block_rows(CPU_BLOCK_BYTES, n_latents)
    block_bytes = rows * (n_latents * (4 + 4 + 1) + n_features * 16)
    return (
        8 * n_features * n_latents
        + 8 * n_rows
        + (2 * n_threads() + 1) * rows * n_features * 8
        + n_threads() * block_bytes
    )


def decoder(n_features: int, n_latents: int) -> int:
    """Counts host bytes of the directions of the latents, by which an SAE is checked."""
    return 4 * n_features * n_latents


def cuda_host(n_rows: int, n_features: int, n_latents: int) -> int:
    """Counts host bytes of encoding on a GPU."""
    return 8 * n_features * n_latents + 8 * n_rows + 2 * block_rows(CUDA_BLOCK_BYTES, n_latents) * n_features * 8


def cuda(n_features: int, n_latents: int) -> int:
    """Counts device bytes: the weights, the rows of a block, their products and the copies that TopK makes."""
    rows = block_rows(CUDA_BLOCK_BYTES, n_latents)
    return 4 * n_features * n_latents + rows * (n_features * 12 + n_latents * 4 * 4)
