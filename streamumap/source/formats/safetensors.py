"""Rows in a `.safetensors` file, read in place.

The format: 8 bytes with the length of a JSON header, the header (name -> dtype, shape, data_offsets), then the tensors one
after the other (https://github.com/huggingface/safetensors). The header is checked against the size of the file.
"""

import json
from dataclasses import dataclass

import numpy as np

from streamumap.source.base import RowSource
from streamumap.source.checks import check_2d, declared_dtype, quoted, short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.choice import with_choice
from streamumap.source.formats.convert import Parts, ToConvert
from streamumap.source.formats.npy import FileRows
from streamumap.source.formats.npy_header import checked_shape
from streamumap.source.formats.sparse_forms import join_parts
from streamumap.source.formats.tensors import VALUES, Named, choose_parts
from streamumap.source.reading import Reading

MAX_HEADER_BYTES = 2 << 20
DTYPES = {
    "BOOL": "|b1", "I8": "|i1", "U8": "|u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8",
    "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
AGAIN = "copy or write the file again"


@dataclass(frozen=True)
class Tensor:
    """A tensor in the file, from byte `start` on."""

    dtype: str  # as in the header
    shape: tuple[int, ...]
    start: int
    n_bytes: int


def read_tensors(file: OpenFile) -> dict[str, Tensor]:
    """Reads the header: the tensors by name, of any dtype. Raises InputError if it is damaged or disagrees with itself or the
    size of the file."""
    name, head = file.name, file.head(8)
    header_bytes = int.from_bytes(head, "little")
    if len(head) < 8 or header_bytes > MAX_HEADER_BYTES or header_bytes + 8 > file.n_bytes:
        expected = f"at most {min(MAX_HEADER_BYTES, max(0, file.n_bytes - 8))} bytes"
        raise wrong(name, "header length", expected, header_bytes if len(head) == 8 else f"{len(head)} bytes", AGAIN)
    try:
        header = json.loads(file.read(header_bytes, 8).decode("utf-8"), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise wrong(name, "header", "JSON in UTF-8", short(str(error)), AGAIN) from error
    if not isinstance(header, dict):
        raise wrong(name, "header", "names of tensors", short(header), AGAIN)
    header.pop("__metadata__", None)
    tensors = {key: _tensor(f"{name}[{short(key)}]", value, 8 + header_bytes) for key, value in header.items()}
    _check_offsets(file, tensors, 8 + header_bytes)
    return tensors


def is_safetensors(file: OpenFile) -> bool:
    """Tells whether the file begins with the length of a header and a brace. Other formats, read as a length, are larger."""
    head = file.head(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def safetensors_rows(file: OpenFile, reading: Reading) -> RowSource | ToConvert:
    """Opens a 2-D tensor (`reading.key` names it if there are several), TopK pairs or CSR. Raises InputError."""
    tensors = read_tensors(file)
    chosen = choose_parts(file.name, {name: _named(file, name, it) for name, it in tensors.items()}, reading.key)
    parts: Parts = {part: tensor_rows(file, name, tensors[name], part, reading.dtype) for part, name in chosen.items()}
    return with_choice(join_parts(file.name, parts, reading.n_features), file.name, chosen)


def _named(file: OpenFile, name: str, tensor: Tensor) -> Named:
    known = DTYPES.get(tensor.dtype)
    dtype = np.dtype(known).name if known and tensor.dtype != "BF16" else tensor.dtype.replace("BF16", "bfloat16")
    widened = "" if known and dtype != "bfloat16" else ".float()"
    load = f"a = load_file({quoted(file.name)})[{quoted(name)}]{widened}.numpy()"
    return Named(tensor.shape, dtype, f"from safetensors.torch import load_file; {load}")


def tensor_rows(file: OpenFile, key: str, tensor: Tensor, part: str = "rows", dtype: str | None = None) -> FileRows:
    """Opens a matrix, or a vector of compressed sparse rows as a matrix of one column. `dtype`: as the option says. Raises
    InputError."""
    name = f"{file.name}[{key}]"
    if tensor.dtype not in DTYPES:
        raise wrong(name, "dtype", f"one of {', '.join(DTYPES)}", tensor.dtype, "convert it to F16 or F32 first")
    is_vector = part in ("indptr", "indices", "data") and len(tensor.shape) == 1
    shape = (tensor.shape[0], 1) if is_vector else check_2d(name, tensor.shape)
    known = "bfloat16" if tensor.dtype == "BF16" else None
    declared = declared_dtype(name, known, dtype if part in VALUES else None)
    rows = FileRows(file, name, tensor.start, shape, np.dtype(DTYPES[tensor.dtype]), declared)
    rows.fingerprint |= {"format": "safetensors", "key": key}
    return rows


def _without_repetition(pairs):
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name twice")
    return fields


def _tensor(name: str, value: object, data_start: int) -> Tensor:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise wrong(name, "header", "dtype, shape and data_offsets", short(value), AGAIN)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise wrong(name, "header", "a dtype and a list of sizes", f"{short(dtype)} and {short(shape)}", AGAIN)
    itemsize = np.dtype(DTYPES[dtype]).itemsize if dtype in DTYPES else 1
    sizes = checked_shape(tuple(shape), itemsize, name, AGAIN)
    whole = isinstance(offsets, list) and len(offsets) == 2 and all(type(o) is int and 0 <= o < 2**63 for o in offsets)
    if not whole or offsets[1] < offsets[0]:
        raise wrong(name, "data_offsets", "two places in ascending order", short(offsets), AGAIN)
    n_bytes = offsets[1] - offsets[0]
    expected = itemsize * int(np.prod(sizes, dtype=object)) if dtype in DTYPES else n_bytes
    if n_bytes != expected:
        raise wrong(name, "data_offsets", f"{expected} bytes for shape {short(sizes)} of {dtype}", n_bytes, AGAIN)
    return Tensor(dtype, sizes, data_start + offsets[0], n_bytes)


def _check_offsets(file: OpenFile, tensors: dict[str, Tensor], data_start: int) -> None:
    """Raises InputError unless the tensors lie one after the other and end with the file."""
    end = data_start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].n_bytes)):
        if tensor.start != end:
            called = f"{file.name}[{short(name)}]"
            raise wrong(
                called,
                "data_offsets",
                f"{end - data_start}, where the one before ends",
                tensor.start - data_start,
                AGAIN,
            )
        end += tensor.n_bytes
    if end != file.n_bytes:
        remedy = "the file was cut off: copy or write it again" if end > file.n_bytes else AGAIN
        raise wrong(file.name, "body", f"{end - data_start} bytes", file.n_bytes - data_start, remedy)
