"""Keeps what finished runs say of themselves: appends their run.json, without what names files, to bench/results/NAME.jsonl.

    python bench/collect.py NAME RUN_OR_JSON [RUN_OR_JSON ...]

Each line says how fast, how large and how good a run was, stage by stage, with bytes predicted and measured.
"""

import argparse
import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
KEPT = (
    "streamumap",
    "finished",
    "device",
    "versions",
    "params",
    "budget",
    "predicted_peak",
    "measured_peak",
    "seconds",
)
MEASURED = ("stages", "quality", "graph", "warnings", "reused")


def facts(path: Path) -> dict:
    """What is kept of one run."""
    run = json.loads((path / "run.json" if path.is_dir() else path).read_text())
    source = {name: run["input"][name] for name in ("name", "rows", "features", "dtype", "density")}
    return {"input": source} | {name: run[name] for name in (*KEPT, *MEASURED) if name in run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=Path)
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{arguments.name}.jsonl", "a") as out:
        for path in arguments.runs:
            record = facts(path)
            out.write(json.dumps(record) + "\n")
            stages = ", ".join(f"{s['stage']} {s['seconds']} s" for s in record["stages"])
            print(f"{record['input']['name']}: {record['seconds']} s ({stages})")


if __name__ == "__main__":
    main()
