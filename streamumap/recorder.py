"""How the stages of a run are timed, measured and told of."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from streamumap import backends, memory
from streamumap.errors import Stopped
from streamumap.events import Listener, Note, StageAdvanced, StageDone, StageStarted, Tick
from streamumap.plans import Plan


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
        started = time.monotonic()
        yield tick, result
        seconds = time.monotonic() - started
        host_bytes, device_bytes = self.watch.lap()
        backends.release(self.plan)
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
