"""UMAP for data that does not fit in memory: a map of every row, under a memory budget.

streamumap embed activations.npy --budget 40GB

from streamumap import StreamUMAP
StreamUMAP(budget="40GB").fit_transform("activations.npy")
"""

from typing import TYPE_CHECKING

__version__ = "0.1.1"
__all__ = ["ActivationWriter", "StreamUMAP", "__version__", "plan"]

if TYPE_CHECKING:
    from streamumap.estimator import StreamUMAP
    from streamumap.writer.activation_writer import ActivationWriter


def plan(
    x=None,
    *,
    rows=None,
    features=None,
    dtype=None,
    active=None,
    budget=None,
    host_budget=None,
    device="auto",
    sample=None,
    place_rest=False,
    **params,
):
    """What a run would do and need, what it would need elsewhere, the smallest budget and what makes the job smaller: a
    `planning.suggestions.Outlook`, from headers alone.

    Of `x` (a path or an array), or of `rows` x `features` values of `dtype` ("float16"), `active` of them non-zero in a
    row; `sample`: how many rows are mapped, `place_rest`: the others are placed on their map. Budgets are sizes such as
    "40GB"; `params` are fields of `params.Params`.
    Raises DoesNotFit where the budget cannot hold the job, InputError where something is wrong.
    """
    from streamumap.run.prepare import plan_for

    return plan_for(
        x, rows, features, dtype, active, budget, host_budget, device, sample=sample, place_rest=place_rest, **params
    )


def __getattr__(name: str):
    """The public names, imported when they are asked for: `import streamumap` stays light."""
    if name == "StreamUMAP":
        from streamumap.estimator import StreamUMAP

        return StreamUMAP
    if name == "ActivationWriter":
        from streamumap.writer.activation_writer import ActivationWriter

        return ActivationWriter
    raise AttributeError(f"module 'streamumap' has no attribute {name!r}")
