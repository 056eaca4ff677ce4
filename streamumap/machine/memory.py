"""Memory: sizes as text, what the machine has, what the process uses. `planning` decides what to do with it."""

import ctypes
import os
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path

from streamumap.errors import InputError
from streamumap.machine import kernels
from streamumap.machine.limits import Limit, anonymous_bytes, host_limits

UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
DEFAULT_SHARE = 0.8
"""Share of the free memory that a run takes when no budget is given."""

NO_LIMIT = 1 << 60
"""Bytes of a cap that caps nothing."""

OF_TORCH = r"cuda(:\d+)?"
"""Names that `--device` has for a GPU of this machine."""


def parse_bytes(text: str | int, name: str = "--budget") -> int:
    """Bytes of a size such as "40GB", "40GiB", "512 MB" or a number of bytes. Raises InputError."""
    match = re.fullmatch(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([a-zA-Z]*)\s*", str(text))
    unit = match and UNITS.get(match[2].upper())
    if not match or not unit or Fraction(match[1]) * unit < 1:
        raise InputError(
            f"{name}: expected a size such as 40GB, 40GiB, 512MB or a number of bytes, found {text!r}; write it so."
        )
    return int(Fraction(match[1]) * unit)


def format_bytes(n_bytes: int) -> str:
    """A size with three significant digits in decimal units, such as "391 MB"."""
    value, unit = float(n_bytes), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):  # noqa: B007
        if abs(value) < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.3g} {unit}"


@dataclass(frozen=True)
class Footprint:
    """Bytes of a stage at its peak: of its arrays alone, or of the whole process beyond `import streamumap`, as the user says of it."""

    host_bytes: int = 0
    device_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class Budget:
    """Hard caps in bytes. In a CPU run `device_bytes` is None and `host_bytes` is --budget itself."""

    host_bytes: int
    device_bytes: int | None = None
    limited_by: str = ""  # the option, variable or file that `host_bytes` comes from

    @property
    def limits_host(self) -> bool:
        """False where a plan is for another machine, and `--host-budget` is not given."""
        return self.host_bytes < NO_LIMIT

    @property
    def host_option(self) -> str:
        """The option, variable or file that a user must change to raise `host_bytes`."""
        return self.limited_by or ("--budget" if self.device_bytes is None else "--host-budget")


@dataclass(frozen=True)
class Device:
    """A GPU as the driver describes it; or one `elsewhere`, of which only a name and a size are known. `total_bytes` is 0 where no more
    is known than the budget."""

    number: int
    name: str
    total_bytes: int
    free_bytes: int
    elsewhere: bool = False

    @property
    def label(self) -> str:
        return f"cuda:{self.number}"


@dataclass(frozen=True)
class Machine:
    """The machine that a run is planned for; without a `device` it runs on the CPU.

    `host_limits` is empty for a machine that is not this one. `compiled` are the modules whose kernels numba has cached;
    the others are compiled during the run.
    """

    n_cores: int
    host_free_bytes: int
    device: Device | None = None
    host_limits: tuple[Limit, ...] = ()
    compiled: frozenset[str] = frozenset()


def machine(device: str = "auto") -> Machine:
    """This host, with the GPU that `device` ("auto", "cpu", "cuda", "cuda:N") means. Raises InputError where there is no
    such GPU."""
    if device != "cpu" and not re.fullmatch(f"auto|{OF_TORCH}", device):
        raise InputError(f"--device: expected auto, cpu, cuda or cuda:N, found {device!r}; choose one of these.")
    gpus = [] if device == "cpu" else devices()
    number = int(device.partition(":")[2] or 0)
    chosen = next((d for d in gpus if d.number == number), None)
    if chosen is None and device.startswith("cuda"):
        raise InputError(
            f"--device: expected a GPU {device!r}, found none ({why_no_gpu(gpus)}); use --device cpu or install what is missing."
        )
    limits = host_limits()
    return Machine(n_cores(), min(limit.free_bytes for limit in limits), chosen, limits, kernels.compiled_modules())


def why_no_gpu(gpus: list[Device]) -> str:
    """Why a GPU that was asked for is not among these."""
    return f"the driver reports {len(gpus)} GPUs" if _torch_has_cuda() else "the installed torch is a CPU build"


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices() -> list[Device]:
    """The GPUs that torch could use, in torch's order, without importing torch."""
    if not _torch_has_cuda():
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    out = []
    for number, handle in enumerate(visible_handles()):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        out.append(Device(number, _text(pynvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free)))
    return out


def visible_handles() -> list:
    """NVML's handles of the GPUs in CUDA_VISIBLE_DEVICES, in CUDA's order; like CUDA, it stops at a name that means no
    GPU."""
    import pynvml

    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return handles
    out = []
    for name in (w.strip() for w in visible.split(",")):
        matches = [
            h
            for i, h in enumerate(handles)
            if name == str(i) or (name and _text(pynvml.nvmlDeviceGetUUID(h)).startswith(name))
        ]
        if len(matches) != 1:
            break
        out += matches
    return out


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _torch_has_cuda() -> bool:
    try:
        return "+cpu" not in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False


def trim() -> None:
    """Returns freed memory to the system. glibc keeps much of it in each thread's arena, where it counts as used."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def host_free_bytes() -> int:
    """Bytes of host memory that the tightest limit leaves."""
    return min(limit.free_bytes for limit in host_limits())


class Watch:
    """Peak memory of this process, sampled every few milliseconds by another process (`sampler`), from which nothing that
    this process does can hide a peak.

    `lap()` gives the peaks since the lap before: (RssAnon bytes, device bytes as the driver counts them for this
    process). The first lap waits until the other process has started; take it before this process uses the device.
    """

    def __init__(self, device: Device | None = None):
        package = str(Path(__file__).parent.parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "streamumap.machine.sampler", str(os.getpid()), "-1" if device is None else str(device.number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, start_new_session=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    def lap(self) -> tuple[int, int]:
        assert self._child.stdin and self._child.stdout
        try:
            self._child.stdin.write("\n")
            self._child.stdin.flush()
            host_bytes, device_bytes = self._child.stdout.readline().split()
        except (BrokenPipeError, ValueError):  # the sampler was killed: report what is used now
            return anonymous_bytes(), 0
        return int(host_bytes), int(device_bytes)

    def close(self) -> None:
        assert self._child.stdin and self._child.stdout
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait()
