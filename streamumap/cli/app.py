"""The typer application, and what its commands share: default folder, progress, signals, exit codes."""

import os
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
from streamumap.request import Request

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
    """Runs the command line. An error for users becomes one line and its exit code."""
    try:
        app()
    except StreamUMAPError as e:
        sys.stderr.write(f"streamumap: {' '.join(str(e).split())}\n")
        sys.exit(e.exit_code)


def default_out(input: str) -> Path:
    """The default folder of a run: INPUT's name + .umap, beside the input."""
    path = Path(input) if Path(input).name not in ("", "..") else Path(input).resolve()
    globs = [folder for folder in path.parents if re.search(r"[*?\[]", str(folder))]
    if globs and not os.path.lexists(path):
        path = globs[-1].parent / path.name
    stem = path.name.removesuffix(".npy").removesuffix("_indices").removesuffix("_values")
    stem = re.sub(r"[*?\[\]]", "", stem).rstrip("-_. ") or "rows"
    return path.parent / f"{stem}.umap"


def run_embed(request: Request, folder: Path, quiet: bool) -> dict:
    """Makes a map; returns the content of run.json."""
    with running(quiet) as hooks:
        from streamumap import engine

        return engine.embed(request, folder, **hooks)


@contextmanager
def running(quiet: bool) -> Iterator[dict[str, Any]]:
    """Yields the `listener` and `stopping` of a run: progress is shown, and signals stop the run."""
    with stop_signals(Stopped.exit_code) as asked, progress_of(quiet) as listener:
        yield dict(listener=listener, stopping=asked.is_set)


def progress_of(quiet: bool):
    from streamumap.cli.terminal import progress

    return progress(quiet)
