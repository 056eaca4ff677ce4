"""Rows in files, by place, while a search holds only a window of them: without their zeros, or as sketches where they are dense."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from streamumap.machine.ahead import read_ahead
from streamumap.neighbors.cuda.dense_rows import DenseOnDevice
from streamumap.neighbors.cuda.device_rows import Measures
from streamumap.neighbors.cuda.passing_rows import PassingRows
from streamumap.neighbors.cuda.sizes import WRITERS
from streamumap.neighbors.cuda.sketch import Projection, Sketches
from streamumap.source.base import index_dtype, stored_dtype
from streamumap.source.sparse.csr_rows import CsrRows
from streamumap.store.blockfile import BlockFile
from streamumap.store.checkpoint import Checkpoint

DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}

Runs = Sequence[tuple[int, int]]
"""(start, stop) of places."""


class Keeper(Protocol):
    """Keeps `rows`, first as they come, then by place."""

    @property
    def rows(self) -> PassingRows | DenseOnDevice: ...

    def codes(self, projection: Projection, chunk_rows: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (first, sketches int8 (n, w)) of every chunk of rows, as they come."""

    def arrange(self, numbers: np.ndarray, blocks: Iterable) -> None:
        """Write all rows by place: `numbers` int32 (N,) is the row at each; `blocks` of `arranged.Block`."""

    def brought(self, runs: Runs, projection: Projection, chunk_rows: int) -> tuple[Tensor, Measures]:
        """Bring the places of these runs to the device: their sketches int8 (n, w), and what measures them."""

    def measures(self, runs: Runs) -> Measures:
        """Bring what measures the places of these runs."""


class KeptPairs:
    """Keeps rows without their zeros in two files, which `scratch` makes."""

    def __init__(self, rows: PassingRows, scratch: Checkpoint):
        self.rows, self.scratch, self.by_place = rows, scratch, rows

    def codes(self, projection: Projection, chunk_rows: int) -> Iterator[tuple[int, Tensor]]:
        return projection.codes(self.rows, chunk_rows)

    def arrange(self, numbers: np.ndarray, blocks: Iterable) -> None:
        csr, dtype = self.rows.rows, DTYPES[self.rows.kept]
        indptr = np.concatenate([[0], np.cumsum(csr.lengths()[numbers])])
        features = self.scratch.create("neighbors-features", (csr.n_nonzero,), index_dtype(csr.n_features))
        values = self.scratch.create("neighbors-values", (csr.n_nonzero,), stored_dtype(dtype))
        with ThreadPoolExecutor(WRITERS) as writers:
            for block in blocks:
                here = self.rows.brought([(block.start, block.stop)])
                lengths = here.indptr.diff()[torch.from_numpy(block.order).to(here.device)]
                at = _pairs_of(here.indptr, block.order, lengths)
                ends = np.concatenate([[0], lengths.cumsum(0).cpu().numpy()])
                sources = (features, _bits(here.features[at])), (values, _bits(here.values[at]))
                del here, at

                def write(run, ends=ends, sources=sources) -> None:
                    place, a, b = run
                    for file, pairs in sources:
                        file.write(int(indptr[place]), pairs[ends[a] : ends[b]])

                list(writers.map(write, block.runs))
        arranged = CsrRows(indptr, features, values, csr.n_features, dtype)
        self.by_place = PassingRows(arranged, self.rows.metric, self.rows.device)

    def brought(self, runs: Runs, projection: Projection, chunk_rows: int) -> tuple[Tensor, Measures]:
        rows = self.by_place.brought(runs)
        return projection.all_codes(rows, chunk_rows), rows

    def measures(self, runs: Runs) -> Measures:
        return self.by_place.brought(runs)


class KeptSketches:
    """Keeps the sketches of dense rows in a file, which `scratch` makes."""

    def __init__(self, rows: DenseOnDevice, scratch: Checkpoint):
        self.rows, self.scratch = rows, scratch
        self.as_they_come: BlockFile | None = None
        self.by_place: BlockFile | None = None

    def codes(self, projection: Projection, chunk_rows: int) -> Iterator[tuple[int, Tensor]]:
        """Read the rows the first time, then the file."""
        n = self.rows.n_rows
        if self.as_they_come is not None:
            for start in range(0, n, chunk_rows):
                part = self.as_they_come.read(start, min(start + chunk_rows, n))
                yield start, torch.from_numpy(part).to(self.rows.device)
            return
        file = self.scratch.create("neighbors-sketches", (n, projection.along.shape[1]), np.int8)
        for first, codes in projection.codes(self.rows, chunk_rows):
            file.write(first, codes.cpu().numpy())
            yield first, codes
        self.as_they_come = file

    def arrange(self, numbers: np.ndarray, blocks: Iterable) -> None:
        assert self.as_they_come is not None
        sketches, by_place = (
            self.as_they_come,
            self.scratch.create("neighbors-by-place", self.as_they_come.shape, np.int8),
        )
        with ThreadPoolExecutor(WRITERS) as writers:
            for block in blocks:
                codes = sketches.read(block.start, block.stop)[block.order]
                list(writers.map(lambda run, codes=codes: by_place.write(run[0], codes[run[1] : run[2]]), block.runs))
        self.by_place = by_place

    def brought(self, runs: Runs, projection: Projection, chunk_rows: int) -> tuple[Tensor, Measures]:
        measures = self.measures(runs)
        return measures.codes, measures

    def measures(self, runs: Runs) -> Sketches:
        assert self.by_place is not None
        n, width = sum(stop - start for start, stop in runs), self.by_place.shape[1]
        codes, at = torch.empty((n, width), dtype=torch.int8, device=self.rows.device), 0
        for part in read_ahead(self.by_place.read, runs):
            codes[at : at + len(part)] = torch.from_numpy(part).to(codes.device)
            at += len(part)
        return Sketches(codes)


def _pairs_of(indptr: Tensor, order: np.ndarray, lengths: Tensor) -> Tensor:
    """Number the pairs of these rows, of these lengths: int64 (p,)."""
    start = indptr[torch.from_numpy(order).to(indptr.device)]
    before = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum()), device=indptr.device) + (start - before).repeat_interleave(lengths)


def _bits(stored: Tensor) -> np.ndarray:
    """Copy features or values to the host as they are stored in files: bits of uint16, uint32, float16, or of bfloat16 as uint16."""
    if stored.dtype == torch.bfloat16:
        stored = stored.view(torch.int16)
    array = stored.cpu().numpy()
    return array if array.dtype.kind == "f" else array.view(f"u{array.itemsize}")
