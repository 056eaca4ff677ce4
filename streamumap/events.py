"""Progress as plain events. The engine emits them, the command line draws them, anybody may listen."""

from collections.abc import Callable
from dataclasses import dataclass

Advance = Callable[[int], None]
"""Given to a stage: `advance(n)` says that n more units of work are done. It raises `Stopped` when a signal came."""


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
    """A fact or a warning for the user: `level` is "info" or "warning"."""

    level: str
    text: str


Event = StageStarted | StageAdvanced | StageDone | Note
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that draws nothing."""


def no_advance(n: int) -> None:
    """The tick of a stage that is run on its own."""
