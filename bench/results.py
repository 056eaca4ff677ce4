"""Lines of bench/results, and tables of them as Markdown."""

import json
from collections.abc import Iterable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def lines_of(name: str) -> list[dict]:
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head, body = list(header), [list(line) for line in lines]
    if not body:
        return "Not measured yet."
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
