"""Rows in an HDF5 or `.h5ad` file. Needs the extra "hdf5".

External storage, links and virtual data sets are refused: through them a file could show any other file of the user.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.source.base import RowSource, as_stored
from streamumap.source.checks import check_2d, quoted, resolve_dtype, short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.choice import with_choice
from streamumap.source.formats.convert import Part, Parts, ToConvert
from streamumap.source.formats.npy import FileRows
from streamumap.source.formats.sparse_forms import form_name, join_parts
from streamumap.source.formats.tensors import CSR_NAMES, MOST_LISTED, VALUES, Named, choose_parts, listed, spelled
from streamumap.source.reading import Reading

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_DATA_SETS = 10_000
MAX_DEPTH = 4
BROKEN = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError)


def is_hdf5(file: OpenFile) -> bool:
    """Tells whether the file begins like HDF5."""
    return file.head(len(MAGIC)) == MAGIC


def hdf5_rows(file: OpenFile, reading: Reading) -> RowSource | ToConvert:
    """Opens a 2-D data set, TopK pairs or a CSR group; `reading.key` names it or the group that holds it. The default in an
    `.h5ad` is `X`. Contiguous data sets are read in place, others converted. Raises InputError."""
    path, key = file.name, reading.key
    try:
        import h5py
    except ImportError as error:
        raise wrong(path, "package", "h5py, which reads HDF5", "none", "pip install 'streamumap[hdf5]'") from error
    try:
        opened = h5py.File(path, "r")
        if key is None and "X" in opened and "obs" in opened:
            key = "X"
        target = opened if key is None else _at(path, opened, key)
        is_set = isinstance(target, h5py.Dataset)
        sets: dict[str, Any] = {key or "": target} if is_set else _data_sets(path, target)
        chosen = _choose(path, sets, key if is_set else None)
        parts: Parts = {part: _part(file, sets[name], part, reading.dtype) for part, name in chosen.items()}
        form, shape = (None, None) if is_set else _form(path, target, chosen)
        width = reading.n_features if reading.n_features is not None or shape is not None else _width(target)
        fingerprint = {"format": "hdf5", "sets": sorted(sets[name].name for name in chosen.values())}
        fingerprint |= {"blake2b": file.sampled_hash(0, 0, file.n_bytes)} | file.identity
        rows = join_parts(path, parts, width, shape, form, fingerprint, [file])
        return with_choice(rows, path, {part: sets[name].name.lstrip("/") for part, name in chosen.items()})
    except InputError:
        raise
    except BROKEN as error:
        raise wrong(path, "content", "a whole HDF5 file", short(str(error)), "write the file again") from error


def _at(path: str, group: Any, key: str) -> Any:
    """Returns the group or data set at a path. Raises InputError if a step of the path is missing or a link."""
    import h5py

    for step in filter(None, key.split("/")):
        link = group.get(step, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            names = ", ".join(list(group)[:8]) if isinstance(group, h5py.Group) else "a data set"
            raise wrong(path, "--key", f"one of {names or 'nothing'}", short(step), "name what is there")
        if not isinstance(link, h5py.HardLink):
            raise wrong(path, f"link {step}", "data in the file itself", "a link", "copy the data into the file")
        group = group[step]
    return group


def _data_sets(path: str, group: Any) -> dict[str, Any]:
    """Returns the data sets of a group and of the groups in it, by name, with None for links. Raises InputError where there are
    too many."""
    sets: dict[str, Any] = {}
    for name, data_set in _walk(group, "", set()):
        sets[name] = data_set
        if len(sets) > MAX_DATA_SETS:
            raise wrong(
                path, "data sets", f"at most {MAX_DATA_SETS}", "more", "name one, or its group, with --key NAME"
            )
    return sets


def _walk(group: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yields (name, data set) of a group, then of the groups in it, each group once: those in `seen`, by address, are skipped. A
    link is None: it is not followed."""
    import h5py

    address, inner = h5py.h5o.get_info(group.id).addr, []
    if address in seen:
        return
    seen.add(address)
    for name in group:
        found = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if found is None or isinstance(found, h5py.Dataset):
            yield prefix + name, found
        elif isinstance(found, h5py.Group):
            inner.append((name, found))
    if prefix.count("/") < MAX_DEPTH:
        for name, found in inner:
            yield from _walk(found, f"{prefix}{name}/", seen)


def _choose(path: str, sets: dict[str, Any], key: str | None) -> dict[str, str]:
    """Calls `choose_parts`. Raises InputError for integers beside a link too, which may lead to the activations."""
    arrays = {name: _named(path, data_set) for name, data_set in sets.items() if data_set is not None}
    links = [spelled(name) for name, data_set in sets.items() if data_set is None]
    chosen = choose_parts(path, arrays, key)
    if links and "rows" in chosen and arrays[chosen["rows"]].is_integer:
        found = f"{listed(arrays)} and links: {', '.join(links[:MOST_LISTED])}"
        raise wrong(path, "arrays", "only one that can be the rows", found, "name one with --key NAME")
    return chosen


def _named(path: str, data_set: Any) -> Named:
    load = f"import h5py; a = h5py.File({quoted(path)})[{quoted(data_set.name)}][:]"
    return Named(tuple(data_set.shape or ()), data_set.dtype.name, load)


def _part(file: OpenFile, data_set: Any, part: str, said: str | None) -> Part | RowSource:
    called = f"{file.name}[{data_set.name.lstrip('/')}]"
    if data_set.external or data_set.is_virtual:
        raise wrong(called, "storage", "data in the file itself", "another file's", "copy the data into the file")
    said = said if part in VALUES else None
    dtype = resolve_dtype(called, data_set.dtype, said)
    is_vector = part in CSR_NAMES and len(data_set.shape) == 1
    shape = (data_set.shape[0], 1) if is_vector else check_2d(called, data_set.shape)
    offset = data_set.id.get_offset() if data_set.chunks is None and not data_set.file.userblock_size else None
    if offset is not None and offset + shape[0] * shape[1] * data_set.dtype.itemsize <= file.n_bytes:
        return FileRows(file, called, offset, shape, data_set.dtype, said)

    def blocks(block_rows: int) -> Iterator[np.ndarray]:
        for start in range(0, shape[0], block_rows):
            try:
                rows = data_set[start : start + block_rows]
            except BROKEN as error:
                raise wrong(
                    called, f"rows from {start}", "a whole file", short(str(error)), "write it again"
                ) from error
            yield as_stored(rows.reshape(-1, shape[1]), dtype)

    return Part(called, shape[0], shape[1], dtype, blocks)


def _form(path: str, group: Any, chosen: dict[str, str]) -> tuple[str | None, Any]:
    """Returns the form and the shape of a sparse matrix that anndata or h5sparse names, or None. Raises InputError."""
    if "indptr" not in chosen:
        return None, None
    said = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format"))
    form = None if said is None else form_name(said)
    if said is not None and form not in ("csr", "csc"):
        raise wrong(path, "format", "csr_matrix or csc_matrix", short(said), "save it as CSR")
    return form, group.attrs.get("shape", group.attrs.get("h5sparse_shape"))


def _width(group: Any) -> int | None:
    """Returns the width of TopK pairs that the file states, or None."""
    width = next((group.attrs[name] for name in ("n_features", "num_features") if name in group.attrs), None)
    return None if width is None else int(width)
