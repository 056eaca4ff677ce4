import errno
import json
import os

import pytest

from streamumap.store.runlog import RunLog


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def log(tmp_path):
    log = RunLog()
    log.open(tmp_path)
    yield log
    log.close()


def test_the_log_is_one_json_object_a_line_whatever_was_cut(log, tmp_path):
    log.write("begin", stage="read")
    with open(tmp_path / "run.log", "a") as file:
        file.write('{"time": "2026')  # the disk was full
    log.close()
    log.open(tmp_path)
    log.write("end", stage="read", seconds=1.5)
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [json.loads(line)["event"] for line in (lines[0], lines[2])] == ["begin", "end"] and len(lines) == 3


def test_a_log_that_cannot_be_written_is_no_error(log, tmp_path, monkeypatch):
    RunLog().open(tmp_path / "no such folder")
    RunLog().write("begin")
    monkeypatch.setattr(os, "write", full)
    log.write("begin", stage="read")


def test_a_log_that_ends_amid_a_line_on_a_full_disk(log, tmp_path, monkeypatch):
    log.write("begin", stage="read")
    with open(tmp_path / "run.log", "a") as file:
        file.write('{"time": "2026')
    log.close()
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        log.open(tmp_path)
    log.write("end")
    log.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "run.log").read_text().endswith('"event": "end"}\n')
