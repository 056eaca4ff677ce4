"""`EncodedRows`: the codes of raw rows by an SAE, encoded block by block and stored as pairs in files of the run."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.source.base import RowSource, blocks, index_dtype, widen
from streamumap.source.formats.convert import AppendFile, ToConvert
from streamumap.source.formats.csr import CsrSource
from streamumap.source.formats.topk import TopKSource
from streamumap.source.sae import sizes
from streamumap.source.sae.check import ROWS, check
from streamumap.source.sae.checkpoint import SaeCheckpoint
from streamumap.source.sae.encoder import Encoder
from streamumap.source.sae.load import decoder_of, make_encoder


class EncodedRows(ToConvert):
    """The codes of `raw` rows by the SAE of a checkpoint, float32 pairs, to be converted. Raises InputError."""

    dtype = "float32"

    def __init__(self, raw: RowSource | ToConvert, checkpoint: SaeCheckpoint):
        self.raw, self.encoder = raw, make_encoder(checkpoint, raw.n_features)
        self.decoder = decoder_of(checkpoint, self.encoder)
        self.name, self.n_rows, self.n_features = raw.name, raw.n_rows, self.encoder.n_latents
        self.is_top_k = self.encoder.kind == "topk"
        self.max_nonzero = self.n_rows * (self.encoder.k if self.is_top_k else self.n_features)
        pair_bytes = index_dtype(self.n_features).itemsize + 4
        self.n_bytes = (self.max_nonzero if self.is_top_k else 0) * pair_bytes + getattr(raw, "n_bytes", 0)
        self.row_bytes = raw.row_bytes
        self.warnings, self.notes = (
            getattr(raw, "warnings", ()),
            (*getattr(raw, "notes", ()), f"{checkpoint.name}: {described(self.encoder)}"),
        )
        self.checkpoint_name = checkpoint.name
        self.fingerprint = {"format": "sae", "rows": raw.fingerprint, "checkpoint": checkpoint.fingerprint}

    def convert(self, folder: str | os.PathLike, advance: Advance = no_advance) -> RowSource:
        """Encodes all rows into `folder`, and tells the listener before how the first ones are encoded. Advances by rows. Raises
        InputError, InputChanged, OutputError."""
        folder = Path(folder)
        raw = self.raw.convert(folder, no_advance) if isinstance(self.raw, ToConvert) else self.raw
        self._check(raw)
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
            for counts, columns, latent_values in self._codes(_widened(raw, self._block_rows())):
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

    def _check(self, raw: RowSource) -> None:
        """Tells the listener how the first rows are encoded. Releases the decoder, which nothing else needs."""
        if self.listener is not None:
            step = self._block_rows()
            rows = np.array(widen(raw.read(0, min(ROWS, raw.n_rows)), raw.dtype))
            codes = self._codes(rows[start : start + step] for start in range(0, len(rows), step))
            self.listener(check(self.checkpoint_name, rows, codes, self.encoder, self.decoder))
        self.decoder = None

    def _block_rows(self) -> int:
        block_bytes = sizes.CPU_BLOCK_BYTES if self.device is None else sizes.CUDA_BLOCK_BYTES
        return sizes.block_rows(block_bytes, self.encoder.n_latents)

    def _codes(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        if self.device is None:
            from streamumap.source.sae import cpu

            return cpu.codes(blocks, self.encoder)
        from streamumap.source.sae import cuda

        return cuda.codes(blocks, self.encoder, self.device)


def described(encoder: Encoder) -> str:
    """Says in one line how rows are encoded."""
    kind = {"topk": f"TopK, k {encoder.k}", "relu": "ReLU", "jumprelu": "JumpReLU"}[encoder.kind]
    if encoder.threshold is not None:
        low, high = float(encoder.threshold.min()), float(encoder.threshold.max())
        kind += f", threshold {low:.3g}" if low == high else f", thresholds {low:.3g} to {high:.3g}"
    parts = [f"{encoder.layout}: {kind}", f"{encoder.n_features:,} -> {encoder.n_latents:,} features"]
    if encoder.mean.any() or encoder.scale != 1:
        parts.append(f"rows less their mean, over {encoder.scale:.3g}")
    if encoder.normalisation != "none":
        parts.append(f"rows normalised by {encoder.normalisation}")
    parts.append("the decoder's bias is subtracted first" if encoder.centre.any() else "no bias is subtracted first")
    if encoder.out_scale is not None:
        parts.append("codes times the lengths of the decoder's directions")
    return ", ".join(parts)


def _widened(raw: RowSource, block_rows: int) -> Iterator[np.ndarray]:
    """Yields blocks of float32 rows, each a new array: several are in use at a time."""
    for _, block in blocks(raw, block_rows):
        rows = widen(block, raw.dtype)
        yield rows.copy() if rows is block else rows
