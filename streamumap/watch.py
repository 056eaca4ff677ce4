"""The process that `memory.Watch` starts: samples the peaks of process PID and answers each line of input with "host device".

python -m streamumap.watch PID DEVICE        (DEVICE -1: no GPU)
"""

import os
import select
import sys

from streamumap import memory

PERIOD_SECONDS = 0.005


def device_bytes(pid: int, number: int) -> int:
    """What the driver counts for the process on this GPU; where the process is hidden from it (containers), all that is used there."""
    import pynvml

    handle = memory._visible(pynvml)[number]
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    ours = [int(p.usedGpuMemory or 0) for p in processes if p.pid == pid]
    return ours[0] if ours else 0


def main(pid: int, number: int) -> None:
    if number >= 0:
        import pynvml

        pynvml.nvmlInit()
    host, device = 0, 0
    while os.getppid() == pid:
        host = max(host, memory.anonymous_bytes(pid))
        if number >= 0:
            device = max(device, device_bytes(pid, number))
        if select.select([sys.stdin], [], [], PERIOD_SECONDS)[0]:
            if not sys.stdin.readline():
                return
            print(host, device, flush=True)
            host, device = memory.anonymous_bytes(pid), 0


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
