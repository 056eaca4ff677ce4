"""Bytes that do not depend on the job: libraries, compilers, contexts. All were measured; a margin covers the spread.

CPU runs at 63,666 x 3,072 and 200,000 x 3,072 pairs, 2 cores, Python 3.11, took 52 to 62 MB of anonymous memory for libraries.
On a first run numba's compilers keep 110 MB more, and 110 MB again where a search is approximate. Runs on one H200 (torch 2.11)
took 0.2 GB with torch imported, 0.5 GB with its context, 1.05 to 1.17 GB once Triton and cuBLAS have worked; on the device 0.74
to 1.12 GB.
"""

READING_BYTES = 20 * 10**6
"""RssAnon of the modules that read rows, beyond `import streamumap`."""

LIBRARIES_BYTES = 80 * 10**6
"""RssAnon of numba, scipy and kernels that were compiled before."""

COMPILING_BYTES = 60 * 10**6
"""RssAnon that numba's compiler keeps for each of the groups of kernels below; SPARSE_APPROXIMATE_KERNELS count twice."""

WRITING_BYTES = 40 * 10**6
"""RssAnon of pyarrow and matplotlib."""

GRAPH_AND_LAYOUT_KERNELS = ("graph.cpu", "layout.cpu", "layout.init.levels_cpu")
SPECTRAL_KERNELS = ("layout.init.spectral_cpu",)
SPARSE_KERNELS = tuple(f"neighbors.sparse.{name}" for name in ("count", "measure"))
SPARSE_APPROXIMATE_KERNELS = tuple(f"neighbors.sparse.{name}" for name in ("cells", "heads", "join", "probe"))
OUT_OF_SAMPLE_KERNELS = ("layout.out_of_sample", "neighbors.dense.nearest", "neighbors.sparse.nearest")
DENSE_KERNELS = tuple(f"neighbors.dense.{name}" for name in ("search", "workspace"))

TORCH_HOST_BYTES = 250 * 10**6
"""RssAnon of torch, imported."""

TORCH_READING_BYTES = 700 * 10**6
"""RssAnon of torch once rows have been on the device."""

TORCH_WORKING_BYTES = 1_290 * 10**6
"""RssAnon of torch with Triton, cuBLAS and cuSOLVER, LIBRARIES_BYTES included."""

TORCH_EXACT_BYTES = 950 * 10**6
"""TORCH_WORKING_BYTES without cuSOLVER, which only an approximate search needs."""

READING_CONTEXT_BYTES = 720 * 10**6
"""Device memory of a process with torch's modules while rows are read, before any array."""

CONTEXT_BYTES = 1_050 * 10**6
"""Device memory of a process once cuBLAS with its workspaces, cuSOLVER and Triton have worked, without any array."""

POOL_SHARE = 0.05
"""Share of the arrays that torch's pool loses to rounding."""

PARQUET_BYTES = 8 + 1 + 8 + 4
"""Bytes of a row of embedding.parquet beside its position."""

PICTURE_BYTES = 4 << 20
"""Bytes on disk of map.png and of all else that does not grow with the rows."""
