"""Where tests of kernels run: on a GPU where there is one, else in Triton's interpreter, which must be switched on before
Triton is imported. Importing this skips the module that does where neither is possible.
"""

import importlib
import os
import sys

import numpy as np
import pytest

from streamumap.neighbors.metric import named
from streamumap.neighbors.protocol import ComparedRows
from streamumap.source import Reading, open_source
from streamumap.source.sparse.csr_rows import pack

torch = pytest.importorskip("torch")
GPU = torch.cuda.is_available()
if not GPU:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("there is no GPU and triton was imported without TRITON_INTERPRET=1", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")


def patch_the_language_once():
    """Spare Triton's interpreter most of its time: it looks through all of `triton.language` for what to replace whenever a
    kernel calls a function, though that is replaced since the kernel began."""
    import triton.language as tl
    from triton.runtime import interpreter

    patch = interpreter._patch_lang

    def patch_where_needed(fn):
        languages = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        replaced = [not tl.core.is_builtin(language.load) for language in languages]
        return None if languages and all(replaced) else patch(fn)

    interpreter._patch_lang = patch_where_needed


if not GPU:
    patch_the_language_once()

DEVICE = "cuda" if GPU else "cpu"
METRICS = ("euclidean", "cosine")
FORMS = ("streamed", "packed")


def part(name):
    """A module of neighbors.cuda; some of them are named like the function that they hold."""
    return importlib.import_module(f"streamumap.neighbors.cuda.{name}")


def as_source(rows, dtype="float32"):
    """float32 rows -> a source that stores them so."""
    if dtype == "bfloat16":
        return open_source((rows.view(np.uint32) >> 16).astype(np.uint16), Reading(dtype="bfloat16"))
    return open_source(rows.astype(dtype))


def compared(rows, metric, form, dtype="float32"):
    """float32 rows -> ComparedRows for the device, in one of the FORMS."""
    source = as_source(rows, dtype)
    csr = pack(source, 100, int(np.count_nonzero(rows))) if form == "packed" else None
    return ComparedRows(source, csr, named(metric), bool((rows >= 0).all()), DEVICE)


def on_device(rows, metric, form, dtype="float32", chunk_rows=64):
    """float32 rows -> rows on the device, in one of the FORMS."""
    from streamumap.neighbors.cuda import search as cuda

    given = compared(rows, metric, form, dtype)
    if form == "packed":
        return cuda.SparseOnDevice(given.csr, given.metric, DEVICE)
    return cuda.DenseOnDevice(given.source, given.metric, chunk_rows, DEVICE)


def numbers(*shape):
    """Row numbers as kernels want them."""
    return torch.arange(int(np.prod(shape)), dtype=torch.int32, device=DEVICE).view(shape)


def placed(array):
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


def unit(rows, metric):
    """float64 rows, of length 1 for cosine; zero rows stay zero."""
    rows = rows.astype(np.float64)
    norms = np.sqrt((rows**2).sum(1, keepdims=True))
    return rows / np.where(norms > 0, norms, 1) if metric == "cosine" else rows


def measured(rows, metric):
    """Distances as SparseOnDevice.measure gives them, float64 (n, n): squared, for cosine the distances themselves; inf for a row and
    itself."""
    from streamumap.neighbors import reference

    d = reference.distance_matrix(rows, rows, metric)
    d = d if metric == "cosine" else d**2
    np.fill_diagonal(d, np.inf)
    return d
