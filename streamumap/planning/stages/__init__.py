"""Block sizes and bytes of each stage: its own formula, added to what stays in memory meanwhile.

`fitting.py` adds up and finds the largest blocks that fit; `rows.py`, `neighbors.py`, `drawing.py`, `place.py` and `results.py`
have the stages, `fixed.py` the bytes that do not depend on the job.
"""

from streamumap.machine.memory import Budget, Machine
from streamumap.params import Params
from streamumap.planning.fit import TINY, BudgetFit, powers, tiny
from streamumap.planning.job import Job, StagePlan
from streamumap.planning.overheads import CONTEXT_BYTES
from streamumap.planning.stages import layout, neighbors, out_of_sample, results, rows

__all__ = ["CONTEXT_BYTES", "TINY", "BudgetFit", "plan_stages", "powers", "tiny"]


def plan_stages(
    job: Job, params: Params, budget: Budget, machine: Machine, csr_on_disk: bool = False
) -> tuple[BudgetFit, tuple[StagePlan, ...]]:
    """The stages in order; `missing` of the Fitting says what does not fit."""
    fitting = BudgetFit(job, params, budget, machine, csr_on_disk)
    if job.mapped:
        return fitting, (out_of_sample.read(fitting), out_of_sample.place(fitting), results.write(fitting))
    stages = [rows.read(fitting)]
    if params.reduce != "none":
        stages.append(rows.reduce(fitting))
    searched = neighbors.neighbors(fitting)
    stages += [
        searched,
        layout.graph(fitting),
        layout.start(fitting),
        layout.layout(fitting),
        *([out_of_sample.place(fitting)] if job.placed else []),
        results.quality(fitting, searched.blocks.get("cell_rows", min(job.n_rows, 4096))),
        results.write(fitting),
    ]
    return fitting, tuple(stages)
