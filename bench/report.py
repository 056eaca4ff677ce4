"""Writes the tables and plots of README.md and docs/benchmarks.md from the lines of bench/results.

    python bench/report.py            fills the text between <!-- table: NAME --> and <!-- end -->, and draws docs/bench-*.png
    python bench/report.py --check    changes nothing; lists outdated tables and plots and ends with exit code 1

tables.py makes the tables, curves.py the plots. Every figure comes from a line of bench/results.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

from curves import draw, drawn
from tables import TABLES, measured
from tree import ROOT

PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """The page with its tables made again from the results."""
    return TABLE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def stale() -> list[str]:
    """The tables and plots that are outdated."""
    out = [
        f"{page.name}: table {name}"
        for page in PAGES
        if page.exists()
        for name in _differing(page.read_text(encoding="utf-8"))
    ]
    with tempfile.TemporaryDirectory() as name:
        for path, source in draw(measured(True), Path(name)).items():
            if drawn(ROOT / "docs" / path.name) != source:
                out.append(f"docs/{path.name}")
    return out


def _differing(text: str) -> list[str]:
    now = {found[2]: found[0] for found in TABLE.finditer(filled(text))}
    return [found[2] for found in TABLE.finditer(text) if now[found[2]] != found[0]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    if parser.parse_args().check:
        if found := stale():
            print("outdated, run python bench/report.py:", *found, sep="\n  ")
            sys.exit(1)
        return
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(page)
    for path in draw(measured(True), ROOT / "docs"):
        print(path)


if __name__ == "__main__":
    main()
