"""The commands embed, transform and plan."""

import json
from pathlib import Path
from typing import Annotated

import typer

from streamumap.cli.app import app, default_out, run_embed, running
from streamumap.cli.options import (
    BudgetOption,
    Components,
    DeviceOption,
    DeviceToPlan,
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
    Metric,
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
from streamumap.request import Request


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
            help="Columns for embedding.parquet: a .csv, .tsv or Parquet file with a line for each row, or a text file of ids."
        ),
    ] = None,
    drop_nonfinite: DropNonfinite = False,
    sample: Sample = None,
    stratify: Annotated[
        Path | None,
        typer.Option(
            help="A text file with a label for each row, whose shares --sample keeps; or the numbers of the rows to map."
        ),
    ] = None,
    place_rest: PlaceRest = False,
    snapshots: Annotated[
        int, typer.Option(help="How many positions to keep in RUN/snapshots, evenly spaced over the epochs.", min=0)
    ] = 0,
    fresh: Fresh = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a map of every row of INPUT, under a memory budget. The same command continues a run that was stopped."""
    params = Params(
        n_neighbors=n_neighbors, min_dist=min_dist, spread=spread, n_components=n_components, metric=metric, n_epochs=n_epochs, init=init,
        learning_rate=learning_rate, repulsion_strength=repulsion_strength, negative_sample_rate=negative_sample_rate,
        local_connectivity=local_connectivity, set_op_mix_ratio=set_op_mix_ratio, neighbors=neighbors, layout=layout, reduce=reduce,
        reduce_dims=reduce_dims, recall=recall, seed=seed,
    )  # fmt: skip
    request = Request(
        input, params, budget, host_budget, device, reading_of(dtype, features, key, shape, sae, of), meta=meta,
        drop_nonfinite=drop_nonfinite, sample=sample, stratify=stratify, place_rest=place_rest, knn=knn, snapshots=snapshots, fresh=fresh,
    )  # fmt: skip
    folder = out or default_out(input)
    run = run_embed(request, folder, quiet)
    print(json.dumps(run, indent=2) if json_ else folder)


@app.command()
def transform(
    run: RunFolder,
    new: Annotated[str, typer.Argument(help="Rows of the same features, in any form that embed takes.", metavar="NEW")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Folder of the new positions. (default: NEW's name + .umap beside it)",
            show_default=False,
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
    """Give new rows a position on a finished map, which does not change.

    A row goes where its nearest rows of the map pull it. A row that is on the map already keeps its position; a row that shares nothing
    with the map is NaN. Positions depend on the row and the map alone, not on other new rows. NEW is read as RUN's input was, unless an
    option says otherwise. The folder gets embedding.npy, embedding.parquet (row_id, x, y, is_zero) and run.json, whose quality is that
    of RUN's map.
    """
    folder = out or default_out(new)
    reading = reading_of(dtype, features, key, shape, sae, "rows")
    request = Request(new, Params(), budget, host_budget, device, reading, drop_nonfinite=drop_nonfinite, fresh=fresh)
    with running(quiet) as hooks:
        from streamumap.transform import transform

        done = transform(run, request, folder, map_input=input, **hooks)
    print(json.dumps(done, indent=2) if json_ else folder)


@app.command()
def plan(
    input: Annotated[
        str | None,
        typer.Argument(
            help="Activations as for embed; or give --rows and --features.", metavar="[INPUT]", show_default=False
        ),
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Rows of a matrix, where there is no file yet.")] = None,
    features: Annotated[
        int | None, typer.Option(help="Features of that matrix; or the width of an input of TopK pairs.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Dtype of that matrix. (default: float16, or as the file says)")
    ] = None,
    key: Key = None,
    shape: Shape = None,
    sae: Sae = None,
    of: Of = "rows",
    active: Annotated[int | None, typer.Option(help="Non-zero features of a row, where most are zero.", min=1)] = None,
    budget: BudgetOption = None,
    host_budget: HostBudget = None,
    device: DeviceToPlan = "auto",
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
    """Show what embed would do and need. Reads headers only and changes nothing."""
    from streamumap.run.prepare import matrix_of, outlook_of

    params = Params(
        n_neighbors=n_neighbors, n_components=n_components, metric=metric, reduce=reduce, reduce_dims=reduce_dims, neighbors=neighbors,
        recall=recall,
    )  # fmt: skip
    reading = reading_of(dtype, features, key, shape, sae, of)
    request = Request(
        input, params, budget, host_budget, device, reading, sample=sample, place_rest=place_rest, knn=knn
    )
    planned = outlook_of(request, matrix_of(input, rows, features), active)
    if json_:
        from streamumap.planning.suggestions import as_json

        print(json.dumps(as_json(planned), indent=2))
    else:
        from streamumap.cli.terminal import print_plan

        print_plan(planned)
