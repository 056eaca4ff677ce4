"""Units of work: what a stage has done when it is stopped or killed stays done, and the run that continues it goes on there."""

from collections.abc import Callable
from typing import Any, Protocol

Arrays = dict[str, Any]
"""Arrays, or tensors on a device, by name."""


class Checkpoint(Protocol):
    """Given to a stage that works in units. What it keeps is `whole` arrays, which change from unit to unit, and `rows`,
    which grow: their first rows stay as they are."""

    def resume(self, whole: Arrays, rows: Arrays | None = None) -> dict:
        """Fills the arrays as an earlier run left them and returns the facts that it gave; {} where there is nothing.

        Arrays that `whole` does not name are among the facts; one of `rows` may be a function of the facts that makes it."""

    def done(self, state: Callable[[], tuple[Arrays, Arrays]], **facts: Any) -> None:
        """One more unit. Every few seconds, and when the run is to stop, what `state()` gives is kept: `whole`, and of
        `rows` those that are there. `facts`: JSON-able values. Raises Stopped when the run is to stop."""

    @property
    def begun(self) -> bool:
        """Whether there is something to resume."""

    def of(self, name: str) -> "Checkpoint":
        """Those of another kind, in the same stage."""

    def create(self, name: str, shape: tuple[int, ...], dtype) -> Any:
        """A BlockFile that is kept as well as it is written, from its first row on; asked for after `resume`."""


class NoCheckpoint:
    """The units of a stage that is run on its own: nothing is kept."""

    begun = False

    def __init__(self, create: Callable | None = None):
        self._create = create

    def of(self, name: str) -> "NoCheckpoint":
        return self

    def resume(self, whole: Arrays, rows: Arrays | None = None) -> dict:
        return {}

    def done(self, state: Callable[[], tuple[Arrays, Arrays]], **facts: Any) -> None: ...

    def create(self, name: str, shape: tuple[int, ...], dtype) -> Any:
        assert self._create is not None
        return self._create(name, shape, dtype)


NO_CHECKPOINT = NoCheckpoint()
