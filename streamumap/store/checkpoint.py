"""Checkpoint: what a stage needs to go on where it was stopped or killed, as a protocol.

The protocol and its counterpart that saves nothing are apart from `saved_checkpoint`, which saves to the run's folder:
the algorithms (neighbors, graph, layout, reduce) take a checkpoint and must not know the folder of a run.
"""

from collections.abc import Callable
from typing import Any, Protocol

Arrays = dict[str, Any]
"""Arrays, or tensors on a device, by name."""


class Checkpoint(Protocol):
    """Keeps the state of a stage that works in units.

    The state is `whole` arrays, which change from unit to unit, and `rows`, which grow: rows once there do not change.
    """

    def resume(self, whole: Arrays, rows: Arrays | None = None) -> dict:
        """Fills the arrays as an earlier run left them and returns its facts, {} where there is nothing to resume.

        Arrays that were saved and are not in `whole` are among the facts. An entry of `rows` may be a function that
        makes the array from the facts.
        """

    def done(self, state: Callable[[], tuple[Arrays, Arrays]], **facts: Any) -> None:
        """Tells that one more unit is done.

        Every few seconds, and when the run is to stop, saves `state()`: the `whole` arrays, and the `rows` made so far.
        `facts`: JSON-able values. Raises Stopped when the run is to stop.
        """

    def save(self, state: Callable[[], tuple[Arrays, Arrays]], **facts: Any) -> None:
        """Does as `done`, and saves in any case."""

    @property
    def begun(self) -> bool:
        """Whether there is something to resume."""

    def of(self, name: str) -> "Checkpoint":
        """The checkpoint of another kind of unit in the same stage."""

    def forget(self) -> None:
        """Removes what is saved, and the files of `create`."""

    def create(self, name: str, shape: tuple[int, ...], dtype) -> Any:
        """A BlockFile whose rows, written in order, are part of the checkpoint. To be called after `resume`."""


class NoCheckpoint:
    """The checkpoint of a stage that runs on its own: nothing is saved. `create` makes its files."""

    begun = False

    def __init__(self, create: Callable | None = None):
        self._create = create

    def of(self, name: str) -> "NoCheckpoint":
        return self

    def resume(self, whole: Arrays, rows: Arrays | None = None) -> dict:
        return {}

    def done(self, state: Callable[[], tuple[Arrays, Arrays]], **facts: Any) -> None: ...

    save = done

    def forget(self) -> None: ...

    def create(self, name: str, shape: tuple[int, ...], dtype) -> Any:
        assert self._create is not None
        return self._create(name, shape, dtype)


NO_CHECKPOINT = NoCheckpoint()
