"""`EncodedRows`: the codes of raw rows by an SAE, encoded block by block and stored as pairs in files of the run."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.source.base import RowSource, blocks, index_dtype, widen
from streamumap.source.formats.convert import AppendFile, ToConvert
from streamumap.source.formats.csr import CsrSource
from streamumap.source.formats.topk import TopKSource
from streamumap.source.sae import sizes
from streamumap.source.sae.load import SaeCheckpoint, make_encoder


class EncodedRows(ToConvert):
    """The codes of `raw` rows by the SAE of a checkpoint, float32 pairs, to be converted. Raises InputError."""

    dtype = "float32"

    def __init__(self, raw: RowSource | ToConvert, checkpoint: SaeCheckpoint):
        self.raw, self.encoder = raw, make_encoder(checkpoint, raw.n_features)
        self.name, self.n_rows, self.n_features = raw.name, raw.n_rows, self.encoder.n_latents
        self.is_top_k = self.encoder.kind == "topk"
        self.max_nonzero = self.n_rows * (self.encoder.k if self.is_top_k else self.n_features)
        pair_bytes = index_dtype(self.n_features).itemsize + 4
        self.n_bytes = (self.max_nonzero if self.is_top_k else 0) * pair_bytes + getattr(raw, "n_bytes", 0)
        self.row_bytes = raw.row_bytes
        self.warnings, self.notes = (
            getattr(raw, "warnings", ()),
            (*getattr(raw, "notes", ()), self._described(checkpoint)),
        )
        self.fingerprint = {"format": "sae", "rows": raw.fingerprint, "checkpoint": checkpoint.fingerprint}

    def convert(self, folder: str | os.PathLike, advance: Advance = no_advance) -> RowSource:
        """Encodes all rows into `folder`. Advances by rows. Raises InputError, InputChanged, OutputError."""
        folder = Path(folder)
        raw = self.raw.convert(folder, no_advance) if isinstance(self.raw, ToConvert) else self.raw
        rows = self._write(raw, folder, advance)
        raw.check_unchanged()
        if raw is not self.raw:
            raw.close()
        rows.name, rows.fingerprint = self.name, self.fingerprint
        return rows

    def check_unchanged(self) -> None:
        self.raw.check_unchanged()

    def close(self) -> None:
        self.raw.close()

    def _write(self, raw: RowSource, folder: Path, advance: Advance) -> TopKSource | CsrSource:
        dtype = index_dtype(self.n_features)
        width = self.encoder.k if self.is_top_k else 1
        indptr = np.zeros(self.n_rows + 1, np.int64)
        row = 0
        with (
            AppendFile(folder / "codes_indices.bin", width, dtype.name) as indices,
            AppendFile(folder / "codes_values.bin", width, "float32") as values,
        ):
            for counts, columns, latent_values in self._codes(raw):
                indices.append(columns.astype(dtype).reshape(-1, width))
                values.append(latent_values.reshape(-1, width))
                np.cumsum(counts, out=indptr[row + 1 : row + 1 + len(counts)])
                indptr[row + 1 : row + 1 + len(counts)] += indptr[row]
                row += len(counts)
                advance(len(counts))
        if self.is_top_k:
            return TopKSource(self.name, indices.rows(), values.rows(), self.n_features)
        with AppendFile(folder / "codes_indptr.bin", 1, "int64") as bounds:
            bounds.append(indptr[:, None])
        shape = (self.n_rows, self.n_features)
        return CsrSource(self.name, bounds.rows(), indices.rows(), values.rows(), shape)

    def _codes(self, raw: RowSource) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        n_latents = self.encoder.n_latents
        if self.device is None:
            from streamumap.source.sae import cpu

            step = sizes.block_rows(sizes.CPU_BLOCK_BYTES, n_latents)
            return cpu.codes(_widened(raw, step), self.encoder)
        from streamumap.source.sae import cuda

        step = sizes.block_rows(sizes.CUDA_BLOCK_BYTES, n_latents)
        return cuda.codes(_widened(raw, step), self.encoder, self.device)

    def _described(self, checkpoint: SaeCheckpoint) -> str:
        encoder = self.encoder
        kind = {"topk": f"TopK, k {encoder.k}", "relu": "ReLU", "jumprelu": "JumpReLU"}[encoder.kind]
        return f"{checkpoint.name}: {kind}, {encoder.n_features:,} -> {encoder.n_latents:,} features"


def _widened(raw: RowSource, block_rows: int) -> Iterator[np.ndarray]:
    """Yields blocks of float32 rows, each a new array: several are in use at a time."""
    for _, block in blocks(raw, block_rows):
        rows = widen(block, raw.dtype)
        yield rows.copy() if rows is block else rows
