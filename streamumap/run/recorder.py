"""The recorder of a run: it times and measures each stage and tells the listener."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import NoReturn, TypeVar

from streamumap.errors import DoesNotFit, Stopped
from streamumap.events import Event, Listener, Note, StageAdvanced, StageDone, StageStarted
from streamumap.machine import gpu, memory
from streamumap.planning.job import Plan

T = TypeVar("T")

LEAST_BLOCK = 32

PATIENCE_SECONDS = 4.0
"""How long a resumable stage may take to reach the end of its unit of work once the run is to stop."""


class Meter:
    """Counts the progress of a stage: the `Advance` that the stage calls. It raises Stopped `late` seconds after `asked()` became true."""

    def __init__(self, name: str, total: int, unit: str, listener: Listener, asked: Callable[[], bool], late: float):
        self.name, self.total, self.unit, self.done = name, total, unit, 0
        self._listener, self._asked, self._late, self._since = listener, asked, late, 0.0

    def __call__(self, n: int) -> None:
        self.done += n
        self._listener(StageAdvanced(self.name, min(self.done, self.total)))
        if self._asked():
            self._since = self._since or time.monotonic()
            if time.monotonic() - self._since >= self._late:
                self.stop()

    @property
    def where(self) -> str:
        return f"{min(self.done, self.total):,} of {self.total:,} {self.unit}"

    def stop(self) -> NoReturn:
        raise Stopped(f"stopped while {self.name} was at {self.where}; the same command continues the run.")


class Recorder:
    """`measured` grows stage by stage: seconds, predicted bytes and used bytes, warnings, reused results."""

    def __init__(self, plan: Plan, listener: Listener, stopping: Callable[[], bool]):
        self.plan, self.listener, self.stopping = plan, listener, stopping
        self.measured: dict = {"stages": [], "quality": {}, "warnings": [], "reused": []}
        self.base_bytes = memory.anonymous_bytes()
        self.watch = memory.Watch(plan.machine.device)

    def close(self) -> None:
        self.watch.close()

    def warn(self, text: str) -> None:
        self.measured["warnings"].append(text)
        self.listener(Note("warning", text))

    def hear(self, event: Event) -> None:
        """Listens to what a stage calls: a warning is kept as well."""
        if isinstance(event, Note) and event.level == "warning":
            self.warn(event.text)
        else:
            self.listener(event)

    def reuse(self, what: str) -> None:
        self.measured["reused"].append(what)
        self.listener(Note("info", f"{what} of the run before is used again"))

    def retry_on_oom(self, name: str, work: Callable[[], T]) -> T:
        """Calls `work()`, which does stage `name` in the blocks of the plan. Where the device runs out of memory, because an estimate was
        wrong or another process took it, the blocks are halved and `work()` is called again. Raises DoesNotFit at the smallest."""
        while True:
            try:
                return work()
            except Exception as error:
                if not gpu.ran_out(error):
                    raise
                message = str(error).split(". ")[0]
            gpu.release()
            stage = self.plan[name]
            blocks = {key: min(size, max(LEAST_BLOCK, size // 2)) for key, size in stage.blocks.items()}
            if blocks == stage.blocks:
                budget_bytes = self.plan.budget.device_bytes or 0
                raise DoesNotFit(
                    f"{name}: {self.plan.device}: expected {memory.format_bytes(budget_bytes)}, found less ({message}); "
                    "wait until other processes have left the device, or raise --budget.",
                    2 * budget_bytes,
                )
            smaller = replace(stage, blocks=blocks)
            self.plan = replace(self.plan, stages=tuple(smaller if s.name == name else s for s in self.plan.stages))
            self.warn(
                f"{name}: the device had less memory left than planned ({message}); blocks of half the size are used from here on."
            )

    def meter(self, name: str, total: int, unit: str, resumable: bool = False) -> Meter:
        return Meter(name, total, unit, self.listener, self.stopping, PATIENCE_SECONDS if resumable else 0.0)

    @contextmanager
    def stage(self, name: str, total: int, unit: str, resumable: bool = False) -> Iterator[tuple[Meter, list[str]]]:
        """Times and measures a stage. Yields its Meter, and a list that takes the stage's result as text. A `resumable` stage has
        checkpoints, so a stop waits a little for the end of its unit of work."""
        result = [""]
        advance = self.meter(name, total, unit, resumable)
        self.listener(StageStarted(name, total, unit))
        self.watch.lap()
        gpu.pinned_peak()
        started = time.monotonic()
        yield advance, result
        seconds = time.monotonic() - started
        host_bytes, device_bytes = self.watch.lap()
        host_bytes += gpu.pinned_peak()
        for text in gpu.shrunk():
            self.warn(f"{name}: the device had less memory left than planned: {text}.")
        gpu.release()
        memory.trim()
        self.measured["stages"].append(
            {
                "stage": name,
                "backend": self.plan[name].backend,
                "blocks": self.plan[name].blocks,
                "seconds": round(seconds, 3),
                "predicted": asdict(self.plan[name].predicted),
                "measured": {"host_bytes": max(0, host_bytes - self.base_bytes), "device_bytes": device_bytes},
            }
        )
        self.listener(StageDone(name, seconds, result[-1]))
        if resumable and self.stopping():
            raise Stopped(f"stopped after {name}; the same command continues the run.")
