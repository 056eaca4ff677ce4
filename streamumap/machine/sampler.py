"""The process that `memory.Watch` starts: it samples the peak memory of process PID, and answers each line of input with
the bytes on the host and on the device since the line before.

python -m streamumap.machine.sampler PID DEVICE        (DEVICE -1: no GPU)
"""

import os
import select
import sys

from streamumap.machine import memory

PERIOD_SECONDS = 0.005


class DeviceMemory:
    """Bytes that the driver counts for a process on a GPU. In a container, where the driver does not show the process, the
    bytes that all processes use beyond those at the start."""

    def __init__(self, pid: int, number: int):
        import pynvml

        pynvml.nvmlInit()
        self._nvml, self._pid, self._handle = pynvml, pid, memory.visible_handles()[number]
        self._before = self._used()

    def now(self) -> int:
        processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        shown = [int(p.usedGpuMemory) for p in processes if p.pid == self._pid and p.usedGpuMemory]
        return shown[0] if shown else max(0, self._used() - self._before)

    def _used(self) -> int:
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)


def main(pid: int, number: int) -> None:
    on_device = DeviceMemory(pid, number).now if number >= 0 else lambda: 0
    host, device = 0, 0
    while os.getppid() == pid:
        host, device = max(host, memory.anonymous_bytes(pid)), max(device, on_device())
        if select.select([sys.stdin], [], [], PERIOD_SECONDS)[0]:
            if not sys.stdin.readline():
                return
            print(host, device, flush=True)
            host, device = memory.anonymous_bytes(pid), on_device()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
