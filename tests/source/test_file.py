"""Paths that are no file of rows, and files that change during a run, are refused."""

import os

import numpy as np
import pytest
from npy_checks import header_text, npy_bytes, numbers, refusal, says

from streamumap.errors import InputChanged, InputError
from streamumap.source import open_source
from streamumap.source.formats.array import ArraySource
from streamumap.source.formats.npy import open_npy


def test_paths_that_are_no_file(tmp_path, monkeypatch):
    says(refusal(tmp_path / "nothing.npy"), "nothing there", "check the path")
    says(refusal(tmp_path), "folder")
    os.symlink(tmp_path / "gone", tmp_path / "link.npy")
    says(refusal(tmp_path / "link.npy"), "link to", "gone")
    os.mkfifo(tmp_path / "pipe")
    says(refusal(tmp_path / "pipe"), "seekable", "pipe")
    says(refusal("/dev/null"), "seekable", "device")
    monkeypatch.chdir(tmp_path)
    says(refusal("-"), "standard input", "file first")
    says(refusal("x" * 5000), "readable")
    with pytest.raises(InputError, match="no file can have"):
        open_npy("a\0b")


def test_permission_denied(save, monkeypatch):
    path = save(numbers())

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # root is never denied
    says(refusal(path), "Permission denied", "permission to read")


def test_unicode_blanks_and_links_in_paths(tmp_path):
    path = tmp_path / "Aktivierungen – schön 🦊.npy"
    np.save(path, numbers())
    os.symlink(path, tmp_path / "link")
    for given_path in (path, str(path), os.fsencode(path), tmp_path / "link"):
        assert np.array_equal(open_source(given_path).read(0, 7), numbers())


def test_no_descriptor_is_left_open(save):
    before = len(os.listdir("/proc/self/fd"))
    for content in (b"", npy_bytes(header_text("'|V1'"), bytes(48)), npy_bytes(header_text())):
        refusal(save(content))
    open_npy(save(numbers())).close()
    open_npy(save(numbers()))  # forgotten
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_cut_off_while_it_is_read(save):
    path = save(numbers(1000, 50))
    source = open_npy(path)
    os.truncate(path, 5000)
    for read in (lambda: source.read(0, 1000), lambda: source.take(np.array([999])), source.check_unchanged):
        with pytest.raises(InputChanged, match=r"x\.npy: size: expected 200128 as on opening, found 5000; the file"):
            read()


def appended(path):
    with open(path, "ab") as file:
        file.write(b"more")


def replaced(path):
    stat = path.stat()
    np.save(path.with_name("new.npy"), numbers(1000, 50))
    os.utime(path.with_name("new.npy"), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.rename(path.with_name("new.npy"), path)


def touched(path):
    os.utime(path, ns=(1, 1))


def written_with_its_old_date(path):
    stat = path.stat()
    with open(path, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    "change, field",
    [(appended, "size"), (replaced, "inode"), (touched, "mtime_ns"), (written_with_its_old_date, "sampled bytes"),
     (os.remove, "file")],
)  # fmt: skip
def test_changes_are_noticed(save, change, field):
    path = save(numbers(1000, 50))
    source = open_npy(path)
    source.check_unchanged()
    change(path)
    with pytest.raises(InputChanged, match=f"x.npy: {field}: expected .* as on opening, found .*; .* start again"):
        source.check_unchanged()


def test_another_working_folder_is_no_change(save, tmp_path, monkeypatch):
    save(numbers())
    monkeypatch.chdir(tmp_path)
    source = open_npy("x.npy")
    monkeypatch.chdir("/")
    source.check_unchanged()


def test_the_input_is_not_modified(save):
    path = save(numbers(100, 5, ">f4"))
    before = path.read_bytes(), path.stat().st_mtime_ns
    source = open_npy(path)
    source.read(0, 100)
    source.take(np.arange(9))
    source.check_unchanged()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_fingerprints_tell_inputs_apart(save):
    x = numbers(3000, 60, "u2")
    path = save(x)
    first = open_npy(path).fingerprint
    assert first == open_npy(path).fingerprint
    assert first != open_npy(path, dtype="bfloat16").fingerprint
    assert first["size"] == path.stat().st_size and first["mtime_ns"] == path.stat().st_mtime_ns
    assert first["inode"] == path.stat().st_ino and "'<u2'" in first["header"]
    y = x.copy()
    y[-1, -1] += 1
    assert open_npy(save(y, "y.npy")).fingerprint["blake2b"] != first["blake2b"]
    assert ArraySource(x).fingerprint == ArraySource(np.asfortranarray(x)).fingerprint
    assert ArraySource(x).fingerprint == ArraySource(x.astype(">u2")).fingerprint
    assert ArraySource(x).fingerprint != ArraySource(y).fingerprint
    assert ArraySource(x).fingerprint != ArraySource(x.view(np.int16)).fingerprint


@pytest.mark.parametrize("n_rows", [1, 3, 100, 5000])
def test_a_body_of_up_to_16_samples_is_hashed_whole(save, monkeypatch, n_rows):
    monkeypatch.setattr("streamumap.source.file.SAMPLE_BYTES", 7000)
    x = numbers(n_rows + 2, 5)
    source = open_npy(save(x))
    seen = []
    monkeypatch.setattr(source.file, "fill", lambda buffer, offset: seen.append((offset, offset + len(buffer))))
    source._sampled_hash()
    gaps = [after[0] - before[1] for before, after in zip(seen, seen[1:], strict=False)]
    assert seen[0][0] == 0 and seen[-1][1] == 128 + x.nbytes
    assert max(gaps, default=0) <= 0
