"""Joins the rows of several files, one after the other in natural order: `data-2` comes before `data-10`."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.source.base import CsrBlock, RowSource, SparseSource, index_dtype, stored_dtype
from streamumap.source.checks import wrong
from streamumap.source.formats.choice import joint_choice
from streamumap.source.formats.convert import ToConvert
from streamumap.source.sparse.csr_block import fill_in


class Shards:
    """Several sources as one `RowSource`. Raises InputError if they differ in width or dtype."""

    def __init__(self, name: str, shards: list[RowSource]):
        check_alike(shards)
        self.name, self.shards = name, shards
        self.n_features, self.dtype = shards[0].n_features, shards[0].dtype
        self._ends = np.cumsum([shard.n_rows for shard in shards])
        self.n_rows = int(self._ends[-1])
        n_bytes = sum(shard.n_rows * shard.row_bytes for shard in shards)
        self.row_bytes = -(-n_bytes // max(1, self.n_rows))
        self.warnings = told_by(shards, "warnings")
        self.notes, self.choice = told_by(shards, "notes"), joint_choice(shards)
        self.fingerprint: dict = {"format": "shards", "shards": [shard.fingerprint for shard in shards]}

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop as stored, (stop - start, n_features); `out` as in `RowSource.read`."""
        assert 0 <= start <= stop <= self.n_rows
        if out is None:
            out = np.empty((stop - start, self.n_features), stored_dtype(self.dtype))
        for i, low, high, at in self._within(start, stop):
            self.shards[i].read(low, high, out[at : at + high - low])
        return out[: stop - start]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Reads the rows with these numbers (int64, ascending), as stored, (len(rows), n_features)."""
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), self.n_features), stored_dtype(self.dtype))
        bounds = np.searchsorted(rows, [0, *self._ends])
        for shard, end, low, high in zip(self.shards, self._ends, bounds[:-1], bounds[1:], strict=True):
            if high > low:
                out[low:high] = shard.take(rows[low:high] - (end - shard.n_rows))
        return out

    def check_unchanged(self) -> None:
        """Raises InputChanged if a shard has changed since it was opened."""
        for shard in self.shards:
            shard.check_unchanged()

    def close(self) -> None:
        for shard in self.shards:
            shard.close()

    def _within(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yields (shard, low, high, offset): its rows low..high are among start..stop and begin at `offset` there."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        for i in range(first, len(self.shards)):
            begin = int(self._ends[i]) - self.shards[i].n_rows
            if begin >= stop:
                return
            low, high = max(start, begin), min(stop, int(self._ends[i]))
            if low < high:
                yield i, low - begin, high - begin, low - start


class SparseShards(Shards):
    """Several sparse sources as one `SparseSource`."""

    def __init__(self, name: str, shards: list[SparseSource]):
        super().__init__(name, list(shards))
        self._sparse = shards
        self.max_nonzero = sum(shard.max_nonzero for shard in shards)

    def pairs(self, start: int, stop: int) -> CsrBlock:
        """Reads rows start..stop without their zeros."""
        parts = [self._sparse[i].pairs(low, high) for i, low, high, _ in self._within(start, stop)]
        if len(parts) == 1:
            return parts[0]
        counts = [np.diff(pairs.indptr) for pairs in parts]
        indices = [pairs.indices for pairs in parts] or [np.empty(0, index_dtype(self.n_features))]
        values = [pairs.values for pairs in parts] or [np.empty(0, stored_dtype(self.dtype))]
        indptr = np.concatenate([[0], *counts]).cumsum().astype(np.int64)
        return CsrBlock(indptr, np.concatenate(indices), np.concatenate(values))

    def spans(self, n_pairs: int) -> Iterator[tuple[int, int]]:
        for shard, end in zip(self._sparse, self._ends.tolist(), strict=True):
            first = end - shard.n_rows
            yield from ((first + start, first + stop) for start, stop in shard.spans(n_pairs))

    def read(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Reads rows start..stop with their zeros, as stored, (stop - start, n_features)."""
        return fill_in(self.pairs(start, stop), self.n_features, self.dtype, out)


class ShardsToConvert(ToConvert):
    """Shards of which at least one must be converted."""

    def __init__(self, name: str, shards: list[RowSource | ToConvert]):
        check_alike(shards)
        self.name, self.shards, first = name, shards, shards[0]
        self.n_features, self.dtype = first.n_features, first.dtype
        self.n_rows = sum(shard.n_rows for shard in shards)
        bounds = [getattr(shard, "max_nonzero", None) for shard in shards]
        self.max_nonzero = None if None in bounds else sum(bound or 0 for bound in bounds)
        self.n_bytes = sum(shard.n_bytes for shard in shards if isinstance(shard, ToConvert))
        self.row_bytes = -(-sum(shard.n_rows * shard.row_bytes for shard in shards) // max(1, self.n_rows))
        self.warnings, self.notes = told_by(shards, "warnings"), told_by(shards, "notes")
        self.choice = joint_choice(shards)
        self.fingerprint = {"format": "shards", "shards": [shard.fingerprint for shard in shards]}

    def convert(self, folder: str | os.PathLike, advance: Advance = no_advance) -> RowSource:
        opened: list[Any] = []
        for i, shard in enumerate(self.shards):
            if isinstance(shard, ToConvert):
                inner = os.path.join(folder, f"shard_{i}")
                os.makedirs(inner, exist_ok=True)
                opened.append(shard.convert(inner, advance))
            else:
                opened.append(shard)
                advance(shard.n_rows)
        return join(self.name, opened)

    def check_unchanged(self) -> None:
        for shard in self.shards:
            shard.check_unchanged()

    def close(self) -> None:
        for shard in self.shards:
            shard.close()


def join(name: str, sources: list[Any]) -> Any:
    """Joins sources into one: a ToConvert if any of them is one, a SparseSource if all of them are."""
    if len(sources) == 1:
        return sources[0]
    if any(isinstance(source, ToConvert) for source in sources):
        return ShardsToConvert(name, sources)
    return SparseShards(name, sources) if all(isinstance(s, SparseSource) for s in sources) else Shards(name, sources)


def check_alike(shards: Sequence[RowSource | ToConvert]) -> None:
    """Raises InputError if shards differ in width or dtype."""
    first = shards[0]
    for shard in shards[1:]:
        for field in ("n_features", "dtype"):
            expected, found = getattr(first, field), getattr(shard, field)
            if expected != found:
                called = field.removeprefix("n_")
                raise wrong(shard.name, called, f"{expected}, as {first.name} has", found, "convert it or leave it out")


def told_by(shards: Sequence[RowSource | ToConvert], what: str) -> tuple[str, ...]:
    """Returns the "warnings" or "notes" of all shards, each once."""
    return tuple(dict.fromkeys(text for shard in shards for text in getattr(shard, what, ())))
