"""Runs `streamumap embed` in a control group with less memory than the file has bytes: does it see the limit, keep it and finish?

    python bench/cgroup.py FILE.npy [--budget 1GB] [--metric cosine] [--scratch DIR] [--out DIR]

Start it in such a group, with `systemd-run --scope -p MemoryMax=2G -p MemorySwapMax=0 python bench/cgroup.py ...`, `docker run -m 2g ...`
or, without systemd, as root in a group below your own (here of version 1):

    group=/sys/fs/cgroup/memory$(grep :memory: /proc/self/cgroup | cut -d: -f3)/wide
    mkdir $group && echo 2000000000 > $group/memory.limit_in_bytes
    sh -c "echo \\$\\$ > $group/cgroup.procs; exec python bench/cgroup.py wide.npy"; rmdir $group

This makes 10 GB of rows in a minute (DATA is a folder as tools/make_data.py needs it):

    python tools/make_data.py like DATA wide.npy --features 12288 --rows 410000

Without --budget the run finds its limit by itself. The result is a line of cgroup.jsonl in --out (bench/results), with the fields of a
cell of budgets.jsonl and the limit and peak of the group, page cache included. Exit code 1 means that a limit or prediction did not hold.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from budgets import broken, of_run, shares
from results import RESULTS, append, facts
from tree import ROOT

from streamumap.machine.limits import Limit, host_limits
from streamumap.machine.memory import format_bytes

PEAKS = ("memory.max_usage_in_bytes", "memory.peak")
"""Files with the peak memory of a control group of version 1 and 2, in its folder."""


def least_limit(n_bytes: int) -> Limit:
    """The control group with the least memory. Exits if there is none or if it holds `n_bytes`."""
    groups = [limit for limit in host_limits() if Path(limit.name).is_absolute()]
    least = min(groups, key=lambda limit: limit.n_bytes, default=None)
    if least is None or least.n_bytes >= n_bytes:
        found = "none" if least is None else f"{least.name} with {format_bytes(least.n_bytes)}"
        sys.exit(f"expected a control group with less memory than {format_bytes(n_bytes)}, found {found}; see --help.")
    return least


def peak_of(limit: Limit) -> int | None:
    """The peak bytes of the group, None if the system does not report them."""
    paths = [Path(limit.name).with_name(name) for name in PEAKS]
    return next((int(path.read_text()) for path in paths if path.exists()), None)


def measured(options: argparse.Namespace, limit: Limit) -> dict[str, Any]:
    """Runs once and returns the record."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        command = ["embed", str(options.file), "--device", "cpu", "--metric", options.metric, "--json", "-q"]
        command += ["--out", f"{folder}/run", *(["--budget", options.budget] if options.budget else [])]
        done = subprocess.run(
            [sys.executable, "-m", "streamumap.cli", *command], cwd=ROOT, capture_output=True, text=True
        )
    record = {
        "file": options.file.name, "file_bytes": options.file.stat().st_size, "limit_bytes": limit.n_bytes,
        "group_peak_bytes": peak_of(limit), "budget": options.budget, "device": "cpu", "exit_code": done.returncode,
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return record | {"said": said[-1] if said else ""}
    run = json.loads(done.stdout)
    budget_bytes = run["budget"]["host_bytes"]
    return record | {"rows": run["input"]["rows"], "budget_bytes": budget_bytes} | of_run(run, budget_bytes, "cpu")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--budget")
    parser.add_argument("--metric", default="cosine")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.file = options.file.resolve()
    record = measured(options, least_limit(options.file.stat().st_size)) | facts()
    append("cgroup", record, options.out)
    problems = broken(record)
    if not record["exit_code"]:
        span = f"{min(shares(record))[0]:.2f} to {max(shares(record))[0]:.2f}"
        print(
            f"{record['seconds']} s, RssAnon {format_bytes(record['peak_bytes'])} of {format_bytes(record['budget_bytes'])}"
        )
        print(f"measured/predicted {span}; {'; '.join(problems) or 'holds'}")
    else:
        print("; ".join(problems) or record["said"])
    return 1 if problems or record["exit_code"] else 0


if __name__ == "__main__":
    sys.exit(main())
