import importlib.util
import json
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamumap import demo

TOOL = Path(__file__).parent.parent / "tools" / "make_demo.py"
SECTIONS = {"libs": 6711, "libdevel": 5581, "python": 4546, "perl": 4223, "games": 1108, "zope": 15}  # of 63,666


@pytest.fixture(scope="module")
def data():
    return demo.load()


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("make_demo", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def whole_set(tmp_path):
    """A folder as the tool reads it: 400 rows in four sections, with the row number as the values of its codes."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    labels = ["a"] * 250 + ["b"] * 100 + ["c"] * 49 + ["d"]
    np.save(folder / "topk_indices.npy", rng.integers(0, 50, (400, 4)).astype(np.uint16))
    np.save(folder / "topk_values.npy", np.repeat(np.arange(400)[:, None], 4, axis=1).astype(np.float16))
    (folder / "labels.txt").write_text("\n".join(labels) + "\n")
    (folder / "names.txt").write_text("".join(f"package-{row}: does: things\n" for row in range(400)))
    (folder / "sae.json").write_text(json.dumps({"d_sae": 50}))
    return folder


def test_what_ships(data):
    assert data.n_features == 3072
    assert data.indices.shape == data.values.shape == (9600, 32)
    assert data.indices.dtype == np.uint16 and data.values.dtype == np.float16
    assert len(data.labels) == len(data.names) == len(set(data.names)) == 9600
    assert (np.diff(data.indices.astype(int), axis=1) > 0).all() and data.indices.max() < 3072
    assert np.isfinite(data.values).all() and (data.values >= 0).all() and data.values.any(axis=1).all()
    assert not any(": " in name or not name.strip() for name in data.names)


def test_every_section_has_its_share(data):
    counted = Counter(data.labels)
    assert len(counted) == 58 and min(counted.values()) >= 1
    for section, n_packages in SECTIONS.items():
        assert abs(counted[section] - n_packages * 9600 / 63666) < 1


def test_neighbours_of_the_codes_are_of_one_section(data):
    """Names, sections and codes belong to the same rows."""
    rows = demo.dense(data).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    asked = np.arange(0, 9600, 40)
    similar = rows[asked] @ rows.T
    similar[np.arange(len(asked)), asked] = -1
    nearest = similar.argmax(axis=1)
    assert np.mean([data.labels[i] == data.labels[j] for i, j in zip(asked, nearest, strict=True)]) > 0.5


def test_dense_holds_the_codes(data):
    rows = demo.dense(data)
    assert rows.shape == (9600, 3072) and rows.dtype == np.float16
    assert np.count_nonzero(rows) == np.count_nonzero(data.values)
    np.testing.assert_array_equal(np.take_along_axis(rows, data.indices.astype(np.int64), axis=1), data.values)


def test_dense_lets_no_explicit_zero_overwrite_a_value():
    codes = demo.Demo(np.array([[4, 4, 1]], np.uint16), np.array([[2, 0, 3]], np.float16), 5, ["a"], ["b"])
    assert demo.dense(codes).tolist() == [[0, 3, 0, 0, 2]]


def test_the_files_are_small_and_none_is_pickled():
    folder = files("streamumap.demo")
    sizes = {file.name: len(file.read_bytes()) for file in folder.iterdir() if file.is_file()}
    data_files = set(sizes) - {"__init__.py"}
    assert data_files == {"codes.npz", "labels.txt", "names.txt", "NOTICE"}
    assert sum(sizes[name] for name in data_files) <= 1_500_000
    with (folder / "codes.npz").open("rb") as f, np.load(f, allow_pickle=False) as codes:
        assert sorted(codes) == ["indices", "n_features", "values"]


def test_the_notice_says_where_it_comes_from():
    notice = " ".join((files("streamumap.demo") / "NOTICE").read_text(encoding="utf-8").split())
    for fact in "Debian 12", "all-MiniLM-L6-v2", "TopK sparse autoencoder", "63,666", "9,600", "k = 32", "3,072":
        assert fact in notice


def test_the_tool_writes_the_same_bytes_every_time(tool, whole_set, tmp_path):
    for out in "one", "two":
        (tmp_path / out).mkdir()
        tool.make(whole_set, tmp_path / out, n_rows=40)
    written = {file.name: file.read_bytes() for file in (tmp_path / "one").iterdir()}
    assert written == {file.name: file.read_bytes() for file in (tmp_path / "two").iterdir()}
    assert set(written) == {"codes.npz", "labels.txt", "names.txt"}
    names, labels = written["names.txt"].decode().splitlines(), written["labels.txt"].decode().splitlines()
    assert Counter(labels) == {"a": 25, "b": 10, "c": 4, "d": 1}
    with np.load(tmp_path / "one" / "codes.npz", allow_pickle=False) as codes:
        assert names == [f"package-{row:.0f}" for row in codes["values"][:, 0]] and codes["n_features"] == 50


def test_the_tool_chooses_what_it_always_chose(tool):
    assert tool.sample(["a"] * 30 + ["b"] * 3, 6, 42).tolist() == [12, 16, 17, 26, 29, 30]


@given(sizes=st.dictionaries(st.text(max_size=3), st.integers(1, 5000), min_size=1, max_size=30), drawn=st.data())
def test_shares(tool, sizes, drawn):
    total = sum(sizes.values())
    n_rows = drawn.draw(st.integers(1, total))
    rows = tool.shares(sizes, n_rows)
    assert rows.keys() == sizes.keys()
    assert all(1 <= rows[name] <= size for name, size in sizes.items())
    assert all(abs(rows[name] - n_rows * size / total) < 1 or rows[name] == 1 for name, size in sizes.items())
    assert n_rows <= sum(rows.values()) < n_rows + len(sizes)


def test_the_tool_explains_a_missing_folder(tmp_path):
    before = {file.name: file.read_bytes() for file in files("streamumap.demo").iterdir() if file.is_file()}
    answer = subprocess.run([sys.executable, str(TOOL), str(tmp_path)], capture_output=True, text=True, check=False)
    assert answer.returncode == 2 and "topk_indices.npy" in answer.stderr and "nothing was changed" in answer.stderr
    assert subprocess.run([sys.executable, str(TOOL)], capture_output=True, check=False).returncode == 2
    assert before == {file.name: file.read_bytes() for file in files("streamumap.demo").iterdir() if file.is_file()}
