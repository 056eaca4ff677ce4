"""The reduce stage: rows along their principal or independent components, streamed twice into a scratch file."""

import numpy as np

from streamumap.layout.init import pca as initial
from streamumap.machine.memory import format_bytes
from streamumap.neighbors.metric import compared
from streamumap.quality import sample_rows
from streamumap.reduce import ica
from streamumap.reduce.pca import StreamedPCA
from streamumap.reduce.reduced_rows import ReducedRows
from streamumap.run.recorder import Meter
from streamumap.run.run import Run
from streamumap.source import RowSource, open_rows
from streamumap.source.views.normalized import DenseRows
from streamumap.store.blockfile import BlockFile
from streamumap.store.saved_checkpoint import SavedCheckpoint


def reduce(run: Run, key: str) -> RowSource:
    """The rows in which neighbours are searched: the source itself, or its reduced rows under `key`."""
    if run.params.reduce == "none":
        return run.source
    if run.work.has("reduced", key):
        run.reuse("the reduced rows")
    else:
        _reduce(run, key)
    run.measured["reduced"] = found = run.work.facts("reduced")
    if not found.get("converged", True):
        run.warn(
            f"--reduce ica: FastICA did not converge in {found['iterations']} iterations on {found['sample_rows']:,} sampled "
            "rows; fewer --reduce-dims may. The map hardly depends on it: iterations turn the whitened rows, and no distance "
            "changes by that."
        )
    return open_rows(run.work.scratch / "reduced.npy")


def _reduce(run: Run, key: str) -> None:
    source, n = run.source, run.source.n_rows
    dims, independent = min(run.params.reduce_dims, source.n_features, n), run.params.reduce == "ica"
    block_rows, rows = run.plan["reduce"].blocks["block_rows"], DenseRows(source, unit=to_unit(run))
    with run.stage("reduce", (3 if independent else 2) * n, "rows", resumable=True) as (advance, result):
        run.work.forget("reduced")
        checkpoint = run.checkpoint("reduce", key, "the reduced rows", advance)
        facts = checkpoint.resume({})
        pca = StreamedPCA.from_state(dims, facts, run.plan.device) if facts else StreamedPCA(dims, run.plan.device)
        for start, block in initial.blocks(rows.block, n, block_rows, facts.get("added", 0)):
            pca.partial_fit(block)
            advance(len(block))
            checkpoint.done(lambda: (pca.state(), {}), added=start + len(block))
        along, found = pca.components_, {"dims": dims, "variance_share": float(pca.explained_variance_ratio_.sum())}
        result.append(
            f"{dims} of {source.n_features} dimensions keep {100 * found['variance_share']:.3g}% of the variance"
        )
        kept: dict = {}
        so_far: dict = {}
        if independent:
            turn, so_far = _rotation(run, pca, rows, checkpoint, facts, advance)
            along, kept = ica.directions(along, ica.whitening(pca.explained_variance_), turn), {"turn": turn}
            found |= so_far
            result.append(f"{result[-1]}; FastICA: {_said(found)}")
        file = checkpoint.create("reduced", (n, dims), "float32")
        for start, block in initial.blocks(rows.block, n, block_rows, facts.get("written", 0)):
            file.write(start, pca.project(block, along))
            advance(len(block))
            checkpoint.done(lambda: (pca.state() | kept, {}), added=n, written=start + len(block), **so_far)
        file.sync()
        file.close()
        _keep_components(run, pca.mean_, along)
        run.work.done("reduced", key, **found)
        checkpoint.forget()


def _rotation(
    run: Run, pca: StreamedPCA, rows: DenseRows, checkpoint: SavedCheckpoint, facts: dict, advance: Meter
) -> tuple[np.ndarray, dict]:
    """The rotation float64 (C, C) that makes whitened rows independent, found on a sample or continued from `facts`; and facts about it for
    run.json. Advances by N."""
    n, scale = rows.n_rows, ica.whitening(pca.explained_variance_)
    sample = sample_rows(n, ica.SAMPLE_ROWS, run.params.seed)
    turn, done = facts.get("turn"), facts.get("iterations", 0)
    found = {"sample_rows": len(sample), "sample_bytes": 4 * len(sample) * len(scale)}
    found |= {"iterations": done, "converged": facts.get("converged", False)}
    if turn is None:
        turn = ica.first_turn(len(scale), run.params.seed)
    if found["converged"] or done == ica.MAX_ITERATIONS:
        return turn, found
    step, along = run.plan["reduce"].blocks["block_rows"], scale[:, None] * pca.components_[: len(scale)]
    white = np.empty((len(sample), len(scale)), np.float32)
    for at in range(0, len(sample), step):
        white[at : at + step] = pca.project(rows.take(sample[at : at + step]), along)

    def state() -> tuple[dict, dict]:
        return pca.state() | {"turn": turn}, {}

    while not found["converged"] and done < ica.MAX_ITERATIONS:
        turn, last = ica.iteration(white, turn, run.plan.machine.n_cores)
        advance((n if last else n * (done + 1) // ica.MAX_ITERATIONS) - n * done // ica.MAX_ITERATIONS)
        done += 1
        found |= {"iterations": done, "converged": last}
        checkpoint.done(state, added=n, **found)
    return turn, found


def _said(found: dict) -> str:
    how = "converged in" if found["converged"] else "did not converge in"
    sample = f"{found['sample_rows']:,} sampled rows ({format_bytes(found['sample_bytes'])})"
    return f"{how} {found['iterations']} iterations on {sample}"


def to_unit(run: Run) -> bool:
    """Whether the rows, as the view has them, are brought to length 1 before they are compared."""
    return compared(run.metric, run.view).unit


def reduced_like(run: Run, source: RowSource) -> RowSource:
    """Other rows along the components of the reduced ones."""
    return along_components(run.work.open("components"), source, to_unit(run))


def along_components(components: BlockFile, source: RowSource, unit: bool) -> RowSource:
    """The rows of `source` along the components in a file that `_keep_components` wrote."""
    kept = components.read(0, len(components))
    components.close()
    return ReducedRows(source, kept[0], kept[1:].astype(np.float32), unit=unit)


def _keep_components(run: Run, mean: np.ndarray, along: np.ndarray) -> None:
    """Keeps the mean and the components, float64, for rows that get a position later."""
    file = run.work.create("components", (1 + len(along), along.shape[1]), np.float64)
    file.write(0, mean)
    file.write(1, along)
    file.sync()
    file.close()
