"""Text for the terminal: progress from events, tables from plans and reports."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from streamumap.events import Event, Listener, Note, StageAdvanced, StageDone, StageStarted, ignore
from streamumap.machine.memory import Budget, format_bytes
from streamumap.planning.suggestions import InMemoryNeeds, Outlook, Suggestion, fewest_cards
from streamumap.planning.timing import total_seconds

LINE_SECONDS = 10.0
"""Seconds between two lines of one stage where standard error is no terminal."""


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
    """Progress where standard error is no terminal: a line for each stage, and one every LINE_SECONDS while it works."""

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


def print_plan(found: Outlook) -> None:
    """Prints a plan, the smallest budget, the needs of others, and suggestions on standard output."""
    job = found.job
    most = "at most " if job.sparse else ""
    kind = "" if job.n_nonzero is None else f", {most}{job.n_nonzero / job.n_rows:.3g} of them non-zero in a row"
    kind += ", kept as pairs" if job.sparse else ""
    if found.chosen is not None:
        print(f"rows     {found.chosen}")
    print(
        f"matrix   {job.n_rows:,} rows x {job.n_features:,} features, {job.dtype}{kind}: {format_bytes(job.matrix_bytes)}"
    )
    _print_in_memory(found.in_memory)
    _print_device(found)
    _print_stages(found)
    _print_seconds(found)
    print(f"\ndisk     {format_bytes(found.peak.disk_bytes)} in the run's folder while it works")
    for option, stages in found.binding.items():
        says = f"more would give larger blocks to {', '.join(stages)}" if stages else "more would change nothing"
        print(f"budget   {option}: {says}")
    print(f"         the smallest that works: {_options(found.smallest)}\n")
    _print_suggestions(found.suggestions, bool(found.machine.device))


def _print_device(found: Outlook) -> None:
    """Prints the device and the budgets; of a GPU elsewhere that it is one, and the host memory that it needs beside it."""
    budget, device = found.budget, found.machine.device
    if device is None:
        given = "" if budget.host_option == "--budget" else f", as {budget.host_option} says"
        print(f"device   cpu, {found.machine.n_cores} cores, budget {format_bytes(budget.host_bytes)}{given}\n")
        return
    device_budget, host_budget = format_bytes(budget.device_bytes or 0), format_bytes(budget.host_bytes)
    if not device.elsewhere:
        print(f"device   {device.label} {device.name}, budget {device_budget}; host budget {host_budget}\n")
        return
    size = f" of {format_bytes(device.total_bytes)}" if device.total_bytes else ""
    print(f"device   {device.name}{size} elsewhere, not in this machine, budget {device_budget}")
    needed = f"{format_bytes(found.peak.host_bytes)} of memory, as no --host-budget limits it"
    print(f"host     {f'budget {host_budget}' if budget.limits_host else needed}\n")


def _print_in_memory(needed: InMemoryNeeds) -> None:
    """Prints what an in-memory run takes, and the GPUs that hold it."""
    low, high = format_bytes(needed.low_bytes), format_bytes(needed.high_bytes)
    print(f"others   all in memory, the matrix and 2 to 3 times it beside: {low} to {high}")
    print(f"         GPUs for {low}: {_cards(needed.low_bytes)}")
    print(f"         GPUs for {high}: {_cards(needed.high_bytes)}")
    host, device = format_bytes(needed.cuml_host_bytes), format_bytes(needed.cuml_device_bytes)
    print(
        f"         cuML: {host} of host memory, as float32, and {device} of a GPU: {_cards(needed.cuml_device_bytes, 1)}"
    )


def _cards(n_bytes: int, most: int = 3) -> str:
    """The smallest GPUs that hold so many bytes, the fewest first; several only where the job can be divided."""
    return " or ".join(f"{c.count} x {c.size_gb} GB" for c in fewest_cards(n_bytes)[:most])


def _options(smallest: Budget) -> str:
    host = f"{smallest.host_option} {smallest.host_bytes // 10**6}MB"
    return host if smallest.device_bytes is None else f"--budget {smallest.device_bytes // 10**6}MB with {host}"


def _print_stages(found: Outlook) -> None:
    device, seconds = found.machine.device, found.seconds
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in [
        "stage",
        "backend",
        "blocks",
        *(["device bytes"] if device else []),
        "host bytes",
        *(["seconds"] if seconds else []),
    ]:
        table.add_column(name, justify="right" if name.endswith(("bytes", "seconds")) else "left")
    for stage in found.stages:
        known = seconds.get(stage.name)
        blocks = ", ".join(f"{n:,} {unit.replace('_', ' ')}" for unit, n in stage.blocks.items() if n)
        on_device = [format_bytes(stage.predicted.device_bytes)] if device else []
        expected = [_seconds(known.seconds, known.extrapolated) if known else ""] if seconds else []
        table.add_row(
            stage.name, stage.backend, blocks, *on_device, format_bytes(stage.predicted.host_bytes), *expected
        )
    peak = [format_bytes(found.peak.device_bytes)] if device else []
    table.add_row("peak", "", "", *peak, format_bytes(found.peak.host_bytes), style="bold")
    _print_table(table)


def _print_seconds(found: Outlook) -> None:
    """Prints the sum of the seconds, on what they were measured, and which of them are guesses far beyond that."""
    seconds, device = found.seconds, found.machine.device
    if not seconds:
        return
    far = {name: expected for name, expected in seconds.items() if expected.extrapolated}
    total = total_seconds(found, seconds)
    in_all = "" if total is None else f"{_seconds(total, bool(far))} in all, "
    gaps = "; none where none was like this one" if total is None else ""
    machines = " and ".join(dict.fromkeys(expected.measured_on for expected in seconds.values()))
    print(f"seconds  {in_all}as runs took on {machines}{gaps}")
    if device and device.elsewhere and device.name not in {e.measured_on for e in seconds.values()}:
        print(f"         {device.name} was not measured and takes others")
    if far:
        most, names = max(e.measured_rows for e in far.values()), ", ".join(far)
        stages = "every stage" if len(far) == len(found.stages) else names
        print(f"about    extrapolated, as the work grows, from runs of at most {most:,} rows: {stages}")


def _seconds(n: float, extrapolated: bool) -> str:
    return f"about {n:,.0f}" if extrapolated else f"{n:,.1f}"


def _print_suggestions(suggestions: tuple[Suggestion, ...], device: bool) -> None:
    """Prints what would make the job smaller, and at what cost in quality."""
    for suggestion in suggestions:
        needed = suggestion.in_memory
        smallest = (suggestion.smallest.device_bytes if device else suggestion.smallest.host_bytes) or 0
        elsewhere = f"elsewhere {format_bytes(needed.low_bytes)} to {format_bytes(needed.high_bytes)}"
        print(f"smaller  {suggestion.name}: {suggestion.how}")
        print(
            f"         matrix {format_bytes(suggestion.matrix_bytes)}, here from --budget {smallest // 10**6}MB, {elsewhere}"
        )
        print(f"         cost: {suggestion.quality}")


def _print_table(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def print_report(report: dict, indent: str = "") -> None:
    """Prints a JSON-able report as aligned lines on standard output."""
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
