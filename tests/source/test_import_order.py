"""The folders of `streamumap/source` import one way and load no compute library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "streamumap" / "source"

# A folder, or a file beside the folders, imports from the lines above its own only.
ORDER = """
    base checks reading
    file pieces
    sparse
    formats
    views sae
    scan
    opening
    __init__
"""
LINE_OF = {name: number for number, line in enumerate(ORDER.splitlines()) for name in line.split()}


def imported(path):
    """The folders and files of `source` that a module imports from, function bodies included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("streamumap.source"):
            names = node.module.split(".")[2:3]
            yield from names or [alias.name for alias in node.names]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path):
    here = path.relative_to(SOURCE).with_suffix("").parts[0]
    upward = [name for name in imported(path) if name != here and LINE_OF[name] >= LINE_OF[here]]
    assert upward == []


def test_import_stays_light():
    code = "import sys, streamumap.source, streamumap.writer.activation_writer; print({'torch', 'numba'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "set()"
