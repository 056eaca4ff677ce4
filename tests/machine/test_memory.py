import dataclasses
import os
import select
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamumap.errors import DoesNotFit, InputError
from streamumap.machine import limits, memory, sampler
from streamumap.machine.limits import Limit
from streamumap.machine.memory import (
    Budget,
    Device,
    Footprint,
    Machine,
    Watch,
    anonymous_bytes,
    format_bytes,
    host_free_bytes,
    machine,
    parse_bytes,
)
from streamumap.params import Params
from streamumap.planning.job import Job
from streamumap.planning.planner import make_plan
from streamumap.run.prepare import budget_for

GIB = 2**30


# Sizes as text


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("40GB", 40 * 10**9),
        ("40GiB", 40 * GIB),
        ("512 MB", 512 * 10**6),
        ("1.5gib", GIB + GIB // 2),
        (" 2TB ", 2 * 10**12),
        ("2TiB", 2 * 2**40),
        ("3MiB", 3 * 2**20),
        ("3kb", 3000),
        ("7", 7),
        (7, 7),
        ("7B", 7),
        ("0.5KiB", 512),
        ("1.001KB", 1001),
    ],
)
def test_sizes(text, n_bytes):
    assert parse_bytes(text) == n_bytes


@given(st.integers(1, 2**62))
def test_a_number_of_bytes_is_that_number(n_bytes):
    assert parse_bytes(n_bytes) == parse_bytes(str(n_bytes)) == n_bytes


@given(st.decimals("0.001", 99999, places=3), st.sampled_from(sorted(memory.UNITS)), st.sampled_from(["", " "]))
def test_a_size_is_its_number_times_its_unit(number, unit, blank):
    text = f"{number:f}{blank}{unit}"
    exact = int(Decimal(number) * memory.UNITS[unit])
    if exact:
        assert parse_bytes(text) == parse_bytes(text.lower()) == exact
    else:
        with pytest.raises(InputError):
            parse_bytes(text)


NO_SIZES = [
    "",
    "GB",
    "-5GB",
    "0",
    "0GB",
    "0.4",
    "1e9",
    "40 XB",
    "40G B",
    "1,000MB",
    "1_000",
    "nan",
    "inf",
    "40GB 1",
    "0x10",
    None,
    True,
]


@pytest.mark.parametrize("text", [*NO_SIZES, pytest.param("9" * 400, id="400 digits")])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="^--host-budget: expected a size .*, found .*; write it so"):
        parse_bytes(text, "--host-budget")


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_refused(text):
    try:
        assert parse_bytes(text) >= 1
    except InputError as error:
        assert repr(text) in str(error)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (391_164_032, "391 MB"),
        (999_499, "999 KB"),
        (999_500, "1 MB"),
        (12_340, "12.3 KB"),
        (40 * 10**9, "40 GB"),
        (2 * 10**15, "2000 TB"),
    ],
)
def test_sizes_as_text(n_bytes, text):
    assert format_bytes(n_bytes) == text


@given(st.integers(1, 10**15))
def test_text_of_a_size_is_read_back_to_three_digits(n_bytes):
    text = format_bytes(n_bytes)
    assert len(text) <= len("999 MB") + 1
    assert abs(parse_bytes(text) - n_bytes) <= 0.0051 * n_bytes


@pytest.mark.parametrize("value", [Footprint(1, 2, 3), Budget(1), Machine(1, 2), Device(0, "GPU", 2, 1)])
def test_data_is_frozen(value):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, 5)


# What the machine has


def fake_driver(n_gpus, processes=()):
    """Stands for pynvml, with numbers as handles."""
    return SimpleNamespace(
        NVMLError=type("NVMLError", (Exception,), {}),
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: n_gpus,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}{handle}".encode(),
        nvmlDeviceGetName=lambda handle: f"Fake {handle}".encode(),
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=(handle + 1) * GIB, free=GIB // 2, used=GIB // 4),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: processes,
    )


@pytest.fixture
def gpus(monkeypatch):
    """Three GPUs, and a torch that could use them."""
    monkeypatch.setitem(sys.modules, "pynvml", fake_driver(3))
    monkeypatch.setattr(memory, "_torch_has_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_cpu_alone():
    found = machine("cpu")
    assert found.device is None
    assert found.n_cores == len(os.sched_getaffinity(0))
    assert 0 < found.host_free_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_cpu_is_never_looked_past(gpus):
    assert machine("cpu").device is None


@pytest.mark.parametrize("device", ["gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda:0 ", "", "cpu:0", "mps"])
def test_a_device_of_another_name_is_refused(device, gpus):
    with pytest.raises(InputError, match="^--device: expected auto, cpu, cuda or cuda:N, found .*; choose"):
        machine(device)


def test_a_gpu_that_torch_cannot_use_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "_torch_has_cuda", lambda: False)
    with pytest.raises(
        InputError, match="^--device: expected a GPU 'cuda', found none .*CPU build.*; use --device cpu"
    ):
        machine("cuda")
    assert machine("auto").device is None


@pytest.mark.parametrize(("device", "number"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_the_gpu_that_is_meant(device, number, gpus):
    assert machine(device).device == Device(number, f"Fake {number}", (number + 1) * GIB, GIB // 2)
    assert machine(device).device.label == f"cuda:{number}"


def test_a_gpu_that_is_not_there_is_refused(gpus):
    with pytest.raises(InputError, match="'cuda:3', found none .the driver reports 3 GPUs"):
        machine("cuda:3")


@pytest.mark.parametrize(
    ("visible", "names"), [("2,0", ["Fake 2", "Fake 0"]), ("GPU-11", ["Fake 1"]), ("", []), ("-1", [])]
)
def test_gpus_are_numbered_as_torch_numbers_them(visible, names, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [(d.number, d.name) for d in memory.devices()] == list(enumerate(names))


def test_handles_of_the_gpus_that_cuda_shows(gpus, monkeypatch):
    assert memory.visible_handles() == [0, 1, 2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", " 1 , 7, 0")
    assert memory.visible_handles() == [1]


def test_a_driver_that_does_not_answer_is_no_gpu(gpus, monkeypatch):
    def fail():
        raise sys.modules["pynvml"].NVMLError

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", fail)
    assert machine("auto").device is None


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [
        ("max", "5000", 8192 * 1024),
        ("6000000", "5000000", 1000000),
        ("5000", "6000", 0),
        ("99999999", "0", 8192 * 1024),
    ],
)
def test_a_control_group_limits_what_is_free(limit, used, free, monkeypatch):
    files = {
        "/proc/meminfo": ["MemTotal: 9999 kB", "MemAvailable: 8192 kB"],
        "/sys/fs/cgroup/memory.max": [limit],
        "/sys/fs/cgroup/memory.current": [used],
    }
    monkeypatch.setattr(limits, "lines_of", lambda path: files.get(path, []))
    assert host_free_bytes() == free


@pytest.mark.parametrize(
    ("group", "folder"),
    [
        ("0::/job/step", "/sys/fs/cgroup/job"),
        ("0::/job/step", "/sys/fs/cgroup/job/step"),
        ("0::/", "/sys/fs/cgroup"),
        ("3:cpu:/x\n4:memory,hugetlb:/job", "/sys/fs/cgroup/memory/job"),
        ("4:memory:/docker/of/the/host", "/sys/fs/cgroup/memory"),
    ],
)
def test_a_control_group_above_limits_as_well(group, folder, monkeypatch):
    names = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes") if "/memory" in folder else ("memory.max", "memory.current")
    )
    files = {
        "/proc/meminfo": ["MemAvailable: 8192 kB"],
        "/proc/self/cgroup": group.split("\n"),
        f"{folder}/{names[0]}": ["6000000"],
        f"{folder}/{names[1]}": ["5000000"],
        f"{folder}/memory.stat": ["anon 7", "inactive_file 400000"],
    }
    monkeypatch.setattr(limits, "lines_of", lambda path: files.get(path, []))
    assert host_free_bytes() == 1_400_000
    assert limits.host_limits()[1] == Limit(f"{folder}/{names[0]}", 6_000_000, 1_400_000)


@pytest.mark.parametrize(
    "lines",
    [
        ["file 900000", "active_file 500000", "inactive_file 200000", "file_mapped 100000", "pgfault 7"],
        ["active_file 1", "inactive_file 1", "mapped_file 1"]
        + ["total_active_file 500000", "total_inactive_file 200000", "total_mapped_file 100000"],
    ],
    ids=["v2", "v1"],
)
def test_page_cache_of_a_control_group_is_free_but_for_what_is_mapped(lines, monkeypatch):
    files = {
        "/proc/meminfo": ["MemAvailable: 8192 kB"],
        "/sys/fs/cgroup/memory.max": ["6000000"],
        "/sys/fs/cgroup/memory.current": ["5900000"],
        "/sys/fs/cgroup/memory.stat": lines,
    }
    monkeypatch.setattr(limits, "lines_of", lambda path: files.get(path, []))
    assert host_free_bytes() == 100_000 + 600_000


@pytest.mark.parametrize(
    ("variables", "name", "n_bytes"),
    [
        ({"SLURM_MEM_PER_NODE": "2048"}, "SLURM_MEM_PER_NODE", 2 * GIB),
        ({"SLURM_MEM_PER_NODE": "2G"}, "SLURM_MEM_PER_NODE", 2 * GIB),
        ({"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "4"}, "SLURM_MEM_PER_CPU x SLURM_CPUS_ON_NODE", 2 * GIB),
        ({"SLURM_MEM_PER_NODE": "0"}, None, 0),
        ({"SLURM_MEM_PER_CPU": "512"}, None, 0),
        ({"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "4(x2)"}, None, 0),
        ({"SLURM_MEM_PER_NODE": "all"}, None, 0),
    ],
    ids=str,
)
def test_slurm_limits_a_job(variables, name, n_bytes, monkeypatch):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    found = [limit for limit in limits.host_limits() if limit.name.startswith("SLURM")]
    assert [(limit.name, limit.n_bytes) for limit in found] == ([(name, n_bytes)] if name else [])
    assert all(0 < limit.free_bytes < n_bytes and host_free_bytes() <= limit.free_bytes for limit in found)


# The least of all is the cap


GB = 10**9


@pytest.mark.parametrize(
    ("budget", "host_budget", "limit", "host_bytes", "limited_by"),
    [
        ("4GB", None, 16 * GB, 4 * GB, "--budget"),
        ("4GB", "3GB", 16 * GB, 3 * GB, "--host-budget"),
        ("4GB", "5GB", 16 * GB, 4 * GB, "--budget"),
        (None, "3GB", 16 * GB, 3 * GB, "--host-budget"),
        (None, None, 16 * GB, 8 * GB, "--budget"),
        ("40GB", "30GB", 16 * GB, 15 * GB, "SLURM_MEM_PER_NODE"),
    ],
)
@pytest.mark.parametrize("gpu", [False, True])
def test_the_host_is_held_to_the_least(budget, host_budget, limit, host_bytes, limited_by, gpu, monkeypatch):
    monkeypatch.setattr(memory, "anonymous_bytes", lambda: GB)
    device = Device(0, "Fake", 80 * GB, 50 * GB) if gpu else None
    found = Machine(2, 10 * GB, device, (Limit("SLURM_MEM_PER_NODE", limit, limit),))
    made = budget_for(found, budget, host_budget)
    if gpu:
        assert made.device_bytes == (parse_bytes(budget) if budget else 40 * GB)
        assert made.host_option in ("--host-budget", "SLURM_MEM_PER_NODE")
        assert made.host_bytes == min(parse_bytes(host_budget) if host_budget else 8 * GB, 15 * GB)
    else:
        assert made == Budget(host_bytes, None, limited_by)


def test_a_refusal_names_what_limits():
    for limited_by in ("--host-budget", "SLURM_MEM_PER_NODE"):
        with pytest.raises(DoesNotFit, match=f"^{limited_by}: 1 MB cannot hold this job, the smallest that can is"):
            make_plan(Job(1000, 10, "float32"), Params(), Budget(10**6, None, limited_by), Machine(2, GB))


# What the process uses


@pytest.fixture
def watched():
    watched = Watch()
    watched.lap()
    yield watched
    watched.close()


def spike(n_bytes):
    """Takes memory and frees it, with many periods of the watch before and after."""
    block = np.ones(n_bytes, np.uint8)
    time.sleep(0.3)
    del block
    time.sleep(0.1)


def test_anonymous_memory_is_counted_and_files_are_not(tmp_path):
    (tmp_path / "file").write_bytes(bytes(50_000_000))
    before = anonymous_bytes()
    mapped = np.memmap(tmp_path / "file", np.uint8, "r")
    assert mapped.sum() == 0 and anonymous_bytes() - before < 20_000_000
    block = np.ones(100_000_000, np.uint8)
    assert 95_000_000 < anonymous_bytes() - before < 130_000_000 and len(block)


def test_a_process_that_is_not_there_has_no_memory():
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    assert anonymous_bytes(int(child.stdout)) == 0


def test_a_peak_that_was_freed_is_seen_in_its_lap_and_not_in_the_next(watched):
    before = anonymous_bytes()
    spike(200_000_000)
    host_bytes, device_bytes = watched.lap()
    assert 190_000_000 < host_bytes - before < 300_000_000 and device_bytes == 0
    assert watched.lap()[0] - before < 100_000_000
    assert watched.lap()[0] > 1_000_000


def test_the_watch_ends_when_it_is_closed():
    watched = Watch()
    watched.close()
    assert watched._child.returncode == 0


@pytest.mark.parametrize(
    "end",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        # A worker forked from the process keeps the watch's input open, so only the process's own end tells.
        "os.fork() and os._exit(1); os.close(1); os.close(2); os.read(0, 1)",
    ],
)
def test_the_watch_ends_when_its_process_dies(end):
    code = f"import os, signal\nfrom streamumap.machine.memory import Watch\nwatch = Watch()\nprint('watched', flush=True)\n{end}"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout.readline() == b"watched\n"
        process.wait(10)
        # The watch shares the process's standard error: its end is seen there once nobody has it open.
        assert select.select([process.stderr], [], [], 10)[0] and process.stderr.read() == b""


def test_nothing_in_the_working_directory_is_run(tmp_path):
    (tmp_path / "select.py").write_text("open('canary', 'w').close()")
    code = "from streamumap.machine.memory import Watch; Watch().close()"
    paths = os.environ | {"PYTHONPATH": str(Path(memory.__file__).parent.parent.parent)}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=paths, capture_output=True, text=True)
    assert not (tmp_path / "canary").exists() and (done.returncode, done.stderr) == (0, "")


GPU_PROCESSES = [
    ([SimpleNamespace(pid=8, usedGpuMemory=200), SimpleNamespace(pid=7, usedGpuMemory=100)], 100),
    ([SimpleNamespace(pid=7, usedGpuMemory=None)], 5000),
    ([SimpleNamespace(pid=8, usedGpuMemory=200)], 5000),
]


@pytest.mark.parametrize(("processes", "n_bytes"), GPU_PROCESSES)
def test_device_memory_of_one_process(processes, n_bytes, gpus, monkeypatch):
    driver = fake_driver(3, processes)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    device = sampler.DeviceMemory(7, 1)
    driver.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(used=GIB // 4 + 5000)
    assert device.now() == n_bytes


def test_device_memory_is_never_negative(gpus, monkeypatch):
    device = sampler.DeviceMemory(7, 0)
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetMemoryInfo", lambda handle: SimpleNamespace(used=0))
    assert device.now() == 0


def test_the_gpu_that_is_watched_is_the_one_that_cuda_means(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    asked = []
    monkeypatch.setattr(
        sys.modules["pynvml"], "nvmlDeviceGetComputeRunningProcesses", lambda handle: asked.append(handle) or []
    )
    sampler.DeviceMemory(7, 0).now()
    assert asked == [2]
