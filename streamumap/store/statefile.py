"""State files: the arrays and facts of a checkpoint in one file, with checksums.

The arrays come first, then a JSON object that describes them, then 16 bytes: its length, its CRC-32, a mark.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from streamumap.machine.gpu import as_tensor, on_host
from streamumap.store.blockfile import bytes_of
from streamumap.store.checkpoint import Arrays

MARK = b"umapunit"
TAIL = struct.Struct("<II8s")
BLOCK_BYTES = 4 << 20


class Damaged(Exception):
    """The file is not what was written."""


@dataclass(frozen=True)
class State:
    """A state file that was found whole. `arrays`: (shape, dtype, offset) by name."""

    path: Path
    content: dict
    arrays: dict[str, tuple[tuple[int, ...], str, int]]

    def array(self, name: str) -> np.ndarray:
        shape, dtype, offset = self.arrays[name]
        out = np.empty(shape, dtype)
        self.fill(name, out)
        return out

    def fill(self, name: str, out: Any) -> None:
        """Reads an array into `out`, an array or tensor of the same shape and dtype."""
        with open(self.path, "rb", buffering=0) as file:
            fill_from(file, self.arrays[name][2], out)


def write_state(file: BinaryIO, content: dict, arrays: Arrays) -> None:
    """Writes a state into an open file. `content`: JSON-able."""
    described, offset = [], 0
    for name, array in arrays.items():
        crc = 0
        for block in in_blocks(array):
            crc = zlib.crc32(block, crc)
            file.write(block)
        shape, dtype = tuple(array.shape), dtype_of(array).str
        described.append([name, shape, dtype, offset, crc])
        offset += int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    text = json.dumps({"content": content, "arrays": described}).encode()
    file.write(text + TAIL.pack(len(text), zlib.crc32(text), MARK))


def read_state(path: Path) -> State:
    """Opens a state file and checks every checksum. Raises FileNotFoundError, Damaged."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            length, crc, mark = TAIL.unpack(os.pread(file.fileno(), TAIL.size, max(0, size - TAIL.size)))
            text = os.pread(file.fileno(), length, max(0, size - TAIL.size - length))
            if mark != MARK or len(text) != length or zlib.crc32(text) != crc:
                raise Damaged
            described = json.loads(text)
            for _, shape, dtype, offset, crc in described["arrays"]:
                n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
                if checksum(file.fileno(), offset, n_bytes) != crc:
                    raise Damaged
        except (struct.error, ValueError) as e:
            raise Damaged from e
    return State(path, described["content"], {name: (tuple(s), d, at) for name, s, d, at, _ in described["arrays"]})


def dtype_of(array: Any) -> np.dtype:
    """The NumPy dtype of an array or a tensor."""
    return np.dtype(str(array.dtype).removeprefix("torch."))


def in_blocks(array: Any) -> Iterator[memoryview]:
    """Yields the bytes of an array or tensor in host memory, a few rows at a time."""
    row_bytes = int(np.prod(array.shape[1:], dtype=np.int64)) * dtype_of(array).itemsize
    if array.ndim == 0:
        yield bytes_of(on_host(array))
        return
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, len(array), step):
        yield bytes_of(on_host(array[start : start + step]))


def fill_from(file: BinaryIO, offset: int, out: Any) -> None:
    """Reads from `offset` on into an array, or block by block into a tensor. Raises Damaged where the file ends."""
    if not isinstance(out, np.ndarray):
        step = max(1, BLOCK_BYTES // max(1, out[:1].nbytes))
        for start in range(0, len(out), step):
            part = np.empty(tuple(out[start : start + step].shape), dtype_of(out))
            fill_from(file, offset, part)
            out[start : start + step] = as_tensor(part).to(out.device)
            offset += part.nbytes
        return
    assert out.flags.c_contiguous
    view = bytes_of(out)
    while len(view):
        n = os.preadv(file.fileno(), [view], offset)
        if n == 0:
            raise Damaged
        view, offset = view[n:], offset + n


def checksum(descriptor: int, offset: int, n_bytes: int) -> int:
    """The CRC-32 of `n_bytes` bytes of a file from `offset` on, of fewer where it ends."""
    crc, stop = 0, offset + n_bytes
    while offset < stop and (block := os.pread(descriptor, min(BLOCK_BYTES, stop - offset), offset)):
        crc, offset = zlib.crc32(block, crc), offset + len(block)
    return crc
