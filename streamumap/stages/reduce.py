"""The rows along their principal components, where that is asked for: streamed twice, into a file of scratch."""

from streamumap import initial
from streamumap.source import RowSource, open_rows
from streamumap.source.rows import DenseRows
from streamumap.stages.run import Run


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
        run.work.done("reduced", key)
        units.forget()
        share = 100 * pca.explained_variance_ratio_.sum()
        result.append(f"{dims} of {source.n_features} dimensions keep {share:.3g}% of the variance")
    return open_rows(path)
