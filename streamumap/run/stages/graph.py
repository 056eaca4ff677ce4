"""The graph stage: the fuzzy graph of the k-NN graph, in scratch files."""

from streamumap.graph.files import Graph
from streamumap.run import dispatch
from streamumap.run.run import Run


def graph(run: Run, key: str) -> Graph:
    """The fuzzy graph under `key`, made now or by an earlier run."""
    if run.work.has("graph", key):
        run.reuse("the fuzzy graph")
        made = Graph(*(run.work.open(name) for name in ("indptr", "targets", "weights")))
    else:
        made = _make(run, key)
    run.measured["graph"] = run.work.facts("graph")
    return made


def _make(run: Run, key: str) -> Graph:
    with run.stage("graph", 3 * run.source.n_rows, "rows", resumable=True) as (advance, result):
        run.work.forget("graph")
        checkpoint = run.checkpoint("graph", key, "the fuzzy graph", advance)
        knn = run.knn()
        work = lambda: dispatch.build_graph(run.plan, run.params, knn, checkpoint, advance)  # noqa: E731
        made, sizes = run.retry_on_oom("graph", work)
        pieces = "in one piece" if len(sizes) == 1 else f"in {len(sizes):,} pieces, the largest of {sizes[0]:,} rows"
        result.append(f"{made.n_edges:,} edges, {pieces}")
        facts = dict(edges=made.n_edges, components=len(sizes), largest_component_rows=int(sizes[0]))
        run.work.done("graph", key, **facts)
        checkpoint.forget()
    return made
