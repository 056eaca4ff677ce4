"""Bytes that do not depend on the job: libraries, compilers, contexts. Measured, with a margin that covers what was seen.

Anonymous memory of CPU runs at 63,666 x 3,072 and 200,000 x 3,072 pairs, 2 cores, Python 3.11: 52 to 62 MB of libraries; on a first
run numba's compilers keep 110 MB more, 110 MB again where a search is approximate. Of runs on one H200 (torch 2.11): 0.2 GB with
torch imported, 0.5 GB with its context, 1.05 to 1.17 GB once Triton and cuBLAS have worked; on the device 0.74 to 1.12 GB.
"""

READING_BYTES = 20 * 10**6
"""RssAnon of what reading loads, beyond `import streamumap`."""

LIBRARIES_BYTES = 80 * 10**6
"""The same of numba, scipy and kernels that were compiled before."""

COMPILING_BYTES = 60 * 10**6
"""What numba's compiler keeps, for each of the groups of kernels below; APPROXIMATE counts twice."""

WRITING_BYTES = 40 * 10**6
"""RssAnon of pyarrow and matplotlib."""

DRAWING = ("graph.cpu", "layout.cpu", "layout.init.levels_cpu")
SPECTRAL = ("layout.init.spectral_cpu",)
PACKED = tuple(f"neighbors.sparse.{name}" for name in ("count", "measure"))
APPROXIMATE = tuple(f"neighbors.sparse.{name}" for name in ("cells", "join", "probe"))
PLACING = ("layout.out_of_sample", "neighbors.dense.nearest", "neighbors.sparse.nearest")
DENSE = tuple(f"neighbors.dense.{name}" for name in ("search", "workspace"))

TORCH_HOST_BYTES = 250 * 10**6
"""RssAnon of torch, imported."""

TORCH_READING_BYTES = 700 * 10**6
"""The same once rows have been on the device."""

TORCH_WORKING_BYTES = 1_290 * 10**6
"""The same with Triton, cuBLAS and cuSOLVER, and what `LIBRARIES_BYTES` is in a CPU run."""

TORCH_EXACT_BYTES = 950 * 10**6
"""The same before cuSOLVER, which only an approximate search needs."""

READING_CONTEXT_BYTES = 720 * 10**6
"""Device memory of a process with torch's modules while rows are read, before any array."""

CONTEXT_BYTES = 1_050 * 10**6
"""The same once cuBLAS with its workspaces, cuSOLVER and Triton have worked."""

POOL_SHARE = 0.05
"""What torch's pool loses to rounding, as a share of the arrays."""

PARQUET_BYTES = 8 + 1 + 8 + 4
"""Of a row of embedding.parquet beside its position."""

PICTURE_BYTES = 4 << 20
"""On disk, of map.png and what else does not grow with the rows."""
