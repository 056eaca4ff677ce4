"""One pass over the input that finds what is broken or special, and what follows from it: rows that are left out, packed
rows, the plan of the stages to come."""

from dataclasses import replace

import numpy as np

from streamumap import backends
from streamumap.events import Note
from streamumap.planner import make_plan
from streamumap.recorder import Meter
from streamumap.source import RowSource, ToConvert, check_shape
from streamumap.source.kept import all_but
from streamumap.source.packed import PackedRows, pack
from streamumap.source.scaled import extreme_exponent, scaled
from streamumap.source.scan import Scan, check_finite, wild_features
from streamumap.stages.keys import input_key, rows_key
from streamumap.stages.run import Run
from streamumap.workdir import key_of


def read(run: Run) -> Scan:
    """Gives `run` its source, its packed rows and its plan; what was found in the rows that are left."""
    _say_what_is_given(run)
    n_passes = 2 if isinstance(run.given, ToConvert) else 1
    block_rows = run.plan["read"].blocks["block_rows"]
    with run.stage("read", n_passes * run.given.n_rows, "rows", patient=True) as (tick, result):
        found, packed = _look_at_rows(run, tick)
        source = run.source
        job = replace(run.plan.job, n_rows=found.n_rows, dtype=source.dtype, n_nonzero=found.n_nonzero)
        job = replace(job, n_left_out=run.given.n_rows - found.n_rows)
        run.plan = make_plan(job, run.params, run.plan.budget, run.plan.machine)
        run.work.reserve(run.plan.peak.disk_bytes)
        run.packed = _packed(run, found, packed, block_rows, tick)
        source.check_unchanged()
        result.append(f"{found.n_rows:,} x {found.n_features:,} {source.dtype}, {100 * found.density:.3g}% non-zero")
    _say_what_was_found(run, found)
    return found


def _look_at_rows(run: Run, tick: Meter) -> tuple[Scan, PackedRows | None]:
    """Sets the source; packed rows are those that a GPU packs in the same pass."""
    given = run.given
    if isinstance(given, ToConvert):
        given.device = run.plan.device
        given = given.convert(run.work.scratch, tick)
    run.source = source = run.kept.source(given)
    units = run.units("scan", input_key(run), "reading", tick)
    found, packed = run.fitting("read", lambda: backends.read(source, run.plan, tick, units))

    def again() -> tuple[Scan, PackedRows | None]:
        return run.fitting("read", lambda: backends.read(run.source, run.plan, lambda n: tick(0)))

    if isinstance(run.given, ToConvert) and run.given.drop_zero_rows and found.n_zero_rows:
        _leave_out(run, np.flatnonzero(found.is_zero), "features are dead, active in no row")
        found, packed = again()
    if run.drop_nonfinite and found.n_nonfinite_rows:
        _leave_out(run, found.nonfinite_rows, "rows have NaN or infinite values")
        found, packed = again()
    check_finite(run.source.name, found)
    run.exponent = extreme_exponent(found.norm_max)
    if run.exponent:
        run.source = scaled(run.source, run.exponent)
        found, packed = again()
    return found, packed


def _leave_out(run: Run, rows: np.ndarray, why: str) -> None:
    """The source without these rows; there must be enough others."""
    source: RowSource = run.source
    n, name = source.n_rows, source.name
    run.warn(f"{name}: {len(rows):,} of {n:,} {why}; they are left out and NaN in the map.")
    check_shape(f"{name} without the rows left out", n - len(rows), source.n_features)
    left = all_but(n, rows)
    run.kept = run.kept.only(left)
    run.clip_to(n - len(rows))
    run.source = left.source(source)


def _packed(run: Run, found: Scan, packed: PackedRows | None, block_rows: int, tick: Meter) -> PackedRows | None:
    """The rows without their zeros, where the plan wants them so; `packed` are those that there are already, in memory."""
    if not run.plan.packs:
        return None
    if packed is not None and not run.plan.packed_on_disk:
        return packed
    folder = run.work.scratch if run.plan.packed_on_disk else None
    units = run.units("pack", key_of(input_key(run), rows_key(run), run.exponent), "packing", tick)
    return pack(run.source, block_rows, found.n_nonzero, folder, lambda n: tick(0), units)


def _say_what_is_given(run: Run) -> None:
    run.clip_to(run.plan.job.n_rows)
    if run.given_knn is not None:
        run.measured["given_knn"] = run.given_knn.facts()
    for text in getattr(run.given, "warnings", ()):
        run.warn(text)
    for text in getattr(run.given, "notes", ()):
        run.listener(Note("info", text))
    if run.sample is not None:
        sizes = f"{len(run.sample):,} of {run.given.n_rows:,} rows"
        run.listener(Note("info", f"{sizes} are sampled; the others are NaN in the map"))


def _say_what_was_found(run: Run, found: Scan) -> None:
    for column in wild_features(found)[:3]:
        run.warn(
            f"feature {column}: its values are millions of times those of the others and decide every distance; check or drop it."
        )
    if found.n_zero_rows:
        run.listener(Note("info", f"{found.n_zero_rows:,} rows are all zeros; they are marked is_zero"))
    if found.n_duplicate_rows:
        run.listener(
            Note("info", f"{found.n_duplicate_rows:,} rows repeat an earlier row; they are marked duplicate_of")
        )
