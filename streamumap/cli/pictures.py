"""The commands render, view and export."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from streamumap.cli.app import app, progress_of
from streamumap.cli.options import Colors, InputFile, LabelsFile, NamesFile, Quiet, RunFolder


@app.command()
def render(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The picture. (default: RUN/map.png)", show_default=False)
    ] = None,
    labels: LabelsFile = None,
    color: Colors = None,
    names: NamesFile = None,
    input: InputFile = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels along an edge. (default: 1600; 800 with --animate)", min=200, max=4000)
    ] = None,
    dark: Annotated[bool, typer.Option(help="Light on dark.")] = False,
    animate: Annotated[bool, typer.Option("--animate", help="Draw a GIF of the run's snapshots, RUN/map.gif.")] = False,
    quiet: Quiet = False,
) -> None:
    """Draw a picture of a finished or half-finished run; several --color make several maps."""
    from streamumap.show.annotations import ShowOptions
    from streamumap.show.gif import animate_run
    from streamumap.show.png import render_run

    options = ShowOptions(labels, names, tuple(color or ()), input)
    with progress_of(quiet) as listener:
        if animate:
            print(animate_run(run, out or run / "map.gif", options, size or 800, dark, listener))
        else:
            print(render_run(run, out or run / "map.png", options, size or 1600, dark, listener))


@app.command()
def view(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The page. (default: RUN/map.html)", show_default=False)
    ] = None,
    labels: LabelsFile = None,
    color: Colors = None,
    names: NamesFile = None,
    input: InputFile = None,
    features: Annotated[
        bool, typer.Option("--features/--no-features", help="The strongest features of every row, read from the input.")
    ] = True,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve", help="On this machine instead of in a file, until it is stopped: for data too big for one."
        ),
    ] = False,
    port: Annotated[int, typer.Option(help="Port of --serve; 0 takes a free one.", min=0, max=65535)] = 0,
    quiet: Quiet = False,
) -> None:
    """Write one self-contained HTML page of the map: zoom, hover, search, lasso, colours. No network."""
    from streamumap.show.annotations import ShowOptions
    from streamumap.show.page.from_run import page_of, view_run

    options = ShowOptions(labels, names, tuple(color or ()), input)
    with progress_of(quiet) as listener:
        if not serve:
            print(view_run(run, out or run / "map.html", options, features, listener))
            return
        content = page_of(run, options, features, listener)
    from streamumap.show.page.serve import PageServer

    with PageServer(content, port) as server, suppress(KeyboardInterrupt):
        print(server.address, flush=True)
        server.serve_forever()


@app.command()
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option(help="anndata, csv or geojson.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The file. (default: RUN/map.h5ad, .csv or .geojson)", show_default=False),
    ] = None,
    labels: LabelsFile = None,
    names: NamesFile = None,
) -> None:
    """Write the map for other tools: AnnData (obsm["X_umap"]), CSV, GeoJSON. RUN/embedding.parquet needs no export."""
    from streamumap.show.export import export_run

    print(export_run(run, to, out, labels, names))
