"""The smallest budget that `plan` names works, and 5% under it is refused before any work."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import streamumap
from streamumap.errors import DoesNotFit
from streamumap.machine.memory import Budget, Device, Machine
from streamumap.params import Params
from streamumap.planning.job import Job
from streamumap.planning.planner import make_plan, smallest_budget

GB = 10**9
CARDS = [Machine(16, 128 * GB, Device(0, "Fake", size * GB, size * GB - GB)) for size in (16, 80, 141)]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(streamumap.__file__).parent.parent)}


def embed(path, budget_mb, init="auto"):
    command = ["embed", path, "--budget", f"{budget_mb}MB", "--init", init]
    command += ["--device", "cpu", "--n-epochs", "3", "--json", "-q"]
    return subprocess.run(
        [sys.executable, "-m", "streamumap.cli", *command], env=ENVIRONMENT, capture_output=True, text=True
    )


def named(text):
    return int(re.search(r"the smallest that can is (\d+)MB", text)[1])


def stored(path, n_rows, n_features, active):
    """float16; where `active` is given, about that many values of a row are not zero."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(n_rows, n_features)).astype(np.float16)
    if active:
        rows[random.random(rows.shape) > active / n_features] = 0
    np.save(path, rows)
    return path


@pytest.mark.parametrize(
    ("n_rows", "n_features", "active"), [(300, 3072, 32), (2_000, 512, None), (6_000, 64, None), (20_000, 1024, 16)]
)
def test_on_a_cpu(n_rows, n_features, active, tmp_path):
    path = stored(tmp_path / "rows.npy", n_rows, n_features, active)
    smallest_mb = named(embed(path, 1).stderr)
    with pytest.raises(DoesNotFit) as refused:
        streamumap.plan(path, budget="1MB", device="cpu")
    assert smallest_mb <= named(str(refused.value)), "embed looks at a few rows"
    too_small = embed(path, smallest_mb * 95 // 100)
    assert too_small.returncode == 3 and f"the smallest that can is {smallest_mb}MB" in too_small.stderr
    assert os.listdir(tmp_path) == ["rows.npy"], "said before any work"
    done = embed(path, smallest_mb)
    assert (done.returncode, done.stderr) == (0, "")
    run = json.loads(done.stdout)
    assert run["measured_peak"]["host_bytes"] <= smallest_mb * 10**6 and run["input"]["rows"] == n_rows


def test_of_a_spectral_start(tmp_path):
    path = stored(tmp_path / "rows.npy", 12_000, 32, None)
    smallest_mb = named(embed(path, 1, "spectral").stderr)
    done = embed(path, smallest_mb, "spectral")
    assert (done.returncode, done.stderr) == (0, "")
    run = json.loads(done.stdout)
    start = next(stage for stage in run["stages"] if stage["stage"] == "start")
    assert start["measured"]["host_bytes"] <= start["predicted"]["host_bytes"]
    assert run["measured_peak"]["host_bytes"] <= smallest_mb * 10**6


@pytest.mark.parametrize("machine", CARDS, ids=lambda machine: f"{machine.device.total_bytes // GB} GB")
@pytest.mark.parametrize(
    "job",
    [
        Job(300_000, 512, "float32"),
        Job(3_000_000, 3_072, "float16"),
        Job(3_000_000, 12_288, "float16", 3_000_000 * 32, sparse=True),
        Job(1_000_000, 2_048, "bfloat16", 1_000_000 * 64),
    ],
    ids=lambda job: f"{job.n_rows} x {job.n_features}",
)
def test_on_a_gpu_as_planned(job, machine):
    smallest = smallest_budget(job, Params(), machine)
    assert make_plan(job, Params(), smallest, machine).peak.device_bytes <= smallest.device_bytes <= 16 * GB
    for field, option in (("device_bytes", "--budget"), ("host_bytes", "--host-budget")):
        less = replace(smallest, **{field: getattr(smallest, field) * 95 // 100})
        with pytest.raises(DoesNotFit, match=f"^{option}: .* cannot hold this job") as refused:
            make_plan(job, Params(), less, machine)
        enough = replace(Budget(127 * GB, 15 * GB), **{field: refused.value.smallest_bytes})
        assert make_plan(job, Params(), enough, machine)
