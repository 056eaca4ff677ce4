import errno
import io
import os

import pytest

from streamumap.errors import OutputError
from streamumap.store.atomic import DiskFile, publish, rename, write_at, write_file, write_through, writing


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_of_writing_has_one_wording():
    with (
        pytest.raises(OutputError, match=r"^x: cannot be written \(No space left on device\); free it\.$"),
        writing("x", "free it"),
    ):
        no_space()
    with pytest.raises(OutputError, match=r"^as it was$"), writing("x"):
        raise OutputError("as it was")
    with (
        pytest.raises(OutputError, match=r"x: cannot be written \(said by a library\); free space or choose"),
        writing("x"),
    ):
        raise OSError("said by a library")
    with pytest.raises(ValueError, match="no error of the disk"), writing("x"):
        raise ValueError("no error of the disk")


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("unfinished", [None, ".unfinished"])
def test_what_fails_leaves_the_file_before_it_and_nothing_else(call, unfinished, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"before")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_space)
        with pytest.raises(OSError, match="No space left on device"):
            write_file(tmp_path / "a", lambda file: file.write(b"after"), unfinished and tmp_path / unfinished)
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"before"
    publish(tmp_path / "a", lambda file: file.write(b"after"))
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"after"


def test_an_error_of_the_content_passes_through(tmp_path):
    for error in (ZeroDivisionError, KeyboardInterrupt):

        def write(file, error=error):
            file.write(b"half")
            raise error

        with pytest.raises(error):
            publish(tmp_path / "a", write)
    assert os.listdir(tmp_path) == []


def test_a_name_lasts(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    write_through(tmp_path / "a", lambda file: file.write(b"x"))
    rename(tmp_path / "a", tmp_path / "b")
    assert synced == [str(tmp_path / "a"), str(tmp_path)]


def test_bytes_that_the_system_takes_in_parts(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
    with open(tmp_path / "a", "wb+") as file:
        write_at(file.fileno(), memoryview(bytes(range(100))), 3)
    assert (tmp_path / "a").read_bytes() == bytes(3) + bytes(range(100))


def test_a_disk_file_is_a_file_without_a_descriptor(tmp_path):
    with DiskFile(tmp_path / "a") as raw, pytest.raises(io.UnsupportedOperation):
        raw.fileno()
    with DiskFile(tmp_path / "a") as raw:
        buffered = io.BufferedRandom(raw)
        buffered.write(b"0123456789")
        buffered.seek(4)
        assert buffered.read(2) == b"45" and buffered.truncate(6) == 6
        buffered.detach()
    assert (tmp_path / "a").read_bytes() == b"012345"
