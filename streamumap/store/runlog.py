"""run.log: one JSON object a line for everything that happened in a run, for whoever wants to know afterwards."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = "run.log"


class RunLog:
    """The log in a run's folder. Nothing is written before `open`, and a log that cannot be written is no error."""

    def __init__(self) -> None:
        self._descriptor = -1

    def open(self, folder: Path) -> None:
        """Opens the log at its end, on a new line."""
        with suppress(OSError):
            self._descriptor = os.open(folder / NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":  # a full disk or a kill cut the last line
                os.write(self._descriptor, b"\n")

    def write(self, event: str, **facts: Any) -> None:
        """Appends a line with the time, the process, the name of the event and JSON-able facts."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 10**6 % 1000:03d}Z"
        line = json.dumps({"time": when, "process": os.getpid(), "event": event} | facts)
        with suppress(OSError):
            os.write(self._descriptor, line.encode() + b"\n")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
