import errno
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamumap.errors import InputChanged, InputError, OutputError
from streamumap.store import workdir
from streamumap.store.lock import NOTE
from streamumap.store.workdir import FILES, MANIFEST, Workdir, check_space, key_of

INPUT = {"format": "npy", "size": 5, "blake2b": "ab"}
ARRAY = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def work(tmp_path):
    work = Workdir(tmp_path / "run", INPUT)
    yield work
    work.close()


@pytest.fixture
def again(tmp_path):
    """again(): the same folder, opened by a later process."""
    opened = []

    def reopen(work, fingerprint=INPUT):
        work.close()
        opened.append(Workdir(work.path, fingerprint))
        return opened[-1]

    yield reopen
    for work in opened:
        work.close()


def keep(work, stage, key="k", **facts):
    """Saves the files of a stage and records it, as the stage does."""
    for name in FILES[stage]:
        work.save(name, ARRAY)
    work.done(stage, key, **facts)


def n_descriptors():
    return len(os.listdir("/proc/self/fd"))


# Keys


def test_a_key_depends_on_every_value_and_its_place():
    keys = [
        key_of(*parts)
        for parts in [(), (1,), (1, 2), (2, 1), ([1, 2],), ("1", 2), (1, None), (1, 2.0), ({"a": 1},), ({"a": 2},)]
    ]
    assert len(set(keys)) == len(keys) and all(len(key) == 32 for key in keys)


@given(st.lists(st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text())))
def test_a_key_is_the_same_every_time(parts):
    assert key_of(*parts) == key_of(*json.loads(json.dumps(parts)))


def test_a_key_does_not_depend_on_the_order_of_names():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


# The folder


def test_a_new_folder_and_those_above_it_are_made(tmp_path):
    work = Workdir(tmp_path / "a" / "b ü" / "run", INPUT)
    written = json.loads((work.path / MANIFEST).read_text())
    assert written == {"schema": 1, "input": INPUT, "name": "", "stages": {}, "checksum": written["checksum"]}
    work.close()


def test_an_empty_folder_is_taken_and_one_with_other_files_is_not(tmp_path):
    Workdir(tmp_path, INPUT).close()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(
        InputError,
        match=r"^--out: .*other: expected a new or empty folder .*, found other files; choose another --out\.$",
    ):
        Workdir(other, INPUT)
    assert os.listdir(other) == ["thesis.tex"]


def test_a_folder_that_an_earlier_run_could_only_begin_is_taken(tmp_path):
    (tmp_path / ".manifest.json").write_text("")  # the disk was full
    Workdir(tmp_path, INPUT).close()
    assert not (tmp_path / ".manifest.json").exists()


def test_a_run_of_another_input_is_refused_and_left_alone(work, again):
    keep(work, "embedding")
    before = (work.path / MANIFEST).read_bytes()
    with pytest.raises(
        InputError, match=r"holds a run of another input, .*; choose another --out, or --fresh to start again\.$"
    ):
        again(work, INPUT | {"size": 6})
    assert (work.path / MANIFEST).read_bytes() == before


NO_MANIFESTS = [
    "",
    "{",
    "[]",
    "5",
    "null",
    '{"schema": 1}',
    '{"schema": 2, "input": {}, "stages": {}}',
    '{"schema": 1, "input": {}, "stages": []}',
    "[" * 10**5,
]


@pytest.mark.parametrize("text", NO_MANIFESTS, ids=range(len(NO_MANIFESTS)))
def test_what_is_no_manifest_is_refused(text, tmp_path):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(
        InputError,
        match=r"manifest.json: expected the manifest of a run, found something else; choose another --out\.$",
    ):
        Workdir(tmp_path, INPUT)
    assert (tmp_path / MANIFEST).read_text() == text


def test_a_manifest_that_is_no_text_is_refused(tmp_path):
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="expected the manifest"):
        Workdir(tmp_path, INPUT)


def test_two_runs_do_not_write_to_one_folder(work):
    with pytest.raises(
        InputError,
        match=r"another run is writing here, process \d+ on .* since 20.* \(.*\); wait for it or choose another --out\.$",
    ):
        Workdir(work.path, INPUT)


def test_a_refusal_leaves_nothing_open(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    before = n_descriptors()
    for _ in range(3):
        with pytest.raises(InputError):
            Workdir(tmp_path, INPUT)
    assert n_descriptors() == before


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(
        OutputError, match=r"^--out: .*run: cannot be written .*; free space or choose another --out\.$"
    ):
        Workdir(tmp_path / "run", INPUT)


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(workdir.Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="cannot be written .Permission denied."):
        Workdir(tmp_path / "run", INPUT)


@pytest.mark.parametrize("function", ["listdir", "open"])
def test_a_folder_that_cannot_be_read(function, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(workdir.os, function, refuse)
    with pytest.raises((OutputError, InputError)):
        Workdir(tmp_path, INPUT)


# What stages leave behind


def test_what_was_kept_is_found_under_its_key_alone(work, again):
    keep(work, "embedding", "one", epoch=25)
    assert work.has("embedding", "one") and not work.has("embedding", "two") and not work.has("graph", "one")
    work = again(work)
    assert work.has("embedding", "one") and work.facts("embedding") == {"epoch": 25}
    assert np.array_equal(work.read("embedding"), ARRAY)


def test_what_is_forgotten_is_gone_for_the_next_run_too(work, again):
    keep(work, "graph")
    keep(work, "embedding")
    work.forget("reduced", "embedding")
    assert again(work).has("graph", "k") and not work.has("embedding", "k")


def flipped(data):
    return data[:-2] + bytes([data[-2] ^ 4]) + data[-1:]


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: b"", flipped, None], ids=["cut", "empty", "bit", "gone"]
)
@pytest.mark.parametrize("stage", FILES)
def test_what_somebody_removed_cut_or_changed_is_not_there_and_that_is_said(stage, spoil, work, again):
    for name in FILES[stage]:
        keep(work, stage)
        assert work.has(stage, "k")
        path = work.scratch / f"{name}.npy"
        path.write_bytes(spoil(path.read_bytes())) if spoil else path.unlink()
        work, said = again(work), []
        work.warn = said.append
        assert not work.has(stage, "k")
        assert said == [f"{name}.npy is missing, or not what the run wrote there; {stage} is done again."]


def test_a_manifest_with_a_flipped_bit_counts_for_nothing(work, again):
    keep(work, "graph", epoch=1)
    path = work.path / MANIFEST
    path.write_text(path.read_text().replace('"epoch": 1', '"epoch": 2'))
    work = again(work)
    assert work.damaged and not work.has("graph", "k") and not again(work).damaged


def test_fresh_removes_what_a_run_made_and_nothing_else(work):
    keep(work, "embedding")
    work.publish_saved("embedding")
    work.publish_json("run.json", {})
    (work.path / "notes.txt").write_text("mine")
    (work.path / "map.pdf").write_text("mine, too")
    (work.path / "map.h5ad").write_text("an export of the map")
    work.close()
    other = Workdir(work.path, INPUT | {"size": 6}, fresh=True)
    assert sorted(os.listdir(work.path)) == [".holder.json", MANIFEST, "map.pdf", "notes.txt", "run.log", "scratch"]
    assert not other.has("embedding", "k")
    other.close()


# The input


FILE = {"format": "npy", "rows": [{"size": 5, "mtime_ns": 1, "inode": 7, "blake2b": "ab", "offset": 128}]}


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        (
            {"size": 6},
            InputChanged,
            r"^/x/a.npy: size: expected 5 as when the run in .* began, found 6; --fresh starts again",
        ),
        ({"mtime_ns": 2}, InputChanged, r"^/x/a.npy: time of change: expected 1970-01-01 00:00:00.000000001 as"),
        ({"inode": 8, "mtime_ns": 2}, InputChanged, "^/x/a.npy: time of change"),
        ({"blake2b": "cd"}, InputChanged, "^/x/a.npy: content: expected ab"),
        ({"size": 6, "offset": 64, "blake2b": "cd"}, InputChanged, "size: expected 5"),
        ({"offset": 64, "blake2b": "cd"}, InputError, "another input, or of this one read otherwise"),
    ],
    ids=str,
)
def test_an_input_that_changed_between_runs(changed, error, said, tmp_path):
    Workdir(tmp_path / "run", FILE, "/x/a.npy").close()
    Workdir(tmp_path / "run", FILE, "/y/moved.npy").close()
    now = FILE | {"rows": [FILE["rows"][0] | changed]}
    with pytest.raises(error, match=said):
        Workdir(tmp_path / "run", now, "/x/a.npy")
    with pytest.raises(InputError, match="another input"):
        Workdir(tmp_path / "run", now, "/x/b.npy")
    Workdir(tmp_path / "run", now, "/x/a.npy", fresh=True).close()


# The holder


def test_who_holds_the_folder_is_said_where_it_is_true(work):
    def refused():
        with pytest.raises(InputError) as e:
            Workdir(work.path, INPUT)
        return str(e.value)

    assert f"process {os.getpid()} on " in refused()
    note = json.loads((work.path / NOTE).read_text())
    (work.path / NOTE).write_text(json.dumps(note | {"process": 2**22 + 1}))  # a process that was killed
    assert "another run is writing here; wait" in refused()
    for text in ("", "[]", "{}"):
        (work.path / NOTE).write_text(text)
        assert "another run is writing here; wait" in refused()


def test_the_note_of_a_process_that_was_killed_keeps_nobody_out(work):
    (work.path / NOTE).write_text('{"process": 1, "host": "elsewhere"}')
    note = (work.path / NOTE).read_text()
    work.close()
    (work.path / NOTE).write_text(note)
    other = Workdir(work.path, INPUT)
    assert json.loads((work.path / NOTE).read_text())["process"] == os.getpid()
    other.close()
    assert not (work.path / NOTE).exists()


# What is done with files


def test_a_published_file_leaves_scratch(work):
    keep(work, "embedding")
    work.publish_saved("embedding")
    assert sorted(os.listdir(work.path)) == [NOTE, "embedding.npy", MANIFEST, "run.log", "scratch"]
    assert os.listdir(work.scratch) == []
    assert work.has("embedding", "k") and np.array_equal(np.load(work.path / "embedding.npy"), ARRAY)


def test_scratch_comes_before_the_older_published_file(work):
    keep(work, "embedding")
    work.publish_saved("embedding")
    work.save("embedding", ARRAY + 1)
    assert np.array_equal(work.read("embedding"), ARRAY + 1)


def test_a_finished_run_keeps_the_graph_of_neighbours_and_the_map(work, again):
    for stage in ("neighbors", "graph", "embedding"):
        keep(work, stage)
    for name in FILES["neighbors"] + FILES["embedding"]:
        work.publish_saved(name)
    work.finish()
    assert not work.scratch.exists()
    work = again(work)
    assert [stage for stage in FILES if work.has(stage, "k")] == ["neighbors", "embedding"]


def test_a_run_that_dies_while_it_tidies_up_claims_nothing_that_is_gone(work, monkeypatch):
    keep(work, "graph")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        work.finish()
    assert json.loads((work.path / MANIFEST).read_text())["stages"] == {}


# Under its final name a file is whole


def test_publishing_writes_and_renames(work):
    work.publish("note.txt", lambda file: file.write(b"whole"))
    assert (work.path / "note.txt").read_text() == "whole" and os.listdir(work.scratch) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_written_whole_does_not_appear(number, work):
    (work.path / "note.txt").write_text("the one before")

    def fill(file):
        file.write(b"ha")
        raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError, match=f"cannot be written .{os.strerror(number)}.; free space"):
        work.publish("note.txt", fill)
    assert (work.path / "note.txt").read_text() == "the one before"


def test_a_disk_that_is_full_only_when_it_is_synced(work, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        work.publish("note.txt", lambda file: file.write(b"whole"))
    assert not (work.path / "note.txt").exists()


def test_a_manifest_that_cannot_be_written_leaves_the_one_before(work, monkeypatch):
    keep(work, "embedding", epoch=1)
    before = (work.path / MANIFEST).read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError):
        work.done("embedding", "k", epoch=2)
    assert (work.path / MANIFEST).read_bytes() == before


def test_everything_is_synced_before_it_gets_its_name(work, monkeypatch):
    keep(work, "embedding")
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (done.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"{a.name} -> {b.name}"), replace(a, b)))
    work.publish("note.txt", lambda file: file.write(b"whole"))
    work.forget("embedding")
    assert done == [
        ".note.txt",
        ".note.txt -> note.txt",
        "run",
        ".manifest.json",
        f".manifest.json -> {MANIFEST}",
        "run",
    ]


def test_json_without_a_value_that_json_has_not(work):
    work.publish_json("run.json", {"name": "ü"})
    assert json.loads((work.path / "run.json").read_text(encoding="utf-8")) == {"name": "ü"}
    with pytest.raises(ValueError):
        work.publish_json("run.json", {"value": float("nan")})
    assert json.loads((work.path / "run.json").read_text(encoding="utf-8")) == {"name": "ü"}


# Space


def free(monkeypatch, n_bytes):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_blocks=9, f_bavail=n_bytes // 10, f_frsize=10))


def test_too_little_space_is_said_before_a_folder_is_made(tmp_path, monkeypatch):
    free(monkeypatch, 300 * 10**6)
    check_space(tmp_path / "a" / "run", 300 * 10**6)
    with pytest.raises(
        OutputError, match="expected 900 MB of free space .*, found 300 MB, 600 MB too little; free as much"
    ):
        check_space(tmp_path / "a" / "run", 900 * 10**6)
    assert os.listdir(tmp_path) == []


def test_what_is_set_aside_becomes_files_and_goes_at_the_end(work):
    reserved = work.scratch / "reserved"
    work.reserve(10**6)
    already = 10**6 - reserved.stat().st_size
    assert 0 < already < 10**5 and reserved.stat().st_blocks * 512 >= 10**6 - already
    work.create("graph", (1000, 100), np.float32).close()
    assert reserved.stat().st_size == 10**6 - already - 400_000
    work.create("layout", (10**6,), np.float32).close()
    assert not reserved.exists(), "no more than was set aside is taken from it"
    work.reserve(10**7)
    work.publish("run.json", lambda file: file.write(b"{}"))
    assert not reserved.exists()
    work.reserve(10**7)
    work.finish()
    assert not work.scratch.exists()


def test_what_a_run_has_already_is_not_set_aside_again(work, monkeypatch):
    work.create("graph", (10**6,), np.uint8).close()
    free(monkeypatch, 10**6)
    work.reserve(19 * 10**5)
    with pytest.raises(OutputError, match="too little"):
        work.reserve(21 * 10**5)
    assert sorted(os.listdir(work.scratch)) == ["graph.npy"]
