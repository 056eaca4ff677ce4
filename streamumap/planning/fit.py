"""The sum of what stages need, one after the other, and the search for the largest blocks that fit."""

import os
from collections.abc import Callable, Iterable

from streamumap.machine.memory import Budget, Device, Footprint, Machine
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

TINY = "STREAMUMAP_FORCE_TINY_BUDGET"
"""Set to 1, every plan is the one of the smallest budget: what depends on where blocks end shows on small inputs."""

TINY_ROWS = 32

Bytes = Callable[[int], int]
Shape = dict[str, int]


def tiny() -> bool:
    return os.environ.get(TINY) == "1"


def powers(largest: int, smallest: int) -> list[int]:
    """largest and the powers of two below it down to smallest, descending."""
    out = [largest]
    power = 1 << max(largest - 1, 1).bit_length()
    while power > smallest:
        power //= 2
        if smallest <= power < largest:
            out.append(power)
    return out


class BudgetFit:
    """Adds up stage after stage; `missing` collects what does not fit. `job` becomes that of reduced rows once they are;
    `original` stays. `host_base`: of libraries and of what stays in memory from stage to stage. `context_bytes`: what the
    device keeps for the process beside its arrays."""

    def __init__(self, job: Job, params: Params, budget: Budget, machine: Machine, csr_on_disk: bool):
        self.job, self.params, self.budget, self.machine = job, params, budget, machine
        self.original = job
        self.gpu: Device | None = machine.device
        self.missing: list[tuple[str, int]] = []
        self.as_csr, self.csr_on_disk = job.n_nonzero is not None, csr_on_disk
        self.context_bytes, self.device_base, self.spared_bytes = CONTEXT_BYTES, 0, 0
        self.host_base = TORCH_WORKING_BYTES if self.gpu else LIBRARIES_BYTES
        point_bytes = params.n_components * 4
        row_bytes = params.n_neighbors * 8 + 3 * point_bytes + PARQUET_BYTES  # the graph; map, checkpoint, table
        n_rows, copied_bytes = job.n_rows + job.n_left_out, job.copied_bytes
        if job.mapped and job.placed:
            n_rows, copied_bytes = job.placed.n_rows, job.copied_bytes + job.placed.copied_bytes
        self.disk = self.kept_bytes = copied_bytes + n_rows * row_bytes + PICTURE_BYTES

    def compile(self, modules: tuple[str, ...], n_bytes: int = COMPILING_BYTES) -> None:
        """From now on what numba keeps of compiling these modules' kernels counts. What fits is decided as if all had to be
        compiled, so that the first run is like those after it; but what is predicted leaves out what is compiled already. Three
        dimensions and very wide rows have kernels of their own."""
        usual = self.params.n_components == 2 and self.original.n_features <= 1 << 16
        self.host_base += n_bytes
        if usual and self.machine.compiled.issuperset(modules):
            self.spared_bytes += n_bytes

    @property
    def n_edges(self) -> int:
        """Of the fuzzy graph, each in both directions; the most that there can be until it is there."""
        return self.job.n_edges or 2 * self.job.n_rows * (self.params.n_neighbors - 1)

    def solve(
        self, name: str, backend: str, block: str, sizes: Iterable[int], host: Bytes, device: Bytes | None = None
    ) -> StagePlan:
        """`fit` where one block size is free; `host` and `device` are functions of it."""
        on_device = None if device is None else (lambda shape: device(shape[block]))
        return self.fit(name, backend, [{block: size} for size in sizes], lambda shape: host(shape[block]), on_device)

    def fit(
        self,
        name: str,
        backend: str,
        shapes: list[Shape],
        host: Callable[[Shape], int],
        device: Callable[[Shape], int] | None = None,
    ) -> StagePlan:
        """The first of `shapes` (block sizes, the largest first) that fits both budgets; the last where none does, and
        what it would need."""
        for shape in shapes[-1:] if tiny() else shapes:
            need_host = self.host_base + host(shape)
            arrays = device(shape) if device is not None else 0
            need_device = max(self.device_base, self.context_bytes + int(arrays * (1 + POOL_SHARE)) if arrays else 0)
            host_fits = need_host <= self.budget.host_bytes
            device_fits = self.budget.device_bytes is None or need_device <= self.budget.device_bytes
            if host_fits and device_fits:
                break
        else:
            if not host_fits:
                self.missing.append(("host", need_host))
            if not device_fits:
                self.missing.append(("device", need_device))
        if need_device:
            self.device_base = self.context_bytes
        return StagePlan(name, backend, shape, Footprint(need_host - self.spared_bytes, need_device, self.disk))
