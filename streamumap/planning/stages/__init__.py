"""Plan the stages of a run, one after the other: block sizes and bytes of each.

A stage is a function of the facts and of what earlier stages hold; it returns its plan and what is held after it. The bytes
of its arrays come from the `sizes` modules beside the algorithms.
"""

from collections.abc import Callable

from streamumap.planning.fit import Facts, Held, held_at_start
from streamumap.planning.job import StagePlan
from streamumap.planning.stages import layout, neighbors, out_of_sample, results, rows

Stage = Callable[[Facts, Held], tuple[StagePlan, Held]]


def plan_stages(facts: Facts) -> tuple[tuple[StagePlan, ...], Held]:
    """Plan the stages in order; `unmet` of what is held at the end says what the budget does not meet."""
    plans, held = [], held_at_start(facts)
    for stage in _stages(facts):
        plan, held = stage(facts, held)
        plans.append(plan)
    return tuple(plans), held


def _stages(facts: Facts) -> list[Stage]:
    if facts.job.mapped:
        return [out_of_sample.read, out_of_sample.place, results.write]
    return [
        rows.read,
        *([rows.reduce] if facts.params.reduce != "none" else []),
        neighbors.search,
        layout.graph,
        layout.start,
        layout.layout,
        *([out_of_sample.place] if facts.job.placed else []),
        results.quality,
        results.write,
    ]
