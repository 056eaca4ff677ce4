"""The fuzzy graph of the k-NN graph, in files of scratch."""

from typing import TYPE_CHECKING

from streamumap.stages.run import Run

if TYPE_CHECKING:
    from streamumap.graph.build import Graph


def graph(run: Run, key: str) -> "Graph":
    """The graph made from what `key` stands for."""
    from streamumap.graph import build

    p = run.params
    if run.work.has("graph", key):
        run.reuse("the fuzzy graph")
        return build.Graph(*(run.work.open(name) for name in ("indptr", "targets", "weights")))
    with run.stage("graph", 3 * run.source.n_rows, "rows", patient=True) as (tick, result):
        run.work.forget("graph")
        units = run.units("graph", key, "the fuzzy graph", tick)
        indices, distances = run.knn()
        made = build.build(
            indices,
            distances,
            units,
            local_connectivity=p.local_connectivity,
            set_op_mix_ratio=p.set_op_mix_ratio,
            tick=tick,
            **run.plan["graph"].blocks,
        )
        sizes = build.component_sizes(made, **run.plan["graph"].blocks)
        pieces = "in one piece" if len(sizes) == 1 else f"in {len(sizes):,} pieces, the largest of {sizes[0]:,} rows"
        result.append(f"{made.n_edges:,} edges, {pieces}")
        run.work.done("graph", key)
        units.forget()
    run.measured["graph"] = {
        "edges": made.n_edges,
        "components": len(sizes),
        "largest_component_rows": int(sizes[0]),
    }
    return made
