"""Parses the header of a `.npy` file and checks it against the size of the file; nothing is unpickled.

The format: NumPy enhancement proposal 1 (magic, version, header length, a Python literal, then the raw array).
"""

import ast
import math
import os
import re
import shlex
import warnings
from dataclasses import dataclass

import numpy as np

from streamumap.errors import InputError
from streamumap.source.checks import NUMBERS, SUPPORTED, refused_dtype, short, wrong
from streamumap.source.file import OpenFile

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000
LONGEST_HEAD = 12 + MAX_HEADER_BYTES  # with magic, version and length
MAX_NESTING = 16
RESAVE = "write it again with numpy.save from a 2-D array of numbers"


@dataclass(frozen=True)
class NpyHeader:
    """The checked header of a `.npy`. dtype V2 may be bfloat16.

    `data_offset` and `end` count from the beginning of the file that holds the `.npy`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    data_offset: int
    end: int
    text: str

    @property
    def by_column(self) -> bool:
        """Whether the values of a matrix lie column after column."""
        return self.fortran and len(self.shape) == 2 and min(self.shape) > 1

    @property
    def body_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def extra_bytes(self) -> int:
        """Counts the bytes behind the body."""
        return self.end - self.data_offset - self.body_bytes


def read_header(path: str | bytes | os.PathLike) -> NpyHeader:
    """Reads the header of a `.npy` file of any shape. Raises InputError if it is missing or damaged."""
    with OpenFile(path, "a .npy file") as file:
        return header_at(file, file.name)


def header_at(file: OpenFile, name: str, start: int = 0, n_bytes: int | None = None) -> NpyHeader:
    """Reads the header of a `.npy` embedded in a file from byte `start`, `n_bytes` long (None: to the end). Raises
    InputError, which calls it `name`."""
    npy_bytes = file.n_bytes - start if n_bytes is None else n_bytes
    return parse_header(file.head(min(LONGEST_HEAD, npy_bytes), start), name, start, npy_bytes)


def parse_header(head: bytes, name: str, start: int, npy_bytes: int, any_kind: bool = False) -> NpyHeader:
    """Parses the header in `head`, the first bytes (up to LONGEST_HEAD) of a `.npy` of `npy_bytes` from byte `start` on.
    Raises InputError, with `any_kind` not for text, dates, objects (O) and fields (V0), whose body is not checked."""
    text, header_bytes = _header_text(head, name)
    fields = _parse(text, name)
    dtype = _dtype_of_any_kind(fields["descr"]) if any_kind else None
    if dtype is None:
        dtype = _parse_dtype(fields["descr"], name)
    if not isinstance(fields["fortran_order"], bool):
        raise wrong(name, "fortran_order", "True or False", short(fields["fortran_order"]), RESAVE)
    shape = checked_shape(fields["shape"], dtype.itemsize, name)
    header = NpyHeader(shape, dtype, fields["fortran_order"], start + header_bytes, start + npy_bytes, text)
    if header.extra_bytes < 0 and dtype.kind != "O":
        expected = f"{header.body_bytes} bytes for shape {short(shape)} of {dtype}"
        remedy = "the file was cut off: copy or write it again"
        raise wrong(name, "body", expected, npy_bytes - header_bytes, remedy)
    return header


def _header_text(head: bytes, name: str) -> tuple[str, int]:
    """Returns the header's literal and the offset of the array."""
    if head[:6] != MAGIC:
        raise wrong(name, "magic", MAGIC, f"{head[:6]!r}" if head else "0 bytes", RESAVE)
    if head[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise wrong(name, "version", "1.0, 2.0 or 3.0", ".".join(map(str, head[6:8])) or "the end of the file", RESAVE)
    start = 10 if head[6] == 1 else 12
    header_bytes = int.from_bytes(head[8:start], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise wrong(name, "header length", f"at most {MAX_HEADER_BYTES} bytes", header_bytes, RESAVE)
    if len(head) < start + header_bytes:
        raise wrong(name, "header", f"{start + header_bytes} bytes", f"the end of the file after {len(head)}", RESAVE)
    try:
        return head[start : start + header_bytes].decode("utf-8" if head[6] == 3 else "latin-1"), start + header_bytes
    except UnicodeDecodeError as error:
        raise wrong(name, "header", "text in UTF-8", f"byte {error.object[error.start]}", RESAVE) from error


def _parse(text: str, name: str) -> dict:
    """Evaluates the dictionary in the header: literals only, of bounded nesting, which the compiler needs."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise wrong(name, "header", f"at most {MAX_NESTING} nested brackets", deepest, RESAVE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's remarks on odd literals are not for the user
            tree = ast.parse(text.strip(), mode="eval").body
        if any(isinstance(node, ast.Call) for node in ast.walk(tree)):  # literal_eval would let set() through
            raise ValueError("a call")
        fields = ast.literal_eval(tree)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise wrong(name, "header", "a Python literal", short(text.strip()), RESAVE) from error
    keys = fields.keys() if isinstance(tree, ast.Dict) else set()
    if not isinstance(tree, ast.Dict) or len(tree.keys) != 3 or keys != {"descr", "fortran_order", "shape"}:
        raise wrong(name, "header", "exactly the keys descr, fortran_order and shape", short(text.strip()), RESAVE)
    return fields


def _parse_dtype(descr: object, name: str) -> np.dtype:
    match = re.fullmatch(r"([<>|=]?)([a-zA-Z])([0-9]{0,9})(\[.*\])?", descr) if isinstance(descr, str) else None
    if match is None:
        found = "fields (a structured array)" if isinstance(descr, list) else short(descr)
        raise wrong(name, "descr", SUPPORTED, found, RESAVE)
    order, kind, size, unit = match.groups()
    if not unit and (kind + size in NUMBERS or (kind + size == "V2" and order != ">")):
        return np.dtype(order + kind + size)
    raise refused_dtype(name, kind, int(size or 0), short(descr))


def _dtype_of_any_kind(descr: object) -> np.dtype | None:
    """Returns the dtype of values that can be described but are no rows, None for others."""
    if isinstance(descr, list):
        return np.dtype("V0")
    if not isinstance(descr, str) or not re.fullmatch(r"[<>|=]?[OSUMmcfV][0-9]{0,9}(\[[0-9a-zA-Z]{0,12}\])?", descr):
        return None
    try:
        return np.dtype(descr)
    except (TypeError, ValueError, OverflowError):
        return None


def checked_shape(shape: object, itemsize: int, name: str, remedy: str = RESAVE) -> tuple[int, ...]:
    """Returns `shape` if its sizes are valid and its bytes fit 63 bits. Raises InputError."""
    if not isinstance(shape, tuple):
        raise wrong(name, "shape", "a tuple of sizes", short(shape), remedy)
    total_bytes = itemsize
    for size in shape:
        if type(size) is not int or not 0 <= size < 2**63:
            raise wrong(name, "shape", "sizes from 0 to 2**63 - 1", short(shape), remedy)
        total_bytes *= size
        if total_bytes >= 2**63:
            raise wrong(name, "shape", "fewer than 2**63 bytes", short(shape), remedy)
    return shape


def fortran_order(name: str) -> InputError:
    """Returns the error for an array stored column after column, with the command that converts it."""
    code = (
        "import sys, numpy as np; a = np.load(sys.argv[1], mmap_mode='r'); "
        "b = np.lib.format.open_memmap(sys.argv[2], 'w+', a.dtype, a.shape); "
        "[b.__setitem__(slice(i, i + 4096), a[i:i + 4096]) for i in range(0, len(a), 4096)]"
    )
    target = os.path.splitext(name)[0] + "-rows.npy"
    remedy = f'convert it with: python -c "{code}" {shlex.quote(name)} {shlex.quote(target)}'
    return InputError(f"{name}: fortran_order: expected False (row after row), found True; {remedy}")
