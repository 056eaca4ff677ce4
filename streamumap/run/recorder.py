"""How the stages of a run are timed, measured and told of."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import NoReturn, TypeVar

from streamumap.errors import DoesNotFit, Stopped
from streamumap.events import Listener, Note, StageAdvanced, StageDone, StageStarted
from streamumap.machine import gpu, memory
from streamumap.planning.job import Plan

T = TypeVar("T")

LEAST_BLOCK = 32

PATIENCE_SECONDS = 4.0
"""That a stage which keeps what it has done has to reach the end of a unit, when the run is to stop."""


class Meter:
    """How far a stage is: the `Advance` that it is given. `asked` says that the run is to stop, and `late` for how long that
    may wait."""

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
    """`measured` grows stage by stage: seconds, bytes predicted by `plan` and bytes used, warnings, what was used again."""

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

    def reuse(self, what: str) -> None:
        self.measured["reused"].append(what)
        self.listener(Note("info", f"{what} of the run before is used again"))

    def retry_on_oom(self, name: str, work: Callable[[], T]) -> T:
        """`work()`, which does stage `name` in the blocks of the plan. Where the device runs out of memory, because an estimate
        was wrong or another process took it, once more with blocks of half the size."""
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
        """Times and measures what happens inside. Gives a tick, and a list to put the stage's result in, as text. A
        `resumable` stage keeps what it has done: it is stopped at the end of a unit, if one comes soon."""
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
