"""The search with a window of the rows, stopped and continued, and what is kept of it damaged."""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from devices import FORMS, GPU, compared, part, placed
from neighbor_checks import search_request
from search_checks import group_rows, same_bytes

from streamumap.errors import OutputError, Stopped
from streamumap.neighbors.cuda import search as cuda
from streamumap.neighbors.cuda.round import Round
from streamumap.run.recorder import Meter
from streamumap.store import saved_checkpoint
from streamumap.store.blockfile import BlockFile
from streamumap.store.checkpoint import NoCheckpoint
from streamumap.store.saved_checkpoint import SavedCheckpoint
from streamumap.store.workdir import Workdir

pytestmark = pytest.mark.usefixtures("few_programs")

N, GROUP, WINDOW = (3000, 700, 1500) if GPU else (24, 16, 20)


@pytest.fixture
def scratch(create):
    return NoCheckpoint(create)


# The whole search


def search(rows, form, checkpoint, reached, advance=lambda n: None):
    blocks = dict(query_rows=N // 2, other_rows=64, chunk_rows=64, group_rows=GROUP, window_rows=WINDOW)
    options = dict(is_zero=~rows.any(1), sample=np.arange(len(rows)), checkpoint=checkpoint, advance=advance)
    return cuda.search(search_request(compared(rows, "cosine", form), 4, blocks, reached=reached, **options))


@pytest.mark.parametrize("form", FORMS)
def test_a_search_that_starts_again_after_every_unit_gives_the_same_bytes(form, restarted, scratch, monkeypatch):
    """The search does two rounds, and neither begins again once the next has begun."""
    rows, begun = group_rows(N), []
    make = part("passing").arrange
    monkeypatch.setattr(part("passing"), "arrange", lambda *args: [begun.append(args[1].number), make(*args)][1])

    def second(neighbors):
        return begun[-1] == 1

    right = search(rows, form, scratch, second)
    begun.clear()
    found, n_times, _ = restarted(lambda checkpoint, advance: search(rows, form, checkpoint, second, advance))
    assert (
        same_bytes(found, right)
        and n_times >= (17 if form == "streamed" else 13)
        and begun == sorted(begun)
        and begun[-1] == 1
    )


# A round, whose groups are a few numbers


class Process:
    """A process that works on one round in a run's folder, and how many groups it may do before it is killed."""

    def __init__(self, work, n_groups, stopping=False):
        self.n_left, self.warned, self.found = n_groups, [], []
        meter = Meter("work", 10, "rows", lambda event: None, lambda: False, 0.0)
        run = SimpleNamespace(stopping=lambda: stopping, warn=self.warned.append, reuse=lambda what: None)
        self.checkpoint = SavedCheckpoint(work, "neighbors", "key", "the search", meter, run)

    def _one(self, group, found):
        if self.n_left == 0:
            raise Killed
        self.n_left -= 1
        self.found.append(group.start)
        return placed(found), placed(found.astype(np.float32) / 3)

    def look(self, arranged, this, nobody, group, advance):
        rows = np.arange(*arranged.parts.bounds[[group.start, group.stop]], dtype=np.int32)
        return self._one(group, rows[:, None] * 7 + np.arange(2, dtype=np.int32))

    def join(self, arranged, this, before, group, advance):
        """Depends on all rows before, and on those of the group."""
        start, stop = arranged.parts.bounds[[group.start, group.stop]]
        everything = before.found.read(0, 9)
        own = before.distances.read(start, stop).astype(np.int32)
        return self._one(group, everything[start:stop] + everything.sum(dtype=np.int32) % 1000 + own)

    def search(self, monkeypatch):
        monkeypatch.setattr(part("window_steps"), "_look", self.look)
        monkeypatch.setattr(part("window_steps"), "_join", self.join)
        lists = part("window_steps").search_windows(ARRANGED, ROUND, None, self.checkpoint, None)
        return lists.found.read(0, 9), lists.distances.read(0, 9)


class Killed(Exception):
    pass


ROUND = Round(1, 0, group_rows=3, window_rows=9, chunk_rows=9, width=2, n_proposed=4)
ARRANGED = SimpleNamespace(parts=SimpleNamespace(bounds=np.array([0, 2, 5, 9])), numbers=np.zeros(9))
ALL = 3 * 3
"""Groups in all steps of the round."""


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_checkpoint, "SAVE_SECONDS", 0)
    work = Workdir(tmp_path / "run", {})
    yield work
    work.close()


@pytest.fixture
def right(tmp_path, monkeypatch):
    work = Workdir(tmp_path / "right", {})
    process = Process(work, ALL)
    yield process.search(monkeypatch)
    assert process.n_left == 0
    work.close()


@pytest.mark.parametrize("n_groups", range(ALL + 1))
def test_a_round_goes_on_where_it_was_killed(n_groups, work, right, monkeypatch):
    first = Process(work, n_groups)
    if n_groups < ALL:
        with pytest.raises(Killed):
            first.search(monkeypatch)
    else:
        first.search(monkeypatch)
    again = Process(work, ALL)
    assert same_bytes(again.search(monkeypatch), right)
    assert not again.warned and len(first.found + again.found) == ALL


def test_a_stop_keeps_the_group_that_was_just_found(work, right, monkeypatch):
    for n_groups in range(1, ALL + 1):
        process = Process(work, ALL, stopping=True)
        with pytest.raises(Stopped):
            process.search(monkeypatch)
        assert len(process.found) == 1, n_groups
    assert same_bytes(Process(work, 0).search(monkeypatch), right)


@pytest.mark.parametrize("how", ["bit", "cut", "missing"])
@pytest.mark.parametrize("n_groups", [2, 3, 5, 6, 8, 9])
def test_whatever_is_damaged_is_found_again(n_groups, how, tmp_path, work, right, monkeypatch):
    with suppress(Killed):
        Process(work, n_groups).search(monkeypatch)
    kept = {path: path.read_bytes() for path in work.scratch.iterdir()}
    names = [path for path in kept if path.suffix in (".state", ".npy")]
    assert len(names) >= 3
    for path in names:
        for there in work.scratch.iterdir():
            there.unlink()
        for there, content in kept.items():
            there.write_bytes(content)
        spoilt = bytearray(kept[path])
        spoilt[len(spoilt) - 40 if path.suffix == ".state" else 130] ^= 16
        path.write_bytes({"bit": spoilt, "cut": kept[path][:-3], "missing": b""}[how])
        if how == "missing":
            path.unlink()
        again = Process(work, 3 * ALL)
        assert same_bytes(again.search(monkeypatch), right), path.name
        assert len(again.warned) <= 1


def test_a_full_disk_is_an_error_though_another_thread_writes(work, right, monkeypatch):
    process, write = Process(work, 5), BlockFile.write

    def full(file, start, block):
        if start == 2 and "step1" in file.path.name:
            raise OutputError("no space")
        write(file, start, block)

    with monkeypatch.context() as patch:
        patch.setattr(BlockFile, "write", full)
        with pytest.raises(OutputError, match="no space"):
            process.search(monkeypatch)
    again = Process(work, ALL)
    assert same_bytes(again.search(monkeypatch), right) and again.found[0] == 1 and not again.warned


def test_lists_that_no_step_needs_any_more_take_no_space(work, monkeypatch):
    """Neither under a name nor in a file that was removed and is still open."""
    process, counted = Process(work, ALL), []
    join = process.join

    def counting(*args, **more):
        links = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
        counted.append(sum(f"{work.scratch}/neighbors-round" in link for link in links))
        return join(*args, **more)

    process.join = counting
    process.search(monkeypatch)
    assert counted == [4] * 6
    assert len(list(work.scratch.glob("*.npy"))) == 2
    for other in (replace(ROUND, number=2), ROUND):
        monkeypatch.setattr(f"{__name__}.ROUND", other)
        Process(work, ALL).search(monkeypatch)
        assert len(list(work.scratch.glob("*.npy"))) == 2 and len(list(work.scratch.glob("*.state"))) == 1


def test_lists_of_a_search_with_other_blocks_take_no_space(work, monkeypatch):
    with pytest.raises(Killed):
        Process(work, 7).search(monkeypatch)
    assert len(list(work.scratch.glob("*.npy"))) == 4
    process = Process(work, 1)
    process.checkpoint.key = "of other blocks"
    with pytest.raises(Killed):
        process.search(monkeypatch)
    assert len(list(work.scratch.glob("*.npy"))) == 2
