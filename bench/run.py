"""Compares streamumap with other systems, from file to map. Each run is a process of its own, and the systems alternate.

    python bench/run.py CASE ... [--device cuda|cpu] [--repeats 3] [--scratch DIR] [--against cuml,cuml-clusters]
    python bench/run.py debian --device cpu --against umap-learn,fastumap
    python bench/run.py like-3M --device cuda --budgets 2GB,8GB,40GB,all --against cuml --seconds 560
    python bench/run.py curve-n curve-d --device cuda --repeats 1

See cases.py for the cases and peers.py for the systems. All get the same rows, n_neighbors 15, min_dist 0.1 and metric. Epochs are each
system's default (500 for ours; 200 beyond 10,000 rows for umap-learn and cuML) unless --epochs is given. Run r of ours has seed 41 + r; the
others get no seed, because with one they use a single thread. Systems that compile (ours, umap-learn) run once before, as run 0, with empty
caches; this run is recorded but does not count.

Seconds are those of the process, from its start to its end, imports included; reading, conversion and fit are also recorded separately.
Bytes are peaks, sampled every 20 ms from outside: RssAnon of the process and its children, and what the driver counts on the GPU.
measures.py measures the quality of all maps, on sampled rows with ranks among all rows.

Every run becomes a line of --out as soon as it is measured; a failure too, with its message. --scratch keeps the data, the compiled kernels
and the lines, so a run of this commit is not repeated. No run starts that would end after --seconds; the same command continues.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from cases import CASES, CURVES, DEBIAN, Case, file_of
from measures import Data, measure, open_data, read_labels, sizes
from peers import PEERS, Job
from results import RESULTS, append, facts
from summary import print_summary
from tree import ROOT
from watching import watched

from streamumap.layout.schedule import DEFAULT_EPOCHS
from streamumap.machine import memory
from streamumap.params import Params

BUDGETS = {"cuda": "2GB,8GB,40GB,all", "cpu": "1GB,2GB,8GB,all"}
CURVE_BUDGET = {"cuda": "40GB", "cpu": "8GB"}
AGAINST = {"cuda": "cuml,cuml-clusters", "cpu": "umap-learn"}
NAME = "end_to_end"
FIRST_SEED = 41
KEPT = ("params", "budget", "predicted_peak", "measured_peak", "seconds", "stages", "quality", "graph", "warnings")


@dataclass(frozen=True)
class System:
    """A system, and for streamumap its budget ("all" for no budget)."""

    name: str
    budget: str | None = None


@dataclass
class Bench:
    """One case on one machine. `data` is read for the first map to measure."""

    case: Case
    path: Path
    scratch: Path
    machine: memory.Machine
    options: argparse.Namespace
    commit: str
    data: Data | None = None

    @property
    def lines(self) -> Path:
        return self.scratch / f"{self.case.name}.jsonl"

    def done(self) -> list[dict]:
        """Existing lines: ours of this commit, and all of the other systems, which do not change with our code."""
        if not self.lines.exists():
            return []
        found = [json.loads(line) for line in self.lines.read_text(encoding="utf-8").splitlines()]
        return [r for r in found if r["commit"] == self.commit or r["system"] != "streamumap"]

    def measured_on(self) -> Data:
        if self.data is None:
            labels = read_labels(None, self.options.data) if self.case.kind == "real" else None
            kept = self.scratch / f"{self.case.name}-triplets.npz"
            self.data = open_data(
                str(self.path), Params(metric=self.case.metric), labels, self.options.device, self.n_features, kept
            )
        return self.data

    @property
    def n_features(self) -> int | None:
        """The width of pairs, which their files do not tell."""
        return self.case.n_features if self.case.pairs else None


def systems(case: Case, options: argparse.Namespace) -> Iterator[System]:
    """Yields ours under each budget and the other systems that can run here, and prints why others cannot."""
    curve = any(case.name in CURVES.get(asked, ()) for asked in options.cases)
    default = (CURVE_BUDGET if curve else BUDGETS)[options.kind]
    budgets = default if options.budgets is None else options.budgets
    yield from (System("streamumap", budget) for budget in budgets.split(",") if budget)
    against = options.against if options.against is not None else "" if curve else AGAINST[options.kind]
    for name in filter(None, against.split(",")):
        peer = PEERS[name]
        if find_spec(peer.package) is None:
            print(f"{name} is skipped: {peer.package} is not installed", file=sys.stderr)
        elif peer.device != options.kind:
            print(f"{name} is skipped: it runs on {peer.device}, and --device is {options.device}", file=sys.stderr)
        elif case.reduce_dims and name in ("torchdr", "cuml-sparse"):
            print(f"{name} is skipped: it has no PCA for these rows", file=sys.stderr)
        else:
            yield System(name)


def rounds(wanted: list[System], repeats: int, warm: bool) -> Iterator[tuple[int, System]]:
    """Yields run 0 of each system that compiles, unless `warm`, then all in alternation. Ours compiles under the last budget,
    the largest, because a small one may be refused."""
    last = {system.name: system for system in wanted}
    compiling = [s for name, s in last.items() if name == "streamumap" or PEERS[name].compiles]
    yield from ((0, system) for system in compiling if not warm)
    for number in range(1, repeats + 1):
        yield from ((number, system) for system in wanted)


def bench(b: Bench, deadline: float) -> list[dict]:
    """Does every missing run until the time is up, and returns all lines of this case."""
    for number, system in rounds(list(systems(b.case, b.options)), b.options.repeats, b.options.warm):
        same = [r for r in b.done() if (r["system"], r["budget"]) == (system.name, system.budget)]
        if any(r["run"] == number or r.get("failed") for r in same):
            continue
        expected = max((r["wall_seconds"] for r in same if not r.get("failed")), default=0.0)
        if time.monotonic() + expected > deadline:
            print(f"the time is up before run {number} of {label(system)}; the same command continues", file=sys.stderr)
            break
        record = run(b, system, number)
        append(NAME, record, b.options.out)
        with open(b.lines, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        said = record.get("failed") or f"{record['wall_seconds']:.1f} s"
        print(f"{b.case.name}, {label(system)}, run {number}: {said}", file=sys.stderr, flush=True)
    return b.done()


def label(system: System) -> str:
    return f"{system.name} {system.budget}" if system.budget else system.name


def run(b: Bench, system: System, number: int) -> dict[str, Any]:
    """Runs one process and returns its record."""
    source = describe(b)
    device = b.machine.device.name if b.machine.device else None
    key = {"case": b.case.name, "system": system.name, "budget": system.budget, "run": number, "device": device}
    with tempfile.TemporaryDirectory(dir=b.scratch) as name:
        folder = Path(name)
        ours = system.name == "streamumap"
        command = our_command(b, system, number, folder) if ours else their_command(b, system, folder)
        epochs = b.options.epochs or (DEFAULT_EPOCHS if ours else PEERS[system.name].epochs(source["rows"]))
        parameters = source | {
            "n_neighbors": 15,
            "min_dist": 0.1,
            "n_epochs": epochs,
            "seed": FIRST_SEED + number if ours else None,
        }
        why = None if ours else no_room(b, system, source)
        values: dict[str, Any] = {"wall_seconds": 0.0, "failed": f"not begun: {why}"}
        if why is None:
            costs, failed = watched(command, environment(b), folder / "log", b.machine.device, b.options.limit)
            values = asdict(costs) | ({"failed": failed} if failed else results(b, ours, folder))
    return key | values | {"parameters": parameters} | facts()


def describe(b: Bench) -> dict[str, Any]:
    """Sizes from the file's header, the metric and the reduction."""
    stored = np.load(b.path, mmap_mode="r", allow_pickle=False)
    width = b.case.n_features if b.case.pairs else stored.shape[1]
    return {
        "rows": len(stored), "features": width, "active": stored.shape[1] if b.case.pairs else None, "dtype": "float16",
        "metric": b.case.metric, "reduce_dims": b.case.reduce_dims,
    }  # fmt: skip


def no_room(b: Bench, system: System, source: dict) -> str | None:
    """Why a system that needs float32 rows in memory would be killed by the kernel, None if they fit."""
    needed, free = source["rows"] * source["features"] * 4, memory.host_free_bytes()
    if (b.case.pairs and PEERS[system.name].takes_pairs) or needed < free:
        return None
    return (
        f"its rows as float32 take {memory.format_bytes(needed)} of host memory, {memory.format_bytes(free)} are free"
    )


def environment(b: Bench) -> dict[str, str]:
    """The environment of a run: this checkout's package, and compiled kernels kept in --scratch."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    caches = {name: str(b.scratch / "compiled" / name.lower()) for name in ("NUMBA_CACHE_DIR", "TRITON_CACHE_DIR")}
    return os.environ | caches | {"PYTHONPATH": path}


def our_command(b: Bench, system: System, number: int, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "streamumap.cli", "embed", str(b.path), "-q", "-o", str(folder / "run.umap")]
    command += ["--device", b.options.device, "--metric", b.case.metric, "--seed", str(FIRST_SEED + number)]
    for option, value in (
        ("--budget", None if system.budget == "all" else system.budget),
        ("--features", b.n_features),
        ("--n-epochs", b.options.epochs),
        ("--reduce-dims", b.case.reduce_dims),
        ("--reduce", "pca" if b.case.reduce_dims else None),
    ):
        command += [option, str(value)] if value is not None else []
    return command


def their_command(b: Bench, system: System, folder: Path) -> list[str]:
    source = describe(b)
    job = Job(
        system.name, str(b.path), source["active"], source["features"], b.case.metric, 15, 0.1, b.options.epochs,
        b.case.reduce_dims, str(folder / "map"),
    )  # fmt: skip
    (folder / "job.json").write_text(json.dumps(asdict(job)))
    return [sys.executable, "-P", str(ROOT / "bench" / "peers.py"), str(folder / "job.json")]


def results(b: Bench, ours: bool, folder: Path) -> dict[str, Any]:
    """The quality of the map that a process wrote, and the process's own record of its time."""
    if ours:
        made, graph = folder / "run.umap" / "embedding.npy", folder / "run.umap" / "knn_indices.npy"
        report = json.loads((folder / "run.umap" / "run.json").read_text())
        source = {key: report["input"][key] for key in ("rows", "features", "dtype", "density")}
        kept = {"input": source | {"name": b.path.name}, "device": report["device"]}
        account = {
            "phases": {s["stage"]: s["seconds"] for s in report["stages"]},
            "report": kept | {key: report[key] for key in KEPT if key in report},
        }
    else:
        made, graph = folder / "map.npy", folder / "map_knn.npy"
        account = {"phases": json.loads((folder / "map.json").read_text())}
    embedding = np.load(made, allow_pickle=False)
    if not np.isfinite(embedding).all():
        return account | {"failed": f"{int((~np.isfinite(embedding)).any(1).sum())} rows have no finite position"}
    data = b.measured_on()
    values = measure(embedding, data, np.load(graph, allow_pickle=False) if graph.exists() else None)
    return values | account | {"measured_on": sizes(data)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="CASE", choices=[*CASES, *CURVES])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N [%(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each system [%(default)s]")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()) / "streamumap-bench", help="[%(default)s]"
    )
    parser.add_argument(
        "--budgets",
        help='of streamumap; "all" for no budget, "" to leave streamumap out [cuda: 2GB,8GB,40GB,all; cpu: 1GB,2GB,8GB,all]',
    )
    parser.add_argument(
        "--against", help=f'some of {", ".join(PEERS)}, "" for none [cuda: {AGAINST["cuda"]}; cpu: {AGAINST["cpu"]}]'
    )
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder of the real codes [%(default)s]")
    parser.add_argument("--epochs", type=int, help="epochs of all systems [each one's default]")
    parser.add_argument(
        "--limit", type=float, default=3600, help="seconds after which a process is stopped [%(default)s]"
    )
    parser.add_argument("--warm", action="store_true", help="kernels are compiled in --scratch: no run 0")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no run that would end later")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the lines [%(default)s]")
    options = parser.parse_args()
    unknown = set(filter(None, (options.against or "").split(","))) - set(PEERS)
    if unknown:
        parser.error(f"--against: expected some of {', '.join(PEERS)}, found {', '.join(sorted(unknown))}")
    options.kind, deadline = options.device.partition(":")[0], time.monotonic() + options.seconds
    options.scratch = options.scratch.resolve()
    options.scratch.mkdir(parents=True, exist_ok=True)
    machine, commit = memory.machine(options.device), facts()["commit"]
    for name in dict.fromkeys(case for asked in options.cases for case in CURVES.get(asked, (asked,))):
        case = CASES[name]
        path = file_of(case, options.data.resolve(), options.scratch, options.device)
        print_summary(bench(Bench(case, path, options.scratch, machine, options, commit), deadline))


if __name__ == "__main__":
    main()
