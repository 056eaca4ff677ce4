"""The rows along their principal components, where that is asked for: streamed twice, into a file of scratch."""

from streamumap import initial
from streamumap.source import RowSource, open_rows
from streamumap.source.rows import DenseRows
from streamumap.stages.run import Run


def reduce(run: Run) -> RowSource:
    """The rows in which neighbours are searched: the source itself, or what it is reduced to."""
    if run.params.reduce == "none":
        return run.source
    from streamumap.reduce import StreamedPCA

    source, n = run.source, run.source.n_rows
    dims = min(run.params.reduce_dims, source.n_features, n)
    block_rows, rows = run.plan["reduce"].blocks["block_rows"], DenseRows(source, run.params.metric)
    with run.stage("reduce", 2 * n, "rows") as (tick, result):
        pca = StreamedPCA(dims, run.plan.device)
        for _, block in initial.blocks(rows.block, n, block_rows):
            pca.partial_fit(block)
            tick(len(block))
        file = run.work.create("reduced", (n, dims), "float32")
        for start, block in initial.blocks(rows.block, n, block_rows):
            file.write(start, pca.transform(block))
            tick(len(block))
        file.close()
        share = 100 * pca.explained_variance_ratio_.sum()
        result.append(f"{dims} of {source.n_features} dimensions keep {share:.3g}% of the variance")
    return open_rows(file.path)
