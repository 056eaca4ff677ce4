"""Budgets as promises: `streamumap embed` under each budget on each file, a process a cell; its peak beside the budget, its
stages' bytes beside what was predicted.

    python bench/budgets.py FILE.npy [FILE.npy ...] --budgets 2GB 8GB 40GB [--first 300000 1000000] [--device cuda|cpu]
        [--features 12288] [--metric cosine] [--scratch DIR] [--at-once 1] [--seconds 560] [--out DIR]

On a GPU with 128 GB of host memory (a minute for the data, about eight for the 27 cells; DATA: a folder with the codes of an SAE,
as tools/make_data.py says):

    python tools/make_data.py clusters /tmp/c512.npy --features 512 --active 32 --rows 3000000 --device cuda
    python tools/make_data.py like DATA /tmp/d3072.npy --rows 3000000 --device cuda
    python tools/make_data.py like DATA /tmp/p12288.npy --features 12288 --pairs --rows 3000000 --device cuda
    python bench/budgets.py /tmp/c512.npy /tmp/d3072.npy /tmp/p12288_indices.npy --features 12288 --first 300000 1000000 \\
        --budgets 2GB 8GB 40GB --device cuda --scratch /tmp/budgets --seconds 560

`--first`: also on so many first rows of each file, which are copied to --scratch. `--features`: the width of files of pairs.
A cell is a line of budgets.jsonl in --out (bench/results) as soon as it ends: refused before any work (exit code 3), or done,
with its peak (RssAnon and pinned memory, or what the driver counts) and for each stage measured / predicted. A cell of this
commit and machine that is there is not done again, and none is begun after --seconds: the same command goes on. Seconds of
cells that ran --at-once with others are no timings; the lines say how many did. Where the driver does not tell processes
apart (in most containers), peaks of cells on one GPU would be those of all, so there --at-once is 1. Exit code 1 where a cell
broke its promise.
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
"""Stages that take less are not judged by what was predicted."""

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
    """A file of the first rows of `path`, and of the values beside it where it holds the indices of pairs."""
    out = folder / f"{n_rows}-{path.name}"
    for given, made in ((path, out), (values_of(path), values_of(out))):
        if given.exists() and not made.exists():
            np.save(made.with_suffix(".part.npy"), np.load(given, mmap_mode="r")[:n_rows])
            made.with_suffix(".part.npy").rename(made)
    return out


def values_of(path: Path) -> Path:
    return path.with_name(path.name.replace("_indices.npy", "_values.npy"))


def cells(options: argparse.Namespace) -> list[Cell]:
    """Few rows first; on each file all budgets."""
    out = []
    for path in options.files:
        n_rows = np.load(path, mmap_mode="r").shape[0]
        wanted = {n: first_rows(path, n, options.scratch) for n in options.first if n < n_rows} | {n_rows: path}
        out += [Cell(file, n, budget) for (n, file), budget in product(wanted.items(), options.budgets)]
    return sorted(out, key=lambda cell: cell.rows)


def measured(cell: Cell, options: argparse.Namespace, n_at_once: int) -> dict[str, Any]:
    """The record of one run."""
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
    """What is kept of its run.json."""
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
    """Measured / predicted of what takes LEAST_BYTES or more, with its name."""
    found = []
    for stage in record.get("stages", ()):
        for place in ("host_bytes", "device_bytes"):
            used, said = stage["measured"][place], stage["predicted"][place]
            if used >= LEAST_BYTES:
                found.append((used / max(said, 1), f"{stage['stage']} ({place.removesuffix('_bytes')})"))
    return found


def broken(record: dict[str, Any]) -> list[str]:
    """What of the promise did not hold, in words."""
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
    """Lines of this commit and machine that are there."""
    path = options.out / "budgets.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [
        r
        for r in lines
        if (r["commit"], r["machine"], r["device"]) == (here["commit"], here["machine"], options.device)
    ]


def tells_apart(device: str) -> bool:
    """Whether the driver shows a process of ours by its number."""
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
    at_once = options.at_once if options.at_once == 1 or tells_apart(options.device) else 1
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
