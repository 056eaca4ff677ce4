"""The loop over epochs. A run that is stopped and continued any number of times ends in the same bytes."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.layout.schedule import LayoutSettings

AHEAD = 8
"""Most epochs that are queued on a device before the loop waits for them."""


@dataclass
class LayoutState:
    """The positions, float32 (N, n_components), after `epoch` epochs."""

    positions: np.ndarray
    epoch: int = 0


@dataclass(frozen=True)
class Backend:
    """The operations of one kind of device. `to_device` and `to_host` copy arrays, `wait` blocks until all epochs are done;
    `epoch` has the signature of `cpu.epoch`, `product` that of `spectral_cpu.product`, and `levels` the functions of
    `levels_cpu`."""

    to_device: Callable
    to_host: Callable
    empty_like: Callable
    epoch: Callable
    wait: Callable[[], object]
    levels: ModuleType
    product: Callable


def cpu_backend() -> Backend:
    from streamumap.layout import cpu
    from streamumap.layout.init import levels_cpu, spectral_cpu

    return Backend(np.asarray, np.asarray, np.empty_like, cpu.epoch, lambda: None, levels_cpu, spectral_cpu.product)


def cuda_backend(device: str) -> Backend:
    import torch

    from streamumap.layout import cuda
    from streamumap.layout.init import levels_cuda, spectral_cuda

    return Backend(
        to_device=lambda array: cuda.to_device(array, device),
        to_host=lambda tensor: tensor.cpu().numpy(),
        empty_like=torch.empty_like,
        epoch=cuda.epoch,
        wait=torch.cuda.synchronize if device.startswith("cuda") else lambda: None,
        levels=levels_cuda,
        product=spectral_cuda.product,
    )


def run(
    state: LayoutState,
    until: int,
    blocks: Sequence[Callable],
    settings: LayoutSettings,
    backend: Backend,
    advance: Advance = no_advance,
    after_epoch: Callable[[int, Callable[[], LayoutState]], None] | None = None,
) -> LayoutState:
    """Runs epochs state.epoch..until. Each of `blocks` reads one GraphBlock, in order; a graph of one block is copied to the
    device once, a graph of several in every epoch.

    Each epoch advances by 1 and calls `after_epoch(number of epochs done, get)`, where `get()` copies the state to the host.
    """
    old = backend.to_device(np.array(state.positions))  # a copy: epochs write to it
    new = backend.empty_like(old)
    read_blocks = block_reader(blocks, backend)
    for number in range(state.epoch, until):
        for first_row, first_edge, indptr, targets, weights in read_blocks():
            backend.epoch(old, new, first_row, indptr, targets, weights, first_edge, number, settings)
        if number % AHEAD == 0:
            backend.wait()
        old, new = new, old
        advance(1)
        if after_epoch is not None:
            after_epoch(number + 1, partial(_fetched, backend, old, number + 1))
    return _fetched(backend, old, max(until, state.epoch))


def _fetched(backend: Backend, positions, epoch: int) -> LayoutState:
    return LayoutState(np.array(backend.to_host(positions)), epoch)


def _on_device(block, backend: Backend) -> tuple:
    arrays = block.indptr, block.targets, block.weights
    return block.first_row, block.first_edge, *(backend.to_device(array) for array in arrays)


def block_reader(blocks: Sequence[Callable], backend: Backend) -> Callable[[], Iterable[tuple]]:
    """Returns a function that yields (first_row, first_edge, indptr, targets, weights) of each block, on the device. It copies
    a single block only once."""

    def on_device():
        for read in blocks:
            yield _on_device(read(), backend)

    if len(blocks) > 1:
        return on_device
    whole = list(on_device())
    return lambda: whole
