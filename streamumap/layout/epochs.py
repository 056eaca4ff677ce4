"""The loop over epochs: a state, and `run(state, until)` that moves it on to the same bytes however often it was
stopped."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import numpy as np

from streamumap.events import Advance, no_advance
from streamumap.layout.schedule import LayoutSettings

AHEAD = 8
"""Epochs that may be asked for before the first of them is done."""


@dataclass
class LayoutState:
    """float32 (N, n_components) positions after `epoch` epochs."""

    positions: np.ndarray
    epoch: int = 0


@dataclass(frozen=True)
class Backend:
    """Where an epoch runs: `to_device` brings an array there, `to_host` back, `wait` until it is done; `epoch` has
    `cpu.epoch`'s signature, `product` that of `spectral_cpu.product`, and `levels` has the functions of `levels_cpu`."""

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
    """Epochs state.epoch..until. Each of `blocks` reads one GraphBlock, in order; a graph of one block is placed once,
    others every epoch.

    After each epoch 1 is ticked, and `after_epoch(epochs done, get)` called, where `get()` fetches the state then.
    """
    old = backend.to_device(np.array(state.positions))  # both sets are written to
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
    """A function that goes through the blocks: (first_row, first_edge, indptr, targets, weights), placed; one block is
    placed once and for all."""

    def on_device():
        for read in blocks:
            yield _on_device(read(), backend)

    if len(blocks) > 1:
        return on_device
    kept = list(on_device())
    return lambda: kept
