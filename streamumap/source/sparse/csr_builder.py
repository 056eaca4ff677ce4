"""Compressed sparse rows in the making, while the number of non-zeros is not known."""

import numpy as np

from streamumap.source.base import index_dtype, stored_dtype
from streamumap.source.sparse.arrays import MemoryArray
from streamumap.source.sparse.csr_rows import CsrRows, pays
from streamumap.store.checkpoint import Arrays


class CsrBuilder:
    """Packed rows in the making, in memory, while their number of non-zeros is not known: room for as many as the first rows
    let expect and some more. Given up where that is more than `room_bytes`, or was not enough."""

    MORE = 1.25

    def __init__(self, n_rows: int, n_features: int, dtype: str, room_bytes: int):
        self._n_features, self._dtype, self._room_bytes = n_features, dtype, room_bytes
        self._indptr = np.zeros(n_rows + 1, np.int64)
        self._stores: list[MemoryArray] = []
        self._row = self._done = self._most = 0
        self.open = True

    def add(self, counts: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        """The next rows: non-zeros of each, and of all of them in order the columns and the values as stored."""
        if self.open and not self._stores:
            self._start(counts)
        if not self.open or self._done + len(values) > self._most:
            self.give_up()
            return
        self._stores[0].write(self._done, columns)
        self._stores[1].write(self._done, values)
        rows = self._indptr[self._row + 1 : self._row + 1 + len(counts)]
        np.cumsum(counts, out=rows)
        rows += self._done
        self._row, self._done = self._row + len(counts), self._done + len(values)

    def give_up(self) -> None:
        self.open = False
        self._stores.clear()

    def state(self) -> Arrays:
        """What there is so far, as rows of `checkpoint.Checkpoint`; nothing where it was given up."""
        if not (self.open and self._stores):
            return {}
        columns, values = (store.read(0, self._done) for store in self._stores)
        return {"indptr": self._indptr[: self._row + 1], "columns": columns, "values": values}

    def counts(self) -> dict[str, int]:
        return {"filling": int(self.open), "filled": self._done, "room": self._most}

    def room(self) -> Arrays:
        """Where what `state` gave is put again."""
        return {
            "indptr": self._indptr,
            "columns": lambda facts: self._stores_of(facts["room"])[0].read(0, facts["room"]),
            "values": lambda facts: self._stores_of(facts["room"])[1].read(0, facts["room"]),
        }

    def resume(self, facts: dict) -> None:
        if facts:
            self.open, self._row = bool(facts["filling"]), facts["row"]
            self._done, self._most = facts["filled"], facts["room"]
            if not self._has_room():
                self.give_up()

    def _has_room(self) -> bool:
        kinds = index_dtype(self._n_features), stored_dtype(self._dtype)
        return self._most * sum(kind.itemsize for kind in kinds) <= self._room_bytes

    def _stores_of(self, n_values: int) -> list[MemoryArray]:
        if not self._stores:
            kinds = index_dtype(self._n_features), stored_dtype(self._dtype)
            self._stores = [MemoryArray(n_values, kind) for kind in kinds]
        return self._stores

    def finish(self) -> CsrRows | None:
        if not self.open:
            return None
        for store in self._stores:
            store.cut(self._done)
        return CsrRows(self._indptr, self._stores[0], self._stores[1], self._n_features, self._dtype)

    def _start(self, counts):
        n_rows = len(self._indptr) - 1
        self._most = int(counts.mean() * n_rows * self.MORE) + 2 * int(counts.sum())
        self.open = pays(n_rows, self._n_features, self._most) and self._has_room()
        if self.open:
            self._stores_of(self._most)
