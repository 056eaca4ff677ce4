"""What people see in a terminal: progress from events, tables from plans and reports."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from streamumap.events import Event, Listener, Note, StageAdvanced, StageDone, StageStarted, ignore
from streamumap.memory import format_bytes
from streamumap.plans import Plan

LINE_SECONDS = 10.0
"""Where there is no terminal: seconds between two lines of the same stage."""


@contextmanager
def progress(quiet: bool) -> Iterator[Listener]:
    """A listener that draws a live bar on a terminal, writes plain lines elsewhere, and does nothing when `quiet`."""
    if quiet:
        yield ignore
    elif not sys.stderr.isatty():
        yield _PlainLines()
    else:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<9}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=console, transient=True) as bars:
            yield _live(bars, console)


def _live(bars: Progress, console: Console) -> Listener:
    def listen(event: Event) -> None:
        if isinstance(event, StageStarted):
            bars.add_task(event.stage, total=event.total, rate="")
        elif isinstance(event, StageAdvanced):
            task = bars.tasks[-1]
            rate = f"{task.speed:,.0f}/s" if task.speed else ""
            bars.update(task.id, completed=event.done, rate=rate)
        elif isinstance(event, StageDone):
            bars.remove_task(bars.tasks[-1].id)
            console.print(_done(event), highlight=False, markup=False)
        else:
            console.print(
                _note(event), highlight=False, markup=False, style="yellow" if event.level == "warning" else None
            )

    return listen


class _PlainLines:
    """Where there is no terminal: a line for each stage, and one now and then while a stage goes on."""

    def __init__(self) -> None:
        self.stage, self.started, self.next = StageStarted("", 1, ""), 0.0, 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, StageStarted):
            self.stage, self.started, self.next = event, now, now + LINE_SECONDS
        elif isinstance(event, StageAdvanced):
            total, unit = self.stage.total, self.stage.unit
            if now >= self.next and 0 < event.done < total:
                left = (now - self.started) * (total - event.done) / event.done
                print(
                    f"{event.stage}: {event.done:,} of {total:,} {unit}, {left:.0f} s left", file=sys.stderr, flush=True
                )
                self.next = now + LINE_SECONDS
        else:
            print(_done(event) if isinstance(event, StageDone) else _note(event), file=sys.stderr, flush=True)


def _done(event: StageDone) -> str:
    return f"{event.stage:<9} {event.seconds:7.1f} s  {event.result}"


def _note(event: Note) -> str:
    return f"{event.level}: {event.text}" if event.level == "warning" else event.text


def print_plan(plan: Plan) -> None:
    """The plan as a table on standard output."""
    job, budget, device = plan.job, plan.budget, plan.machine.device
    most = "at most " if job.sparse else ""
    kind = "" if job.n_nonzero is None else f", {most}{job.n_nonzero / job.n_rows:.3g} of them non-zero in a row"
    kind += ", kept as pairs" if job.sparse else ""
    print(
        f"matrix   {job.n_rows:,} rows x {job.n_features:,} features, {job.dtype}{kind}: {format_bytes(job.matrix_bytes)}"
    )
    if device:
        device_budget, host_budget = format_bytes(budget.device_bytes or 0), format_bytes(budget.host_bytes)
        print(f"device   {device.label} {device.name}, budget {device_budget}; host budget {host_budget}")
    else:
        print(f"device   cpu, {plan.machine.n_cores} cores, budget {format_bytes(budget.host_bytes)}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = ["stage", "backend", "blocks", *(["device bytes"] if device else []), "host bytes"]
    for name in names:
        table.add_column(name, justify="right" if name.endswith("bytes") else "left")
    for stage in plan.stages:
        blocks = ", ".join(f"{n:,} {unit.replace('_', ' ')}" for unit, n in stage.blocks.items())
        on_device = [format_bytes(stage.predicted.device_bytes)] if device else []
        table.add_row(stage.name, stage.backend, blocks, *on_device, format_bytes(stage.predicted.host_bytes))
    peak = [format_bytes(plan.peak.device_bytes)] if device else []
    table.add_row("peak", "", "", *peak, format_bytes(plan.peak.host_bytes), style="bold")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f"disk     {format_bytes(plan.peak.disk_bytes)} in the run's folder while it works")


def print_report(report: dict, indent: str = "") -> None:
    """A JSON-able report as aligned lines on standard output."""
    width = max((len(name) for name in report), default=0)
    for name, value in report.items():
        label = name.replace("_", " ")
        if isinstance(value, dict):
            print(f"{indent}{label}")
            print_report(value, indent + "  ")
        else:
            print(f"{indent}{label:<{width}}  {_text(name, value)}")


def _text(name: str, value) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{format_bytes(value)} ({value:,} bytes)" if name.endswith("bytes") else f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
