"""Rows in a `.npz`: stored members are read in place, those that are compressed or in Fortran order converted.

No more is inflated than the header of a member announces, a block at a time, and nothing that claims to inflate to more
than DEFLATE_RATIO times its size. Text, dates and objects are left aside, unread.
"""

import io
import zipfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from streamumap.source.base import RowSource, as_stored
from streamumap.source.checks import quoted, resolve_dtype, short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.archive import RESAVE, Archive, is_zip
from streamumap.source.formats.choice import with_choice
from streamumap.source.formats.convert import Part, Parts, ToConvert, column_part
from streamumap.source.formats.npy import FileRows, matrix_shape, tail_warning
from streamumap.source.formats.npy_header import LONGEST_HEAD, MAGIC, NpyHeader, parse_header
from streamumap.source.formats.sparse_forms import COO_NAMES, coo_parts, form_name, join_parts
from streamumap.source.formats.tensors import CSR_NAMES, MOST_LISTED, VALUES, Named, choose_parts, spelled
from streamumap.source.reading import Reading

DEFLATE_RATIO = 1032
"""Bytes that a compressed byte can hold at most, in the method that `numpy.savez_compressed` uses."""

LARGEST_ROW = 64 << 20
"""Largest row, in bytes, that is inflated: rows are inflated whole."""

LARGEST_FACT = 4096
"""Largest member, in bytes, that holds a single fact: a shape, a format, a width."""

FACTS = ("shape", "format", "n_features", "num_features", "_is_array")
UNREAD = {"O": "Python objects, never loaded", "M": "dates", "m": "time spans", "S": "text", "U": "text"}
"""Kinds of members beside the rows that are named in a note."""


def is_npz(file: OpenFile) -> bool:
    """Tells whether the file is a zip file and not one of torch. Raises InputError if its directory is damaged."""
    return is_zip(file) and not Archive(file).is_torch()


def npz_rows(file: OpenFile, reading: Reading) -> RowSource | ToConvert:
    """Opens a 2-D array (`reading.key` names it if there are several), TopK pairs `indices` and `values`, or a sparse matrix as
    SciPy saves it. Raises InputError."""
    archive = Archive(file)
    names = archive.names()
    headers = {name: _header(archive, names[name], any_kind=True) for name in names if _is_array(archive, names[name])}
    facts = {name: _fact(archive, names[name]) for name in FACTS if name in headers and _is_fact(headers[name])}
    arrays = {name: _named(file.name, name, it, reading) for name, it in headers.items() if name not in facts}
    form = _form(file.name, facts, arrays) if reading.key is None else None
    chosen = coo_parts(file.name, form, arrays) or choose_parts(file.name, arrays, reading.key)
    width = reading.n_features if reading.n_features is not None or "indptr" in chosen else _width(facts)
    parts: Parts = {part: _part(archive, names[name], part, reading.dtype) for part, name in chosen.items()}
    fingerprint = {"format": "npz", "members": sorted(chosen.values())}
    rows: Any = join_parts(file.name, parts, width, facts.get("shape"), form, fingerprint, [file])
    if isinstance(rows, ToConvert):
        rows.fingerprint |= {"blake2b": file.sampled_hash(0, 0, file.n_bytes)} | file.identity
    tails = (text for name in chosen.values() for text in _tail(archive, names[name], headers[name]))
    rows.warnings = tuple(dict.fromkeys((*rows.warnings, *tails)))
    rows.notes = _left_aside(names, headers, {*facts, *chosen.values()})
    return with_choice(rows, file.name, chosen)


def _is_array(archive: Archive, member: str) -> bool:
    """Tells whether a member is an array, or should be one by its name."""
    return member.endswith(".npy") or archive.head(member, len(MAGIC)) == MAGIC


def _left_aside(names: dict[str, str], headers: dict[str, NpyHeader], used: set[str]) -> tuple[str, ...]:
    """Returns the note on the members that are no numbers, by name."""
    kinds = {name: _unread(headers[name].dtype) if name in headers else "no array" for name in names}
    aside = [f"{spelled(name)} ({kind})" for name, kind in kinds.items() if kind and name not in used]
    more = f" and {len(aside) - MOST_LISTED} more" if len(aside) > MOST_LISTED else ""
    return (f"left aside: {', '.join(aside[:MOST_LISTED])}{more}",) if aside else ()


def _unread(dtype: np.dtype) -> str | None:
    return "fields" if dtype == np.dtype("V0") else UNREAD.get(dtype.kind)


def _tail(archive: Archive, member: str, header: NpyHeader) -> tuple[str, ...]:
    """Returns the warning of bytes behind an array. Raises InputError where they are another array."""
    return tail_warning(archive.file if archive.is_stored(member) else None, archive.called(member), header)


def _named(file: str, name: str, header: NpyHeader, reading: Reading) -> Named:
    dtype = {"O": "Python objects", "V0": "fields"}.get(header.dtype.str[1:], header.dtype.name)
    two_bytes = header.dtype in (np.dtype("V2"), np.dtype(np.uint16))
    dtype = "bfloat16" if two_bytes and reading.dtype == "bfloat16" else dtype
    return Named(header.shape, dtype, f"a = np.load({quoted(file)})[{quoted(name)}]")


def _part(archive: Archive, member: str, part: str, dtype: str | None) -> Part | RowSource:
    """Opens a matrix, or a vector as a matrix of one column. Raises InputError."""
    called, header = archive.called(member), _header(archive, member)
    declared = dtype if part in VALUES else None
    shape = matrix_shape(called, header, declared, column=part in (*CSR_NAMES, *COO_NAMES))
    resolved = resolve_dtype(called, header.dtype, declared)
    if not archive.is_stored(member):
        return _compressed(archive, member, header, shape, resolved)
    if header.by_column:
        return column_part(archive.file, called, header.data_offset, shape, header.dtype, resolved)
    return FileRows(archive.file, called, header.data_offset, shape, header.dtype, declared)


def _compressed(archive: Archive, member: str, header: NpyHeader, shape: tuple[int, int], dtype: str) -> Part:
    """Opens a member that is inflated from its first value to its last. Raises InputError for one that cannot hold so much."""
    called, info = archive.called(member), archive.members[member]
    if info.compress_type == zipfile.ZIP_DEFLATED and header.body_bytes > DEFLATE_RATIO * max(1, info.compress_size):
        expected = f"at most {DEFLATE_RATIO} times the {info.compress_size} bytes it takes"
        raise wrong(called, "size", expected, f"{header.body_bytes} bytes", RESAVE)
    itemsize, width = header.dtype.itemsize, 1 if header.by_column else shape[1]
    if width * itemsize > LARGEST_ROW:
        remedy = "write it uncompressed, with numpy.savez or numpy.save"
        raise wrong(called, "row", f"at most {LARGEST_ROW} bytes to inflate", width * itemsize, remedy)

    def blocks(block_rows: int) -> Iterator[np.ndarray]:
        total = shape[0] * shape[1] // max(1, width)
        with archive.open(member) as stream:
            archive.guarded(member, lambda: _exactly(stream, header.data_offset))
            for start in range(0, total, block_rows):
                n_rows = min(block_rows, total - start)
                data = archive.guarded(member, partial(_exactly, stream, n_rows * width * itemsize))
                rows = np.frombuffer(data, header.dtype).reshape(n_rows, width)
                yield as_stored(rows, dtype)

    return Part(called, *shape, dtype, blocks, header.by_column)


def _header(archive: Archive, member: str, any_kind: bool = False) -> NpyHeader:
    called, n_bytes = archive.called(member), archive.members[member].file_size
    if archive.is_stored(member):
        start = archive.body(member)
        head = archive.file.head(min(LONGEST_HEAD, n_bytes), start)
        return parse_header(head, called, start, n_bytes, any_kind)
    return parse_header(archive.head(member, LONGEST_HEAD), called, 0, n_bytes, any_kind)


def _is_fact(header: NpyHeader) -> bool:
    """Tells whether a member with the name of a fact holds one, not an array of a value a row."""
    return header.dtype.kind in "biuSU" and len(header.shape) < 2 and header.body_bytes <= LARGEST_FACT // 2


def _fact(archive: Archive, member: str) -> np.ndarray:
    content = io.BytesIO(archive.head(member, LARGEST_FACT))
    return np.asarray(archive.guarded(member, lambda: np.load(content, allow_pickle=False)))


def _exactly(stream, n_bytes: int) -> bytes:
    data = stream.read(n_bytes)
    if len(data) != n_bytes:
        raise EOFError(f"the end after {len(data)} of {n_bytes} bytes")
    return data


def _form(name: str, facts: dict[str, np.ndarray], arrays: dict[str, Named]) -> str | None:
    """Returns the form of a sparse matrix that SciPy names, or None."""
    said = facts["format"].item() if "format" in facts and facts["format"].size == 1 else None
    form = None if said is None else form_name(said)
    if said is not None and form is None and all(part in arrays for part in CSR_NAMES):
        raise wrong(name, "format", "csr, csc or coo", short(said), "call .tocsr() before saving")
    return form


def _width(facts: dict[str, np.ndarray]) -> int | None:
    """Returns the width of TopK pairs that the file states, or None."""
    widths = [facts[field] for field in ("n_features", "num_features") if field in facts]
    return int(widths[0].item()) if widths and widths[0].size == 1 and widths[0].dtype.kind in "iu" else None
