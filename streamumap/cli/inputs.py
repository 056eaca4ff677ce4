"""The commands inspect and pack."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from streamumap.cli.app import app, progress_of
from streamumap.cli.options import Dtype, Features, Input, Json, Key, Of, Quiet, Sae, Shape, reading_of
from streamumap.machine.memory import format_bytes
from streamumap.source import Reading, RowSource

PACKING_PAYS = 4
"""How many times smaller than a dense file its pairs must be for `inspect` to suggest `pack`."""


@app.command()
def inspect(
    input: Input,
    dtype: Dtype = None,
    features: Features = None,
    key: Key = None,
    shape: Shape = None,
    sae: Sae = None,
    of: Of = "rows",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show shape, dtype, density, zero rows, dead features, duplicates and non-finite values."""
    from streamumap.source import stored_dtype
    from streamumap.source.scan.cpu import scan
    from streamumap.source.scan.inspect import inspect_report

    with _rows_of("inspect", input, reading_of(dtype, features, key, shape, sae, of), quiet) as (rows, chosen, advance):
        block_rows = max(1, 32 * 2**20 // (rows.n_features * stored_dtype(rows.dtype).itemsize))
        report = inspect_report(rows, scan(rows, block_rows, advance), chosen)
    if json_:
        print(json.dumps(report, indent=2))
    else:
        from streamumap.cli.terminal import print_report

        print_report(report)
        if not quiet and PACKING_PAYS * report["pairs_bytes"] < report["stored_bytes"]:
            sizes = f"{format_bytes(report['pairs_bytes'])} instead of {format_bytes(report['stored_bytes'])}"
            print(f"Mostly zeros: streamumap pack {input} OUT.npz keeps the same rows in {sizes}.", file=sys.stderr)


@app.command()
def pack(
    input: Input,
    out: Annotated[Path, typer.Argument(help="The new file: .npz.", metavar="OUT")],
    dtype: Dtype = None,
    features: Features = None,
    key: Key = None,
    shape: Shape = None,
    sae: Sae = None,
    quiet: Quiet = False,
) -> None:
    """Write INPUT's rows without their zeros, exactly, as a CSR .npz, which embed reads as it is."""
    from streamumap.source.formats.csr_writer import pack_file

    with _rows_of("pack", input, reading_of(dtype, features, key, shape, sae, "rows"), quiet) as (rows, _, advance):
        n_bytes = pack_file(rows, out, advance)
    print(f"{out}: {format_bytes(n_bytes)}")


@contextmanager
def _rows_of(
    name: str, input: str, reading: Reading, quiet: bool
) -> Iterator[tuple[RowSource, str | None, Callable[[int], None]]]:
    """Yields INPUT's rows, converted where they cannot be read in place, what was read of a container, and the `advance` of a stage
    of this name. Says what is special about the input first."""
    from streamumap.source import ToConvert, in_place, notes_of, open_source

    source = open_source(input, reading)
    n_passes = 2 if isinstance(source, ToConvert) else 1
    with progress_of(quiet) as listener:
        for note in notes_of(source):
            listener(note)
        if isinstance(source, ToConvert):
            source.listener = listener
        with _stage(listener, name, n_passes * source.n_rows) as advance, in_place(source, advance) as rows:
            yield rows, getattr(source, "chosen", None), advance


@contextmanager
def _stage(listener, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Tells the listener of a stage of `total` rows; yields its `advance`."""
    from streamumap.events import StageAdvanced, StageDone, StageStarted

    done, started = 0, time.monotonic()

    def advance(n: int) -> None:
        nonlocal done
        done += n
        listener(StageAdvanced(name, min(done, total)))

    listener(StageStarted(name, total, "rows"))
    yield advance
    listener(StageDone(name, time.monotonic() - started, f"{total:,} rows"))
