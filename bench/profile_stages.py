"""Profiles a run: the functions of each stage by time, and separately the time between stages.

    python bench/profile_stages.py INPUT --budget 40GB --metric cosine --twice

`--twice` runs once before, so that nothing compiles in the profile. Each kernel is waited for at its launch (CUDA_LAUNCH_BLOCKING), so
that its time counts where it is called; `--overlapping` turns this off. The profile covers only the main thread, including its waits
for other threads.
"""

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tree import ROOT

from streamumap.events import StageDone, StageStarted
from streamumap.params import Params
from streamumap.request import Request
from streamumap.source import Reading

PACKAGE = str(ROOT / "streamumap")
BETWEEN = "between stages"


class Profiles:
    """Listens to a run and keeps a profile for each stage."""

    def __init__(self) -> None:
        self.of: dict[str, cProfile.Profile] = defaultdict(cProfile.Profile)
        self.seconds: dict[str, float] = defaultdict(float)
        self.now, self.since = BETWEEN, time.perf_counter()
        self.of[self.now].enable()

    def listen(self, event) -> None:
        if isinstance(event, StageStarted):
            self.turn(event.stage)
        elif isinstance(event, StageDone):
            self.turn(BETWEEN)

    def turn(self, name: str) -> None:
        self.stop()
        self.now, self.since = name, time.perf_counter()
        self.of[name].enable()

    def stop(self) -> None:
        self.of[self.now].disable()
        self.seconds[self.now] += time.perf_counter() - self.since

    def show(self, n_lines: int) -> None:
        for name, profile in self.of.items():
            print(f"\n== {name}: {self.seconds[name]:.2f} s\n   with what it calls, calls, alone")
            found = pstats.Stats(profile).stats  # type: ignore[attr-defined]
            ours = {at: costs for at, costs in found.items() if at[0].startswith(PACKAGE)}
            slowest = sorted(found, key=lambda at: -found[at][2])[: n_lines // 2]
            shown = sorted(ours, key=lambda at: -ours[at][3])[:n_lines]
            for at in [*shown, *(at for at in slowest if at not in shown)]:
                _, n_calls, alone, in_all, _ = found[at]
                if in_all > 0.005:
                    path = at[0].removeprefix(PACKAGE + "/")
                    print(f"   {in_all:8.3f} {n_calls:8,} {alone:8.3f}  {path}:{at[1]} {at[2]}")


def run(options: argparse.Namespace, folder: Path) -> Profiles:
    from streamumap import engine

    began = time.perf_counter()
    profiles = Profiles()
    reading = Reading(n_features=options.features)
    request = Request(
        options.input, Params(metric=options.metric), options.budget, device=options.device, reading=reading
    )
    report = engine.embed(request, folder, listener=profiles.listen)
    profiles.stop()
    print(f"{time.perf_counter() - began:.2f} s in all, {report['seconds']:.2f} s as the run says")
    return profiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input")
    parser.add_argument("--features", type=int, help="the width of pairs")
    parser.add_argument("--budget")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "euclidean"])
    parser.add_argument("--twice", action="store_true")
    parser.add_argument("--overlapping", action="store_true")
    parser.add_argument("--lines", type=int, default=24)
    options = parser.parse_args()
    if not options.overlapping:
        os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    began = time.perf_counter()
    import torch  # noqa: F401

    print(f"import torch: {time.perf_counter() - began:.2f} s")
    with tempfile.TemporaryDirectory() as name:
        for number in range(1 + options.twice):
            profiles = run(options, Path(name) / str(number))
    profiles.show(options.lines)


if __name__ == "__main__":
    main()
