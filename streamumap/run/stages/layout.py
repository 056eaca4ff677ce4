"""The layout stage: first positions, then the epochs, with a checkpoint every few seconds."""

from collections.abc import Callable

import numpy as np

from streamumap.graph.files import Graph
from streamumap.layout import epochs, schedule
from streamumap.layout.epochs import LayoutState
from streamumap.layout.schedule import LayoutSettings
from streamumap.planning.planner import with_edges
from streamumap.run.dispatch import Rows
from streamumap.run.initialize import GraphBlocks, first_positions, layout_backend
from streamumap.run.recorder import Meter
from streamumap.run.run import Run
from streamumap.store.saved_checkpoint import SavedCheckpoint


def layout(run: Run, rows: Rows, graph: Graph, key: str) -> np.ndarray:
    """Makes the map under `key`, float32 (N, n_components), and keeps it as embedding.npy."""
    p = run.params
    run.plan = with_edges(run.plan, p, graph.n_edges)
    settings = schedule.layout_settings(
        run.source.n_rows, graph.heaviest(), **{name: getattr(p, name) for name in schedule.LAYOUT_PARAMS}
    )
    checkpoint = run.checkpoint("layout", key, "the layout", run.meter("layout", settings.n_epochs, "epochs"))
    blocks = GraphBlocks(graph, layout_backend(run.plan))
    state = _begun(run, rows, blocks, settings, checkpoint)
    with run.stage("layout", settings.n_epochs, "epochs", resumable=True) as (advance, result):
        checkpoint.counted, advance.done = advance, state.epoch
        backend = run.plan["layout"].backend
        way = _by_cuml if backend == "cuml" else _by_epochs
        positions = run.retry_on_oom("layout", lambda: way(run, blocks, state, settings, advance, checkpoint))
        run.work.retract()
        run.publish("embedding", positions, np.nan)
        run.work.done("embedding", key)
        checkpoint.forget()
        result.append(f"{settings.n_epochs} epochs, backend {backend}")
    return positions


def _begun(
    run: Run, rows: Rows, blocks: GraphBlocks, settings: LayoutSettings, checkpoint: SavedCheckpoint
) -> LayoutState:
    """The state that an earlier run left, else the first positions."""
    positions = np.empty((settings.n_vertices, run.params.n_components), np.float32)
    facts = checkpoint.resume(dict(positions=positions))
    if facts:
        return LayoutState(positions, facts["epoch"])
    with run.stage("start", run.source.n_rows, "rows") as (advance, result):
        positions, how = run.retry_on_oom(
            "start", lambda: first_positions(rows, run.plan, run.params, blocks, settings, advance, run.warn)
        )
        result.append(how)
        checkpoint.done(lambda: (dict(positions=positions), {}), epoch=0)
    return LayoutState(positions)


def _by_epochs(
    run: Run,
    blocks: GraphBlocks,
    state: LayoutState,
    settings: LayoutSettings,
    advance: Meter,
    checkpoint: SavedCheckpoint,
) -> np.ndarray:
    shots = set(np.linspace(0, settings.n_epochs, run.request.snapshots + 1).astype(int)[1:].tolist())

    def after_epoch(epoch: int, get: Callable[[], LayoutState]) -> None:
        if epoch in shots:
            run.work.publish_snapshot(epoch, run.kept.back(get().positions, np.nan))
        if epoch < settings.n_epochs:
            checkpoint.done(lambda: (dict(positions=get().positions), {}), epoch=epoch)

    in_blocks = blocks.of(run.plan["layout"].blocks["block_rows"])
    return epochs.run(state, settings.n_epochs, in_blocks, settings, blocks.backend, advance, after_epoch).positions


def _by_cuml(
    run: Run,
    blocks: GraphBlocks,
    state: LayoutState,
    settings: LayoutSettings,
    advance: Meter,
    checkpoint: SavedCheckpoint,
) -> np.ndarray:
    from streamumap.layout import cuml

    blocks.forget()
    knn, distances = (file.read(0, len(file)) for file in run.knn())
    p = run.params
    return cuml.layout(knn, distances, state.positions, settings, p.local_connectivity, p.set_op_mix_ratio)
