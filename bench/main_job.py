"""The main job from file to map, against umap-learn: each run in a process of its own, in alternation, watched from
outside.

    python bench/main_job.py --data FOLDER_OR_NPY [--labels FILE] [--metric cosine] [--budget 1GB] [--runs 3] [--peer
    umap-learn]

Each first runs once uncounted, with an empty numba cache: its seconds are those of the lines "first", compilation
included. Peaks are sums over the process and its children, sampled every SAMPLE_SECONDS; pages that they share count
more than once in RSS.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from measures import ROOT, Data, append, dense_file, facts, measure, open_data, print_table, read_labels, sizes, skip

from streamumap.params import Params

SAMPLE_SECONDS = 0.02
LOOK_FOR_CHILDREN = 10
"""Samples between two searches of /proc for new children."""

UMAP_LEARN = """
import sys
import numpy as np
import umap
path, out, metric = sys.argv[1:]
rows = np.load(path).astype(np.float32)
np.save(out, umap.UMAP(metric=metric).fit_transform(rows))
"""
PEERS = {"umap-learn": ("umap", UMAP_LEARN)}
COSTS = ("wall_seconds", "cpu_seconds", "anonymous_bytes", "resident_bytes")


@dataclass(frozen=True)
class Costs:
    """Of one process with its children. `anonymous_bytes` and `resident_bytes` are peaks of RssAnon and VmRSS."""

    wall_seconds: float
    cpu_seconds: float
    anonymous_bytes: int
    resident_bytes: int


class Watcher(threading.Thread):
    """Peaks of a process tree until `done` is set."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.done = pid, threading.Event()
        self.anonymous_bytes = self.resident_bytes = 0

    def run(self) -> None:
        number, tree = 0, [self.pid]
        while not self.done.wait(SAMPLE_SECONDS):
            if number % LOOK_FOR_CHILDREN == 0:
                tree = with_children(self.pid)
            used = [process_bytes(pid) for pid in tree]
            self.anonymous_bytes = max(self.anonymous_bytes, sum(anonymous for anonymous, _ in used))
            self.resident_bytes = max(self.resident_bytes, sum(resident for _, resident in used))
            number += 1


def with_children(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    tree = [pid]
    for member in tree:
        tree += [child for child, parent in parents.items() if parent == member]
    return tree


def process_bytes(pid: int) -> tuple[int, int]:
    """(RssAnon, VmRSS) in bytes; 0 where the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    kib = {
        name: int(text.split()[0])
        for name, _, text in (line.partition(":") for line in lines)
        if name in ("RssAnon", "VmRSS")
    }
    return kib.get("RssAnon", 0) * 1024, kib.get("VmRSS", 0) * 1024


def watched(command: list[str], environment: dict[str, str], log: Path) -> Costs:
    """Runs a command to its end. Exits with what it wrote where it fails."""
    with open(log, "wb") as file:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    watcher = Watcher(process.pid)
    watcher.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.done.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{command[0]} ... ended with {process.returncode}:\n{log.read_text(errors='replace')[-2000:]}")
    return Costs(seconds, usage.ru_utime + usage.ru_stime, watcher.anonymous_bytes, watcher.resident_bytes)


def commands(peer: str, path: Path, folder: Path, metric: str, budget: str):
    """name -> run number -> (command, the map that it writes)."""

    def ours(number: int) -> tuple[list[str], Path]:
        out = folder / f"{number}.umap"
        command = [
            sys.executable,
            "-m",
            "streamumap.cli",
            "embed",
            str(path),
            "--device",
            "cpu",
            "--metric",
            metric,
            "--budget",
            budget,
        ]
        return [*command, "-q", "-o", str(out)], out / "embedding.npy"

    def theirs(number: int) -> tuple[list[str], Path]:
        out = folder / f"{number}.npy"
        return [sys.executable, "-c", PEERS[peer][1], str(path), str(out), metric], out

    return {"streamumap": ours, peer: theirs}


def compare(path: Path, data: Data, folder: Path, options: argparse.Namespace) -> list[dict]:
    """All runs in alternation, each measured and recorded as soon as it ends."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "numba")}
    parameters = {
        "rows": data.rows.original.n_rows, "features": data.rows.original.n_features, "dtype": data.rows.original.dtype,
        "data": path.name, "metric": options.metric, "budget": options.budget, "runs": options.runs,
    }  # fmt: skip
    records = []
    for number in range(options.runs + 1):
        for name, command in commands(options.peer, path, folder, options.metric, options.budget).items():
            arguments, result = command(number)
            costs = watched(arguments, environment, folder / "log")
            values = asdict(costs) | measure(np.load(result, allow_pickle=False), data)
            record = {
                "system": name,
                "run": number or "first",
                **values,
                "parameters": parameters,
                "measured_on": sizes(data),
                **facts(),
            }
            append("main_job", record)
            records.append(record)
            print(f"{name}, run {number or 'first'}: {costs.wall_seconds:.1f} s", file=sys.stderr, flush=True)
    return records


def print_results(records: list[dict], peer: str) -> None:
    measures = [
        name for name in records[0] if name not in (*COSTS, "system", "run") and isinstance(records[0][name], float)
    ]
    lines = []
    for r in records:
        costs = [f"{r['wall_seconds']:.1f}", f"{r['cpu_seconds']:.1f}", *(f"{r[name] / 1e6:.0f}" for name in COSTS[2:])]
        lines.append([r["system"], str(r["run"]), *costs, *(f"{r[name]:.4f}" for name in measures)])
    print_table(["system", "run", "wall s", "CPU s", "RssAnon MB", "RSS MB", *measures], lines)
    ours, theirs = (
        [r for r in records if r["system"] == name and r["run"] != "first"] for name in ("streamumap", peer)
    )
    for name in COSTS:
        ratios = [b[name] / a[name] for a, b in zip(ours, theirs, strict=True)]
        print(f"{name}: {peer} / streamumap {median(ratios):.2f} (median of {', '.join(f'{x:.2f}' for x in ratios)})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="a .npy file, or a folder with topk_indices.npy and topk_values.npy"
    )
    parser.add_argument("--labels", type=Path, help="one label a line; a folder's labels.txt is found")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "euclidean"])
    parser.add_argument("--budget", default="1GB")
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each")
    parser.add_argument("--peer", default="umap-learn", choices=list(PEERS))
    options = parser.parse_args()
    options.data = options.data.resolve()
    if not options.data.exists():
        skip(f"{options.data} is missing")
    if importlib.util.find_spec(PEERS[options.peer][0]) is None:
        skip(f"{options.peer} is not installed")
    with tempfile.TemporaryDirectory() as name:
        path = dense_file(options.data, Path(name))
        data = open_data(path, Params(metric=options.metric), read_labels(options.labels, options.data))
        print_results(compare(path, data, Path(name), options), options.peer)


if __name__ == "__main__":
    main()
