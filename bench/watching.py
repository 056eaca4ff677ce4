"""Runs a command to its end and samples it from outside: seconds, and peaks of its memory on the host and on a GPU."""

import os
import re
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from streamumap.machine.memory import Device
from streamumap.machine.sampler import DeviceMemory

SAMPLE_SECONDS = 0.02
LOOK_FOR_CHILDREN = 10
"""Samples between two scans of /proc for new children."""


@dataclass(frozen=True)
class Costs:
    """Costs of one process and its children. `host_bytes` and `resident_bytes` are peaks of the summed RssAnon and VmRSS (the
    latter counts shared pages more than once), `device_bytes` is the peak that the driver counts."""

    wall_seconds: float
    cpu_seconds: float
    host_bytes: int
    resident_bytes: int
    device_bytes: int


class Watcher(threading.Thread):
    """Samples the peaks of a process tree until `done` is set."""

    def __init__(self, pid: int, device: Device | None):
        super().__init__(daemon=True)
        self.pid, self.done = pid, threading.Event()
        self.on_device = DeviceMemory(pid, device.number).now if device else lambda: 0
        self.host_bytes = self.resident_bytes = self.device_bytes = 0

    def run(self) -> None:
        number, tree = 0, [self.pid]
        while not self.done.wait(SAMPLE_SECONDS):
            if number % LOOK_FOR_CHILDREN == 0:
                tree = with_children(self.pid)
            used = [process_bytes(pid) for pid in tree]
            self.host_bytes = max(self.host_bytes, sum(anonymous for anonymous, _ in used))
            self.resident_bytes = max(self.resident_bytes, sum(resident for _, resident in used))
            self.device_bytes = max(self.device_bytes, self.on_device())
            number += 1


def with_children(pid: int) -> list[int]:
    """The ids of a process and all its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    tree = [pid]
    for member in tree:
        tree += [child for child, parent in parents.items() if parent == member]
    return tree


def process_bytes(pid: int) -> tuple[int, int]:
    """(RssAnon, VmRSS) in bytes, 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    kib = {
        name: int(text.split()[0])
        for name, _, text in (line.partition(":") for line in lines)
        if name in ("RssAnon", "VmRSS")
    }
    return kib.get("RssAnon", 0) * 1024, kib.get("VmRSS", 0) * 1024


def watched(
    command: list[str], environment: dict[str, str], log: Path, device: Device | None, limit_seconds: float
) -> tuple[Costs, str | None]:
    """Runs a command to its end, with its output in `log`. Returns its costs and why it failed, None if it did not."""
    with open(log, "wb") as file:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    watcher = Watcher(process.pid, device)
    watcher.start()
    stop = threading.Timer(limit_seconds, os.kill, (process.pid, signal.SIGKILL))
    stop.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    finally:
        stop.cancel()
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.done.set()
    watcher.join()
    costs = Costs(
        seconds, usage.ru_utime + usage.ru_stime, watcher.host_bytes, watcher.resident_bytes, watcher.device_bytes
    )
    return costs, why(process.returncode, seconds, limit_seconds, log) if process.returncode else None


def why(code: int, seconds: float, limit_seconds: float, log: Path) -> str:
    """The exit status and the last line of output that is not a stack frame."""
    if code == -signal.SIGKILL and seconds >= limit_seconds:
        return f"stopped after {limit_seconds:.0f} s"
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line for line in said if not re.match(r"#\d+ in ", line)]
    return f"ended with {code}: {said[-1][:500] if said else 'it said nothing'}"
