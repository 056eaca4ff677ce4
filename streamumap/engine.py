"""A run from start to end: read, plan, then stage after stage, each one measured. Results of an earlier run are used again."""

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from streamumap.errors import InputError
from streamumap.events import Listener, ignore
from streamumap.machine import memory
from streamumap.request import Request
from streamumap.run.dispatch import Rows
from streamumap.run.inputs import open_inputs
from streamumap.run.keys import Keys, keys_of
from streamumap.run.prepare import budget_for, first_plan
from streamumap.run.run import Run
from streamumap.run.stages.graph import graph
from streamumap.run.stages.layout import layout
from streamumap.run.stages.neighbors import neighbors
from streamumap.run.stages.out_of_sample import place_rest
from streamumap.run.stages.quality import quality
from streamumap.run.stages.read import read
from streamumap.run.stages.reduce import reduce
from streamumap.run.stages.write import preload_drawing, write
from streamumap.store.workdir import Workdir, check_space, used_bytes


def embed(
    request: Request,
    out: str | os.PathLike,
    *,
    listener: Listener = ignore,
    stopping: Callable[[], bool] = lambda: False,
) -> dict:
    """Makes the map of a request in the folder `out` and returns the content of its run.json.

    `listener` is told of progress. `stopping()` is asked between units of work; when it is true the run raises Stopped, and the same
    call continues it. Raises the errors of `errors.py`.
    """
    out = Path(out)
    if request.path and os.path.exists(request.path) and out.exists() and os.path.samefile(request.path, out):
        raise InputError(f"--out: {out}: expected another place than the input, found the input; choose another --out.")
    with ExitStack() as opened:
        inputs = opened.enter_context(closing(open_inputs(request)))
        source, params, machine = inputs.source, request.params, memory.machine(request.device)
        budget = budget_for(machine, request.budget, request.host_budget)
        plan = first_plan(source, inputs.job(request.place_rest), params, budget, machine)
        check_space(out, plan.peak.disk_bytes - used_bytes(out))
        work = opened.enter_context(closing(Workdir(out, source.fingerprint, request.path, request.fresh)))
        run = opened.enter_context(closing(Run(request, inputs, plan, work, listener, stopping)))
        with run.logged():
            return run_stages(run)


def run_stages(run: Run) -> dict:
    """Does all stages in order and returns the content of run.json."""
    found = read(run)
    keys = keys_of(run)
    rows = Rows(run.source, reduce(run, keys.reduced), run.csr, found, run.view, run.params.metric)
    neighbors(run, rows, keys.knn)
    if run.plan.device:
        preload_drawing()
    if run.work.has("embedding", keys.final_map):
        run.reuse("the map")
        embedding = run.of_kept("embedding")
    else:
        embedding = make_map(run, rows, keys)
        place_rest(run, rows, embedding, keys.final_map)
    run.source.check_unchanged()
    distortion = quality(run, rows, embedding)
    return write(run, found, embedding, distortion)


def make_map(run: Run, rows: Rows, keys: Keys) -> np.ndarray:
    """Makes the map, or takes that of an earlier run: positions of the mapped rows, float32 (N, n_components)."""
    if run.new is not None and run.work.has("embedding", keys.map):
        run.reuse("the map of the sample")
        return run.of_kept("embedding")
    return layout(run, rows, graph(run, keys.graph), keys.map)
