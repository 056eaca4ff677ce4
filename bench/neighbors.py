"""Compares k-NN searches by recall, seconds and peak bytes: ours, cuVS NN-descent and pynndescent alternate in one process, on the
same rows.

    python bench/neighbors.py --data X.npy|X_indices.npy [--features D] --cases packed@1 packed@0.95 pynndescent [--runs 3]
    python bench/neighbors.py --make like --rows 3000000 [--features D] [--pairs] [--like FOLDER] --device cuda
        --budget 40GB --cases cuda@0.98 cuda@0.95 nn-descent --seconds 540
    python bench/neighbors.py --make clusters --rows 3000000 --features 3072 --active 32 ...
    python bench/neighbors.py --plot

See searches.py for the cases. Searches that compile run once before, on a few thousand rows. Seconds are of the search alone, from
input that is ready: for ours, rows that were read once (sparse ones are kept as CSR, dense ones are read again from their file); for
the others, a float32 or CSR matrix in memory. `prepare_seconds` is the time to get there. Recall is that of a row's n_neighbors - 1
other neighbours, on sampled rows, by exact ranks among all rows. Bytes are peaks, sampled by another process: RssAnon above that
before the case and its input, and what the driver counts for the process on the GPU, context included. A case that would end after
--seconds does not start. Each case becomes a line of --out.
"""

import argparse
import ctypes
import gc
import hashlib
import importlib
import json
import sys
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from cases import DEBIAN, made, width_of
from measures import others_of, skip
from results import RESULTS, facts, print_table
from searches import PEERS, Search, Setting, csr_bytes, few_rows, open_setting, prepare, why_not

from streamumap import quality
from streamumap.errors import StreamUMAPError
from streamumap.machine import gpu, memory
from streamumap.planning.overheads import CONTEXT_BYTES
from streamumap.run import dispatch

SAMPLE_ROWS = 1_000
SEED = 7
MEASURES = ("seconds", "cpu_seconds", "recall", "host_bytes", "device_bytes")


@dataclass
class Case:
    """A prepared search. `runs` has the MEASURES of each run, `input_bytes` the size of its input in memory."""

    name: str
    search: Search
    prepare_seconds: float
    input_bytes: int
    runs: list[dict] = field(default_factory=list)


class Bench:
    """Runs the cases of one setting."""

    def __init__(self, setting: Setting, deadline: float):
        self.setting, self.deadline = setting, deadline
        self.sample = quality.sample_rows(setting.rows.original.n_rows, SAMPLE_ROWS, SEED)
        self.recalls: dict[str, float] = {}
        self.watch = memory.Watch(setting.machine.device)

    def close(self) -> None:
        self.watch.close()

    def warm(self, names: list[str]) -> None:
        few = few_rows(self.setting)
        for name in names:
            started = time.perf_counter()
            prepare(name, few, warm=True)()
            print(f"{name}: warm after {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
        if self.setting.machine.device:  # measuring the recall also compiles
            dispatch.count_closer(few.rows, few.plan()[0], np.arange(8), np.zeros((8, 1), int))

    def ready(self, name: str) -> Case:
        before, started = memory_in_use(), time.perf_counter()
        search = prepare(name, self.setting)
        seconds = time.perf_counter() - started
        own = max(0, memory_in_use() - before) if name in PEERS else csr_bytes(self.setting)
        return Case(name, search, seconds, own)

    def run(self, case: Case) -> None:
        gpu.release()
        before = memory_in_use()
        self.watch.lap()
        started, cpu = time.perf_counter(), time.process_time()
        found = case.search()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        host, device = self.watch.lap()
        recall = self.recall(others_of(found, self.sample, self.setting.k))
        case.runs.append(
            dict(zip(MEASURES, (seconds, cpu, recall, case.input_bytes + max(0, host - before), device), strict=True))
        )
        print(f"{case.name}: {seconds:.2f} s, {cpu:.2f} CPU s, recall {recall:.4f}", file=sys.stderr, flush=True)

    def recall(self, others: np.ndarray) -> float:
        """The recall of lists of neighbours; equal lists are measured only once."""
        key = hashlib.blake2b(others.tobytes()).hexdigest()
        if key not in self.recalls:
            s = self.setting
            ranks = dispatch.count_closer(s.rows, s.plan()[0], self.sample, others)
            self.recalls[key] = quality.recall(ranks, others)
        return self.recalls[key]

    def all(self, names: list[str], runs: int) -> list[Case]:
        """Runs the cases in alternation, until all are done or the time is up."""
        cases: list[Case] = []
        for number in range(runs):
            for place, name in enumerate(names):
                last = cases[place].runs[-1]["seconds"] if number and place < len(cases) else 0.0
                if time.monotonic() + last > self.deadline:
                    print(f"the time is up before run {number + 1} of {name}", file=sys.stderr, flush=True)
                    return cases
                if number == 0:
                    cases.append(self.ready(name))
                self.run(cases[place])
        return cases


def memory_in_use() -> int:
    """RssAnon after free memory went back to the system, so that a case cannot reuse the memory of another."""
    gc.collect()
    with suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    return memory.anonymous_bytes()


def make(options: argparse.Namespace) -> Path:
    """Makes the rows with tools/make_data.py in --scratch, unless they exist."""
    options.features = options.features or width_of(options.like)
    sizes = options.rows, options.features, options.active, options.pairs
    return made(options.make, *sizes, options.like, options.scratch, options.device)


def record(case: Case, setting: Setting, options: argparse.Namespace) -> dict:
    """One line: medians, the largest bytes, and each run."""
    name, _, recall = case.name.partition("@")
    source, found = setting.rows.original, setting.rows.found
    values = {key: (max if key.endswith("bytes") else median)([run[key] for run in case.runs]) for key in MEASURES}
    return {
        "case": case.name,
        "system": name if name in PEERS else "streamumap",
        "backend": name,
        "asked_recall": float(recall) if recall else None,
        **values,
        "runs": case.runs,
        "prepare_seconds": setting.read_seconds if name not in PEERS else case.prepare_seconds,
        "parameters": {
            "data": options.name, "rows": source.n_rows, "features": source.n_features, "dtype": source.dtype, "density": found.density,
            "metric": setting.metric, "n_neighbors": setting.k, "sample_rows": SAMPLE_ROWS, "seed": SEED,
            "budget": options.budget, "plan": setting.plan(name, float(recall or 0.95))[0]["neighbors"].blocks if name not in PEERS else None,
        },
        **facts(),
    }  # fmt: skip


def write(records: list[dict], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in records)
    header = ["case", "seconds", "CPU s", "recall", "host GB", "device GB", "runs"]
    print_table(
        header,
        [
            [
                r["case"],
                f"{r['seconds']:.2f}",
                f"{r['cpu_seconds']:.2f}",
                f"{r['recall']:.4f}",
                f"{r['host_bytes'] / 1e9:.2f}",
                f"{r['device_bytes'] / 1e9:.2f}",
                str(len(r["runs"])),
            ]
            for r in records
        ],
    )


def measure(options: argparse.Namespace) -> None:
    """Runs all cases that can run here and writes their lines."""
    deadline = time.monotonic() + options.seconds
    if any(name.partition("@")[0] in ("cuvs", "nn-descent") for name in options.cases):
        with suppress(ImportError):
            importlib.import_module("cuvs.neighbors.all_neighbors")  # before torch, whose libraries may be older
    path = make(options) if options.make else options.data
    if not path.exists():
        skip(f"{path} is missing")
    options.name = path.parent.name if path.stem == "topk_indices" else path.stem.removesuffix("_indices")
    try:
        setting = open_setting(
            str(path), options.features, options.metric, options.n_neighbors, options.device, options.budget
        )
    except StreamUMAPError as error:
        skip(str(error))
    if setting.machine.device:
        gpu.cap(setting.machine.device.label, (setting.budget.device_bytes or 0) - CONTEXT_BYTES)
    names = []
    for name in options.cases:
        reason = why_not(name, setting)
        print(f"{name} is skipped: {reason}", file=sys.stderr) if reason else names.append(name)
    cases: list[Case] = []
    with closing(Bench(setting, deadline)) as bench:
        bench.warm(names)
        cases = bench.all(names, options.runs)
    write([record(case, setting, options) for case in cases if case.runs], options.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=DEBIAN / "topk_indices.npy", help="rows or TopK pairs [%(default)s]"
    )
    parser.add_argument("--make", choices=["clusters", "like"], help="make the rows instead")
    parser.add_argument("--rows", type=int, help="rows to --make")
    parser.add_argument("--features", type=int, help="features to --make; the width of pairs of --data")
    parser.add_argument("--active", type=int, help="non-zero values a row, for --make clusters")
    parser.add_argument("--pairs", action="store_true", help="TopK pairs instead of dense rows, for --make like")
    parser.add_argument("--like", type=Path, default=DEBIAN, help="the rows that --make like imitates [%(default)s]")
    parser.add_argument(
        "--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where rows are made [%(default)s]"
    )
    parser.add_argument("--cases", nargs="+", default=["packed@1", "packed@0.95", "pynndescent"])
    parser.add_argument("--metric", default="cosine", choices=["cosine", "euclidean"])
    parser.add_argument(
        "--n-neighbors", type=int, default=15, help="neighbours of a row, itself included [%(default)s]"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--budget", help="as for streamumap embed [80%% of free memory]")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1e9, help="start no search that would end later")
    parser.add_argument("--out", type=Path, default=RESULTS / "neighbors.jsonl")
    parser.add_argument("--plot", action="store_true", help="draw --out as a .png beside it, and measure nothing")
    options = parser.parse_args()
    if options.plot:
        from draw_neighbors import draw

        print(draw(options.out))
        return
    if options.make and not (options.rows and (options.make == "like" or (options.features and options.active))):
        parser.error("--make like needs --rows, --make clusters --rows, --features and --active")
    measure(options)


if __name__ == "__main__":
    main()
