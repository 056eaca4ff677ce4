"""bench/: the others get the same rows, runs become lines once, and the pages are made of the lines. The other libraries are
stand-ins here, whose map is the first two columns."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))
cases, curves, floors, peers, report, run, summary, truth, watching = (
    importlib.import_module(name)
    for name in ("cases", "curves", "floors", "peers", "report", "run", "summary", "truth", "watching")
)
sys.path.remove(str(BENCH))

STAND_IN = """
import numpy as np
class UMAP:
    def __init__(self, **given):
        self.given = given
    def fit_transform(self, rows):
        if {fails}:
            raise MemoryError("out of memory: 5 GB")
        rows = rows.toarray() if hasattr(rows, "toarray") else rows
        assert rows.dtype == np.float32
        self._knn_indices = np.tile(np.arange(15), (len(rows), 1))
        return rows[:, :2]
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """stand_in(fails): umap and cuml for processes that are started from now on."""

    def make(fails=False):
        folder = tmp_path / "site"
        (folder / "cuml").mkdir(parents=True, exist_ok=True)
        (folder / "cuml" / "__init__.py").touch()
        for path in (folder / "umap.py", folder / "cuml" / "manifold.py"):
            path.write_text(STAND_IN.format(fails=fails))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return make


@pytest.fixture
def pairs(tmp_path):
    """TopK pairs, some of them zeros that point anywhere: (the path of their indices, the rows with all zeros)."""
    random = np.random.default_rng(1)
    indices = np.argsort(random.random((60, 40)), axis=1)[:, :8].astype(np.uint16)
    values = random.random((60, 8)).astype(np.float16) + np.float16(0.1)
    rows = np.zeros((60, 40), np.float32)
    np.put_along_axis(rows, indices.astype(np.int64), values, 1)
    rows[np.arange(60), indices[:, 0]] = 0
    values[:, 0], indices[:, 0] = 0, indices[:, 1]
    np.save(tmp_path / "p_indices.npy", indices)
    np.save(tmp_path / "p_values.npy", values)
    return tmp_path / "p_indices.npy", rows


def started(tmp_path, system, rows, active=None):
    """One peer in a process of its own -> (its map, its seconds)."""
    job = peers.Job(system, str(rows), active, 40, "cosine", 15, 0.1, None, None, str(tmp_path / "map"))
    (tmp_path / "job.json").write_text(json.dumps(vars(job)))
    command = [sys.executable, "-P", str(BENCH / "peers.py"), str(tmp_path / "job.json")]
    _, failed = watching.watched(command, dict(run.os.environ), tmp_path / "log", None, 60)
    assert failed is None
    return np.load(tmp_path / "map.npy"), json.loads((tmp_path / "map.json").read_text())


@pytest.mark.parametrize("system", ["umap-learn", "cuml", "cuml-sparse"])
def test_the_others_get_the_pairs_as_they_are(system, stand_in, pairs, tmp_path):
    stand_in()
    path, rows = pairs
    found, seconds = started(tmp_path, system, path, active=8)
    np.testing.assert_array_equal(found, rows[:, :2])
    assert list(seconds) == ["import", "read", "convert", "fit"]


def test_the_others_get_dense_rows_as_float32(stand_in, tmp_path, monkeypatch):
    stand_in()
    rows = np.random.default_rng(2).random((1000, 40)).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    found, _ = started(tmp_path, "cuml", tmp_path / "rows.npy")
    np.testing.assert_array_equal(found, rows[:, :2].astype(np.float32))


def test_dense_rows_are_read_in_pieces(tmp_path, monkeypatch):
    rows = np.random.default_rng(2).random((1000, 40)).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    monkeypatch.setattr(peers, "PIECE_BYTES", 7 * 80)
    job = peers.Job("cuml", str(tmp_path / "rows.npy"), None, 40, "cosine", 15, 0.1, None, None, "")
    np.testing.assert_array_equal(peers.dense(job, peers.Clock()), rows.astype(np.float32))


def test_what_a_process_costs_and_why_it_failed(tmp_path):
    def watched(code, limit_seconds=60.0):
        command = [sys.executable, "-c", code]
        return watching.watched(command, dict(run.os.environ), tmp_path / "log", None, limit_seconds)

    costs, failed = watched("import time; kept = bytearray(200_000_000); time.sleep(0.5)")
    assert failed is None and 200e6 < costs.host_bytes < 260e6 and costs.wall_seconds > 0.5
    assert watched("import sys; print('first'); sys.exit('the last thing')")[1] == "ended with 1: the last thing"
    assert watched("import sys; sys.exit('no memory\\n#31 in libc\\n#32 in python3')")[1] == "ended with 1: no memory"
    assert watched("import time; time.sleep(60)", limit_seconds=0.3)[1] == "stopped after 0 s"


@pytest.fixture
def tiny_case(tmp_path, monkeypatch):
    """A case of 600 rows, whose file is there already; called with options of run.py it gives the lines of --out."""
    case = cases.Case("debian", "like", 600, 40)
    monkeypatch.setitem(cases.CASES, "debian", case)
    random = np.random.default_rng(3)
    rows = random.random((600, 40)) * (random.random((600, 40)) < 0.1)
    np.save(tmp_path / "like-600x40.npy", rows.astype(np.float16))

    def measured(*options):
        places = ["--scratch", str(tmp_path), "--out", str(tmp_path / "out"), "--repeats", "2"]
        monkeypatch.setattr(sys, "argv", ["run.py", "debian", "--against", "umap-learn", *places, *options])
        run.main()
        return [json.loads(line) for line in (tmp_path / "out" / "end_to_end.jsonl").read_text().splitlines()]

    return measured


def test_every_run_is_a_line_and_none_is_done_twice(tiny_case, stand_in, capsys):
    stand_in()
    lines = tiny_case("--budgets", "")
    assert [(r["system"], r["run"]) for r in lines] == [("umap-learn", number) for number in range(3)]
    assert {"commit", "machine", "versions", "phases", "wall_seconds", "host_bytes", "knn_recall"} < set(lines[0])
    assert lines[0]["parameters"]["rows"] == 600 and lines[0]["parameters"]["n_epochs"] == 500
    assert tiny_case("--budgets", "") == lines
    assert "umap-learn" in capsys.readouterr().out


def test_a_failure_is_a_line_with_what_was_said_and_is_not_repeated(tiny_case, stand_in, capsys):
    stand_in(fails=True)
    (line,) = tiny_case("--budgets", "")
    assert line["failed"] == "ended with 1: MemoryError: out of memory: 5 GB"
    assert "out of memory: 5 GB" in capsys.readouterr().out


def test_what_has_no_room_for_float32_rows_is_not_begun(tiny_case, stand_in, monkeypatch):
    stand_in()
    monkeypatch.setattr(run.memory, "host_free_bytes", lambda: 50_000)
    (line,) = tiny_case("--budgets", "")
    assert line["failed"] == "not begun: its rows as float32 take 96 KB of host memory, 50 KB are free"


@pytest.mark.parametrize("name", cases.CASES)
def test_every_case_has_systems_for_a_gpu(name, monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda package: None if package == "torchdr" else package)
    options = run.argparse.Namespace(
        cases=[name, "curve-n"], budgets=None, against="cuml,umap-learn,torchdr", kind="cuda", device="cuda"
    )
    found = list(run.systems(cases.CASES[name], options))
    assert found[-1] == run.System("cuml") and {s.name for s in found[:-1]} == {"streamumap"}
    assert [number for number, _ in run.rounds(found, 2, warm=False)].count(0) == 1
    assert [number for number, _ in run.rounds(found, 2, warm=True)].count(0) == 0


def test_ours_is_measured_by_the_same_code(tiny_case, capsys):
    lines = tiny_case("--budgets", "1GB", "--against", "", "--repeats", "1")
    assert [r["run"] for r in lines] == [0, 1]
    assert {"trustworthiness", "knn_recall", "triplet_accuracy"} < set(lines[1])
    assert {s["stage"] for s in lines[1]["report"]["stages"]} == set(lines[1]["phases"])


# Lines to tables


def line(system, number, seconds, commit="a", budget=None, **more):
    machine = {"cpu": "x", "cores": 2, "gpu": []}
    values = dict.fromkeys(summary.COSTS, seconds) | dict.fromkeys(summary.MEASURES, 0.5) | {"phases": {"fit": 1.0}}
    key = {"case": "debian", "system": system, "budget": budget, "run": number, "device": None}
    return key | values | {"commit": commit, "machine": machine, "date": "2026-01-01"} | more


def test_runs_of_the_last_commit_count_and_run_0_does_not():
    lines = [line("streamumap", 1, 9.0, budget="1GB"), *(line("streamumap", r, r + 1.0, "b", "1GB") for r in range(4))]
    (found,) = summary.groups(lines)
    assert found.median("wall_seconds") == 3.0 and [r["run"] for r in found.runs] == [1, 2, 3]


def test_ratios_are_of_runs_in_alternation_and_differences_the_most():
    lines = [
        made
        for r in (1, 2, 3)
        for made in (
            line("streamumap", r, float(r), budget="1GB", knn_recall=0.5 + r / 100),
            line("umap-learn", r, 10.0),
        )
    ]
    later = [line("streamumap", r, 0.1, budget="2GB") for r in (1, 2, 3)]
    own, wider, other = summary.groups(lines + later)
    assert summary.ratio(other, own, "wall_seconds") == (5.0, 10.0 / 3, 10.0)
    assert summary.ratio(other, wider, "wall_seconds") is None
    assert summary.difference(own, wider, "knn_recall") == pytest.approx(0.03)


def test_a_system_that_failed_says_why():
    (found,) = summary.groups([line("cuml", 1, 0.0, failed="ended with 1: no")])
    assert found.failed["failed"] == "ended with 1: no" and found.runs == ()


@pytest.mark.parametrize("power", [1.0, 1.2])
def test_the_exponent_of_a_power_law(power):
    assert curves.exponent([(n, 3 * n**power) for n in (1e5, 3e5, 1e6, 1e7)]) == pytest.approx(power)


def test_a_curve_is_of_the_machine_that_has_most_of_it():
    def of(size, device, date):
        parameters = {"rows": cases.SIZES[size]}
        more = dict(case=f"like-{size}-pairs", device=device, parameters=parameters)
        return line("streamumap", 1, 9.0, budget="8GB", **more) | {"date": date}

    old, one = (
        [of(size, "NVIDIA H200", "2026-01-01") for size in ("0.1M", "1M", "3M")],
        of("3M", "NVIDIA H100", "2026-02-01"),
    )
    assert [g.machine for g in curves.along(summary.groups([*old, one]), "curve-n")] == ["NVIDIA H200"] * 3
    new = [of(size, "NVIDIA H100", "2026-02-01") for size in ("10M", "0.1M")]
    found = curves.along(summary.groups([*old, one, *new]), "curve-n")
    assert [(g.case, curves.card(g.machine)) for g in found] == [
        (f"like-{n}-pairs", "H100") for n in ("0.1M", "3M", "10M")
    ]


@pytest.mark.parametrize(
    ("name", "short"), [("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H200", "H200"), ("x y", "x y")]
)
def test_the_short_name_of_a_card(name, short):
    assert curves.card(name) == short


def test_a_floor_is_that_of_the_slowest_way():
    rates = dict(file=10.0, to_device=50.0, memory=1000.0, to_file=1.0, products=100.0)
    assert floors.floor(floors.Work(file=100, to_device=100, memory=500), rates) == (10.0, "file")
    assert floors.floor(floors.Work(file=100, products=2000), rates) == (20.0, "products")


def test_what_the_stages_of_a_run_must_move():
    shape = {"rows": 1000, "features": 3072, "density": 0.01}
    params = {"n_neighbors": 15, "n_components": 2, "n_epochs": None}
    report = {
        "input": shape,
        "params": params,
        "graph": {"edges": 20_000},
        "quality": {"trustworthiness": {"sample_size": 100}},
    }
    found = floors.work_of(report, {"pairs_of_tiles": 50, "measured": 7000}, 6_144_000)
    assert list(found) == ["read", "neighbors", "graph", "start", "layout", "quality", "write"]
    assert found["read"].file == found["read"].to_device == 6_144_000
    assert found["start"].file == found["graph"].to_file == 20_000 * 6 + 1000 * 8
    assert found["neighbors"].products > 2 * 256 * 50 * 64**2 and found["neighbors"].to_file == 1000 * 15 * 8
    assert found["layout"].memory > 200 * 20_000 * 2


def test_only_what_stands_between_the_marks_is_written(monkeypatch):
    monkeypatch.setitem(report.TABLES, "cpu", lambda: "NEW")
    page = "before\n<!-- table: cpu -->\nOLD\n<!-- end -->\nafter"
    assert report.filled(page) == "before\n<!-- table: cpu -->\n\nNEW\n\n<!-- end -->\nafter"
    assert report.filled(report.filled(page)) == report.filled(page)


def test_a_plot_is_drawn_once_and_says_what_it_shows(tmp_path):
    machine = {"cpu": "x", "cores": 2, "gpu": ["G"]}
    lines = [
        line("streamumap", 1, 1e9 * n, budget="8GB", case=f"like-{size}", device="G", machine=machine)
        | {"parameters": {"rows": n * 100_000}}
        for size, n in (("0.3M", 3), ("1M", 10), ("3M", 30))
    ]
    (path, other), source = (found := curves.draw(summary.groups(lines), tmp_path)), list(found.values())
    assert [curves.drawn(path), curves.drawn(other)] == source
    before = path.stat().st_mtime_ns
    curves.draw(summary.groups(lines), tmp_path)
    assert path.stat().st_mtime_ns == before


def test_the_pages_are_those_of_the_results():
    assert report.stale() == [], "python bench/report.py"


@pytest.mark.parametrize("name", ["two clusters 1e6 apart", "sparse, one heavy in half", "near some directions"])
def test_what_is_said_of_hard_rows_is_true(name):
    cell = next(cell for cell in truth.cells() if cell.name == name)
    line = truth.measured(cell, 400, "cpu", 50)
    assert line.said >= 0.99 and not line.is_wrong


def test_a_graph_that_is_wrong_is_found_out():
    rows = np.random.default_rng(0).normal(size=(300, 5))
    graph = np.tile(np.arange(15), (300, 1))
    assert truth.true_recall(rows, "euclidean", graph, np.arange(20, 200), "cpu") < 0.2
    wrong = truth.Line("", "", "", 300, 0.1, 1.0, 0.0, [])
    assert wrong.is_wrong and truth.Line("", "", "", 300, 0.9, 0.9, 0.0, []).is_wrong
    assert not truth.Line("", "", "", 300, 0.9, 0.9, 0.0, ["said"]).is_wrong
