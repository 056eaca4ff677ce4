import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import streamumap
from streamumap import cli, demo, quality
from streamumap.machine import memory
from streamumap.params import Params

ROOT = str(Path(cli.__file__).parent.parent.parent)
COMMANDS = ["embed", "plan", "inspect", "render", "view", "export", "demo", "doctor"]
FAST = ["--budget", "2GB", "--device", "cpu", "--n-epochs", "15"]
CODES = demo.dense(demo.load())


@pytest.fixture
def call(capsys, monkeypatch):
    """call("embed", ...): exit code, standard output, standard error."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["streamumap", *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        return SimpleNamespace(code=code, **dict(zip(("out", "err"), capsys.readouterr(), strict=True)))

    return call


@pytest.fixture
def refused(call):
    """refused(code, ...): what is said, one line without a traceback and nothing on standard output."""

    def refused(code, *args):
        done = call(*args)
        last = done.err.splitlines()[-1] if done.err else ""
        assert (done.code, done.out) == (code, ""), done
        assert (
            last.startswith("streamumap: ")
            and (last.endswith(".") or "python -c" in last)
            and "Traceback" not in done.err
        )
        assert done.err.count("streamumap: ") == 1
        return last.removeprefix("streamumap: ")

    return refused


@pytest.fixture
def rows(tmp_path):
    """rows(array) -> path of a .npy file."""

    def save(array=CODES[:400:2], name="rows.npy"):
        np.save(tmp_path / name, array)
        return tmp_path / name

    return save


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 300 rows and the result of its command."""
    folder = tmp_path_factory.mktemp("finished")
    np.save(folder / "a.npy", CODES[:300])
    done = process("embed", folder / "a.npy", *FAST, "--metric", "cosine")
    return SimpleNamespace(input=folder / "a.npy", run=folder / "a.umap", done=done)


def process(*args, **environment):
    command = [sys.executable, "-m", "streamumap.cli", *map(str, args)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | {"PYTHONPATH": ROOT} | environment,
        timeout=120,
    )


# Data on standard output, progress on standard error


def test_the_folder_is_said_and_the_stages_are_told_on_standard_error(finished):
    assert (finished.done.returncode, finished.done.stdout) == (0, f"{finished.run}\n")
    lines = [line.split()[0] for line in finished.done.stderr.splitlines()]
    stages = [word for word in lines if not word.endswith(":")]  # how far a stage is, where the machine is slow
    assert [s for s in stages if s in {"read", "neighbors", "graph", "start", "layout", "quality", "write"}] == stages
    figures = r"recall 1\.000, trustworthiness 0\.\d{3}, continuity 0\.\d{3}, preservation 0\.\d{3}, torn 0\.\d{3} on all rows"
    assert re.search(rf"^quality +\d+\.\d s  {figures}$", finished.done.stderr, re.M)


def test_json_is_the_content_of_run_json_and_quiet_is_quiet(finished, call):
    done = call("embed", finished.input, *FAST, "--metric", "cosine", "--json", "-q")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert report == json.loads((finished.run / "run.json").read_text())
    assert report["reused"] and report["params"]["metric"] == "cosine"


def test_json_of_the_other_commands(finished, call):
    inspected = json.loads(call("inspect", finished.input, "--json").out)
    assert (inspected["rows"], inspected["features"], inspected["nonfinite_rows"]) == (300, 3072, 0)
    planned = json.loads(call("plan", finished.input, "--json", "--device", "cpu", "--budget", "2GB").out)
    assert planned["budget"]["host_bytes"] == 2 * 10**9 and planned["job"]["n_rows"] == 300
    assert planned["peak"]["host_bytes"] == max(s["predicted"]["host_bytes"] for s in planned["stages"])
    found = json.loads(call("doctor", "--json").out)
    assert found["packages"]["numpy"] == np.__version__ and found["cores"] >= 1


def test_a_plan_reads_and_changes_nothing(finished, call, monkeypatch):
    monkeypatch.setattr("streamumap.source.formats.npy.FileRows.read", lambda *_: 1 / 0)
    before = sorted(os.listdir(finished.input.parent))
    done = call("plan", finished.input, "--device", "cpu", "--budget", "2GB")
    assert (done.code, done.err) == (0, "") and "300 rows x 3,072 features, float16" in done.out
    assert sorted(os.listdir(finished.input.parent)) == before


def test_a_plan_without_a_file(call):
    done = call("plan", "--rows", 3_000_000, "--features", 3072, "--active", 32, "--budget", "40GB", "--device", "cpu")
    assert (
        done.code == 0 and "32 of them non-zero in a row" in done.out and "packed" in done.out and "float16" in done.out
    )
    assert all(len(line) <= 120 for line in done.out.splitlines())


def test_a_plan_of_a_gpu(call, monkeypatch):
    gpu = memory.Device(0, "Fake", 150 * 10**9, 149 * 10**9)
    monkeypatch.setattr(memory, "machine", lambda device: memory.Machine(16, 128 * 10**9, gpu))
    done = call("plan", "--rows", 3_000_000, "--features", 3072, "--budget", "40GB")
    assert done.code == 0 and "cuda:0 Fake, budget 40 GB; host budget 102 GB" in done.out and "device bytes" in done.out


BILLION = ["--rows", 10**9, "--features", 3072, "--active", 32, "--budget", "4TB", "--device", "cuda"]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(memory, "_torch_has_cuda", lambda: False)


def test_a_plan_of_a_billion_rows_on_a_gpu_elsewhere():
    if memory.devices():
        pytest.skip("a GPU is here")
    started = time.monotonic()
    done = process("plan", *BILLION)
    seconds = time.monotonic() - started
    assert (done.returncode, done.stderr) == (0, "") and seconds < 4  # 0.7 s alone, 2 s are promised
    assert re.search(r"^device   a GPU of 4 TB elsewhere, not in this machine, budget 4 TB$", done.stdout, re.M)
    assert re.search(r"^host     \d+ GB of memory, as no --host-budget limits it$", done.stdout, re.M)
    assert re.search(r"^disk     \d+ GB in the run's folder", done.stdout, re.M)
    assert re.search(r"^seconds  about [\d,]+ in all, as runs took on NVIDIA \w+$", done.stdout, re.M)
    assert re.search(r"^         a GPU of 4 TB was not measured and takes others$", done.stdout, re.M)
    assert re.search(r"^about    extrapolated, .* from runs of at most [\d,]+ rows: every stage$", done.stdout, re.M)
    assert re.search(r"^neighbors  cuda .* about [\d,]+ *$", done.stdout, re.M)
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_what_a_plan_for_elsewhere_says_to_programs_and_to_python(call, no_gpu):
    planned = json.loads(call("plan", *BILLION, "--json").out)
    assert planned["device"] == {"name": "a GPU of 4 TB", "total_bytes": None, "elsewhere": True}
    assert planned["budget"] == {"host_bytes": None, "device_bytes": 4 * 10**12, "limited_by": ""}
    assert all(stage["expected"]["extrapolated"] for stage in planned["stages"]) and planned["seconds"] > 0
    found = streamumap.plan(rows=10**9, features=3072, active=32, budget="4TB", device="cuda")
    assert found.peak.host_bytes == planned["peak"]["host_bytes"] and not found.budget.limits_host


def test_the_host_budget_of_a_plan_for_elsewhere_limits_it(call, no_gpu):
    free = json.loads(call("plan", *BILLION, "--json").out)
    host_bytes = (free["smallest_budget"]["host_bytes"] + free["peak"]["host_bytes"]) // 2
    done = call("plan", *BILLION, "--host-budget", host_bytes)
    said = f"host     budget {memory.format_bytes(host_bytes)}\n"
    assert done.code == 0 and said in done.out and "--host-budget: more would" in done.out
    limited = json.loads(call("plan", *BILLION, "--host-budget", host_bytes, "--json").out)
    assert limited["peak"]["host_bytes"] <= host_bytes == limited["budget"]["host_bytes"]


def test_a_plan_of_a_card_by_its_name(call, no_gpu, rows):
    done = call("plan", rows(), "--device", "a100-40gb")
    assert (
        done.code == 0
        and "device   NVIDIA A100-SXM4-40GB of 40 GB elsewhere, not in this machine, budget 32 GB" in done.out
    )
    cuvs = call("plan", rows(), "--device", "h100", "--neighbors", "cuvs")
    assert cuvs.code == 0 and "cuvs" in cuvs.out, "what is installed here does not count"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--device", "cuda"], 2, "--device: expected a GPU 'cuda', or with --budget the memory of one elsewhere"),
        (["--device", "h100", "--budget", "90GB"], 2, "--budget: expected at most 80GiB, the memory of h100"),
        (
            ["--device", "cuda", "--budget", "400MB"],
            3,
            r"--budget: 400 MB cannot hold .*; raise it to that, or say with --active",
        ),
        (["--device", "cuda", "--budget", "9PB"], 2, "--budget: expected a size"),
    ],
)
def test_a_plan_for_elsewhere_that_is_refused(options, code, message, refused, no_gpu):
    assert re.search(message, refused(code, "plan", "--rows", 10**9, "--features", 3072, *options))


def test_more_rows_than_int32_counts_are_refused(refused, call, no_gpu):
    far = ["--rows", 2**31, "--features", 3072, "--active", 32, "--device", "cuda", "--budget", "40TB"]
    assert "--sample 1000000000" in refused(2, "plan", *far)
    assert call("plan", *far, "--sample", 1_000_000_000).code == 0


def test_inspect_and_doctor_for_people(finished, call):
    inspected = call("inspect", finished.input)
    assert re.search(r"^dtype +float16$", inspected.out, re.M) and re.search(r"^rows +300$", inspected.out, re.M)
    assert inspected.err.startswith("inspect") and call("inspect", finished.input, "-q").err == ""
    assert "numpy" in call("doctor").out


def test_a_terminal_gets_a_live_bar(finished):
    """The bar itself is drawn over; the finished stages stay."""
    ours, theirs = os.openpty()
    text = []

    def read():
        try:
            while part := os.read(ours, 1 << 16):
                text.append(part)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-m", "streamumap.cli", "embed", finished.input, *FAST, "--metric", "cosine"]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": ROOT, "TERM": "xterm"},
        timeout=120,
    )
    os.close(theirs)
    reader.join()
    os.close(ours)
    shown = b"".join(text).decode()
    assert done.returncode == 0 and done.stdout.decode() == f"{finished.run}\n"
    assert "trustworthiness 0." in shown and "\x1b[" in shown


# Help


@pytest.mark.parametrize("columns", [60, 120])
def test_help_of_every_command(columns, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    listed = call("--help")
    for command in COMMANDS:
        done = call(command, "--help")
        assert (done.code, done.err) == (0, "") and command in listed.out
        assert all(len(line) <= columns for line in done.out.splitlines())


@pytest.mark.parametrize("field", fields(Params), ids=lambda f: f.name)
def test_help_tells_default_range_and_unit(field, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    option = next(
        line for line in call("embed", "--help").out.splitlines() if f"--{field.name.replace('_', '-')} " in line
    )
    m = field.metadata
    assert (f"one of {', '.join(m['choices'])}" if m["choices"] else f"{m['low']:g} to {m['high']:g}") in option
    assert m["unit"] in option and m["help"] in option
    assert f"[default: {field.default}]" in option or (field.default is None and "Default:" in option)


def test_help_tells_what_happens_by_default(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    text = call("embed", "--help").out
    assert text.count("default: 80% of what is free") == 2 and "default: INPUT's name + .umap beside it" in text


def test_version(call):
    assert call("--version").out == "0.3.0\n"


@pytest.mark.parametrize(
    "args",
    [
        ["embed"],
        ["embed", "a", "--no-such"],
        ["embed", "a", "--n-neighbors", "x"],
        ["nothing"],
        ["render", "a", "--size", "3"],
    ],
)
def test_wrong_usage_exits_2(args, call):
    done = call(*args)
    assert (done.code, done.out) == (2, "") and "Traceback" not in done.err and done.err


# 2: the input or an option is wrong


def broken_npy(tmp_path, make):
    path = tmp_path / "rows.npy"
    make(path)
    return path


def nonfinite(path):
    array = CODES[:100].copy()
    array[[17, 60, 60, 99], [5, 6, 7, 8]] = [np.nan, np.inf, -np.inf, np.nan]
    np.save(path, array)


def truncated(path):
    np.save(path, CODES[:100])
    os.truncate(path, path.stat().st_size - 1)


def saved_twice(path):
    with open(path, "wb") as file:
        np.save(file, np.ones((5, 4)))
        np.save(file, np.ones((5, 4)))


WRONG_INPUTS = {
    "NaN": (nonfinite, r"row 17: expected finite values, found NaN or infinite ones .* in 3 of 100 rows"),
    "truncated": (
        truncated,
        r"body: expected 614400 bytes for shape \(100, 3072\) of float16, found 614399; the file was cut off",
    ),
    "objects": (
        lambda p: np.save(p, np.array([[{}]] * 5), allow_pickle=True),
        "dtype: expected .*, found .*Python objects",
    ),
    "1-d": (lambda p: np.save(p, np.ones(9)), r"shape: expected 2 dimensions .*, found 1 in \(9,\); reshape it"),
    "3-d": (
        lambda p: np.save(p, np.ones((4, 3, 2))),
        r"shape: expected 2 dimensions .*, found 3 in \(4, 3, 2\), .*; flatten it to \(12, 2\) with: python -c",
    ),
    "2 rows": (lambda p: np.save(p, np.ones((2, 5))), "shape: expected at least 3 rows, found 2"),
    "no columns": (lambda p: np.save(p, np.ones((5, 0))), "shape: expected at least 1 feature, found 0"),
    "saved twice": (
        saved_twice,
        "body: expected one array, found another one behind it, .*; join their rows with: python -c",
    ),
    "text": (lambda p: p.write_text("a,b\n1,2\n"), r"magic: expected .*, found b'a,b\\n1,'"),
    "empty": (lambda p: p.write_bytes(b""), "magic: expected .*, found 0 bytes"),
    "folder": (lambda p: p.mkdir(), "shards: expected files in the folder that end in .npy, .*, found none"),
    "nothing": (lambda p: None, "file: expected a .npy, .* file.*, found nothing there; check the path"),
}


@pytest.mark.parametrize("kind", WRONG_INPUTS)
@pytest.mark.parametrize("command", ["embed", "plan", "inspect"])
def test_a_wrong_input_is_refused(kind, command, refused, call, tmp_path):
    make, message = WRONG_INPUTS[kind]
    path = broken_npy(tmp_path, make)
    options = {"embed": FAST, "plan": ["--device", "cpu", "--budget", "2GB"], "inspect": []}[command]
    if kind == "NaN" and command != "embed":
        assert call(command, path, *options).code == 0
        return
    said = refused(2, command, path, *options)
    assert re.search(message, said) and said.startswith(f"{path}: "), said
    assert not list(tmp_path.glob("**/*.png")) and not list(tmp_path.glob("**/embedding*"))


def test_pickles_are_never_read(refused, tmp_path):
    class Canary:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    np.save(tmp_path / "rows.npy", np.array([[Canary()] * 2] * 5), allow_pickle=True)
    refused(2, "embed", tmp_path / "rows.npy", *FAST)
    assert not (tmp_path / "canary").exists()


WRONG_OPTIONS = [
    (["--metric", "manhattan"], "metric: expected one of euclidean, cosine, found 'manhattan'"),
    (["--min-dist", "2"], r"min_dist: expected at most spread \(1\), found 2"),
    (["--min-dist", "nan"], "min_dist: expected a number from 0 to 100, found nan"),
    (["--n-neighbors", "1"], "n_neighbors: expected a whole number from 2 to 1000, found 1"),
    (["--reduce", "umap"], "reduce: expected one of none, pca, ica, found 'umap'"),
    (["--recall", "1.1"], "recall: expected a number from 0 to 1, found 1.1"),
    (["--budget", "lots"], "--budget: expected a size such as 40GB, .*, found 'lots'"),
    (["--host-budget", "-1"], "--host-budget: expected a size"),
    (["--device", "tpu"], "--device: expected auto, cpu, cuda or cuda:N, found 'tpu'"),
    (["--device", "cuda"], "--device: expected a GPU 'cuda', found none"),
    (["--dtype", "float32"], "dtype: expected float32 as the option says, found float16; leave the option out"),
    (["--dtype", "bfloat16"], "dtype: expected bfloat16 as the option says, found float16"),
]


@pytest.mark.parametrize(
    ("options", "message"), WRONG_OPTIONS, ids=lambda o: " ".join(o) if isinstance(o, list) else ""
)
def test_a_wrong_option_is_refused_before_anything_is_made(options, message, refused, rows, monkeypatch):
    monkeypatch.setattr(memory, "_torch_has_cuda", lambda: False)
    path = rows()
    said = refused(2, "embed", path, *FAST, *options)
    assert re.search(message, said), said
    assert os.listdir(path.parent) == ["rows.npy"]


@pytest.mark.parametrize("path", ["", ".", "/", "..", "no\nsuch", "-", "a" * 300])
@pytest.mark.parametrize("command", ["embed", "inspect"])
def test_odd_paths_are_refused_on_one_line(path, command, refused, tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    refused(2, command, *(FAST if command == "embed" else []), "--", path)
    assert os.listdir() == []


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--rows", "5"],
        ["--features", "5"],
        ["--rows", "2", "--features", "5"],
        ["--rows", "9", "--features", "5", "--dtype", "half"],
    ],
)
def test_a_plan_of_nothing_is_refused(options, refused):
    refused(2, "plan", *options, "--device", "cpu", "--budget", "2GB")


@pytest.mark.parametrize("active", [0, 6])
def test_a_plan_of_more_active_features_than_features_is_refused(active, call):
    done = call("plan", "--rows", 9, "--features", 5, "--active", active, "--device", "cpu", "--budget", "2GB")
    assert done.code == 2 and "--active" in done.err


def test_other_peoples_folders_are_left_alone(finished, refused, rows, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "found other files" in refused(2, "embed", rows(), *FAST, "-o", tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]
    before = {p.name: p.stat().st_mtime_ns for p in finished.run.iterdir()}
    assert "holds a run of another input" in refused(2, "embed", rows(), *FAST, "-o", finished.run)
    assert {p.name: p.stat().st_mtime_ns for p in finished.run.iterdir()} == before


def test_unicode_and_blanks_in_paths(call, rows):
    path = rows(name="Ünï cødé  activations.npy")
    done = call("embed", path, *FAST, "-q", "-o", path.parent / "a map 地図")
    assert (done.code, done.err) == (0, "") and (path.parent / "a map 地図" / "map.png").exists()


def test_a_path_that_is_no_unicode(call, rows, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.npy")
    os.rename(rows(), path)
    assert call("embed", path, *FAST, "-q", "-o", tmp_path / "run").code == 0
    assert (tmp_path / "run" / "run.json").exists()


# 3: the budget


def test_a_refusal_names_the_option_that_was_given(refused, rows):
    said = refused(3, "embed", rows(), "--budget", "2GB", "--host-budget", "1MB", "--device", "cpu")
    assert said.startswith("--host-budget: 1 MB cannot hold this job, the smallest that can is")


def test_an_infeasible_budget_names_one_that_works(refused, call, rows):
    path = rows(CODES[:300])
    said = refused(3, "embed", path, "--budget", "1MB", "--device", "cpu", "--n-epochs", 5)
    smallest = int(
        re.search(r"^--budget: 1 MB cannot hold this job, the smallest that can is (\d+)MB; raise it to that\.$", said)[
            1
        ]
    )
    assert os.listdir(path.parent) == ["rows.npy"]
    refused(3, "embed", path, "--budget", f"{smallest * 95 // 100}MB", "--device", "cpu", "--n-epochs", 5)
    assert refused(3, "plan", path, "--budget", "1MB", "--device", "cpu").startswith(said.removesuffix("."))
    done = call("embed", path, "--budget", f"{smallest}MB", "--device", "cpu", "--n-epochs", 5, "--json", "-q")
    assert done.code == 0 and json.loads(done.out)["predicted_peak"]["host_bytes"] <= smallest * 10**6


# 4: the output


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_output_that_cannot_be_made(refused, rows, tmp_path):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/run", "/proc/run"):
        assert "cannot be written" in refused(4, "embed", rows(), *FAST, "-o", tmp_path / out)


def test_a_disk_with_too_little_space(refused, rows, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 100, 100, 100, 9, 9, 9, 0, 255)))
    said = refused(4, "embed", rows(), *FAST, "-o", tmp_path / "new" / "run")
    assert "found 410 KB" in said and "too little; free as much or choose another --out." in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["posix_fallocate", "pwrite", "replace"])
def test_a_disk_that_is_full(name, refused, rows, monkeypatch, tmp_path):
    path = rows()
    monkeypatch.setattr(os, name, full)
    assert "No space left on device" in refused(4, "embed", path, *FAST)
    left = {p.name for p in (tmp_path / "rows.umap").iterdir()}
    assert left <= {"scratch", "manifest.json", ".manifest.json", "run.log"}


@pytest.mark.parametrize("what", ["streamumap.show.table.write_parquet", "streamumap.show.png.draw"])
def test_a_disk_that_is_full_at_the_end(what, refused, call, rows, monkeypatch, tmp_path):
    path = rows()

    def half(*args, **_):
        next(a for a in args if hasattr(a, "write")).write(b"half")
        full()

    with monkeypatch.context() as patch:
        patch.setattr(what, half)
        assert "No space left on device" in refused(4, "embed", path, *FAST)
    run = tmp_path / "rows.umap"
    failed = "embedding.parquet" if "parquet" in what else "map.png"
    assert not (run / "run.json").exists() and not (run / failed).exists()
    done = call("embed", path, *FAST, "-q", "--json")
    assert done.code == 0 and json.loads(done.out)["reused"] == ["the k-NN graph", "the map"]


def test_a_picture_that_cannot_be_written(refused, finished, tmp_path):
    assert refused(4, "render", finished.run, "-o", tmp_path / "no" / "such.png").startswith(str(tmp_path))


# 5: the input


def test_an_input_that_changes_during_the_run(refused, rows, monkeypatch, tmp_path):
    path = rows()
    sample_rows = quality.sample_rows

    def replaced(*args):
        rows(np.roll(CODES[:400:2], 1, 0))
        return sample_rows(*args)

    monkeypatch.setattr(quality, "sample_rows", replaced)
    said = refused(5, "embed", path, *FAST)
    assert said.startswith(f"{path}: ") and "start again when nothing writes to it" in said
    assert not (tmp_path / "rows.umap" / "run.json").exists()


@pytest.mark.parametrize("what", ["rows", "time", "list"])
def test_an_input_that_changes_between_two_runs(what, refused, call, rows, tmp_path):
    path = rows()
    given = tmp_path / "rows*.npy" if what == "list" else path
    run = tmp_path / "rows.umap"
    assert call("embed", given, *FAST, "-q", "-o", run).code == 0
    before = (run / "embedding.npy").read_bytes()
    if what == "time":
        os.utime(path, ns=(1, 1))
    else:
        rows(np.roll(CODES[:400:2], 1, 0))
    said = refused(5, "embed", given, *FAST, "-o", run)
    assert (
        said.startswith(f"{given}: ") and f"as when the run in {run} began" in said and "--fresh starts again" in said
    )
    assert (run / "embedding.npy").read_bytes() == before
    done = call("embed", given, *FAST, "-q", "-o", run, "--fresh", "--json")
    assert done.code == 0 and json.loads(done.out)["reused"] == []


# 75: stopped


def test_signals_stop_and_the_same_command_continues(tmp_path):
    """SIGTERM in the layout, then SIGINT, then the rest: the bytes of a run that nobody stopped."""
    np.save(tmp_path / "a.npy", CODES[:1000])
    command = [
        "embed",
        tmp_path / "a.npy",
        "--metric",
        "cosine",
        "--device",
        "cpu",
        "--budget",
        "2GB",
        "--n-epochs",
        "400",
    ]
    for number in (signal.SIGTERM, signal.SIGINT):
        started = subprocess.Popen(
            [sys.executable, "-u", "-m", "streamumap.cli", *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": ROOT},
        )  # fmt: skip
        with started:
            said = "start " if number == signal.SIGTERM else "the layout up to"
            lines = [next(line for line in started.stderr if line.startswith(said))]
            started.send_signal(number)
            lines += started.stderr
            assert started.wait(60) == 75 and started.stdout.read() == ""
        assert re.search(
            r"^streamumap: stopped while layout was at [\d,]+ of [\d,]+ epochs; the same command continues the run\.$",
            lines[-1],
        )
        assert "Traceback" not in "".join(lines)
    done = process(*command, "--json")
    assert done.returncode == 0 and any("layout up to " in text for text in json.loads(done.stdout)["reused"])
    other = process(*command, "-o", tmp_path / "other")
    assert other.returncode == 0
    for name in ("embedding.npy", "knn_indices.npy", "knn_distances.npy"):
        assert (tmp_path / "a.umap" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


STUCK = """
import os, sys, time
from streamumap import cli
from streamumap.cli import signals
from streamumap.run import inputs
numbers = sys.argv.pop().split(",")
def stuck(*_, **__):
    for number in numbers:
        os.kill(os.getpid(), int(number))
    time.sleep(60)
inputs.open_source = stuck
signals.STOP_SECONDS = 1.0
cli.main()
"""


@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM), (signal.SIGINT,)]
)
def test_a_second_signal_and_a_stop_that_takes_too_long_end_at_once(numbers, rows):
    """Whatever the main thread is doing."""
    command = [sys.executable, "-c", STUCK, "embed", rows(), ",".join(str(int(number)) for number in numbers)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.strip() == "streamumap: stopped at once; the same command continues the run."


def test_signals_are_as_before_when_a_run_has_ended(call, rows):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert call("embed", rows(), *FAST, "-q").code == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# The other commands


def test_a_picture_of_a_run(call, finished, tmp_path):
    (tmp_path / "labels.txt").write_text("ä\nb\nc\n" * 100, encoding="utf-8")
    done = call(
        "render", finished.run, "-o", tmp_path / "p.png", "--labels", tmp_path / "labels.txt", "--size", 300, "--dark"
    )
    assert (done.code, done.out, done.err) == (0, f"{tmp_path / 'p.png'}\n", "")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_of_a_run(call, finished, tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"row {i}\n" for i in range(300)))
    done = call(
        "view", finished.run, "-o", tmp_path / "p.html", "--names", tmp_path / "names.txt", "--color", "feature:5"
    )
    assert (done.code, done.out) == (0, f"{tmp_path / 'p.html'}\n") and "features" in done.err
    page = (tmp_path / "p.html").read_text()
    assert page.startswith("<!doctype html>") and '"name": "feature 5"' in page
    quiet = call("view", finished.run, "-o", tmp_path / "q.html", "-q", "--no-features")
    assert (quiet.out, quiet.err) == (f"{tmp_path / 'q.html'}\n", "")


def test_a_page_is_served_until_it_is_stopped(finished):
    command = [sys.executable, "-m", "streamumap.cli", "view", str(finished.run), "--serve", "--no-features", "-q"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what is started in the background may ignore it
    pipes: dict = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=heard, **pipes) as served:
        address = served.stdout.readline().strip()
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                assert b'"served": true' in answer.read()
        finally:
            served.send_signal(signal.SIGINT)
        assert (served.wait(20), served.stderr.read()) == (0, "")


def test_a_map_for_other_tools(call, refused, finished):
    assert call("export", finished.run, "--to", "csv").out == f"{finished.run / 'map.csv'}\n"
    assert (finished.run / "map.csv").read_text().count("\n") == 301
    (finished.run / "map.csv").unlink()
    assert "expected anndata, csv, geojson, found xls" in refused(2, "export", finished.run, "--to", "xls")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["render", "--color", "feature:3072"], "--color: expected feature:0 to feature:3071, found feature:3072"),
        (
            ["render", "--color", "section"],
            "expected feature:NUMBER or one of the columns there are (distortion), found section",
        ),
        (["view", "--names", "no.txt"], "--names: no.txt: cannot be read (No such file or directory)"),
        (["view", "--input", "no.npy", "--color", "feature:1"], "no.npy"),
        (["render", "--animate"], "expected snapshots to animate, found none"),
    ],
)
def test_what_cannot_be_shown_is_refused(refused, finished, args, message):
    assert message in refused(2, args[0], finished.run, *args[1:], "-q")


def test_a_picture_of_nothing_is_refused(refused, tmp_path):
    assert "found no embedding.npy" in refused(2, "render", tmp_path)
    assert "found no embedding.npy" in refused(2, "render", tmp_path / "nothing")


def test_the_demo(call, tmp_path, monkeypatch):
    small = demo.load()
    small = demo.Demo(small.indices[:300], small.values[:300], small.n_features, small.labels[:300], small.names[:300])
    monkeypatch.setattr(demo, "load", lambda: small)
    monkeypatch.chdir(tmp_path)
    done = call("demo", "--budget", "2GB", "--device", "cpu")
    assert done.code == 0 and done.out == "streamumap-demo.umap/map.png\n"
    assert "300 rows on a map" in done.err and "streamumap inspect streamumap-demo.npy" in done.err
    again = call("demo", "--budget", "2GB", "--device", "cpu", "--json", "-q")
    assert again.err == "" and json.loads(again.out)["reused"] == ["the k-NN graph", "the map"]


def test_a_demo_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    refused(4, "demo", "--budget", "2GB", "--device", "cpu", "-o", tmp_path / "file" / "demo.umap")


def test_where_a_run_goes_by_default():
    for given, out in [
        ("a/b.npy", "a/b.umap"),
        ("b", "b.umap"),
        ("b.npz", "b.npz.umap"),
        ("a/topk_indices.npy", "a/topk.umap"),
        ("a/folder/", "a/folder.umap"),
        ("a/data-*.npy", "a/data.umap"),
        ("a/*.npy", "a/rows.umap"),
        ("a/**/x.npy", "a/x.umap"),
        ("rank*/b/*.npy", "rows.umap"),
        ("/x/c d.npy", "/x/c d.umap"),
    ]:
        assert cli.default_out(given) == Path(out)
