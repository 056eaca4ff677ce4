"""Makes `.npy` files byte by byte and checks how they are refused."""

import contextlib
import os
import struct
import tracemalloc

import numpy as np
import pytest

from streamumap.errors import InputError
from streamumap.source import Reading, open_source

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">i2", ">u8", ">f2", ">f4", ">f8"]


def numbers(n_rows=7, n_features=5, dtype="f4", seed=0):
    values = np.random.default_rng(seed).integers(0, 100, (n_rows, n_features))
    return (values % 2 if np.dtype(dtype).kind == "b" else values).astype(dtype)


def npy_bytes(text, body=b"", version=1):
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode("utf-8" if version == 3 else "latin-1") + body


def header_text(descr="'<f4'", fortran="False", shape="(4, 3)"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


@contextlib.contextmanager
def small_memory(limit_bytes=50_000_000):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit_bytes
    finally:
        tracemalloc.stop()


def refusal(path, **options):
    with small_memory(), pytest.raises(InputError) as caught:
        open_source(path, Reading(**options))
    name, message = os.fsdecode(path), str(caught.value)
    assert message.startswith(name) and "\n" not in message
    assert "expected" in message and "found" in message and "; " in message
    assert "pickle" not in message.replace(name, "")
    return message


def says(message, *parts):
    missing = [part for part in parts if part not in message]
    assert not missing, message
