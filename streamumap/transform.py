"""Positions of new rows on a finished map: read, plan, place, write."""

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from streamumap import __version__
from streamumap.errors import InputError, UnusedOption
from streamumap.events import Listener, ignore
from streamumap.machine import memory
from streamumap.planning.job import job_of
from streamumap.planning.planner import make_plan
from streamumap.request import Request
from streamumap.run.finished import Finished, open_finished
from streamumap.run.inputs import Inputs
from streamumap.run.keys import hash_of
from streamumap.run.out_of_sample import Mapped
from streamumap.run.prepare import budget_for
from streamumap.run.run import New, Run
from streamumap.run.stages.out_of_sample import place_new, say_who_has_no_place
from streamumap.run.stages.read import new_job, say_what_is_special, scan_new
from streamumap.run.stages.reduce import along_components, to_unit
from streamumap.source import Reading, RowSource, ToConvert, open_source
from streamumap.source.sparse.csr_rows import CsrRows, pack
from streamumap.source.views.row_selection import RowSelection
from streamumap.store.atomic import OUT_REMEDY, writing
from streamumap.store.workdir import Workdir, check_space, key_of, used_bytes


def transform(
    on: Finished | str | os.PathLike,
    request: Request,
    out: str | os.PathLike,
    *,
    map_input: Any = None,
    listener: Listener = ignore,
    stopping: Callable[[], bool] = lambda: False,
) -> dict:
    """Gives the rows of a request positions on the map of the run in the folder `on`, which stays as it is. Leaves embedding.npy,
    embedding.parquet and run.json in the folder `out` and returns the content of run.json.

    `request`: its rows, how they are read where not as the rows of the map were, and the memory. `map_input`: where the rows of the map are,
    if they were moved. `listener`, `stopping`: see `engine.embed`. Raises the errors of `errors.py`.
    """
    out = Path(out)
    with ExitStack() as opened:
        finished = on if isinstance(on, Finished) else opened.enter_context(closing(open_finished(Path(on), map_input)))
        _check_out(out, request, finished)
        params = replace(finished.params, neighbors="auto", layout="auto", init="auto")
        source, reading = _open_new(request, finished.reading)
        request = replace(request, params=params, reading=reading)
        inputs = opened.enter_context(closing(Inputs(source)))
        if source.n_features != finished.input.n_features:
            raise InputError(
                f"{source.name}: features: expected {finished.input.n_features}, as the rows of {finished.name} have, found "
                f"{source.n_features}; give rows of the same features."
            )
        machine = memory.machine(request.device)
        budget = budget_for(machine, request.budget, request.host_budget)
        plan = make_plan(replace(finished.job(), placed=job_of(source)), params, budget, machine)
        check_space(out, plan.peak.disk_bytes - used_bytes(out))
        identity = {"format": "placed", "rows": source.fingerprint, "map": finished.fingerprint}
        work = opened.enter_context(closing(Workdir(out, identity, request.path, request.fresh)))
        run = opened.enter_context(closing(Run(request, inputs, plan, work, listener, stopping)))
        with run.logged():
            return _stages(run, finished)


def _stages(run: Run, finished: Finished) -> dict:
    """Does all stages in order and returns the content of run.json."""
    new, mapped = _read(run, finished)
    key = key_of(__version__, run.plan["place"].backend, hash_of(new.kept.rows))
    if run.work.has("embedding", key):
        run.reuse("the map")
        positions = run.work.read("embedding")
    else:
        positions = place_new(run, mapped, new.source, key, lambda places: new.kept.back(places, np.nan))
    for source in (new.source, mapped.rows):
        source.check_unchanged()
    return _write(run, finished, new, positions)


def _read(run: Run, finished: Finished) -> tuple[New, Mapped]:
    """The new rows, and the rows of the map as they were searched, in CSR form where the plan wants it."""
    say_what_is_special(run)
    reduced, block_rows = run.params.reduce != "none", run.plan["read"].blocks["block_rows"]
    n_steps = run.input.n_rows * (1 + isinstance(run.input, ToConvert))
    needs_rows = finished.centred or not reduced  # those of the map
    n_passes = (run.plan.as_csr and not reduced) + (needs_rows and isinstance(finished.input, ToConvert))
    n_steps += finished.input.n_rows * n_passes
    with run.stage("read", n_steps, "rows", resumable=True) as (advance, result):
        given = _in_place(run, run.input, "new", advance)
        if needs_rows:
            of_map = _in_place(run, finished.input, "map", advance)
            run.view = finished.view(of_map)
        new = scan_new(run, given, RowSelection(given.n_rows), block_rows, advance)
        if new is None:
            raise InputError(f"{given.name}: rows: expected some with finite values, found none; give rows to place.")
        run.source = new.source
        job = replace(run.plan.job, placed=replace(new_job(new), copied_bytes=job_of(run.input).copied_bytes))
        run.plan = make_plan(job, run.params, run.plan.budget, run.plan.machine)
        run.work.reserve(run.plan.peak.disk_bytes)
        if reduced:
            rows, components = finished.reduced()
            along = along_components(components, new.source, to_unit(run))
            new = replace(new, source=along)
            mapped = Mapped(rows, None, finished.positions, False, run.view, reduced=True)
        else:
            rows = run.view.of(finished.kept.source(of_map))
            run.csr = _to_csr(run, rows, finished.n_nonzero, block_rows, advance)
            mapped = Mapped(rows, run.csr, finished.positions, finished.non_negative, run.view)
        found = new.found
        result.append(f"{found.n_rows:,} x {found.n_features:,} {found.dtype}, {100 * found.density:.3g}% non-zero")
    return new, mapped


def _in_place(run: Run, given: RowSource | ToConvert, name: str, advance: Callable[[int], None]) -> RowSource:
    """The rows in a form that is read in place."""
    if not isinstance(given, ToConvert):
        return given
    given.listener = run.hear if given is run.input else None
    folder = run.work.scratch / name
    with writing(folder, OUT_REMEDY):
        folder.mkdir(exist_ok=True)
    return given.convert(folder, advance)


def _to_csr(
    run: Run, rows: RowSource, n_nonzero: int, block_rows: int, advance: Callable[[int], None]
) -> CsrRows | None:
    if not run.plan.as_csr:
        return None
    return pack(rows, block_rows, n_nonzero, run.work.scratch if run.plan.csr_on_disk else None, advance)


def _write(run: Run, finished: Finished, new: New, positions: np.ndarray) -> dict:
    say_who_has_no_place(run, new, new.kept.of(positions))
    run.measured["map"] = {"run": finished.path, "rows": len(finished.positions), "quality": finished.report["quality"]}
    with run.stage("write", 1, "files") as (advance, result):
        run.work.publish("embedding.parquet", partial(_write_table, positions, new.kept.back(new.found.is_zero, False)))
        advance(1)
        result.append(str(run.work.path))
    report = run.report(new.found)
    run.work.publish_json("run.json", report)
    run.work.finish()
    return report


def _write_table(positions: np.ndarray, is_zero: np.ndarray, file: BinaryIO) -> None:
    from streamumap.show import table

    table.write_parquet(file, positions, is_zero, None)


def _open_new(request: Request, the_map: Reading) -> tuple[RowSource | ToConvert, Reading]:
    """Opens the new rows, and says how they are read. An option of the map's rows that they do not use is left out; one that
    the user gives for them is an error. Raises InputError."""
    reading = _like(the_map, request.reading)
    while True:
        try:
            return open_source(request.input, reading, least_rows=1), reading
        except UnusedOption as error:
            if request.reading is not None and getattr(request.reading, error.field) is not None:
                raise
            reading = replace(reading, **dict[str, Any]({error.field: None}))


def _like(the_map: Reading, given: Reading | None) -> Reading:
    """The Reading of new rows: what the user says, and otherwise that of the rows of the map."""
    said = {} if given is None else {name: value for name, value in asdict(given).items() if value is not None}
    said.pop("of", None)
    sae = None if the_map.of == "decoder" else the_map.sae
    return replace(replace(the_map, shape=None, sae=sae), **said)


def _check_out(out: Path, request: Request, finished: Finished) -> None:
    """Raises InputError where the results would go into the run itself, or where the rows are."""
    taken = {finished.folder: "the run", Path(request.path) if request.path else None: "the rows"}
    for path, what in taken.items():
        if path is not None and path.exists() and out.exists() and path.samefile(out):
            raise InputError(f"--out: {out}: expected a folder of its own, found {what}; choose another --out.")
