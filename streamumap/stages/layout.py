"""First positions, then the epochs, with a checkpoint every few seconds: the map."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from streamumap import backends
from streamumap.backends import Rows
from streamumap.events import Tick
from streamumap.layout import run as epochs
from streamumap.layout import schedule
from streamumap.layout.run import LayoutState
from streamumap.layout.schedule import Settings
from streamumap.planner import with_edges
from streamumap.stages.run import Run

if TYPE_CHECKING:
    from streamumap.graph.build import Graph

SAVE_SECONDS = 5.0
"""Between two checkpoints."""


def layout(run: Run, rows: Rows, graph: "Graph", key: str) -> np.ndarray:
    """float32 (N, n_components), also kept as embedding.npy, made from what `key` stands for."""
    p, n = run.params, run.source.n_rows
    run.plan = with_edges(run.plan, p, graph.n_edges)
    heaviest = max((int(weights.max()) for _, weights in graph.weights.blocks(1 << 22)), default=1)
    settings = schedule.settings(n, heaviest, **{name: getattr(p, name) for name in schedule.SETTINGS})
    state = _saved(run, key) or LayoutState(_start(run, rows, graph, settings))
    with run.stage("layout", settings.n_epochs - state.epoch, "epochs") as (tick, result):
        backend = run.plan["layout"].backend
        positions = (_by_cuml if backend == "cuml" else _by_epochs)(run, graph, key, state, settings, tick)
        run.work.retract()
        run.publish("embedding", positions, np.nan)
        result.append(f"{settings.n_epochs} epochs, backend {backend}")
    run.work.done("embedding", key)
    return positions


def _saved(run: Run, key: str) -> LayoutState | None:
    if not run.work.has("layout", key):
        return None
    epoch = run.work.facts("layout")["epoch"]
    run.reuse(f"the layout up to epoch {epoch}")
    return LayoutState(run.work.read("layout"), epoch)


def _start(run: Run, rows: Rows, graph: "Graph", settings: Settings) -> np.ndarray:
    with run.stage("start", run.source.n_rows, "rows") as (tick, result):
        positions, how = run.fitting(
            "start", lambda: backends.first_positions(rows, run.plan, run.params, graph, settings, tick)
        )
        result.append(how)
        return positions


def _by_epochs(run: Run, graph: "Graph", key: str, state: LayoutState, settings: Settings, tick: Tick) -> np.ndarray:
    shots = set(np.linspace(0, settings.n_epochs, run.n_snapshots + 1).astype(int)[1:].tolist())
    saved_at = time.monotonic()

    def after_epoch(epoch: int, get: Callable[[], LayoutState]) -> None:
        nonlocal saved_at
        if epoch in shots:
            run.work.publish_snapshot(epoch, run.kept.back(get().positions, np.nan))
        if epoch < settings.n_epochs and (run.stopping() or time.monotonic() - saved_at > SAVE_SECONDS):
            run.work.forget("layout")
            run.work.save("layout", get().positions)
            run.work.done("layout", key, epoch=epoch)
            saved_at = time.monotonic()

    blocks = backends.graph_blocks(graph, run.plan["layout"].blocks["block_rows"])
    backend = backends.layout_backend(run.plan)
    return epochs.run(state, settings.n_epochs, blocks, settings, backend, tick, after_epoch).positions


def _by_cuml(run: Run, graph: "Graph", key: str, state: LayoutState, settings: Settings, tick: Tick) -> np.ndarray:
    from streamumap.layout import cuml

    knn, distances = (file.read(0, len(file)) for file in run.knn())
    p = run.params
    return cuml.layout(knn, distances, state.positions, settings, p.local_connectivity, p.set_op_mix_ratio)
