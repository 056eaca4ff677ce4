"""Rows in a `.pt` file of `torch.save`, read in place. Only tensors are unpickled."""

import sys
from typing import Any

import numpy as np

from streamumap.source.base import RowSource
from streamumap.source.checks import check_2d, declared_dtype, resolve_dtype, short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.archive import Archive, is_zip
from streamumap.source.formats.convert import Parts, ToConvert, assemble
from streamumap.source.formats.npy import FileRows
from streamumap.source.formats.tensors import VALUES, choose_parts
from streamumap.source.reading import Reading

LARGEST_PICKLE = 16 << 20
"""Largest pickle, in bytes, that describes the tensors."""

REMEDY = "save a tensor, or a dictionary of tensors, with torch.save"


def is_torch(file: OpenFile) -> bool:
    """Tells whether the file is a zip file of `torch.save`. Raises InputError if its directory is damaged."""
    return is_zip(file) and Archive(file).is_torch()


def load_tensors(file: OpenFile) -> dict[str, Any]:
    """Maps the tensors in a file of `torch.save` on the CPU. Names of nested dictionaries are joined by dots; a bare tensor
    is called "tensor". Raises InputError if there is anything else."""
    return dict(_tensors(load_content(file), ""))


def load_content(file: OpenFile) -> Any:
    """Loads a file of `torch.save` with `weights_only`: tensors, mapped on the CPU, in dictionaries. Raises InputError."""
    import torch

    Archive(file).check_stored(LARGEST_PICKLE)
    try:
        return torch.load(file.name, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what torch's unpickler, zip reader and C++ raise has no common class
        found = short(str(error).strip().split("\n")[0])
        raise wrong(file.name, "content", "tensors and nothing else", found, REMEDY) from error


def torch_rows(file: OpenFile, reading: Reading) -> RowSource | ToConvert:
    """Opens a 2-D tensor (`reading.key` names it if there are several), TopK pairs or CSR. Raises InputError."""
    tensors = load_tensors(file)
    _check_byte_order(file)
    chosen = choose_parts(file.name, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, reading.key)
    said = {part: reading.dtype if part in VALUES else None for part in chosen}
    parts: Parts = {part: _rows(file, name, tensors[name], said[part]) for part, name in chosen.items()}
    return assemble(file.name, parts, reading.n_features)


def _check_byte_order(file: OpenFile) -> None:
    """Raises InputError for another byte order: torch swaps bytes in its own copy, and rows are read from the file."""
    archive = Archive(file)
    for name in archive.members:
        if name.endswith("/byteorder") and (order := archive.head(name, 16).decode(errors="replace")) != sys.byteorder:
            remedy = "load it with torch.load and save it again on this machine"
            raise wrong(file.name, "byteorder", sys.byteorder, short(order), remedy)


def _rows(file: OpenFile, key: str, tensor: Any, said: str | None) -> FileRows:
    name, dtype = f"{file.name}[{key}]", str(tensor.dtype).removeprefix("torch.")
    if str(tensor.layout) != "torch.strided" or not tensor.is_contiguous():
        raise wrong(name, "layout", "rows one after the other", "others", "save tensor.to_dense().contiguous()")
    try:
        stored = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
    except TypeError as error:
        raise wrong(name, "dtype", "numbers of 8 to 64 bits", dtype, "save tensor.half()") from error
    declared = declared_dtype(name, "bfloat16" if dtype == "bfloat16" else None, said)
    resolve_dtype(name, stored, declared)
    shape = check_2d(name, tuple(tensor.shape))
    offset = _file_offset(tensor.data_ptr()) if tensor.numel() else 0
    if offset is None:
        raise wrong(name, "storage", "values in the file", f"a tensor on {tensor.device} without them", REMEDY)
    rows = FileRows(file, name, offset, shape, stored, declared)
    rows.fingerprint |= {"format": "pt", "key": key}
    return rows


def _file_offset(address: int) -> int | None:
    """Returns the offset in its file of the mapped byte at this address, None if no file is mapped there."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            span, _, offset = line.split()[:3]
            start, stop = (int(bound, 16) for bound in span.split("-"))
            if start <= address < stop:
                return int(offset, 16) + address - start
    return None


def _tensors(value: Any, name: str):
    if hasattr(value, "untyped_storage"):
        yield name or "tensor", value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}" if name else str(key))
