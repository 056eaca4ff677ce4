"""Rows in a `.npz`: stored members are read in place, compressed ones converted.

A member that inflates to more than LARGEST_RATIO times its size is refused, and no more is inflated than its header
announces.
"""

import io
from collections.abc import Iterator
from functools import partial

import numpy as np

from streamumap.source.base import RowSource, as_stored
from streamumap.source.checks import quoted, resolve_dtype, short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.archive import RESAVE, Archive, is_zip
from streamumap.source.formats.choice import with_choice
from streamumap.source.formats.convert import Part, Parts, ToConvert, assemble
from streamumap.source.formats.npy import FileRows, matrix_shape, tail_warning
from streamumap.source.formats.npy_header import LONGEST_HEAD, NpyHeader, header_at, parse_header
from streamumap.source.formats.tensors import VALUES, Named, choose_parts
from streamumap.source.reading import Reading

LARGEST_RATIO = 500
LARGEST_FACT = 4096
"""Largest member, in bytes, that holds a single fact: a shape, a format, a width."""

FACTS = ("shape", "format", "n_features", "num_features", "_is_array")


def is_npz(file: OpenFile) -> bool:
    """Tells whether the file is a zip file and not one of torch. Raises InputError if its directory is damaged."""
    return is_zip(file) and not Archive(file).is_torch()


def npz_rows(file: OpenFile, reading: Reading) -> RowSource | ToConvert:
    """Opens a 2-D array (`reading.key` names it if there are several), TopK pairs `indices` and `values`, or a CSR matrix as
    SciPy saves it. Raises InputError."""
    archive = Archive(file)
    names = {name.removesuffix(".npy"): name for name in archive.members}
    facts = {name: _fact(archive, names[name]) for name in FACTS if name in names}
    arrays = {name: _named(archive, name, member, reading) for name, member in names.items() if name not in FACTS}
    chosen = choose_parts(file.name, arrays, reading.key)
    width = reading.n_features if reading.n_features is not None else _width(file.name, facts, chosen)
    parts: Parts = {part: _part(archive, names[name], part, reading.dtype) for part, name in chosen.items()}
    rows = assemble(file.name, parts, width, {"format": "npz", "members": sorted(chosen.values())}, [file])
    if isinstance(rows, ToConvert):
        rows.fingerprint |= {"blake2b": file.sampled_hash(0, 0, file.n_bytes)} | file.identity
    return with_choice(rows, file.name, chosen)


def _named(archive: Archive, name: str, member: str, reading: Reading) -> Named:
    header = _header(archive, member)
    two_bytes = header.dtype in (np.dtype("V2"), np.dtype(np.uint16))
    dtype = "bfloat16" if two_bytes and reading.dtype == "bfloat16" else header.dtype.name
    return Named(header.shape, dtype, f"a = np.load({quoted(archive.file.name)})[{quoted(name)}]")


def _part(archive: Archive, member: str, part: str, dtype: str | None) -> Part | RowSource:
    """Opens a matrix, or a vector as a matrix of one column. Raises InputError."""
    called, header = archive.called(member), _header(archive, member)
    declared = dtype if part in VALUES else None
    shape = matrix_shape(called, header, declared, column=part in ("indptr", "indices", "data"))
    if archive.is_stored(member):
        rows = FileRows(archive.file, called, header.data_offset, shape, header.dtype, declared)
        rows.warnings = tail_warning(called, header)
        return rows
    compressed_bytes = archive.members[member].compress_size
    if header.body_bytes > LARGEST_RATIO * max(1, compressed_bytes):
        expected = f"at most {LARGEST_RATIO} times the {compressed_bytes} bytes it takes"
        remedy = "write it uncompressed, with numpy.savez or numpy.save"
        raise wrong(called, "size", expected, f"{header.body_bytes} bytes", remedy)
    resolved = resolve_dtype(called, header.dtype, declared)

    def blocks(block_rows: int) -> Iterator[np.ndarray]:
        with archive.open(member) as stream:
            archive.guarded(member, lambda: _exactly(stream, header.data_offset))
            for start in range(0, shape[0], block_rows):
                n_rows = min(block_rows, shape[0] - start)
                n_bytes = n_rows * shape[1] * header.dtype.itemsize
                data = archive.guarded(member, partial(_exactly, stream, n_bytes))
                rows = np.frombuffer(data, header.dtype).reshape(n_rows, shape[1])
                yield as_stored(rows, resolved)

    return Part(called, *shape, resolved, blocks)


def _header(archive: Archive, member: str) -> NpyHeader:
    called, n_bytes = archive.called(member), archive.members[member].file_size
    if archive.is_stored(member):
        return header_at(archive.file, called, archive.body(member), n_bytes)
    return parse_header(archive.head(member, LONGEST_HEAD), called, 0, n_bytes)


def _fact(archive: Archive, member: str) -> np.ndarray:
    n_bytes = archive.members[member].file_size
    if n_bytes > LARGEST_FACT:
        raise wrong(archive.called(member), "size", f"at most {LARGEST_FACT} bytes", n_bytes, RESAVE)
    content = io.BytesIO(archive.head(member, LARGEST_FACT))
    return np.asarray(archive.guarded(member, lambda: np.load(content, allow_pickle=False)))


def _exactly(stream, n_bytes: int) -> bytes:
    data = stream.read(n_bytes)
    if len(data) != n_bytes:
        raise EOFError(f"the end after {len(data)} of {n_bytes} bytes")
    return data


def _width(name: str, facts: dict[str, np.ndarray], chosen: dict[str, str]) -> int | None:
    """Returns the width of pairs that the file states, or None."""
    if "indptr" in chosen:
        kind = facts["format"].item() if "format" in facts else b"csr"
        if kind not in (b"csr", "csr"):
            raise wrong(name, "format", "csr", short(kind), "call .tocsr() before saving")
        shape = facts.get("shape", np.zeros(0))
        if shape.shape != (2,) or shape.dtype.kind not in "iu":
            raise wrong(name, "shape", "two sizes", short(shape.tolist()), "write it again with scipy.sparse.save_npz")
        return int(shape[1])
    widths = [facts[field] for field in ("n_features", "num_features") if field in facts]
    return int(widths[0].item()) if widths and widths[0].size == 1 and widths[0].dtype.kind in "iu" else None
