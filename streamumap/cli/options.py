"""The options that several commands share, with their help, and the Reading that they make."""

import re
from pathlib import Path
from typing import Annotated

import typer

from streamumap.errors import InputError
from streamumap.machine.cards import CARDS
from streamumap.params import Params
from streamumap.source import Reading


def knob(name: str, *flags: str):
    """Makes the option of one field of Params, where help, range, unit and default are written."""
    field = Params.__dataclass_fields__[name]
    m = field.metadata
    allowed = f"one of {', '.join(m['choices'])}" if m["choices"] else f"{m['low']:g} to {m['high']:g}"
    unit = f" {m['unit']}" if m["unit"] else ""
    return typer.Option(
        *(flags or ("--" + name.replace("_", "-"),)),
        help=f"{m['help']} ({allowed}{unit})",
        show_default=field.default is not None,
    )


Input = Annotated[
    str,
    typer.Argument(
        help="Activations, rows x features: a .npy, .npz, .safetensors, Parquet, Arrow, .pt, HDF5 or Zarr file, a folder, glob (** too) or "
        ".txt list of shards; or TopK pairs: X_indices.npy with X_values.npy beside it.",
        metavar="INPUT",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", help="Folder of the run. (default: INPUT's name + .umap beside it)", show_default=False
    ),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        help="Hard cap on memory: of the GPU in a GPU run, of the process in a CPU run, e.g. 40GB. (default: 80% of what is free)"
    ),
]
HostBudget = Annotated[
    str | None, typer.Option(help="Hard cap on host memory in a GPU run. (default: 80% of what is free)")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
DeviceToPlan = Annotated[
    str,
    typer.Option(
        help=f"auto, cpu, cuda or cuda:N; or a GPU elsewhere: {', '.join(CARDS)}, or where no GPU is here cuda with its memory as --budget."
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="bfloat16, where the file keeps it as V2, uint16 or int16; or the dtype of a file without a header. (default: as the file says)"
    ),
]
Features = Annotated[
    int | None,
    typer.Option(help="Width of rows that are TopK pairs. (default: as a JSON file beside them says)", min=1),
]
Key = Annotated[
    str | None,
    typer.Option(help="Name of the array, tensor, column or data set with the rows, where a file has several."),
]
Shape = Annotated[
    str | None, typer.Option(help="ROWS,FEATURES of a file without a header; --dtype says what its values are.")
]
Sae = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint of a sparse autoencoder: INPUT's rows are encoded by it as they stream past (.safetensors, .pt or folder)."
    ),
]
Of = Annotated[
    str,
    typer.Option(
        help="What to map: rows; features, by the rows they are active in; or decoder, the directions of --sae."
    ),
]
Neighbors = Annotated[int, knob("n_neighbors")]
Metric = Annotated[str, knob("metric")]
NeighborsBackend = Annotated[str, knob("neighbors", "--neighbors")]
Knn = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        metavar="INDICES DISTANCES",
        help="A k-NN graph to use instead of searching for one: two .npy files with a row for each row of INPUT. (default: none)",
        show_default=False,
    ),
]
Components = Annotated[int, knob("n_components")]
Reduce = Annotated[str, knob("reduce")]
ReduceDims = Annotated[int, knob("reduce_dims")]
Sample = Annotated[
    int | None, typer.Option(help="How many rows to map, drawn with the seed; the others are NaN in the map.", min=3)
]
PlaceRest = Annotated[
    bool,
    typer.Option(
        "--place-rest",
        help="With --sample: give the other rows a position as well, among their nearest sampled rows; quality stays that of the sample.",
    ),
]
DropNonfinite = Annotated[
    bool, typer.Option("--drop-nonfinite", help="Leave out rows with NaN or Inf; they are NaN in the map.")
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Start again: remove the files of an earlier run from the folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show no progress.")]


RunFolder = Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN")]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        help="Colours of the map: a text file with a label or number for each row, or a CSV or Parquet file with a line for each."
    ),
]
NamesFile = Annotated[
    Path | None,
    typer.Option(help="A text file with a name for each row; clusters are named by its words, in RUN/labels.parquet."),
]
Colors = Annotated[
    list[str] | None,
    typer.Option(
        "--color",
        help="feature:NUMBER, read from the input; or a column of --labels or of the run; or cluster. May be repeated.",
    ),
]
InputFile = Annotated[
    str | None,
    typer.Option("--input", help="Where the run's input is now. (default: where it was)", show_default=False),
]


def reading_of(
    dtype: str | None, features: int | None, key: str | None, shape: str | None, sae: Path | None, of: str
) -> Reading:
    """The Reading that the options ask for. Raises InputError."""
    sizes = None
    if shape is not None:
        parts = re.split(r"[,x]", shape.strip("() "))
        if not all(part.strip().isdecimal() and len(part) < 20 for part in parts):
            raise InputError(
                f"--shape: expected ROWS,FEATURES, found {shape!r}; give two numbers such as 3000000,12288."
            )
        sizes = tuple(map(int, parts))
    return Reading(dtype, features, key, sizes, sae, of)
