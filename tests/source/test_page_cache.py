"""Asks the kernel (`mincore`) which pages of a file stay in the page cache after its rows were read."""

import ctypes
import mmap
import os
from weakref import WeakKeyDictionary

import numpy as np
import pytest

from streamumap.source import blocks, file, open_source

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PAGES, ROW_BYTES = 4096, 30_000  # rows do not end with pages
MANY = file.FOLIO_BYTES // PAGE_BYTES  # pages of a folio, which stay if one of them does


def held(path):
    """Tells for each page of a file whether the page cache holds it."""
    with open(path, "r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // PAGE_BYTES))()
        start = ctypes.c_char.from_buffer(mapped)
        mincore = ctypes.CDLL(None, use_errno=True).mincore
        failed = mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), pages)
        del start
        assert not failed, os.strerror(ctypes.get_errno())
        return np.frombuffer(pages, np.uint8) & 1 == 1


def release(path):
    with open(path, "rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def saved(tmp_path):
    """Saves files of PAGES pages of rows and drops them from the page cache."""

    def saved(name):
        path = tmp_path / name
        np.save(path, np.ones((PAGES * PAGE_BYTES // ROW_BYTES, ROW_BYTES), np.uint8))
        release(path)
        if held(path).any():
            pytest.skip("this file system is all page cache")
        return path

    return saved


def free(monkeypatch, pages):
    monkeypatch.setattr(file, "_cached", WeakKeyDictionary())  # forget the files that other tests left open
    monkeypatch.setattr(file, "host_free_bytes", lambda: int(pages * PAGE_BYTES / file.CACHED_SHARE))


def shows(check):
    """Tries several times: the system may drop or hold pages for reasons of its own."""
    return any(check() for _ in range(5))


def streamed(source, path):
    for _ in blocks(source, 20):
        pass
    return held(path)


def test_what_streams_past_is_released_but_for_as_much_as_has_room(saved, monkeypatch):
    free(monkeypatch, pages=1000)
    path = saved("x.npy")
    source = open_source(path)

    def only_the_first():
        there = streamed(source, path)
        return there[:1000].all() and not there[1000 + MANY : -MANY].any()

    assert shows(only_the_first)


def test_a_file_that_has_room_stays(saved, monkeypatch):
    free(monkeypatch, pages=2 * PAGES)
    path = saved("x.npy")
    source = open_source(path)
    assert shows(lambda: streamed(source, path).all())


def test_files_that_are_open_together_share_the_room_and_a_closed_one_gives_it_back(saved, monkeypatch):
    free(monkeypatch, pages=PAGES + 1000)
    paths = [saved("x-1.npy"), saved("x-2.npy")]
    source = open_source(paths[0].parent)

    def all_of_the_first_and_some():
        second, first = streamed(source, paths[1]), held(paths[0])
        return first.all() and second[:990].all() and not second[1000 + MANY : -MANY].any()

    assert shows(all_of_the_first_and_some)
    source.close()
    alone = open_source(paths[1])
    assert shows(lambda: streamed(alone, paths[1]).all())


def test_rows_that_are_taken_one_by_one_stay(saved, monkeypatch):
    free(monkeypatch, pages=0)
    path = saved("x.npy")
    source, page = open_source(path), 300 * ROW_BYTES // PAGE_BYTES + 1
    assert shows(lambda: len(source.take(np.array([300, 301]))) and held(path)[page])
