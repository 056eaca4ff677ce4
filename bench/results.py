"""Writes measured records to bench/results, a JSON line each, reads them, and shows them as tables."""

import json
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tree import ROOT

from streamumap.machine import memory

RESULTS = ROOT / "bench" / "results"
PACKAGES = (
    "streamumap",
    "numpy",
    "scipy",
    "numba",
    "torch",
    "triton",
    "umap-learn",
    "pynndescent",
    "cuml-cu13",
    "cuvs-cu13",
    "fastumap",
    "torchdr",
)
"""Packages whose versions a record names."""


def facts() -> dict[str, Any]:
    """The date, commit, machine and versions of a measurement."""
    changed = _git("status", "--porcelain", "--", "streamumap", "bench", ":!bench/results")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") + ("+" if changed else ""),
        "machine": {"cpu": _cpu(), "cores": memory.n_cores(), "gpu": [device.name for device in memory.devices()]},
        "versions": {"python": platform.python_version()}
        | {name: version for name in PACKAGES if (version := _version(name))},
    }


def append(name: str, record: dict[str, Any], folder: Path = RESULTS) -> None:
    """Appends one line to NAME.jsonl in bench/results or another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def lines_of(name: str) -> list[dict]:
    """All records of bench/results/NAME.jsonl, in order."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head, body = list(header), [list(line) for line in lines]
    if not body:
        return "Not measured yet."
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def print_table(header: list[str], lines: list[list[str]]) -> None:
    """Prints a table with aligned columns."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    for line in [header, *lines]:
        print(
            "  ".join(
                [
                    line[0].ljust(widths[0]),
                    *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)),
                ]
            )
        )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
