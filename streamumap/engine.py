"""The main job as a straight line: read, plan, then stage after stage, each one measured; what is there already is used
again. A stage is a file of `stages/`."""

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.events import Listener, ignore
from streamumap.machine import memory
from streamumap.params import Params
from streamumap.planning.job import job_of, placing_job, sampled_job
from streamumap.run import dispatch
from streamumap.run.dispatch import Rows
from streamumap.run.keys import Keys, keys_of
from streamumap.run.prepare import budget_for, first_plan, given_graph
from streamumap.run.run import Run
from streamumap.run.sampling import sampled
from streamumap.run.stages.graph import graph
from streamumap.run.stages.layout import layout
from streamumap.run.stages.neighbors import neighbors
from streamumap.run.stages.out_of_sample import place_rest
from streamumap.run.stages.quality import quality
from streamumap.run.stages.read import read
from streamumap.run.stages.reduce import reduce
from streamumap.run.stages.write import get_ready, write
from streamumap.show.meta import Meta
from streamumap.source import Reading, open_source
from streamumap.store.workdir import Workdir, check_space, used_bytes


def embed(
    x: Any,
    params: Params,
    *,
    out: str | os.PathLike,
    budget: str | int | None = None,
    host_budget: str | int | None = None,
    device: str = "auto",
    reading: Reading | None = None,
    meta: str | os.PathLike | None = None,
    drop_nonfinite: bool = False,
    sample: int | None = None,
    stratify: str | os.PathLike | None = None,
    place_rest: bool = False,
    knn: Any = None,
    listener: Listener = ignore,
    snapshots: int = 0,
    fresh: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> dict:
    """Makes a map of every row of `x` in the folder `out` and returns the content of its run.json. Raises the errors of
    `errors.py`.

    `meta`: a file whose columns go into embedding.parquet, row for row. `drop_nonfinite`: rows with NaN or Inf are left
    out and are NaN in the map, as are those that are not among `sample` rows, drawn with the seed. `stratify`: a file of
    labels whose shares the sample keeps, or of row numbers that are the sample. `place_rest`: the other rows get a place on the
    map of the sample, which they do not change. `knn`: a k-NN graph of the rows, (indices,
    distances), each a .npy file or an array; see `neighbors.given`. `snapshots` positions on the way, evenly spaced over
    the epochs, are kept in out/snapshots. `fresh`: what an earlier run left in `out` is removed first. `stopping()` is asked
    between units of work; when it is true the run raises Stopped, and the same call continues it.
    """
    out = Path(out)
    if isinstance(x, (str, os.PathLike)) and os.path.exists(x) and out.exists() and os.path.samefile(x, out):
        raise InputError(f"--out: {out}: expected another place than the input, found the input; choose another --out.")
    source = open_source(x, reading)
    columns = None if meta is None else Meta(meta, source.n_rows)
    dispatch.check_installed(params)
    machine = memory.machine(device)
    with ExitStack() as opened:
        opened.callback(source.close)
        given = given_graph(knn, params, source.n_rows)
        if given is not None:
            opened.callback(given.close)
        rows = sampled(source.n_rows, sample, None if stratify is None else Path(stratify), params.seed)
        if rows is not None and given is not None:
            raise InputError(
                "--knn: expected a graph of the rows on the map, found one of all rows beside a sample; leave one out."
            )
        job = replace(job_of(source), knn_columns=given.n_columns if given else 0)
        if place_rest and rows is None:
            raise InputError(
                "--place-rest: expected --sample or --stratify, found neither; say which rows the others are placed beside."
            )
        job = sampled_job(job, None if rows is None else len(rows))
        job = placing_job(job) if place_rest else job
        plan = first_plan(source, job, params, budget_for(machine, budget, host_budget), machine)
        check_space(out, plan.peak.disk_bytes - used_bytes(out))
        named = os.path.abspath(os.fsdecode(x)) if isinstance(x, (str, bytes, os.PathLike)) else ""
        work = opened.enter_context(closing(Workdir(out, source.fingerprint, named, fresh)))
        origin = {"path": named, "reading": (reading or Reading()).to_json()}
        run = Run(
            source,
            params,
            plan,
            work,
            listener,
            stopping,
            rows,
            given,
            columns,
            drop_nonfinite,
            snapshots,
            place_rest,
            origin,
        )
        opened.callback(run.close)
        with run.logged():
            return stages(run)


def stages(run: Run) -> dict:
    """All of them in order; the content of run.json."""
    found = read(run)
    keys = keys_of(run)
    rows = Rows(run.source, reduce(run, keys.reduced), run.csr, found, run.view, run.params.metric)
    neighbors(run, rows, keys.knn)
    if run.plan.device:
        get_ready()
    if run.work.has("embedding", keys.placed):
        run.reuse("the map")
        embedding = run.of_kept("embedding")
    else:
        embedding = mapped(run, rows, keys)
        place_rest(run, rows, embedding, keys.placed)
    run.source.check_unchanged()
    distortion = quality(run, rows, embedding)
    return write(run, found, embedding, distortion)


def mapped(run: Run, rows: Rows, keys: Keys) -> np.ndarray:
    """The places of the rows that are mapped, float32 (N, n_components)."""
    if run.new is not None and run.work.has("embedding", keys.map):
        run.reuse("the map of the sample")
        return run.of_kept("embedding")
    return layout(run, rows, graph(run, keys.graph), keys.map)
