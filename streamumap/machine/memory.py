"""Bytes: sizes as text, what the machine has, what the process uses. Arithmetic and measuring; deciding is
`planner.py`'s."""

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
"""Part of the free memory that a run takes where no budget is given."""


def parse_bytes(text: str | int, name: str = "--budget") -> int:
    """ "40GB", "40GiB", "512 MB" or a number of bytes -> bytes. Raises InputError."""
    match = re.fullmatch(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([a-zA-Z]*)\s*", str(text))
    unit = match and UNITS.get(match[2].upper())
    if not match or not unit or Fraction(match[1]) * unit < 1:
        raise InputError(
            f"{name}: expected a size such as 40GB, 40GiB, 512MB or a number of bytes, found {text!r}; write it so."
        )
    return int(Fraction(match[1]) * unit)


def format_bytes(n_bytes: int) -> str:
    """Three significant digits in decimal units: 391 MB."""
    value, unit = float(n_bytes), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):  # noqa: B007
        if abs(value) < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.3g} {unit}"


@dataclass(frozen=True)
class Footprint:
    """Bytes that a stage needs at its peak, beyond what the process takes anyway."""

    host_bytes: int = 0
    device_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class Budget:
    """Hard caps in bytes. `device_bytes` None: a CPU run, where `host_bytes` is --budget itself."""

    host_bytes: int
    device_bytes: int | None = None
    limited_by: str = ""  # the option, variable or file that `host_bytes` comes from

    @property
    def host_option(self) -> str:
        """What a user raises to raise `host_bytes`."""
        return self.limited_by or ("--budget" if self.device_bytes is None else "--host-budget")


@dataclass(frozen=True)
class Device:
    """A GPU as the driver describes it."""

    number: int
    name: str
    total_bytes: int
    free_bytes: int

    @property
    def label(self) -> str:
        return f"cuda:{self.number}"


@dataclass(frozen=True)
class Machine:
    """What there is to plan with. `device` None: the CPU alone. `host_limits`: none for a machine that is not this one.
    `compiled`: modules of which numba keeps the kernels; the others' are compiled on the way."""

    n_cores: int
    host_free_bytes: int
    device: Device | None = None
    host_limits: tuple[Limit, ...] = ()
    compiled: frozenset[str] = frozenset()


def machine(device: str = "auto") -> Machine:
    """The host, and the GPU that `device` ("auto", "cpu", "cuda", "cuda:N") means. Raises InputError where it asks for
    one that is not there."""
    if device != "cpu" and not re.fullmatch(r"auto|cuda(:\d+)?", device):
        raise InputError(f"--device: expected auto, cpu, cuda or cuda:N, found {device!r}; choose one of these.")
    found = [] if device == "cpu" else devices()
    number = int(device.partition(":")[2] or 0)
    chosen = next((d for d in found if d.number == number), None)
    if chosen is None and device.startswith("cuda"):
        why = "the installed torch is a CPU build" if not _torch_has_cuda() else f"the driver reports {len(found)} GPUs"
        raise InputError(
            f"--device: expected a GPU {device!r}, found none ({why}); use --device cpu or install what is missing."
        )
    limits = host_limits()
    return Machine(n_cores(), min(limit.free_bytes for limit in limits), chosen, limits, kernels.kept())


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
    """NVML's handles of the GPUs that CUDA shows this process, in CUDA's order. It stops, as CUDA does, at a name that
    means none."""
    import pynvml

    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return handles
    out = []
    for name in (w.strip() for w in wanted.split(",")):
        meant = [
            h
            for i, h in enumerate(handles)
            if name == str(i) or (name and _text(pynvml.nvmlDeviceGetUUID(h)).startswith(name))
        ]
        if len(meant) != 1:
            break
        out += meant
    return out


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _torch_has_cuda() -> bool:
    try:
        return "+cpu" not in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False


def trim() -> None:
    """Gives freed memory back to the system: glibc keeps much of it for later, in each thread's arena, and it counts as used."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def host_free_bytes() -> int:
    """The least that any limit leaves."""
    return min(limit.free_bytes for limit in host_limits())


class Watch:
    """Peaks of this process, sampled every few milliseconds by another one, so that nothing this process does can hide
    them.

    `lap()` gives the peaks since the lap before: (RssAnon bytes, device bytes as the driver counts them for this
    process). The first one waits until the other process has started, and comes before this one uses the device.
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
        except (BrokenPipeError, ValueError):  # it was killed: what is known is what is used now
            return anonymous_bytes(), 0
        return int(host_bytes), int(device_bytes)

    def close(self) -> None:
        assert self._child.stdin and self._child.stdout
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        self._child.stdout.close()
        self._child.wait()
