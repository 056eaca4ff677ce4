"""New rows on a finished map: read, plan, place, write."""

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from streamumap import __version__
from streamumap.errors import InputError
from streamumap.events import Listener, ignore
from streamumap.machine import memory
from streamumap.planning.job import job_of
from streamumap.planning.planner import make_plan
from streamumap.run.finished import Finished, open_finished
from streamumap.run.keys import hash_of
from streamumap.run.out_of_sample import Mapped
from streamumap.run.prepare import budget_for
from streamumap.run.run import New, Run
from streamumap.run.stages.out_of_sample import place_new, say_who_has_no_place
from streamumap.run.stages.read import look_at_new, new_job, say_what_is_special
from streamumap.run.stages.reduce import along_components, to_unit
from streamumap.source import Reading, RowSource, ToConvert, open_source
from streamumap.source.sparse.csr_rows import CsrRows, pack
from streamumap.source.views.row_selection import RowSelection
from streamumap.store.workdir import Workdir, check_space, key_of, used_bytes


def transform(
    on: Finished | str | os.PathLike,
    x: Any,
    *,
    out: str | os.PathLike,
    input: Any = None,
    budget: str | int | None = None,
    host_budget: str | int | None = None,
    device: str = "auto",
    reading: Reading | None = None,
    drop_nonfinite: bool = False,
    listener: Listener = ignore,
    fresh: bool = False,
    stopping: Callable[[], bool] = lambda: False,
) -> dict:
    """Places the rows of `x` on the map of the run in the folder `on`, which stays as it is, and leaves embedding.npy,
    embedding.parquet and run.json, the content of which it returns, in the folder `out`. Raises the errors of `errors.py`.

    `input`: where the rows of the map are, if not where they were. `reading`: how `x` is read, where not as the rows of
    the map were. The others: as of `engine.embed`.
    """
    out = Path(out)
    with ExitStack() as opened:
        there = on if isinstance(on, Finished) else opened.enter_context(closing(open_finished(Path(on), input)))
        _check_out(out, x, there)
        source = open_source(x, _like(there.reading, reading), least_rows=1)
        opened.callback(source.close)
        if source.n_features != there.given.n_features:
            raise InputError(
                f"{source.name}: features: expected {there.given.n_features}, as the rows of {there.name} have, found "
                f"{source.n_features}; give rows of the same features."
            )
        machine = memory.machine(device)
        params = replace(there.params, neighbors="auto", layout="auto", init="auto")
        job = replace(there.job(), placed=job_of(source))
        plan = make_plan(job, params, budget_for(machine, budget, host_budget), machine)
        check_space(out, plan.peak.disk_bytes - used_bytes(out))
        named = os.path.abspath(os.fsdecode(x)) if isinstance(x, (str, bytes, os.PathLike)) else ""
        identity = {"format": "placed", "rows": source.fingerprint, "map": there.fingerprint}
        work = opened.enter_context(closing(Workdir(out, identity, named, fresh)))
        run = Run(source, params, plan, work, listener, stopping, None, None, None, drop_nonfinite, 0)
        opened.callback(run.close)
        with run.logged():
            return _stages(run, there)


def _stages(run: Run, there: Finished) -> dict:
    """All of them in order; the content of run.json."""
    new, mapped = _read(run, there)
    key = key_of(__version__, run.plan["place"].backend, hash_of(new.kept.rows))
    if run.work.has("embedding", key):
        run.reuse("the map")
        positions = run.work.read("embedding")
    else:
        positions = place_new(run, mapped, new.source, key, lambda places: new.kept.back(places, np.nan))
    for source in (new.source, mapped.rows):
        source.check_unchanged()
    return _write(run, there, new, positions)


def _read(run: Run, there: Finished) -> tuple[New, Mapped]:
    """The rows that are placed, and those of the map as they were searched; they are packed where the plan wants it."""
    say_what_is_special(run)
    reduced, block_rows = run.params.reduce != "none", run.plan["read"].blocks["block_rows"]
    n_steps = run.given.n_rows * (1 + isinstance(run.given, ToConvert))
    needs_rows = there.centred or not reduced  # those of the map
    n_passes = (run.plan.as_csr and not reduced) + (needs_rows and isinstance(there.given, ToConvert))
    n_steps += there.given.n_rows * n_passes
    with run.stage("read", n_steps, "rows", resumable=True) as (advance, result):
        given = _in_place(run, run.given, "new", advance)
        if needs_rows:
            of_map = _in_place(run, there.given, "map", advance)
            run.view = there.view(of_map)
        new = look_at_new(run, given, RowSelection(given.n_rows), block_rows, advance)
        if new is None:
            raise InputError(f"{given.name}: rows: expected some with finite values, found none; give rows to place.")
        run.source = new.source
        job = replace(run.plan.job, placed=replace(new_job(new), copied_bytes=job_of(run.given).copied_bytes))
        run.plan = make_plan(job, run.params, run.plan.budget, run.plan.machine)
        run.work.reserve(run.plan.peak.disk_bytes)
        if reduced:
            rows, components = there.reduced()
            along = along_components(components, new.source, to_unit(run))
            new = replace(new, source=along)
            mapped = Mapped(rows, None, there.positions, False, run.view, reduced=True)
        else:
            rows = run.view.of(there.kept.source(of_map))
            run.csr = _to_csr(run, rows, there.n_nonzero, block_rows, advance)
            mapped = Mapped(rows, run.csr, there.positions, there.non_negative, run.view)
        found = new.found
        result.append(f"{found.n_rows:,} x {found.n_features:,} {found.dtype}, {100 * found.density:.3g}% non-zero")
    return new, mapped


def _in_place(run: Run, given: RowSource | ToConvert, name: str, advance: Callable[[int], None]) -> RowSource:
    """Its rows where they can be read."""
    if not isinstance(given, ToConvert):
        return given
    folder = run.work.scratch / name
    folder.mkdir(exist_ok=True)
    return given.convert(folder, advance)


def _to_csr(
    run: Run, rows: RowSource, n_nonzero: int, block_rows: int, advance: Callable[[int], None]
) -> CsrRows | None:
    if not run.plan.as_csr:
        return None
    return pack(rows, block_rows, n_nonzero, run.work.scratch if run.plan.csr_on_disk else None, advance)


def _write(run: Run, there: Finished, new: New, positions: np.ndarray) -> dict:
    say_who_has_no_place(run, new, new.kept.of(positions))
    run.measured["map"] = {"run": there.path, "rows": len(there.positions), "quality": there.report["quality"]}
    with run.stage("write", 1, "files") as (advance, result):
        run.work.publish("embedding.parquet", partial(_write_table, positions, new.kept.back(new.found.is_zero, False)))
        advance(1)
        result.append(str(run.work.path))
    finished = run.report(new.found)
    run.work.publish_json("run.json", finished)
    run.work.finish()
    return finished


def _write_table(positions: np.ndarray, is_zero: np.ndarray, file: BinaryIO) -> None:
    from streamumap.show import output

    output.write_parquet(file, positions, is_zero, None)


def _like(the_map: Reading, given: Reading | None) -> Reading:
    """What is said of the rows that are placed; for the rest they are read as those of the map."""
    said = {} if given is None else {name: value for name, value in asdict(given).items() if value is not None}
    said.pop("of", None)
    sae = None if the_map.of == "decoder" else the_map.sae
    return replace(replace(the_map, shape=None, sae=sae), **said)


def _check_out(out: Path, x: Any, there: Finished) -> None:
    """The run itself and the rows are no place for what is made of them."""
    taken = {there.folder: "the run", Path(x) if isinstance(x, (str, os.PathLike)) else None: "the rows"}
    for path, what in taken.items():
        if path is not None and path.exists() and out.exists() and path.samefile(out):
            raise InputError(f"--out: {out}: expected a folder of its own, found {what}; choose another --out.")
