"""How the stages of a run are timed, measured and told of."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TypeVar

from streamumap import gpu, memory
from streamumap.errors import DoesNotFit, Stopped
from streamumap.events import Listener, Note, StageAdvanced, StageDone, StageStarted, Tick
from streamumap.plans import Plan

T = TypeVar("T")

LEAST_BLOCK = 32


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

    def fitting(self, name: str, work: Callable[[], T]) -> T:
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

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[tuple[Tick, list[str]]]:
        """Times and measures what happens inside. Gives a tick, and a list to put the stage's result in, as text."""
        result, done = [""], 0

        def tick(n: int) -> None:
            nonlocal done
            done += n
            self.listener(StageAdvanced(name, min(done, total)))
            if self.stopping():
                raise Stopped(
                    f"stopped while {name} was at {min(done, total):,} of {total:,} {unit}; the same command continues the run."
                )

        self.listener(StageStarted(name, total, unit))
        self.watch.lap()
        gpu.pinned_peak()
        started = time.monotonic()
        yield tick, result
        seconds = time.monotonic() - started
        host_bytes, device_bytes = self.watch.lap()
        host_bytes += gpu.pinned_peak()
        gpu.release()
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
