"""The command line: parse, plan, run, draw. Data goes to standard output, everything else to standard error."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from streamumap import __version__
from streamumap.errors import Stopped, StreamUMAPError
from streamumap.memory import format_bytes
from streamumap.options import (
    BudgetOption,
    Colors,
    Components,
    DeviceOption,
    DropNonfinite,
    Dtype,
    Features,
    Fresh,
    HostBudget,
    Input,
    InputFile,
    Json,
    Key,
    Knn,
    LabelsFile,
    Metric,
    NamesFile,
    Neighbors,
    NeighborsBackend,
    Of,
    Out,
    PlaceRest,
    Quiet,
    Reduce,
    ReduceDims,
    RunFolder,
    Sae,
    Sample,
    Shape,
    knob,
    reading_of,
)
from streamumap.params import Params
from streamumap.source import Reading, RowSource
from streamumap.stopping import stop_signals

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="UMAP for data that does not fit in memory: a map of every row, under a memory budget.",
)  # fmt: skip


PACKING_PAYS = 4
"""How many times smaller the pairs of a dense file must be to be spoken of."""


@app.command()
def embed(
    input: Input,
    out: Out = None,
    budget: BudgetOption = None,
    host_budget: HostBudget = None,
    device: DeviceOption = "auto",
    dtype: Dtype = None,
    features: Features = None,
    key: Key = None,
    shape: Shape = None,
    sae: Sae = None,
    of: Of = "rows",
    n_neighbors: Neighbors = Params.n_neighbors,
    min_dist: Annotated[float, knob("min_dist")] = Params.min_dist,
    spread: Annotated[float, knob("spread")] = Params.spread,
    n_components: Components = Params.n_components,
    metric: Metric = Params.metric,
    n_epochs: Annotated[int | None, knob("n_epochs")] = Params.n_epochs,
    init: Annotated[str, knob("init")] = Params.init,
    learning_rate: Annotated[float, knob("learning_rate")] = Params.learning_rate,
    repulsion_strength: Annotated[float, knob("repulsion_strength")] = Params.repulsion_strength,
    negative_sample_rate: Annotated[int, knob("negative_sample_rate")] = Params.negative_sample_rate,
    local_connectivity: Annotated[float, knob("local_connectivity")] = Params.local_connectivity,
    set_op_mix_ratio: Annotated[float, knob("set_op_mix_ratio")] = Params.set_op_mix_ratio,
    neighbors: NeighborsBackend = Params.neighbors,
    knn: Knn = None,
    layout: Annotated[str, knob("layout")] = Params.layout,
    reduce: Reduce = Params.reduce,
    reduce_dims: ReduceDims = Params.reduce_dims,
    recall: Annotated[float, knob("recall")] = Params.recall,
    seed: Annotated[int, knob("seed")] = Params.seed,
    meta: Annotated[
        Path | None,
        typer.Option(
            help="What is known of each row, for embedding.parquet: a .csv, .tsv or Parquet file, or an id a line."
        ),
    ] = None,
    drop_nonfinite: DropNonfinite = False,
    sample: Sample = None,
    stratify: Annotated[
        Path | None,
        typer.Option(
            help="What --sample keeps the shares of: a text file with a label a row, each kept; or the numbers of the rows to map."
        ),
    ] = None,
    place_rest: PlaceRest = False,
    snapshots: Annotated[
        int, typer.Option(help="Positions kept on the way, evenly spaced over the epochs, in RUN/snapshots.", min=0)
    ] = 0,
    fresh: Fresh = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """The main job: a map of every row of INPUT, under a memory budget. The same command continues a run that was
    stopped."""
    params = Params(
        n_neighbors=n_neighbors, min_dist=min_dist, spread=spread, n_components=n_components, metric=metric, n_epochs=n_epochs, init=init,
        learning_rate=learning_rate, repulsion_strength=repulsion_strength, negative_sample_rate=negative_sample_rate,
        local_connectivity=local_connectivity, set_op_mix_ratio=set_op_mix_ratio, neighbors=neighbors, layout=layout, reduce=reduce,
        reduce_dims=reduce_dims, recall=recall, seed=seed,
    )  # fmt: skip
    folder = out or default_out(input)
    run = _embed(
        input,
        params,
        folder,
        quiet,
        budget=budget,
        host_budget=host_budget,
        device=device,
        reading=reading_of(dtype, features, key, shape, sae, of),
        meta=meta,
        drop_nonfinite=drop_nonfinite,
        sample=sample,
        stratify=stratify,
        place_rest=place_rest,
        knn=knn,
        snapshots=snapshots,
        fresh=fresh,
    )
    print(json.dumps(run, indent=2) if json_ else folder)


@app.command()
def transform(
    run: RunFolder,
    new: Annotated[str, typer.Argument(help="Rows of the same features, in any form that embed takes.", metavar="NEW")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Folder of the places. (default: NEW's name + .umap beside it)", show_default=False
        ),
    ] = None,
    input: InputFile = None,
    budget: BudgetOption = None,
    host_budget: HostBudget = None,
    device: DeviceOption = "auto",
    dtype: Dtype = None,
    features: Features = None,
    key: Key = None,
    shape: Shape = None,
    sae: Sae = None,
    drop_nonfinite: DropNonfinite = False,
    fresh: Fresh = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Places new rows on a finished map, which stays as it is.

    Each row lies where its nearest rows of the map pull it: a row of the map itself lies where it lies there, one that shares
    nothing with any of them is NaN. A place depends on the row and the map alone. NEW is read as RUN's input was, where no
    option says otherwise. The folder gets embedding.npy, embedding.parquet (row_id, x, y, is_zero) and run.json, in which
    the quality is that of RUN's map.
    """
    folder = out or default_out(new)
    with stop_signals(Stopped.exit_code) as asked:
        from streamumap.transform import transform

        with _listener(quiet) as listener:
            done = transform(
                run, new, out=folder, input=input, budget=budget, host_budget=host_budget, device=device,
                reading=reading_of(dtype, features, key, shape, sae, "rows"), drop_nonfinite=drop_nonfinite,
                listener=listener, fresh=fresh, stopping=asked.is_set,
            )  # fmt: skip
    print(json.dumps(done, indent=2) if json_ else folder)


@app.command()
def plan(
    input: Annotated[
        str | None,
        typer.Argument(help="As of embed; or give --rows and --features.", metavar="[INPUT]", show_default=False),
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Rows of a matrix that there is no file of.")] = None,
    features: Annotated[int | None, typer.Option(help="Its features; or the width of an input kept as pairs.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Its dtype. (default: float16, or as the file says)")] = None,
    key: Key = None,
    shape: Shape = None,
    sae: Sae = None,
    of: Of = "rows",
    active: Annotated[int | None, typer.Option(help="Non-zero features in a row, where most are zero.", min=1)] = None,
    budget: BudgetOption = None,
    host_budget: HostBudget = None,
    device: DeviceOption = "auto",
    n_neighbors: Neighbors = Params.n_neighbors,
    n_components: Components = Params.n_components,
    metric: Metric = Params.metric,
    reduce: Reduce = Params.reduce,
    reduce_dims: ReduceDims = Params.reduce_dims,
    neighbors: NeighborsBackend = Params.neighbors,
    knn: Knn = None,
    recall: Annotated[float, knob("recall")] = Params.recall,
    sample: Sample = None,
    place_rest: PlaceRest = False,
    json_: Json = False,
) -> None:
    """What embed would do and need; reads no more than headers and changes nothing."""
    from streamumap.intake import plan_for

    planned = plan_for(
        input, rows, features, dtype, active, budget, host_budget, device, reading_of(dtype, features, key, shape, sae, of),
        knn=knn, sample=sample, place_rest=place_rest, n_neighbors=n_neighbors, n_components=n_components, metric=metric,
        reduce=reduce, reduce_dims=reduce_dims, neighbors=neighbors, recall=recall,
    )  # fmt: skip
    if json_:
        from streamumap.levers import as_json

        print(json.dumps(as_json(planned), indent=2))
    else:
        from streamumap.terminal import print_plan

        print_plan(planned)


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
    """Shape, dtype, density, zero rows, dead features, duplicates, non-finite values."""
    from streamumap.source import stored_dtype
    from streamumap.source.inspect import inspect_report
    from streamumap.source.scan import scan

    with _rows_of("inspect", input, reading_of(dtype, features, key, shape, sae, of), quiet) as (rows, tick):
        block_rows = max(1, 32 * 2**20 // (rows.n_features * stored_dtype(rows.dtype).itemsize))
        report = inspect_report(rows, scan(rows, block_rows, tick))
    if json_:
        print(json.dumps(report, indent=2))
    else:
        from streamumap.terminal import print_report

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
    """INPUT's rows without their zeros, exactly, as a CSR .npz, which embed reads as it is."""
    from streamumap.source.packing import pack_file

    with _rows_of("pack", input, reading_of(dtype, features, key, shape, sae, "rows"), quiet) as (rows, tick):
        n_bytes = pack_file(rows, out, tick)
    print(f"{out}: {format_bytes(n_bytes)}")


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
    animate: Annotated[bool, typer.Option("--animate", help="A GIF of the run's snapshots, RUN/map.gif.")] = False,
    quiet: Quiet = False,
) -> None:
    """A picture of a finished or half-finished run; several --color make several maps."""
    from streamumap.look import Wanted
    from streamumap.output import animate_run, render_run

    wanted = Wanted(labels, names, tuple(color or ()), input)
    with _listener(quiet) as listener:
        if animate:
            print(animate_run(run, out or run / "map.gif", wanted, size or 800, dark, listener))
        else:
            print(render_run(run, out or run / "map.png", wanted, size or 1600, dark, listener))


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
    port: Annotated[int, typer.Option(help="Of --serve; 0 takes a free one.", min=0, max=65535)] = 0,
    quiet: Quiet = False,
) -> None:
    """One self-contained HTML page of the map: zoom, hover, search, lasso, colours. No network."""
    from streamumap.look import Wanted
    from streamumap.output import page_of, view_run

    wanted = Wanted(labels, names, tuple(color or ()), input)
    with _listener(quiet) as listener:
        if not serve:
            print(view_run(run, out or run / "map.html", wanted, features, listener))
            return
        content = page_of(run, wanted, features, listener)
    from streamumap.viewer.serve import PageServer

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
    """The map as other tools take it: AnnData (obsm["X_umap"]), CSV, GeoJSON. RUN/embedding.parquet needs no export."""
    from streamumap.export import export_run

    print(export_run(run, to, out, labels, names))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run.")] = Path("streamumap-demo.umap"),
    budget: BudgetOption = None,
    device: DeviceOption = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """The main job on a small real data set that ships in the package: no GPU, no network."""
    from streamumap.demo import write_files
    from streamumap.look import Wanted
    from streamumap.output import render_run

    files = write_files(out)
    run = _embed(files.activations, Params(metric="cosine"), out, quiet, budget=budget, device=device)
    picture = render_run(out, out / "map.png", Wanted(files.labels))
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
    """Which devices, backends and optional packages are there, and their versions."""
    from streamumap.doctor import examine

    found = examine()
    if json_:
        print(json.dumps(found, indent=2))
    else:
        from streamumap.terminal import print_report

        print_report(found)


def default_out(input: str) -> Path:
    """INPUT's name + .umap, beside it."""
    path = Path(input) if Path(input).name not in ("", "..") else Path(input).resolve()
    stem = path.name.removesuffix(".npy").removesuffix("_indices").removesuffix("_values")
    stem = re.sub(r"[*?\[\]]", "", stem).rstrip("-_. ") or "rows"
    return path.parent / f"{stem}.umap"


def _embed(input, params: Params, folder: Path, quiet: bool, **options) -> dict:
    with stop_signals(Stopped.exit_code) as asked:
        from streamumap import engine

        with _listener(quiet) as listener:
            return engine.embed(input, params, out=folder, listener=listener, stopping=asked.is_set, **options)


def _listener(quiet: bool):
    from streamumap.terminal import progress

    return progress(quiet)


@contextmanager
def _rows_of(name: str, input: str, reading: Reading, quiet: bool) -> Iterator[tuple[RowSource, Callable[[int], None]]]:
    """INPUT's rows, converted where they cannot be read as they are, and the tick of a stage of this name."""
    from streamumap.source import ToConvert, in_place, open_source

    source = open_source(input, reading)
    n_passes = 2 if isinstance(source, ToConvert) else 1
    with (
        _listener(quiet) as listener,
        _stage(listener, name, n_passes * source.n_rows) as tick,
        in_place(source, tick) as rows,
    ):
        yield rows, tick


@contextmanager
def _stage(listener, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Tells the listener of a stage of `total` rows; gives its tick."""
    from streamumap.events import StageAdvanced, StageDone, StageStarted

    done, started = 0, time.monotonic()

    def tick(n: int) -> None:
        nonlocal done
        done += n
        listener(StageAdvanced(name, min(done, total)))

    listener(StageStarted(name, total, "rows"))
    yield tick
    listener(StageDone(name, time.monotonic() - started, f"{total:,} rows"))


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


if __name__ == "__main__":
    main()
