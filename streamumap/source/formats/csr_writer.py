"""Writes rows, exactly, as a CSR `.npz`, which is read in place and which `scipy.sparse.load_npz` opens."""

import os
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.source.base import CsrBlock, RowSource, index_dtype, stored_dtype
from streamumap.source.checks import wrong
from streamumap.source.formats.convert import BLOCK_BYTES, AppendFile
from streamumap.source.formats.npy import FileRows
from streamumap.source.pieces import Piece, over_rows
from streamumap.source.sparse.csr_block import nonzero_mask, pairs_of
from streamumap.store.atomic import write_file, writing


def pack_file(source: RowSource, path: str | os.PathLike, advance: Advance = no_advance) -> int:
    """Writes the rows to `path` and returns its size in bytes. Values stay as stored. Advances by rows.

    Raises InputError if the file exists or its name does not end in .npz, OutputError if it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise wrong(str(path), "output file", "a name that ends in .npz", path.name, "choose one")
    if os.path.lexists(path):
        raise wrong(str(path), "output file", "a new file", "one that is there already", "remove it or choose another")
    with writing(path), tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        parts = _write_parts(source, Path(folder), advance)
        write_file(path, lambda file: _write_archive(file, parts, source), Path(folder) / path.name)
    return path.stat().st_size


def _write_parts(source: RowSource, folder: Path, advance: Advance) -> dict[str, FileRows]:
    def work(rows: Piece) -> CsrBlock:
        return rows if isinstance(rows, CsrBlock) else pairs_of(rows, nonzero_mask(rows, source.dtype))

    block_rows = max(1, BLOCK_BYTES // (source.n_features * stored_dtype(source.dtype).itemsize))
    counts_done = 0
    with (
        AppendFile(folder / "indptr", 1, "int64") as indptr,
        AppendFile(folder / "indices", 1, index_dtype(source.n_features).name) as indices,
        AppendFile(folder / "data", 1, source.dtype) as data,
    ):
        indptr.append(np.zeros((1, 1), np.int64))
        for pairs in over_rows(source, block_rows, work, advance):
            indptr.append((pairs.indptr[1:] + counts_done)[:, None])
            indices.append(pairs.indices[:, None])
            data.append(pairs.values[:, None])
            counts_done += len(pairs.values)
    source.check_unchanged()
    return {"indptr": indptr.rows(), "indices": indices.rows(), "data": data.rows()}


def _write_archive(file: BinaryIO, parts: dict[str, FileRows], source: RowSource) -> None:
    shape = np.array([source.n_rows, source.n_features], np.int64)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, small in (("format", np.array(b"csr")), ("shape", shape)):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, small, allow_pickle=False)
        for name, part in parts.items():
            stored = np.dtype("V2") if part.dtype == "bfloat16" else stored_dtype(part.dtype)
            header = {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": (part.n_rows,)}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                step = BLOCK_BYTES // part.row_bytes
                for start in range(0, part.n_rows, step):
                    member.write(part.read(start, min(start + step, part.n_rows)).reshape(-1).view(np.uint8).data)
            part.close()
