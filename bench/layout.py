"""Compares layouts on one exact k-NN graph and one fuzzy graph: streamumap, umap-learn and, on a GPU, cuML.

    python bench/layout.py --data FOLDER_OR_NPY [--seeds 3] [--epochs 200 500] [--dims 2] [--init auto random] [--device cuda]
    python bench/layout.py --data FOLDER_OR_NPY --try FIRST_REPULSION=1,ATTRACTION=0.5 --try REPULSION_POWER=2
    python bench/layout.py --curve line --init auto pca spectral random

Each map gets every figure of `measures.measure`, and a curve also the number of steps that tear it. `--try` changes constants
of layout/schedule.py or layout/init/levels.py. umap-learn starts as its own `init` says (spectral for auto) or, with
`--their-starts ours`, from our first positions. `edge_similarity` is the mean of 1 / (1 + a d^(2b)) over the graph's edges,
weighted by their weights. Compilation is not timed. cuML takes the k-NN graph and builds its own fuzzy graph within its time;
`graph_seconds` is the time that ours took. Each map becomes a line of bench/results/layout.jsonl.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from layout_graph import Setup, edges_on_map, our_start, set_up
from layout_systems import System, import_cuml, systems
from measures import Data, curve_breaks, dense_file, measure, open_data, read_labels, sizes, skip
from results import append, facts, print_table
from tree import ROOT

from streamumap import quality
from streamumap.errors import InputError
from streamumap.params import Params
from streamumap.source import open_source

ROWS_SEED = 7


def compare(setup: Setup, options: argparse.Namespace, cuml_umap) -> list[dict]:
    """Maps, measures and records every system with every number of dimensions, init and seed."""
    return [
        one_map(setup, options, system, dims, init, seed)
        for system in systems(setup, options, cuml_umap)
        for dims in options.dims
        for init in options.init
        for seed in range(
            options.seeds if system.name.startswith("streamumap") else options.their_seeds or options.seeds
        )
    ]


def one_map(setup: Setup, options: argparse.Namespace, system: System, dims: int, init: str, seed: int) -> dict:
    """Maps once, measures the map and appends the line."""
    data, source = setup.data, setup.data.rows.original
    wall, cpu = time.perf_counter(), time.process_time()
    start = system.start(seed, init) if system.start else our_start(setup, seed, init, dims, system.n_epochs)
    before = {"start_wall_seconds": time.perf_counter() - wall, "start_cpu_seconds": time.process_time() - cpu}
    wall, cpu = time.perf_counter(), time.process_time()
    embedding = system.lay_out(start, seed, system.n_epochs)
    costs = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    key = {"system": system.name, "init": init, "dims": dims, "epochs": system.n_epochs, "seed": seed}
    values = before | costs | measure(embedding, data, setup.indices) | edges_on_map(setup, embedding)
    if options.curve:
        values |= curve_breaks(embedding)
    parameters = {
        "rows": source.n_rows, "features": source.n_features, "dtype": source.dtype, "data": options.name, "metric": options.metric,
        "device": options.device, "n_edges": setup.graph.n_edges, "graph_seconds": setup.graph_seconds,
        "constants": system.constants,
    }  # fmt: skip
    append("layout", key | values | {"parameters": parameters, "measured_on": sizes(data)} | facts())
    print(f"{system.name}, {init}, {dims}-D, {system.n_epochs} epochs, seed {seed}", file=sys.stderr, flush=True)
    return key | values


def print_means(records: list[dict]) -> None:
    names = [name for name, value in records[0].items() if isinstance(value, float) and not name.endswith("_error")]
    groups: dict[tuple, list[dict]] = {}
    for r in records:
        groups.setdefault((r["dims"], r["init"], r["system"], r["epochs"]), []).append(r)
    lines = []
    for (dims, init, system, n_epochs), group in sorted(groups.items(), key=lambda item: item[0][:2]):
        means = [np.mean([r[name] for r in group]) for name in names]
        lines.append(
            [
                system,
                init,
                str(dims),
                str(n_epochs),
                str(len(group)),
                *(f"{x:.2f}" if x >= 10 else f"{x:.4f}" for x in means),
            ]
        )
    print_table(["mean over seeds", "init", "dims", "epochs", "seeds", *names], lines)


def open_rows(path: Path, options: argparse.Namespace) -> Data:
    """Opens all rows, or --rows random ones."""
    params, labels = Params(metric=options.metric, recall=1.0), None
    if options.data:
        labels = read_labels(options.labels, options.data)
    if options.rows is None:
        return open_data(path, params, labels, options.device)
    source = open_source(path)
    numbers = quality.sample_rows(source.n_rows, options.rows, ROWS_SEED)
    return open_data(source.take(numbers), params, None if labels is None else labels[numbers], options.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, help="a .npy file, or a folder with topk_indices.npy and topk_values.npy")
    what.add_argument("--curve", choices=["line", "ring", "trajectory"], help="rows of tools/curves.py")
    parser.add_argument("--labels", type=Path, help="one label a line [default: the folder's labels.txt]")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "euclidean"])
    parser.add_argument("--rows", type=int, help="use this many random rows [default: all]")
    parser.add_argument("--seeds", type=int, default=3, help="maps of each system [%(default)s]")
    parser.add_argument("--epochs", type=int, nargs="+", help="[default: each system's own]")
    parser.add_argument("--dims", type=int, nargs="+", default=[2])
    parser.add_argument("--init", nargs="+", default=["auto"], help="[%(default)s]")
    changed = dict(type=_constants, action="append", default=[], metavar="NAME=VALUE,...", help="constants to change")
    parser.add_argument("--try", dest="candidates", **changed)
    parser.add_argument("--their-starts", nargs="+", default=["own"], choices=["own", "ours"], help="[%(default)s]")
    parser.add_argument("--their-seeds", type=int, help="[default: as --seeds]")
    parser.add_argument("--alone", action="store_true", help="streamumap only")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    options = parser.parse_args()
    cuml_umap = None if options.alone else import_cuml(options.device)
    with tempfile.TemporaryDirectory() as name:
        try:
            data = open_rows(_file_of(options, Path(name)), options)
        except InputError as error:
            skip(str(error))
        print_means(compare(set_up(data, Path(name)), options, cuml_umap))


def _constants(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (part.split("=") for part in text.split(","))}


def _file_of(options: argparse.Namespace, scratch: Path) -> Path:
    """Returns the file of the rows and sets options.name, their name in the results. Skips if they are missing."""
    if options.curve:
        options.name, options.metric, out = options.curve, "euclidean", scratch / f"{options.curve}.npy"
        subprocess.run([sys.executable, str(ROOT / "tools" / "curves.py"), options.curve, str(out)], check=True)
        return out
    options.data = options.data.resolve()
    options.name = options.data.name
    if not options.data.exists():
        skip(f"{options.data} is missing")
    return dense_file(options.data, scratch)


if __name__ == "__main__":
    main()
