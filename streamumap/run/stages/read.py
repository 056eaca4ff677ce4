"""The read stage: one pass over the input. It finds broken and special rows, leaves rows out, makes CSR rows, and plans the other stages."""

from dataclasses import replace

import numpy as np

from streamumap.events import Note
from streamumap.planning.job import Job
from streamumap.planning.planner import make_plan
from streamumap.run import dispatch
from streamumap.run.keys import input_key, rows_key
from streamumap.run.recorder import Meter
from streamumap.run.run import New, Run
from streamumap.source import RowSource, ToConvert, check_shape, notes_of
from streamumap.source.base import SparseSource
from streamumap.source.scan.cpu import scan
from streamumap.source.scan.result import Scan, check_finite, wild_features
from streamumap.source.sparse.csr_rows import CsrRows, pack
from streamumap.source.views.centered import ComparedView, find_view
from streamumap.source.views.row_selection import RowSelection, all_but
from streamumap.source.views.scaled import extreme_exponent
from streamumap.store.workdir import key_of


def read(run: Run) -> Scan:
    """Sets the source, the CSR rows and the plan of `run`; returns the facts of the mapped rows."""
    _say_what_is_given(run)
    n_passes = 2 if isinstance(run.input, ToConvert) else 1
    block_rows = run.plan["read"].blocks["block_rows"]
    with run.stage("read", n_passes * run.input.n_rows, "rows", resumable=True) as (advance, result):
        found, csr = _scan(run, advance)
        _plan(run, found, found.n_nonzero)
        found, csr = _centre(run, found, csr, advance)
        run.work.reserve(run.plan.peak.disk_bytes)
        run.csr = _to_csr(run, csr, block_rows, advance)
        run.source.check_unchanged()
        result.append(f"{found.n_rows:,} x {found.n_features:,} {found.dtype}, {100 * found.density:.3g}% non-zero")
    _say_what_was_found(run, found)
    return found


def _plan(run: Run, found: Scan, n_nonzero: int) -> None:
    """Plans the other stages. `n_nonzero`: non-zeros of the rows as they are compared."""
    job = replace(
        run.plan.job,
        n_rows=found.n_rows,
        dtype=run.source.dtype,
        n_nonzero=n_nonzero,
        n_left_out=run.input.n_rows - found.n_rows,
        placed=None if run.new is None else new_job(run.new),
    )
    run.plan = make_plan(job, run.params, run.plan.budget, run.plan.machine)


def _centre(run: Run, found: Scan, csr: CsrRows | None, advance: Meter) -> tuple[Scan, CsrRows | None]:
    """Subtracts the centre of rows that lie far from the origin: sets view, source and plan again. A second pass counts zeros and
    duplicates of the rows as they are compared then."""
    given: RowSource = run.kept.source(run.readable)
    largest = np.ldexp([found.feature_low, found.feature_high], run.view.exponent, dtype=np.float64)
    view = find_view(given, largest, unit=run.metric.unit)
    if view is None:
        return found, csr
    run.view, run.source = view, view.of(given)
    if run.new is not None:
        run.new = replace(run.new, source=view.of(run.new.kept.source(run.readable)))
    _plan(run, found, found.n_nonzero)
    if csr is not None:
        csr.close()  # before it is made again
    seen, csr = run.retry_on_oom("read", lambda: dispatch.read(run.source, run.plan, lambda n: advance(0)))
    found = replace(found, n_rounded_away=_rounded_away(found, seen))
    _plan(run, found, seen.n_nonzero)
    what = "near one direction" if view.unit else "far from the origin"
    run.listener(Note("info", f"the rows lie {what}; they are compared less their centre"))
    return found, csr


def _rounded_away(found: Scan, seen: Scan) -> int:
    """Rows that repeat another one both as float32 (`found`, the rows as stored) and as they are compared (`seen`). Rows that repeat
    another only as compared are its multiples, which are equal under cosine at any precision."""
    return min(found.n_rounded_away, max(0, seen.n_duplicate_rows - found.n_duplicate_rows))


def _scan(run: Run, advance: Meter) -> tuple[Scan, CsrRows | None]:
    """Sets the source and scans it. A GPU makes the CSR rows in the same pass."""
    given = run.input
    if isinstance(given, ToConvert):
        given.device, given.listener = run.plan.device, run.hear
        given = given.convert(run.work.scratch, advance)
    run.readable = given
    run.source = source = run.kept.source(given)
    checkpoint = run.checkpoint("scan", input_key(run), "reading", advance)
    found, csr = run.retry_on_oom("read", lambda: dispatch.read(source, run.plan, advance, checkpoint))

    def again() -> tuple[Scan, CsrRows | None]:
        return run.retry_on_oom("read", lambda: dispatch.read(run.source, run.plan, lambda n: advance(0)))

    if isinstance(run.input, ToConvert) and run.input.drop_zero_rows and found.n_zero_rows:
        _leave_out(run, np.flatnonzero(found.is_zero), "features are dead, active in no row")
        found, csr = again()
    if run.request.drop_nonfinite and found.n_nonfinite_rows:
        _leave_out(run, found.nonfinite_rows, "rows have NaN or infinite values")
        found, csr = again()
    check_finite(run.source.name, found)
    run.view = ComparedView(extreme_exponent(found.norm_max))
    if run.view.exponent:
        run.source = run.view.of(run.source)
        seen, csr = again()
        stored = {name: getattr(found, name) for name in ("dtype", "duplicate_of")}
        found = replace(seen, n_rounded_away=_rounded_away(found, seen), **stored)
    if run.request.place_rest and run.inputs.sample is not None:
        rest = all_but(given.n_rows, run.inputs.sample)
        run.new = scan_new(run, given, rest, run.plan["read"].blocks["block_rows"], advance)
    return found, csr


def scan_new(run: Run, given: RowSource, kept: RowSelection, block_rows: int, advance: Meter) -> New | None:
    """Scans rows that are to get a position, and leaves out those that cannot; None where none is left."""
    source = kept.source(given)
    if not source.n_rows:
        return None
    found = scan(source, block_rows, advance)
    lost, why = np.empty(0, np.int64), "rows to be placed have NaN or infinite values"
    if isinstance(run.input, ToConvert) and run.input.drop_zero_rows:
        lost, why = np.flatnonzero(found.is_zero), "features to be placed are dead, active in no row"
    elif run.request.drop_nonfinite:
        lost = found.nonfinite_rows
    if len(lost):
        run.warn(_left_out(source.name, len(lost), source.n_rows, why))
        kept = kept.only(all_but(source.n_rows, lost))
        source = kept.source(given)
        if not source.n_rows:
            return None
        found = scan(source, block_rows)
    check_finite(source.name, replace(found, nonfinite_rows=kept.numbers_back(found.nonfinite_rows)))
    return New(kept, run.view.of(source), found)


def new_job(new: New) -> Job:
    """The job of rows that were scanned."""
    source, found = new.source, new.found
    return Job(source.n_rows, source.n_features, source.dtype, found.n_nonzero, isinstance(source, SparseSource))


def _leave_out(run: Run, rows: np.ndarray, why: str) -> None:
    """Takes these rows out of the source; raises InputError where too few are left."""
    source: RowSource = run.source
    n, name = source.n_rows, source.name
    run.warn(_left_out(name, len(rows), n, why))
    check_shape(f"{name} without the rows left out", n - len(rows), source.n_features)
    left = all_but(n, rows)
    run.kept = run.kept.only(left)
    run.clip_to(n - len(rows))
    run.source = left.source(source)


def _left_out(name: str, n_rows: int, n: int, why: str) -> str:
    return f"{name}: {n_rows:,} of {n:,} {why}; they are left out and NaN in the map."


def _to_csr(run: Run, csr: CsrRows | None, block_rows: int, advance: Meter) -> CsrRows | None:
    """The rows in CSR form, where the plan wants them; `csr`: in memory already."""
    if not run.plan.as_csr:
        return None
    if csr is not None and not run.plan.csr_on_disk:
        return csr
    folder = run.work.scratch if run.plan.csr_on_disk else None
    checkpoint = run.checkpoint("pack", key_of(input_key(run), rows_key(run), run.view.key), "packing", advance)
    assert run.plan.job.n_nonzero is not None
    return pack(run.source, block_rows, run.plan.job.n_nonzero, folder, lambda n: advance(0), checkpoint)


def _say_what_is_given(run: Run) -> None:
    say_what_is_special(run)
    run.clip_to(run.plan.job.n_rows)
    if run.inputs.knn is not None:
        run.measured["given_knn"] = run.inputs.knn.facts()
    if run.inputs.sample is not None:
        sizes = f"{len(run.inputs.sample):,} of {run.input.n_rows:,} rows"
        others = "placed on their map" if run.request.place_rest else "NaN in the map"
        run.listener(Note("info", f"{sizes} are sampled; the others are {others}"))


def say_what_is_special(run: Run) -> None:
    """Passes on notes and warnings of the opened input; the first note names what was read."""
    for note in notes_of(run.input):
        run.hear(note)


def _say_what_was_found(run: Run, found: Scan) -> None:
    for column in wild_features(found)[:3]:
        run.warn(
            f"feature {column}: its values are millions of times those of the others and decide every distance; check or drop it."
        )
    if found.n_zero_rows:
        run.listener(Note("info", f"{found.n_zero_rows:,} rows are all zeros; they are marked is_zero"))
    if found.n_rounded_away:
        run.warn(
            f"{found.n_rounded_away:,} rows differ from an earlier row only below the precision of float32, in which rows are compared; "
            "for the map they are the same."
        )
    if found.n_duplicate_rows:
        run.listener(
            Note("info", f"{found.n_duplicate_rows:,} rows repeat an earlier row; they are marked duplicate_of")
        )
