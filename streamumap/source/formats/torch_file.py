"""Rows in a `.pt` file of `torch.save`, read in place. Only tensors are unpickled."""

import sys
from typing import Any

import numpy as np

from streamumap.source.base import RowSource
from streamumap.source.checks import check_2d, declared_dtype, quoted, resolve_dtype, short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.archive import Archive, is_zip
from streamumap.source.formats.choice import with_choice
from streamumap.source.formats.convert import Parts, ToConvert
from streamumap.source.formats.npy import FileRows
from streamumap.source.formats.sparse_forms import join_parts
from streamumap.source.formats.tensors import CSR_NAMES, VALUES, Named, choose_parts
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
    return {name: tensor for name, (tensor, _) in _placed_tensors(file).items()}


def _placed_tensors(file: OpenFile) -> dict[str, tuple[Any, tuple]]:
    """Maps the tensors as `load_tensors` does; with each come the keys of the dictionaries that lead to it."""
    return {name: (tensor, keys) for name, keys, tensor in _tensors(load_content(file), "", ())}


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
    tensors = _placed_tensors(file)
    _check_byte_order(file)
    chosen = choose_parts(file.name, {name: _named(file, *it) for name, it in tensors.items()}, reading.key)
    parts: Parts = {part: _rows(file, name, tensors[name][0], part, reading.dtype) for part, name in chosen.items()}
    rows = join_parts(file.name, parts, reading.n_features)
    is_bare = not any(keys for _, keys in tensors.values())
    return rows if is_bare else with_choice(rows, file.name, chosen)


def _named(file: OpenFile, tensor: Any, keys: tuple) -> Named:
    dtype = str(tensor.dtype).removeprefix("torch.")
    place = "".join(f"[{quoted(key)}]" for key in keys)
    widened = ".float()" if dtype.startswith(("bfloat", "float8")) else ""
    load = f'a = torch.load({quoted(file.name)}, "cpu", weights_only=True){place}{widened}.detach().numpy()'
    return Named(tuple(tensor.shape), dtype, f"import torch; {load}")


def _check_byte_order(file: OpenFile) -> None:
    """Raises InputError for another byte order: torch swaps bytes in its own copy, and rows are read from the file."""
    archive = Archive(file)
    for name in archive.members:
        if name.endswith("/byteorder") and (order := archive.head(name, 16).decode(errors="replace")) != sys.byteorder:
            remedy = "load it with torch.load and save it again on this machine"
            raise wrong(file.name, "byteorder", sys.byteorder, short(order), remedy)


def _rows(file: OpenFile, key: str, tensor: Any, part: str, said: str | None) -> FileRows:
    """Opens a matrix, or a vector of compressed sparse rows as a matrix of one column. Raises InputError."""
    name, dtype = f"{file.name}[{key}]", str(tensor.dtype).removeprefix("torch.")
    if str(tensor.layout) != "torch.strided" or not tensor.is_contiguous():
        raise wrong(name, "layout", "rows one after the other", "others", "save tensor.to_dense().contiguous()")
    try:
        stored = np.dtype(np.uint16 if dtype == "bfloat16" else dtype)
    except TypeError as error:
        raise wrong(name, "dtype", "numbers of 8 to 64 bits", dtype, "save tensor.half()") from error
    declared = declared_dtype(name, "bfloat16" if dtype == "bfloat16" else None, said if part in VALUES else None)
    resolve_dtype(name, stored, declared)
    is_vector = part in CSR_NAMES and tensor.dim() == 1
    shape = (len(tensor), 1) if is_vector else check_2d(name, tuple(tensor.shape))
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


def _tensors(value: Any, name: str, keys: tuple):
    """Yields (name, keys that lead to it, tensor)."""
    if hasattr(value, "untyped_storage"):
        yield name or "tensor", keys, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}" if name else str(key), (*keys, key))
