"""Checks that runs keep their budgets: runs `streamumap embed` on each file under each budget, and compares the peak with the
budget and the bytes of each stage with the prediction. Each pair of file and budget is a cell, run in a process of its own.

    python bench/budgets.py FILE.npy [FILE.npy ...] --budgets 2GB 8GB 40GB [--first 300000 1000000] [--device cuda|cpu]
        [--features 12288] [--metric cosine] [--scratch DIR] [--at-once 1] [--seconds 560] [--out DIR]

On a GPU with 128 GB of host memory (a minute for the data, about eight for the 27 cells). DATA is a folder as tools/make_data.py
needs it:

    python tools/make_data.py clusters c512.npy --features 512 --active 32 --rows 3000000 --device cuda
    python tools/make_data.py like DATA d3072.npy --rows 3000000 --device cuda
    python tools/make_data.py like DATA p12288.npy --features 12288 --pairs --rows 3000000 --device cuda
    python bench/budgets.py c512.npy d3072.npy p12288_indices.npy --features 12288 --first 300000 1000000 \\
        --budgets 2GB 8GB 40GB --device cuda --seconds 560

`--first` adds cells of the first rows of each file, copied to --scratch. `--features` is the width of files of pairs. As soon as
a cell ends it becomes a line of budgets.jsonl in --out (bench/results): refused before any work (exit code 3), or done, with its
peak (RssAnon and pinned memory, or what the driver counts) and the measured and predicted bytes of each stage. A cell with a line
of this commit and machine is not run again, and no cell starts after --seconds, so the same command continues. With --at-once
above 1 the seconds are no timings; the lines say how many cells ran at once. If the driver does not distinguish processes (in most
containers), --at-once is 1, since each peak would be that of all cells. Exit code 1 means that a cell did not keep its budget.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from results import RESULTS, append, facts, print_table
from tree import ROOT

from streamumap.machine.memory import parse_bytes

LEAST_BYTES = 100 * 10**6
"""Smaller stages are not compared with their prediction."""

LEAST_SHARE, MOST_SHARE = 0.70, 1.00

SHOWN = """
import os, torch, pynvml
from streamumap.machine.memory import visible_handles
torch.zeros(1, device="cuda"); pynvml.nvmlInit()
print(any(p.pid == os.getpid() for p in pynvml.nvmlDeviceGetComputeRunningProcesses(visible_handles()[0])))
"""


@dataclass(frozen=True)
class Cell:
    path: Path
    rows: int
    budget: str

    @property
    def pairs(self) -> bool:
        return self.path.name.endswith("_indices.npy")


def first_rows(path: Path, n_rows: int, folder: Path) -> Path:
    """Writes a file of the first rows of `path`, and of the values beside it if it holds the indices of pairs."""
    out = folder / f"{n_rows}-{path.name}"
    for given, made in ((path, out), (values_of(path), values_of(out))):
        if given.exists() and not made.exists():
            np.save(made.with_suffix(".part.npy"), np.load(given, mmap_mode="r")[:n_rows])
            made.with_suffix(".part.npy").rename(made)
    return out


def values_of(path: Path) -> Path:
    return path.with_name(path.name.replace("_indices.npy", "_values.npy"))


def cells(options: argparse.Namespace) -> list[Cell]:
    """All cells, the fewest rows first."""
    out = []
    for path in options.files:
        n_rows = np.load(path, mmap_mode="r").shape[0]
        wanted = {n: first_rows(path, n, options.scratch) for n in options.first if n < n_rows} | {n_rows: path}
        out += [Cell(file, n, budget) for (n, file), budget in product(wanted.items(), options.budgets)]
    return sorted(out, key=lambda cell: cell.rows)


def measured(cell: Cell, options: argparse.Namespace, n_at_once: int) -> dict[str, Any]:
    """Runs one cell and returns its record."""
    command = ["embed", str(cell.path), "--budget", cell.budget, "--device", options.device, "--metric", options.metric]
    command += ["--features", str(options.features)] if cell.pairs and options.features else []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        command += ["--out", f"{folder}/run", "--json", "-q"]
        done = subprocess.run(
            [sys.executable, "-m", "streamumap.cli", *command], cwd=ROOT, capture_output=True, text=True
        )
    seconds = time.monotonic() - started
    record = {
        "file": cell.path.name, "rows": cell.rows, "form": "pairs" if cell.pairs else "dense", "budget": cell.budget,
        "device": options.device, "exit_code": done.returncode, "seconds": round(seconds, 1), "at_once": n_at_once,
    }  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return record | {"features": options.features if cell.pairs else None, "said": said[-1] if said else ""}
    return record | of_run(json.loads(done.stdout), parse_bytes(cell.budget), options.device)


def of_run(run: dict[str, Any], budget_bytes: int, device: str) -> dict[str, Any]:
    """The part of run.json that the record keeps."""
    place = "host_bytes" if device == "cpu" else "device_bytes"
    stages = [
        {"stage": s["stage"], "backend": s["backend"], "blocks": s["blocks"], "seconds": s["seconds"]}
        | {"predicted": s["predicted"], "measured": s["measured"]}
        for s in run["stages"]
    ]
    peak = run["measured_peak"][place]
    retries = [text for text in run["warnings"] if "less memory left than planned" in text]
    return {
        "features": run["input"]["features"], "dtype": run["input"]["dtype"], "density": run["input"]["density"],
        "peak_bytes": peak, "peak_share": round(peak / budget_bytes, 3), "predicted_peak": run["predicted_peak"],
        "stages": stages, "retries": len(retries), "warnings": run["warnings"], "quality": run["quality"],
    }  # fmt: skip


def shares(record: dict[str, Any]) -> list[tuple[float, str]]:
    """Measured / predicted bytes of each stage that takes LEAST_BYTES or more, with its name."""
    found = []
    for stage in record.get("stages", ()):
        for place in ("host_bytes", "device_bytes"):
            used, said = stage["measured"][place], stage["predicted"][place]
            if used >= LEAST_BYTES:
                found.append((used / max(said, 1), f"{stage['stage']} ({place.removesuffix('_bytes')})"))
    return found


def broken(record: dict[str, Any]) -> list[str]:
    """Lists in words what a cell did not keep: its budget, a prediction, a run without retries."""
    if record["exit_code"] == 3:
        return []
    if record["exit_code"]:
        return [f"exit code {record['exit_code']}: {record['said']}"]
    out = [f"{record['retries']} retries"] if record["retries"] else []
    out += [f"peak {record['peak_share']:.2f} of the budget"] if record["peak_share"] > 1 else []
    out += [f"{what} {s:.2f}" for s, what in shares(record) if not LEAST_SHARE <= round(s, 2) <= MOST_SHARE]
    return out


def print_cells(records: list[dict[str, Any]]) -> None:
    lines = []
    for r in sorted(records, key=lambda r: (r["rows"], r["file"], parse_bytes(r["budget"]))):
        found = shares(r)
        span = f"{min(found)[0]:.2f} to {max(found)[0]:.2f}" if found else ""
        peak = "" if r["exit_code"] else f"{r['peak_bytes'] / 1e9:.2f} GB"
        share = "" if r["exit_code"] else f"{r['peak_share']:.2f}"
        size = f"{r['rows']:,} x {r['features'] or '?'} {r['form']}"
        end = "refused" if r["exit_code"] == 3 else f"{r['seconds']:.0f} s"
        lines.append([size, r["budget"], end, peak, share, span, "; ".join(broken(r)) or "holds"])
    print_table(["rows x features", "budget", "", "peak", "peak/budget", "measured/predicted", ""], lines)


def known(options: argparse.Namespace, here: dict[str, Any]) -> list[dict[str, Any]]:
    """The existing lines of this commit and machine."""
    path = options.out / "budgets.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [
        r
        for r in lines
        if (r["commit"], r["machine"], r["device"]) == (here["commit"], here["machine"], options.device)
    ]


def distinguishes_processes(device: str) -> bool:
    """Whether the driver reports the memory of a single process."""
    if device == "cpu":
        return True
    return (
        subprocess.run([sys.executable, "-c", SHOWN], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "True"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--budgets", nargs="+", required=True)
    parser.add_argument("--first", nargs="*", type=int, default=[])
    parser.add_argument("--features", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--metric", default="cosine")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "streamumap-budgets")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.files = [path.resolve() for path in options.files]
    options.scratch.mkdir(parents=True, exist_ok=True)
    started, here = time.monotonic(), facts()
    at_once = options.at_once if options.at_once == 1 or distinguishes_processes(options.device) else 1
    records = known(options, here)
    there = {(r["file"], r["budget"]) for r in records}

    def work(cell: Cell) -> None:
        if time.monotonic() - started > options.seconds or (cell.path.name, cell.budget) in there:
            return
        record = measured(cell, options, at_once) | here
        records.append(record)
        append("budgets", record, options.out)
        print(f"{cell.path.name}, {cell.budget}: {'; '.join(broken(record)) or 'holds'}", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(work, cells(options)))
    print_cells(records)
    return 1 if any(map(broken, records)) else 0


if __name__ == "__main__":
    sys.exit(main())
