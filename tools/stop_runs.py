"""Stops or kills runs at random moments, continues them, and compares their files with those of uninterrupted runs.

    python tools/stop_runs.py --device cuda --runs 50 --at-once 8              SIGTERM: expects exit 75, times the exit
    python tools/stop_runs.py --signal KILL --runs 200 --every-unit            SIGKILL; every unit is saved as it ends
    python tools/stop_runs.py --signal KILL --boundaries                       SIGKILL before and after each unit is saved

Prints a line for each run. Ends with exit code 1 if a run did not continue to the same bytes, or repeated more than one saved
unit. On a CPU, runs are forked from a process that has already imported everything.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
FILES = ("embedding.npy", "embedding.parquet", "knn_indices.npy", "knn_distances.npy")
RUN = """
import os, signal, sys
from streamumap import cli
from streamumap.store import saved_checkpoint
every, boundary = sys.argv[1] == "1", int(sys.argv[2])
if every:
    saved_checkpoint.SAVE_SECONDS = 0
if boundary:
    done, count = saved_checkpoint.SavedCheckpoint.done, 0
    def counted(*args, **kwargs):
        global count
        count += 1
        if count * 2 - 1 == boundary:
            os.kill(os.getpid(), signal.SIGKILL)
        done(*args, **kwargs)
        if count * 2 == boundary:
            os.kill(os.getpid(), signal.SIGKILL)
    saved_checkpoint.SavedCheckpoint.done = counted
sys.argv[1:] = sys.argv[3:]
cli.main()
"""
READY = """
import os, sys
import numba, pyarrow.parquet, scipy.sparse, scipy.spatial, scipy.linalg, scipy.optimize, matplotlib.figure
import matplotlib.backends.backend_agg
from streamumap import cli, engine
from streamumap.graph import build
from streamumap.layout import cpu
from streamumap.layout.init import levels, levels_cpu
from streamumap.neighbors.dense import search as dense
from streamumap.neighbors.sparse import search as sparse
from streamumap.show import png, table
for line in sys.stdin:
    number, arguments = line.split(" ", 1)
    child = os.fork()
    if child == 0:
        os.setsid()
        log = os.open(number, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(log, 1), os.dup2(log, 2), os.close(0)
        sys.argv = ["streamumap", *eval(arguments)]
        exec(RUN)
        os._exit(0)
    number = sys.stdin.readline()  # the child's id is not reused before waitpid
    if int(number):
        os.kill(child, int(number))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass(frozen=True)
class Setting:
    command: list[str]
    folder: Path
    every_unit: bool
    forks: bool


class Starter:
    """Starts one run at a time, forked where possible. `wait` returns its exit code."""

    def __init__(self, setting: Setting, number: int):
        self.setting, self.log = setting, setting.folder / f"log-{number}"
        self.zygote = None
        if setting.forks:
            code = f"RUN = {RUN!r}\n{READY}"
            self.zygote = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )

    def start(self, out: Path, boundary: int = 0) -> None:
        arguments = [str(int(self.setting.every_unit)), str(boundary), *self.setting.command, "-o", str(out)]
        if self.zygote:
            self.zygote.stdin.write(f"{self.log} {arguments!r}\n")
            self.zygote.stdin.flush()
            return
        with open(self.log, "w") as log:
            command = [sys.executable, "-c", RUN, *arguments]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())

    def wait(self, number: int = 0) -> int:
        """Sends signal `number`, if any, and returns the exit code."""
        if not self.zygote:
            if number:
                self.process.send_signal(number)
            return self.process.wait()
        self.zygote.stdin.write(f"{number}\n")
        self.zygote.stdin.flush()
        return int(self.zygote.stdout.readline())

    def said(self) -> str:
        return self.log.read_text().strip().splitlines()[-1] if self.log.read_text().strip() else ""

    def close(self) -> None:
        if self.zygote:
            self.zygote.stdin.close()
            self.zygote.wait()


def environment() -> dict:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def hashes(out: Path) -> list[str]:
    return [hashlib.blake2b((out / name).read_bytes()).hexdigest() for name in FILES]


def saved_units(out: Path) -> int:
    """Counts the saved units in the run's log."""
    lines = (out / "run.log").read_text().splitlines() if (out / "run.log").exists() else []
    return sum(json.loads(line)["event"] == "unit" for line in lines if line.endswith("}"))


def whole_run(starter: Starter, out: Path) -> float:
    started = time.monotonic()
    starter.start(out)
    code = starter.wait()
    assert code == 0, f"an uninterrupted run ended with {code}: {starter.said()}"
    return time.monotonic() - started


def one(starter: Starter, out: Path, number: int, after: float, boundary: int, expected: tuple) -> dict:
    """Starts a run, stops it and continues it. Returns what happened."""
    starter.start(out, boundary)
    time.sleep(0 if boundary else after)
    asked = time.monotonic()
    found = {"code": starter.wait(0 if boundary else number)}
    found["exit_seconds"] = 0.0 if boundary else round(time.monotonic() - asked, 2)
    found["said"] = starter.said()
    found["saved"], finished = saved_units(out), (out / "run.json").exists()
    starter.start(out)
    found["then"] = starter.wait()
    same = found["then"] == 0 and hashes(out) == expected[0]
    found["again"] = 0 if finished else saved_units(out) - expected[1]  # a finished run has removed its checkpoints
    found["good"] = (
        same and found["code"] in (0, 75, -number) and (not starter.setting.every_unit or found["again"] <= 1)
    )
    shutil.rmtree(out)
    return found


def make_rows(folder: Path, n_rows: int, dense: bool) -> Path:
    """Writes clustered rows: TopK pairs with 16 of 1,024 features, or dense rows with 64."""
    generator = np.random.default_rng(0)
    if dense:
        centres = generator.normal(size=(200, 64))
        rows = centres[generator.integers(0, 200, n_rows)] + 0.5 * generator.normal(size=(n_rows, 64))
        np.save(folder / "rows.npy", rows.astype(np.float32))
        return folder / "rows.npy"
    kinds = np.argsort(generator.random((n_rows // 30 + 1, 1024)), axis=1)[:, :24]
    mine = kinds[generator.integers(0, len(kinds), n_rows)]
    kept = np.argsort(generator.random((n_rows, 24)), axis=1)[:, :16]
    np.save(folder / "rows_indices.npy", np.take_along_axis(mine, kept, 1).astype(np.uint16))
    np.save(folder / "rows_values.npy", generator.random((n_rows, 16)).astype(np.float16) + np.float16(0.1))
    return folder / "rows_indices.npy"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signal", default="TERM", choices=["TERM", "INT", "KILL"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--dense", action="store_true", help="dense rows instead of TopK pairs")
    parser.add_argument("--budget", default="4GB")
    parser.add_argument("--every-unit", action="store_true", help="save every unit instead of one every few seconds")
    parser.add_argument(
        "--boundaries", action="store_true", help="kill before and after each unit is saved instead of at random"
    )
    parser.add_argument("--options", default="", help="further options of embed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stop-runs-") as name:
        return run_all(given, Path(name))


def run_all(given: argparse.Namespace, folder: Path) -> int:
    path, n_once = make_rows(folder, given.rows, given.dense), given.at_once
    wide = [] if given.dense else ["--features", "1024"]
    options = ["--metric", "cosine", "--device", given.device, "--budget", given.budget, "-q", *given.options.split()]
    setting = Setting(
        ["embed", str(path), *wide, *options], folder, given.every_unit or given.boundaries, given.device == "cpu"
    )
    starters = [Starter(setting, number) for number in range(n_once)]
    with ThreadPoolExecutor(n_once) as pool:
        whole_run(starters[0], folder / "first")  # compiles and fills caches
        outs = [folder / f"whole-{number}" for number in range(n_once)]
        seconds = sorted(pool.map(whole_run, starters, outs))[n_once // 2]
        expected = hashes(outs[0]), saved_units(outs[0])
        assert all(hashes(out) == expected[0] for out in outs), "two uninterrupted runs differ"
        print(f"uninterrupted: {seconds:.1f} s, {expected[1]} units saved", flush=True)
        random.seed(1)
        n_runs = 2 * expected[1] if given.boundaries else given.runs
        moments = [seconds * (i + random.random()) / n_runs for i in range(n_runs)]
        random.shuffle(moments)
        number = signal.SIGKILL if given.boundaries else getattr(signal, f"SIG{given.signal}")
        found: list[dict] = []

        def work(which: int) -> None:
            for i in range(which, n_runs, n_once):
                boundary = i + 1 if given.boundaries else 0
                result = one(starters[which], folder / f"run-{i}", number, moments[i], boundary, expected)
                found.append(result)
                print(f"{i + 1}: {'unit boundary' if boundary else f'{moments[i]:.2f} s'} {result}", flush=True)

        list(pool.map(work, range(n_once)))
    for starter in starters:
        starter.close()
    stopped = [r for r in found if r["code"] != 0]
    codes = ", ".join(f"{n} x {code}" for code, n in sorted(Counter(r["code"] for r in found).items()))
    print(
        f"{sum(r['good'] for r in found)} of {len(found)} continued to the same bytes; {len(stopped)} were stopped before they ended; "
        f"exit codes {codes}; longest time to exit {max(r['exit_seconds'] for r in found):.2f} s"
        + (f"; most units repeated {max((r['again'] for r in stopped), default=0)}" if setting.every_unit else "")
    )
    return 0 if all(r["good"] for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
