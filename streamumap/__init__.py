"""UMAP for data that does not fit in memory: a map of every row, under a memory budget.

streamumap embed activations.npy --budget 40GB

from streamumap import StreamUMAP
StreamUMAP(budget="40GB").fit_transform("activations.npy")
"""

from typing import TYPE_CHECKING

__version__ = "0.3.0"
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
    knn=None,
    **params,
):
    """Plans a run from headers alone: a `planning.suggestions.Outlook` with the plan, the smallest budget that works, the needs of an
    in-memory run, and what would make the job smaller.

    The rows are those of `x` (a path or an array), or a matrix of `rows` x `features` values of `dtype` ("float16") with `active`
    non-zeros a row. `sample`: how many rows are mapped; `place_rest`: the others get a position on their map; `knn`: a k-NN graph
    that is given. Budgets are sizes such as "40GB". `device`: as for a run; or a GPU elsewhere: "h100" or another of
    `machine.cards.CARDS`, or, where no GPU is here, "cuda" with its memory as `budget`. `params` are fields of `params.Params`. Raises
    DoesNotFit where the budget cannot hold the job, InputError where something is wrong.
    """
    from streamumap.params import Params
    from streamumap.request import Request
    from streamumap.run.prepare import matrix_of, outlook_of
    from streamumap.source import Reading

    rest = dict(sample=sample, place_rest=place_rest, knn=knn)
    request = Request(x, Params(**params), budget, host_budget, device, Reading(dtype, features), **rest)
    return outlook_of(request, matrix_of(x, rows, features), active)


def __getattr__(name: str):
    """Imports a public name when it is asked for, so that `import streamumap` stays light."""
    if name == "StreamUMAP":
        from streamumap.estimator import StreamUMAP

        return StreamUMAP
    if name == "ActivationWriter":
        from streamumap.writer.activation_writer import ActivationWriter

        return ActivationWriter
    raise AttributeError(f"module 'streamumap' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names of the module and the public ones that are not imported yet."""
    return sorted({*globals(), *__all__})
