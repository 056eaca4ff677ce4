"""`CsrBuilder`: makes CsrRows before the number of non-zeros is known."""

import numpy as np

from streamumap.source.base import index_dtype, stored_dtype
from streamumap.source.sparse.arrays import MemoryArray
from streamumap.source.sparse.csr_rows import CsrRows, pays
from streamumap.store.checkpoint import Arrays


class CsrBuilder:
    """Collects CsrRows in memory. It reserves what the first rows let expect and a quarter more, and gives up if that is more
    than `room_bytes` or turns out too little."""

    MORE = 1.25

    def __init__(self, n_rows: int, n_features: int, dtype: str, room_bytes: int):
        self._n_features, self._dtype, self._room_bytes = n_features, dtype, room_bytes
        self._indptr = np.zeros(n_rows + 1, np.int64)
        self._arrays: list[MemoryArray] = []
        self._row = self._done = self._most = 0
        self.open = True

    def add(self, counts: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        """Adds the next rows: their numbers of non-zeros, then columns and values as stored, row after row."""
        if self.open and not self._arrays:
            self._start(counts)
        if not self.open or self._done + len(values) > self._most:
            self.give_up()
            return
        self._arrays[0].write(self._done, columns)
        self._arrays[1].write(self._done, values)
        rows = self._indptr[self._row + 1 : self._row + 1 + len(counts)]
        np.cumsum(counts, out=rows)
        rows += self._done
        self._row, self._done = self._row + len(counts), self._done + len(values)

    def give_up(self) -> None:
        self.open = False
        self._arrays.clear()

    def state(self) -> Arrays:
        """Returns the arrays so far, for a `Checkpoint`; none after giving up."""
        if not (self.open and self._arrays):
            return {}
        columns, values = (array.read(0, self._done) for array in self._arrays)
        return {"indptr": self._indptr[: self._row + 1], "columns": columns, "values": values}

    def counts(self) -> dict[str, int]:
        return {"filling": int(self.open), "filled": self._done, "room": self._most}

    def room(self) -> Arrays:
        """Returns the arrays into which a `Checkpoint` restores what `state` gave."""
        return {
            "indptr": self._indptr,
            "columns": lambda facts: self._arrays_of(facts["room"])[0].read(0, facts["room"]),
            "values": lambda facts: self._arrays_of(facts["room"])[1].read(0, facts["room"]),
        }

    def resume(self, facts: dict) -> None:
        if facts:
            self.open, self._row = bool(facts["filling"]), facts["row"]
            self._done, self._most = facts["filled"], facts["room"]
            if not self._has_room():
                self.give_up()

    def _has_room(self) -> bool:
        dtypes = index_dtype(self._n_features), stored_dtype(self._dtype)
        return self._most * sum(dtype.itemsize for dtype in dtypes) <= self._room_bytes

    def _arrays_of(self, n_values: int) -> list[MemoryArray]:
        if not self._arrays:
            dtypes = index_dtype(self._n_features), stored_dtype(self._dtype)
            self._arrays = [MemoryArray(n_values, dtype) for dtype in dtypes]
        return self._arrays

    def finish(self) -> CsrRows | None:
        if not self.open:
            return None
        for array in self._arrays:
            array.cut(self._done)
        return CsrRows(self._indptr, self._arrays[0], self._arrays[1], self._n_features, self._dtype)

    def _start(self, counts):
        n_rows = len(self._indptr) - 1
        self._most = int(counts.mean() * n_rows * self.MORE) + 2 * int(counts.sum())
        self.open = pays(n_rows, self._n_features, self._most) and self._has_room()
        if self.open:
            self._arrays_of(self._most)
