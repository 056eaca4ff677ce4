"""Rows that an iterable yields block by block, only once: written to a temporary file."""

import hashlib
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.errors import InputError, UnusedOption
from streamumap.source.base import as_stored
from streamumap.source.checks import check_2d, declared_dtype, resolve_dtype, wrong
from streamumap.source.formats.array import as_array
from streamumap.source.formats.convert import AppendFile
from streamumap.source.formats.npy import FileRows

NAME = "the blocks of rows"


def iterable_rows(blocks: Iterable[Any], dtype: str | None = None) -> FileRows:
    """Writes all blocks, 2-D arrays or torch tensors of one width and dtype, to a temporary file and opens its rows. The
    file is removed when the source is closed or garbage-collected. Raises InputError, OutputError."""
    folder = tempfile.TemporaryDirectory(prefix="streamumap-")
    try:
        rows = _written(blocks, dtype, Path(folder.name))
    except BaseException:
        folder.cleanup()
        raise
    rows.folder = folder
    return rows


class _TemporaryRows(FileRows):
    """Rows of a file in a temporary folder, which is removed on `close`."""

    folder: tempfile.TemporaryDirectory

    def check_unchanged(self) -> None:
        """Does nothing: nobody else knows the file."""

    def close(self) -> None:
        super().close()
        self.folder.cleanup()


def _written(blocks: Iterable[Any], declared: str | None, folder: Path) -> _TemporaryRows:
    digest, out = hashlib.blake2b(digest_size=16), None
    with ExitStack() as opened:
        for number, block in enumerate(blocks):
            rows, dtype = _block(f"{NAME}: block {number}", block, declared)
            if out is None:
                out = opened.enter_context(AppendFile(folder / "blocks.bin", rows.shape[1], dtype))
            elif (rows.shape[1], dtype) != (out.n_features, out.dtype):
                expected, found = f"{out.n_features} features of {out.dtype}", f"{rows.shape[1]} of {dtype}"
                raise wrong(f"{NAME}: block {number}", "shape", expected, found, "give blocks of one width and dtype")
            out.append(rows)
            digest.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
    if out is None:
        raise wrong(NAME, "blocks", "2-D arrays", "none", "an iterator gives its blocks only once: make a new one")
    source = out.rows(_TemporaryRows)
    source.name, source.fingerprint = NAME, {"format": "blocks", "shape": [source.n_rows, source.n_features]}
    source.fingerprint |= {"dtype": source.dtype, "blake2b": digest.hexdigest()}
    return source


def _block(name: str, block: Any, declared: str | None) -> tuple[np.ndarray, str]:
    try:
        if hasattr(block, "detach"):
            block = block.detach().cpu()
            if str(block.dtype) == "torch.bfloat16":
                block = block.contiguous().view(sys.modules["torch"].int16).numpy()
                declared = declared_dtype(name, "bfloat16", declared)
        rows = as_array(name, block)
        dtype = resolve_dtype(name, rows.dtype, declared)
    except UnusedOption as error:  # no UnusedOption: blocks come only once, so they cannot be opened again without it
        raise InputError(str(error)) from error
    check_2d(name, rows.shape)
    return as_stored(rows, dtype), dtype
