import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_damaged_inputs_are_read_or_refused():
    """The tool itself ends with 1 for anything else."""
    kinds = ["npy", "safetensors", "npz", "list", "beside", "csc", "coo"]
    command = [sys.executable, ROOT / "tools" / "fuzz.py", *kinds, "--runs", "400"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["runs"] for line in found] == [400] * len(kinds)
    assert all(line["read"] and line["refused"] for line in found)
