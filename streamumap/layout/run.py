"""The loop over epochs: a state, and `run(state, until)` that moves it on to the same bytes however often it was stopped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from streamumap.events import Tick, no_tick
from streamumap.layout.schedule import Settings


@dataclass
class LayoutState:
    """float32 (N, n_components) positions after `epoch` epochs."""

    positions: np.ndarray
    epoch: int = 0


@dataclass(frozen=True)
class Backend:
    """Where an epoch runs: `place` brings an array there, `fetch` back, `epoch` is `cpu.epoch`'s signature."""

    place: Callable
    fetch: Callable
    empty_like: Callable
    epoch: Callable


def cpu_backend() -> Backend:
    from streamumap.layout import cpu

    return Backend(place=np.array, fetch=np.asarray, empty_like=np.empty_like, epoch=cpu.epoch)


def cuda_backend(device: str) -> Backend:
    import torch

    from streamumap.layout import cuda

    return Backend(
        place=lambda array: cuda.place(array, device),
        fetch=lambda tensor: tensor.cpu().numpy(),
        empty_like=torch.empty_like,
        epoch=cuda.epoch,
    )


def run(
    state: LayoutState,
    until: int,
    blocks: Sequence[Callable],
    settings: Settings,
    backend: Backend,
    tick: Tick = no_tick,
    save: Callable[[LayoutState], None] | None = None,
    save_epochs: int = 25,
) -> LayoutState:
    """Epochs state.epoch..until. Each of `blocks` reads one GraphBlock, in order; a graph of one block is placed once, others every epoch.

    Every `save_epochs` epochs but the last `save` gets the state, whose positions it may keep only as a copy. Ticks 1 for each epoch.
    """
    old = backend.place(state.positions)
    new = backend.empty_like(old)
    place = _placer(blocks, backend)
    for number in range(state.epoch, until):
        for first_row, first_edge, indptr, targets, weights in place():
            backend.epoch(old, new, first_row, indptr, targets, weights, first_edge, number, settings)
        old, new = new, old
        if save is not None and (number + 1) % save_epochs == 0 and number + 1 < until:
            save(LayoutState(backend.fetch(old), number + 1))
        tick(1)
    return LayoutState(np.array(backend.fetch(old)), max(until, state.epoch))


def _placer(blocks, backend):
    def placed():
        for read in blocks:
            block = read()
            yield block.first_row, block.first_edge, *(backend.place(a) for a in (block.indptr, block.targets, block.weights))

    if len(blocks) > 1:
        return placed
    kept = list(placed())
    return lambda: kept
