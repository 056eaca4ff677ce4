"""Rows in a Zarr array or group in a folder. Needs the extra "zarr".

A missing chunk would read as zeros, so every chunk must be there. Only codecs that cannot run code are allowed.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamumap.errors import InputChanged, InputError
from streamumap.source.base import as_stored
from streamumap.source.checks import check_2d, quoted, resolve_dtype, short, wrong
from streamumap.source.formats.choice import with_choice
from streamumap.source.formats.convert import Part, Parts, ToConvert
from streamumap.source.formats.sparse_forms import form_name, join_parts
from streamumap.source.formats.tensors import CSR_NAMES, VALUES, Named, choose_parts
from streamumap.source.reading import Reading

METADATA = ("zarr.json", ".zarray", ".zgroup")
SAFE_CODECS = {
    "bytes", "blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "transpose", "crc32c", "sharding_indexed", "shuffle", "delta",
    "bitround", "fixedscaleoffset",
}  # fmt: skip
MAX_JSON_BYTES = 1 << 20
MAX_CHUNKS = 10_000_000
MAX_DEPTH = 4
REMEDY = "write the array again"


def is_zarr(folder: str) -> bool:
    """Tells whether the folder has the metadata of Zarr."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in METADATA)


def zarr_rows(folder: str, reading: Reading) -> ToConvert:
    """Opens a Zarr array or, in a group, a 2-D array (`reading.key` names it if there are several), TopK pairs or CSR, to be
    converted. Raises InputError."""
    try:
        import zarr
    except ImportError as error:
        raise wrong(folder, "package", "zarr, which reads Zarr", "none", "pip install 'streamumap[zarr]'") from error
    store, key = _Folder(folder), reading.key
    try:
        opened = zarr.open(folder, mode="r", path=key.strip("/") if key else None)
        if key is None and isinstance(opened, zarr.Group) and "X" in opened and "obs" in opened:
            opened = opened["X"]  # as anndata writes it
        arrays = {"": opened} if isinstance(opened, zarr.Array) else dict(_arrays(opened, ""))
        chosen = choose_parts(folder, {name: _named(folder, array) for name, array in arrays.items()}, None)
        parts: Parts = {part: _part(folder, arrays[name], part, reading.dtype) for part, name in chosen.items()}
        form, shape = _form(folder, opened, chosen)
        width = reading.n_features if reading.n_features is not None or shape is not None else _width(opened)
        fingerprint = {"format": "zarr", "key": key, "files": store.known}
        rows = join_parts(folder, parts, width, shape, form, fingerprint, [store])
    except InputError:
        raise
    except Exception as error:  # zarr and its codecs have no common class of their own
        raise wrong(folder, "content", "a whole Zarr array", short(str(error)), REMEDY) from error
    assert isinstance(rows, ToConvert)
    paths = {part: arrays[name].path for part, name in chosen.items()}
    return with_choice(rows, folder, paths) if any(paths.values()) else rows


def _arrays(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yields (name, array) of a group, then of the groups in it."""
    for name, array in group.arrays():
        yield prefix + name, array
    if prefix.count("/") < MAX_DEPTH:
        for name, inner in group.groups():
            yield from _arrays(inner, f"{prefix}{name}/")


def _named(folder: str, array: Any) -> Named:
    place = f"[{quoted(array.path)}]" if array.path else ""
    load = f'import zarr; a = zarr.open({quoted(folder)}, mode="r"){place}[:]'
    return Named(tuple(array.shape), str(np.dtype(array.dtype).name), load)


class _Folder:
    """The files of a Zarr store, identified by name, size and modification time. Raises InputError for links and codecs."""

    def __init__(self, folder: str):
        self._folder = os.path.abspath(folder)
        for path in self._files():
            if os.path.basename(path) in (*METADATA, ".zmetadata"):
                _check_codecs(path)
        self.known = self._hash()

    def check_identity(self) -> None:
        current = self._hash()
        if current != self.known:
            raise InputChanged(
                f"{self._folder}: files: expected {self.known} as on opening, found {current}; start again when nothing writes there."
            )

    def close(self) -> None: ...

    def _files(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self._folder):
            folders.sort()
            for name in (*folders, *sorted(names)):
                path = os.path.join(folder, name)
                if os.path.islink(path):
                    raise wrong(path, "file", "one within the store", "a link", "copy it there")
            yield from (os.path.join(folder, name) for name in sorted(names))

    def _hash(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for path in self._files():
            status = os.stat(path)
            digest.update(f"{os.path.relpath(path, self._folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def _check_codecs(path: str) -> None:
    """Raises InputError for a codec that is not in SAFE_CODECS: some unpickle, or call what the metadata names."""
    if os.path.getsize(path) > MAX_JSON_BYTES:
        raise wrong(path, "size", f"at most {MAX_JSON_BYTES} bytes", os.path.getsize(path), REMEDY)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise wrong(path, "metadata", "JSON", short(str(error)), REMEDY) from error
    for codec in _codecs(content):
        if codec not in SAFE_CODECS:
            expected = f"one of {', '.join(sorted(SAFE_CODECS))}"
            raise wrong(path, "codec", expected, short(codec), "write the array with one of these")


def _codecs(value: Any) -> Iterator[object]:
    """Yields the name of every codec at any depth: `name` in Zarr 3, `id` in Zarr 2."""
    if isinstance(value, dict):
        for field, inner in value.items():
            if field in ("codecs", "index_codecs", "filters", "compressor"):
                for codec in inner if isinstance(inner, list) else [inner]:
                    if isinstance(codec, dict):
                        yield codec.get("name", codec.get("id"))
                    elif codec is not None:
                        yield codec
            yield from _codecs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _codecs(inner)


def _part(folder: str, array: Any, part: str, said: str | None) -> Part:
    called = f"{folder}[{array.path}]" if array.path else folder
    dtype = resolve_dtype(called, np.dtype(array.dtype), said if part in VALUES else None)
    is_vector = part in CSR_NAMES and len(array.shape) == 1
    shape = (array.shape[0], 1) if is_vector else check_2d(called, tuple(array.shape))
    if array.nchunks > MAX_CHUNKS:
        raise wrong(called, "chunks", f"at most {MAX_CHUNKS}", array.nchunks, "write it in larger chunks")
    missing = array.nchunks - array.nchunks_initialized
    if missing > 0:
        remedy = "copy the rest; chunks of zeros are written with write_empty_chunks=True"
        raise wrong(called, "chunks", f"all {array.nchunks}", f"{missing} of them missing", remedy)

    def blocks(block_rows: int) -> Iterator[np.ndarray]:
        for start in range(0, shape[0], block_rows):
            try:
                rows = np.asarray(array[start : start + block_rows])
            except Exception as error:  # zarr and its codecs have no common class of their own
                raise wrong(called, f"rows from {start}", "whole chunks", short(str(error)), REMEDY) from error
            yield np.ascontiguousarray(as_stored(rows.reshape(-1, shape[1]), dtype))

    return Part(called, shape[0], shape[1], dtype, blocks)


def _form(folder: str, group: Any, chosen: dict[str, str]) -> tuple[str | None, Any]:
    """Returns the form and the shape of a sparse matrix that anndata names, or None. Raises InputError."""
    if "indptr" not in chosen:
        return None, None
    said = group.attrs.get("encoding-type")
    form = None if said is None else form_name(said)
    if said is not None and form not in ("csr", "csc"):
        raise wrong(folder, "format", "csr_matrix or csc_matrix", short(said), "save it as CSR")
    return form, group.attrs.get("shape")


def _width(group: Any) -> int | None:
    width = group.attrs.get("n_features", group.attrs.get("num_features"))
    return None if width is None else int(width)
