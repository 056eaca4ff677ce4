"""Find the largest blocks with which a stage fits the budget, on top of what earlier stages keep."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from streamumap.machine.memory import Budget, Footprint, Machine
from streamumap.params import Params
from streamumap.planning.job import Job, StagePlan
from streamumap.planning.overheads import (
    COMPILING_BYTES,
    CONTEXT_BYTES,
    LIBRARIES_BYTES,
    PARQUET_BYTES,
    PICTURE_BYTES,
    POOL_SHARE,
    TORCH_WORKING_BYTES,
)

FORCE_TINY = "STREAMUMAP_FORCE_TINY_BUDGET"
"""Environment variable. With 1 every plan is that of the smallest budget, so that errors at the ends of blocks show on small
inputs."""

TINY_ROWS = 32
"""Rows of a sample or of a block of queries down to which measuring the map may go with FORCE_TINY."""

Shape = dict[str, int]
"""Block sizes of a stage by their names, such as {"query_rows": 4096, "other_rows": 1024}."""


@dataclass(frozen=True)
class Facts:
    """The facts by which all stages of one plan are decided. `csr_on_disk`: CSR rows, where the rows become such, are kept in
    a file. `exhaustive`: their search on a CPU compares all rows with all, even where there are many."""

    job: Job
    params: Params
    budget: Budget
    machine: Machine
    csr_on_disk: bool = False
    exhaustive: bool = False

    @property
    def on_gpu(self) -> bool:
        return self.machine.device is not None

    @property
    def as_csr(self) -> bool:
        return self.job.n_nonzero is not None

    @property
    def overhead(self) -> Footprint:
        """Libraries on the host and the context on the device, once all of them have worked."""
        return Footprint(TORCH_WORKING_BYTES if self.on_gpu else LIBRARIES_BYTES, CONTEXT_BYTES)

    @property
    def n_edges(self) -> int:
        """Edges of the fuzzy graph, each in both directions: an upper bound until the graph exists."""
        return self.job.n_edges or 2 * self.job.n_rows * (self.params.n_neighbors - 1)


@dataclass(frozen=True)
class Held:
    """The rows and the bytes that stages leave for later ones.

    `rows`: the rows as the next stage sees them, reduced or not.
    `host_bytes`: arrays that stay, and what numba keeps of compiling.
    `spared_bytes`: the part of `host_bytes` that kernels compiled by earlier runs save.
    `device_bytes`: the context, once there is one.
    `disk_bytes`: files of the run.
    `cell_rows`: rows of a cell in a dense search on the CPU.
    `unmet`: the largest needs so far that the budget does not meet, 0 where all stages fit.
    """

    rows: Job
    host_bytes: int = 0
    spared_bytes: int = 0
    device_bytes: int = 0
    disk_bytes: int = 0
    cell_rows: int = 4096
    unmet: Footprint = Footprint()

    def plus(self, host_bytes: int = 0, disk_bytes: int = 0) -> "Held":
        return replace(self, host_bytes=self.host_bytes + host_bytes, disk_bytes=self.disk_bytes + disk_bytes)


@dataclass(frozen=True)
class Blocks:
    """Block sizes that a stage can take, the largest first, and the bytes of its arrays on the host and the device for each."""

    shapes: list[Shape]
    host: Callable[[Shape], int]
    device: Callable[[Shape], int] | None = None


def one_block(
    name: str, sizes: Iterable[int], host: Callable[[int], int], device: Callable[[int], int] | None = None
) -> Blocks:
    """Return blocks with one size, called `name`, of which `host` and `device` are functions."""
    on_device = None if device is None else (lambda shape: device(shape[name]))
    return Blocks([{name: size} for size in sizes], lambda shape: host(shape[name]), on_device)


def held_at_start(facts: Facts) -> Held:
    """Return what is held before the first stage: no memory, and on disk the room for what every run writes."""
    job, point_bytes = facts.job, facts.params.n_components * 4
    row_bytes = facts.params.n_neighbors * 8 + 3 * point_bytes + PARQUET_BYTES  # the graph; map, checkpoint, table
    n_rows, copied_bytes = job.n_rows + job.n_left_out, job.copied_bytes
    if job.mapped and job.placed:
        n_rows, copied_bytes = job.placed.n_rows, job.copied_bytes + job.placed.copied_bytes
    return Held(job, disk_bytes=copied_bytes + n_rows * row_bytes + PICTURE_BYTES)


def hold_kernels(facts: Facts, held: Held, modules: tuple[str, ...], n_bytes: int = COMPILING_BYTES) -> Held:
    """Add the bytes that numba keeps of compiling the kernels of these modules.

    Whether a plan fits is decided as if nothing were compiled yet, so that the first run makes the same map as later ones;
    predictions subtract what an earlier run compiled. Maps of other than two dimensions and very wide rows have kernels of their own.
    """
    usual = facts.params.n_components == 2 and facts.job.n_features <= 1 << 16
    spared_bytes = n_bytes if usual and facts.machine.compiled.issuperset(modules) else 0
    return replace(held.plus(n_bytes), spared_bytes=held.spared_bytes + spared_bytes)


def fit(
    facts: Facts, held: Held, name: str, backend: str, blocks: Blocks, overhead: Footprint | None = None
) -> tuple[StagePlan, Held]:
    """Plan a stage with the first of the blocks that fits both budgets. Where none does: with those that fit the device and need the least host
    memory, or with the last.

    `overhead`: libraries and context while the stage runs, by default those of `facts`.
    """
    overhead = overhead or facts.overhead

    needs = []
    for shape in blocks.shapes[-1:] if is_tiny_forced() else blocks.shapes:
        needed = _needed(held, overhead, blocks.host(shape), blocks.device(shape) if blocks.device else 0)
        needs.append((_unmet(needed, facts.budget), needed, shape))
        if needs[-1][0] == Footprint():
            break
    else:
        on_device = [need for need in needs if not need[0].device_bytes]
        needs.append(min(on_device, key=lambda need: need[1].host_bytes, default=needs[-1]))
    unmet, needed, shape = needs[-1]
    left = replace(held, unmet=_larger(held.unmet, unmet))
    if needed.device_bytes:
        left = replace(left, device_bytes=overhead.device_bytes)
    return spare(StagePlan(name, backend, shape, needed), held.spared_bytes), left


def spare(stage: StagePlan, n_bytes: int) -> StagePlan:
    """Return the stage with a prediction of `n_bytes` less on the host."""
    predicted = stage.predicted
    return replace(stage, predicted=replace(predicted, host_bytes=predicted.host_bytes - n_bytes))


def spend(stage: StagePlan, n_bytes: int) -> StagePlan:
    """Return the stage with a prediction of `n_bytes` more on disk, which only it needs."""
    predicted = stage.predicted
    return replace(stage, predicted=replace(predicted, disk_bytes=predicted.disk_bytes + n_bytes))


def _needed(held: Held, overhead: Footprint, host_bytes: int, device_bytes: int) -> Footprint:
    """Add the bytes of a stage's arrays to all others of the process."""
    on_device = overhead.device_bytes + int(device_bytes * (1 + POOL_SHARE)) if device_bytes else 0
    on_host = overhead.host_bytes + held.host_bytes + host_bytes
    return Footprint(on_host, max(held.device_bytes, on_device), held.disk_bytes)


def _unmet(needed: Footprint, budget: Budget) -> Footprint:
    """Return the needs that the budget does not meet, and 0 for those that it does."""
    host_fits = needed.host_bytes <= budget.host_bytes
    device_fits = budget.device_bytes is None or needed.device_bytes <= budget.device_bytes
    return Footprint(0 if host_fits else needed.host_bytes, 0 if device_fits else needed.device_bytes)


def _larger(a: Footprint, b: Footprint) -> Footprint:
    return Footprint(max(a.host_bytes, b.host_bytes), max(a.device_bytes, b.device_bytes))


def is_tiny_forced() -> bool:
    return os.environ.get(FORCE_TINY) == "1"


def block_sizes(largest: int, smallest: int) -> list[int]:
    """Return `largest` and the powers of two from below it down to `smallest`, descending."""
    sizes = [largest]
    power = 1 << max(largest - 1, 1).bit_length()
    while power > smallest:
        power //= 2
        if smallest <= power < largest:
            sizes.append(power)
    return sizes
