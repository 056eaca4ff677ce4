"""The rows along their principal components, where that is asked for: streamed twice, into a file of scratch."""

from typing import TYPE_CHECKING

import numpy as np

from streamumap import initial
from streamumap.blockfile import BlockFile
from streamumap.source import RowSource, open_rows
from streamumap.source.rows import DenseRows
from streamumap.stages.run import Run

if TYPE_CHECKING:
    from streamumap.reduce import StreamedPCA


def reduce(run: Run, key: str) -> RowSource:
    """The rows in which neighbours are searched: the source itself, or what it is reduced to, made from what `key` stands
    for."""
    if run.params.reduce == "none":
        return run.source
    path = run.work.scratch / "reduced.npy"
    if run.work.has("reduced", key):
        run.reuse("the reduced rows")
        return open_rows(path)
    from streamumap.reduce import StreamedPCA

    source, n = run.source, run.source.n_rows
    dims = min(run.params.reduce_dims, source.n_features, n)
    block_rows, rows = run.plan["reduce"].blocks["block_rows"], DenseRows(source, run.params.metric)
    with run.stage("reduce", 2 * n, "rows", patient=True) as (tick, result):
        run.work.forget("reduced")
        units = run.units("reduce", key, "the reduced rows", tick)
        pca = StreamedPCA(dims, run.plan.device)
        facts = units.resume({})
        if facts:
            pca = StreamedPCA.from_state(dims, facts, run.plan.device)
        at, written = facts.get("added", 0), facts.get("written", 0)
        del facts
        for start, block in initial.blocks(rows.block, n, block_rows, at):
            pca.partial_fit(block)
            tick(len(block))
            units.done(lambda: (pca.state(), {}), added=start + len(block), written=0)
        file = units.create("reduced", (n, dims), "float32")
        for start, block in initial.blocks(rows.block, n, block_rows, written):
            file.write(start, pca.transform(block))
            tick(len(block))
            units.done(lambda: (pca.state(), {}), added=n, written=start + len(block))
        file.sync()
        file.close()
        _keep_components(run, pca)
        run.work.done("reduced", key)
        units.forget()
        share = 100 * pca.explained_variance_ratio_.sum()
        result.append(f"{dims} of {source.n_features} dimensions keep {share:.3g}% of the variance")
    return open_rows(path)


def reduced_like(run: Run, source: RowSource) -> RowSource:
    """Other rows along the components of those that were reduced."""
    return along_components(run.work.open("components"), source, run.params.metric)


def along_components(components: BlockFile, source: RowSource, metric: str) -> RowSource:
    """The rows of `source` along the components in a file of `_keep_components`."""
    from streamumap.reduce import ReducedRows

    kept = components.read(0, len(components))
    components.close()
    return ReducedRows(source, metric, kept[0], kept[1:].astype(np.float32))


def _keep_components(run: Run, pca: "StreamedPCA") -> None:
    """The mean, then the components, as float64: for rows that are placed on the map."""
    components = pca.components_
    file = run.work.create("components", (1 + len(components), components.shape[1]), np.float64)
    file.write(0, pca.mean_)
    file.write(1, components)
    file.sync()
    file.close()
