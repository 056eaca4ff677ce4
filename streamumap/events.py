"""Progress as plain events: the engine emits them, the command line draws them, any function may listen."""

from collections.abc import Callable
from dataclasses import dataclass

Advance = Callable[[int], None]
"""A stage calls `advance(n)` after n more units of work. It raises Stopped once a signal has asked the run to stop."""


@dataclass(frozen=True)
class StageStarted:
    stage: str
    total: int
    unit: str


@dataclass(frozen=True)
class StageAdvanced:
    stage: str
    done: int


@dataclass(frozen=True)
class StageDone:
    stage: str
    seconds: float
    result: str


@dataclass(frozen=True)
class Note:
    """A fact or a warning for the user; `level` is "info" or "warning"."""

    level: str
    text: str


Event = StageStarted | StageAdvanced | StageDone | Note
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that does nothing."""


def no_advance(n: int) -> None:
    """The `advance` of a stage that runs on its own: it does nothing."""
