"""The commands demo and doctor."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from streamumap.cli.app import app, run_embed
from streamumap.cli.options import BudgetOption, DeviceOption, Json, Quiet
from streamumap.params import Params
from streamumap.request import Request


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run.")] = Path("streamumap-demo.umap"),
    budget: BudgetOption = None,
    device: DeviceOption = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a map of a small real data set that ships in the package: no GPU, no network."""
    from streamumap.demo import write_files
    from streamumap.show.annotations import ShowOptions
    from streamumap.show.png import render_run

    files = write_files(out)
    run = run_embed(Request(files.activations, Params(metric="cosine"), budget, device=device), out, quiet)
    picture = render_run(out, out / "map.png", ShowOptions(files.labels))
    if json_:
        print(json.dumps(run, indent=2))
        return
    print(picture)
    if not quiet:
        print(
            f"{run['input']['rows']:,} rows on a map, coloured by section: {picture}\n"
            f"Next: streamumap view {out} --names {files.names} --labels {files.labels}\n"
            f"      streamumap inspect {files.activations}\n"
            f"      streamumap embed {files.activations} --metric cosine --min-dist 0.5 -o other.umap\n"
            f"      streamumap embed YOUR_ACTIVATIONS.npy --budget 40GB",
            file=sys.stderr,
        )


@app.command()
def doctor(json_: Json = False) -> None:
    """Show devices, backends, optional packages and versions."""
    from streamumap.cli.doctor import examine

    found = examine()
    if json_:
        print(json.dumps(found, indent=2))
    else:
        from streamumap.cli.terminal import print_report

        print_report(found)
