"""Limits on the host memory of this process: the machine's memory, control groups, Slurm."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CGROUPS = {
    "v2": ("/sys/fs/cgroup", "memory.max", "memory.current"),
    "v1": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}
CACHE = (
    ("total_inactive_file", "inactive_file"),
    ("total_active_file", "active_file"),
    ("total_mapped_file", "file_mapped"),
)
"""Lines of memory.stat that include the groups below, by their names in v1 and in v2."""

SLURM_UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Limit:
    """A limit under the `name` that a user knows: `n_bytes` in all, of which `free_bytes` are left now."""

    name: str
    n_bytes: int
    free_bytes: int


def host_limits() -> tuple[Limit, ...]:
    """Every limit that is set; the first is the memory of the machine."""
    return (_memory(), *_control_groups(), *_slurm())


def lines_of(path: str) -> list[str]:
    """The lines of a small file; none where it cannot be read."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def anonymous_bytes(pid: int | str = "self") -> int:
    """Anonymous memory of a process in bytes (RssAnon)."""
    for line in lines_of(f"/proc/{pid}/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _memory() -> Limit:
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    total_bytes, free_bytes = (os.sysconf(name) * page_bytes for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    for line in lines_of("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free_bytes = int(line.split()[1]) * 1024
    return Limit("the machine's memory", total_bytes, free_bytes)


def _control_groups() -> Iterator[Limit]:
    """Limits of this process's group and the groups above it. Page cache counts as free, except for mapped files such
    as libraries."""
    for folder, limit, used in _folders():
        numbers = [int(text) for name in (limit, used) for text in lines_of(f"{folder}/{name}") if text.isdigit()]
        if len(numbers) < 2:
            continue
        stat = dict(line.split() for line in lines_of(f"{folder}/memory.stat"))
        inactive, active, mapped = (_first(stat, names) for names in CACHE)
        cache_bytes = max(0, inactive + active - mapped)
        yield Limit(f"{folder}/{limit}", numbers[0], max(0, numbers[0] - numbers[1] + cache_bytes))


def _first(stat: dict[str, str], names: tuple[str, ...]) -> int:
    return next((int(stat[name]) for name in names if name in stat), 0)


def _folders() -> Iterator[tuple[str, str, str]]:
    """(folder, file of the limit, file of the usage) of the groups. In a container that sees only its own part of the
    tree, the top is its own group."""
    paths = {"v2": PurePosixPath("/"), "v1": PurePosixPath("/")}
    for line in lines_of("/proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            paths["v1" if controllers else "v2"] = PurePosixPath(group)
    for version, (top, limit, used) in CGROUPS.items():
        for folder in (paths[version], *paths[version].parents):
            yield top + str(folder).rstrip("/"), limit, used


def _slurm() -> Iterator[Limit]:
    """The memory that the job asked for on this node, in megabytes of 2^20 bytes; 0 means all."""
    for name, times in (("SLURM_MEM_PER_NODE", ""), ("SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE")):
        found = re.fullmatch(r"(\d+)([KMGT]?)", os.environ.get(name, ""))
        count = os.environ.get(times, "") if times else "1"
        if found and int(found[1]) and count.isdecimal() and int(count):
            n_bytes = int(found[1]) * SLURM_UNITS[found[2]] * int(count)
            yield Limit(f"{name} x {times}" if times else name, n_bytes, max(0, n_bytes - anonymous_bytes()))
