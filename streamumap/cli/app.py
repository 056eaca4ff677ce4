"""The command line itself, and what commands share: where a run goes, how its progress is told, how errors end."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from streamumap import __version__
from streamumap.cli.signals import stop_signals
from streamumap.errors import Stopped, StreamUMAPError
from streamumap.params import Params

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="UMAP for data that does not fit in memory: a map of every row, under a memory budget.",
)  # fmt: skip


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main() -> None:
    """Runs the command line; an error meant for users becomes one line and its exit code."""
    try:
        app()
    except StreamUMAPError as e:
        sys.stderr.write(f"streamumap: {' '.join(str(e).split())}\n")
        sys.exit(e.exit_code)


def default_out(input: str) -> Path:
    """INPUT's name + .umap, beside it."""
    path = Path(input) if Path(input).name not in ("", "..") else Path(input).resolve()
    stem = path.name.removesuffix(".npy").removesuffix("_indices").removesuffix("_values")
    stem = re.sub(r"[*?\[\]]", "", stem).rstrip("-_. ") or "rows"
    return path.parent / f"{stem}.umap"


def run_embed(input, params: Params, folder: Path, quiet: bool, **options) -> dict:
    with running(quiet) as ways:
        from streamumap import engine

        return engine.embed(input, params, out=folder, **ways, **options)


@contextmanager
def running(quiet: bool) -> Iterator[dict[str, Any]]:
    """The `listener` and the `stopping` of a run: its progress is told, and signals stop it."""
    with stop_signals(Stopped.exit_code) as asked, progress_of(quiet) as listener:
        yield dict(listener=listener, stopping=asked.is_set)


def progress_of(quiet: bool):
    from streamumap.cli.terminal import progress

    return progress(quiet)
