"""SavedCheckpoint: the `checkpoint.Checkpoint` of a run, saved to the run's scratch folder every few seconds.

It is apart from the protocol because it knows the run's folder, which the algorithms must not import.
"""

import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from streamumap.errors import OutputError
from streamumap.store.atomic import write_at
from streamumap.store.blockfile import BlockFile, Checksum
from streamumap.store.checkpoint import Arrays
from streamumap.store.statefile import Damaged, State, checksum, dtype_of, fill_from, in_blocks, read_state, write_state
from streamumap.store.workdir import Workdir

SAVE_SECONDS = 5.0
"""Seconds between two saves, or ten times as long as a save takes, whichever is longer."""


class Progress(Protocol):
    """The count of a stage's work, which is saved with its state: the Meter of the stage."""

    done: int

    @property
    def where(self) -> str:
        """The count for people."""

    def stop(self) -> NoReturn:
        """Raises Stopped."""


class RunControl(Protocol):
    """The run that a checkpoint belongs to."""

    @property
    def stopping(self) -> Callable[[], bool]:
        """Says whether the run is to stop."""

    def warn(self, text: str) -> None:
        """Warns the user."""

    def reuse(self, what: str) -> None:
        """Tells the user that saved work is used again."""


class SavedCheckpoint:
    """The checkpoint of the units `name` of a run; `what` is their name for people.

    A state is resumed only under the `key` it was saved with, the hash of all that it depends on.
    """

    def __init__(self, work: Workdir, name: str, key: str, what: str, counted: Progress, run: RunControl):
        self.work, self.name, self.key, self.what, self.counted, self.run = work, name, key, what, counted, run
        self.path = work.scratch / f"{name}.state"
        self.saved_at, self.cost, self.failed = time.monotonic(), 0.0, False
        self._begin({})

    def resume(self, whole: Arrays, rows: Arrays | None = None) -> dict:
        """Resumes as `Checkpoint.resume`; a state of another key, shape or dtype, or a damaged one, is removed."""
        self._begin({})
        try:
            state = read_state(self.path)
            if state.content["key"] != self.key or not _fit(state, whole):
                self.forget()
                return {}
            self._check(state.content)
            for name, (n, _, _) in state.content["rows"].items():
                out = (rows or {})[name]
                with open(self._part(name), "rb", buffering=0) as file:
                    fill_from(file, 0, (out(state.content["facts"]) if callable(out) else out)[:n])
        except FileNotFoundError:
            return {}
        except Damaged:
            self.forget()
            self.run.warn(
                f"{self.what}: what is kept of it in {self.path.name} is not what was written; it is done again."
            )
            return {}
        for name, out in whole.items():
            state.fill(name, out)
        self._begin(state.content)
        self.counted.done = state.content["counted"]
        self.run.reuse(f"{self.what} up to {self.counted.where}")
        return state.content["facts"] | {name: state.array(name) for name in state.arrays.keys() - whole.keys()}

    def done(self, state: Callable[[], tuple[Arrays, Arrays]], **facts: Any) -> None:
        due = time.monotonic() - self.saved_at >= SAVE_SECONDS * max(1.0, 2 * self.cost)
        if due or self.run.stopping():
            self.save(state, **facts)

    def save(self, state: Callable[[], tuple[Arrays, Arrays]], **facts: Any) -> None:
        stopping, started = self.run.stopping(), time.monotonic()
        whole, rows = state()  # may wait until files are written
        for file in self._files.values():
            file.sync()
        try:
            n_bytes = self._keep(whole, rows, facts)
            self.work.log("unit", stage=self.name, **facts, bytes=n_bytes, seconds=round(time.monotonic() - started, 3))
        except OutputError as e:  # the run's results have their space already: go on without a checkpoint
            if not self.failed:
                self.run.warn(
                    f"{self.what}: how far it is cannot be kept ({e}); a run that continues this one does more of it again."
                )
            self.failed = True
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - started
        if stopping:
            self.counted.stop()

    @property
    def begun(self) -> bool:
        try:
            return read_state(self.path).content["key"] == self.key
        except (FileNotFoundError, Damaged):
            return False

    def of(self, name: str) -> "SavedCheckpoint":
        return SavedCheckpoint(self.work, f"{self.name}-{name}", self.key, self.what, self.counted, self.run)

    def create(self, name: str, shape: tuple[int, ...], dtype) -> BlockFile:
        written = self._saved_files.get(name)
        if written is None:
            self._files[name] = self.work.create(name, shape, dtype)
        else:
            self._files[name] = self.work.reopen(name, shape, dtype, Checksum(*written))
        return self._files[name]

    def forget(self) -> None:
        """Removes the saved state. Files that are still open somewhere take their space until they are closed."""
        self._begin({})
        self.work.remove(self.path, *self.work.scratch.glob(f"{self.name}[-_]*"))

    def _begin(self, content: dict) -> None:
        self._rows: dict[str, list[int]] = content.get("rows", {})
        self._saved_files: dict[str, list[int]] = content.get("files", {})
        self._files: dict[str, BlockFile] = {}

    def _part(self, name: str) -> Path:
        return self.work.scratch / f"{self.name}_{name}.part"

    def _check(self, content: dict) -> None:
        for name, (_, crc, n_bytes) in content["rows"].items():
            with open(self._part(name), "rb", buffering=0) as part:
                if checksum(part.fileno(), 0, n_bytes) != crc:
                    raise Damaged
        for name, (n, crc) in content["files"].items():
            try:
                file = self.work.open(name)
                crc_on_disk = file.checksum(n)
                file.close()
            except (OSError, ValueError) as e:
                raise Damaged from e
            if crc_on_disk != crc:
                raise Damaged

    def _keep(self, whole: Arrays, rows: Arrays, facts: dict) -> int:
        n_bytes = sum(self._append(name, array) for name, array in rows.items())
        files = {name: [file.written.rows, file.written.crc] for name, file in self._files.items()}
        content = {"key": self.key, "facts": facts, "counted": self.counted.done, "rows": self._rows, "files": files}
        state_bytes = sum(array.nbytes for array in whole.values())
        self.work.replace(self.path, lambda file: write_state(file, content, whole))
        return n_bytes + state_bytes

    def _append(self, name: str, array: Any) -> int:
        """Appends the rows that are not in the file yet, and returns their bytes."""
        n, crc, start = self._rows.get(name, [0, 0, 0])
        offset = start
        with self.work.writing(self._part(name)) as descriptor:
            os.ftruncate(descriptor, offset)
            for block in in_blocks(array[n:]):
                crc = zlib.crc32(block, crc)
                write_at(descriptor, block, offset)
                offset += len(block)
            os.fsync(descriptor)
        self._rows[name] = [len(array), crc, offset]
        return offset - start


def _fit(state: State, whole: Arrays) -> bool:
    """Whether the saved arrays have these shapes and dtypes: a plan with other blocks may need others."""
    return whole.keys() <= state.arrays.keys() and all(
        (tuple(out.shape), dtype_of(out)) == (shape, np.dtype(dtype))
        for out, (shape, dtype, _) in ((out, state.arrays[name]) for name, out in whole.items())
    )
