import importlib
import os
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings

from streamumap import demo, engine, transform
from streamumap.errors import Stopped
from streamumap.machine import memory
from streamumap.neighbors import reference
from streamumap.planning.fit import FORCE_TINY, is_tiny_forced
from streamumap.request import Request
from streamumap.run.recorder import Meter
from streamumap.source import open_source
from streamumap.source.sparse.csr_rows import pack
from streamumap.store import saved_checkpoint
from streamumap.store.blockfile import BlockFile
from streamumap.store.saved_checkpoint import SavedCheckpoint
from streamumap.store.workdir import Workdir

settings.register_profile("untimed", deadline=None)  # the first example may compile
settings.load_profile("untimed")


FORCE_RESTART = "STREAMUMAP_FORCE_RESTART"
"""Set to 1, every run of the engine ends after every unit of work and is started again: what does not go on where it was shows."""


def restart_after_every_unit():
    """What a run leaves and returns is then that of its last process, which had next to nothing to do."""
    done, stage_done = SavedCheckpoint.done, Workdir.done

    def ended(*args, **kwargs):
        done(*args, **kwargs)
        raise Ended

    def stage_ended(*args, **kwargs):
        stage_done(*args, **kwargs)
        raise Ended

    def until_it_ends(work):
        def again_and_again(*args, **kwargs):
            for _ in range(2_000):
                with suppress(Ended):
                    return work(*args, **kwargs)
                args = [replace(a, fresh=False) if isinstance(a, Request) else a for a in args]
            raise AssertionError("it does not come to an end")

        return again_and_again

    memory.Watch = lambda device: SimpleNamespace(lap=lambda: (1, 0), close=lambda: None)  # half of the time
    saved_checkpoint.SAVE_SECONDS, SavedCheckpoint.done, Workdir.done = 0, ended, stage_ended
    engine.embed, transform.transform = until_it_ends(engine.embed), until_it_ends(transform.transform)


class Ended(Exception):
    """As a process that is killed, but for what it does on its way out."""


if os.environ.get(FORCE_RESTART) == "1":
    restart_after_every_unit()


def pytest_collection_modifyitems(items):
    if os.environ.get(FORCE_RESTART) == "1":
        for item in items:
            if item.get_closest_marker("one_process"):
                item.add_marker(
                    pytest.mark.skip(reason=f"looks at what one process says of a run, not with {FORCE_RESTART}")
                )
    if is_tiny_forced():
        for item in items:
            if item.get_closest_marker("sizes"):
                item.add_marker(pytest.mark.skip(reason=f"checks sizes that are not planned with {FORCE_TINY}"))


@pytest.fixture(scope="session")
def codes():
    """600 real codes, float32 (600, 3072), 1% of which is not zero."""
    return demo.dense(demo.load())[::16].astype(np.float32)


@pytest.fixture(scope="session")
def codes_knn(codes):
    """The exact 15 neighbours of `codes` (cosine): indices int32, distances float32, as a search gives them."""
    return reference.search(codes, 15, "cosine")


@pytest.fixture
def csr():
    """csr(array) -> CsrRows in memory."""

    def make(array):
        return pack(open_source(array), 100, int(np.count_nonzero(array)))

    return make


@pytest.fixture
def create(tmp_path):
    """create(name, shape, dtype) -> BlockFile, as the engine gives it to a stage."""
    made = []

    def make(name, shape, dtype):
        made.append(BlockFile.create(tmp_path / f"{len(made)}_{name}.npy", shape, dtype))
        return made[-1]

    yield make
    for file in made:
        file.close()


@pytest.fixture
def as_file(create):
    """as_file(array) -> BlockFile that holds it."""

    def make(array):
        file = create("array", array.shape, array.dtype)
        file.write(0, array)
        return file

    return make


@pytest.fixture
def poison(monkeypatch):
    """poison(): from now on np.empty gives NaN and other garbage. Compile numba's functions before."""
    empty = np.empty

    def poisoned(*args, **kwargs):
        array = empty(*args, **kwargs)
        array.reshape(-1).view(np.uint8)[:] = 0xFD  # not 0xFF: -1 would pass for "no neighbour"
        if array.dtype.kind == "f":
            array[...] = np.nan
        return array

    return lambda: monkeypatch.setattr(np, "empty", poisoned)


@pytest.fixture
def few_programs(monkeypatch):
    """Triton's interpreter takes milliseconds for each operation of a program, and a second for a sort: short lists, small tiles
    and NumPy's sort there. On a GPU everything is as it is."""
    from devices import GPU, part

    if GPU:
        return
    import triton.language as tl

    def sort(x):
        x = x + 0
        x.handle.data.sort()
        return x

    monkeypatch.setattr(tl, "sort", sort)
    for module in map(part, ("approximate", "passing", "look")):
        for name, value in {
            "list_width": lambda k: 8,
            "SHARES": (1 / 16, 1.0),
            "passing_width": lambda k, sparse: 8,
        }.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    smaller = {
        "MARGIN": 1, "TOGETHER": 64, "FORWARD": 4, "REVERSE": 3, "NEIGHBORS": 4, "CANDIDATES": (4 + 3) * 4,
        "CELL_ROWS": 16, "LLOYD": 2, "TILE": 8, "SPLITS": 2, "COUNTED_TOGETHER": 16, "REGION_ROWS": 40, "NEAREST": 2,
        "ALL_REGIONS": 2,
    }  # fmt: skip
    modules = [
        "approximate",
        "exhaustive",
        "join",
        "sparse_rows",
        "probe",
        "sketch",
        "regions",
        "cells",
        "tiles",
        "reach",
        "look",
        "window_steps",
    ]
    for module in map(part, modules):
        for name in smaller.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, smaller[name])


@pytest.fixture(scope="session")
def umap_learn():
    """umap-learn's functions, its compiled loops as plain Python: a few hundred rows take less time than compiling."""
    import numba

    if importlib.util.find_spec("umap") is None:
        pytest.skip("umap-learn is not installed")
    loaded = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional TensorFlow
        patch.setattr(numba.config, "DISABLE_JIT", True)
        umap_ = importlib.import_module("umap.umap_")
    yield umap_
    for name in set(sys.modules) - loaded:
        if name.split(".")[0] in ("umap", "pynndescent"):  # others want them compiled
            del sys.modules[name]


@pytest.fixture
def with_threads():
    """with_threads(n, function, *args, **kwargs): the result with n numba threads."""
    import numba

    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba was started with one thread")
    before = numba.get_num_threads()

    def call(n, function, *args, **kwargs):
        numba.set_num_threads(n)
        return function(*args, **kwargs)

    yield call
    numba.set_num_threads(before)


@pytest.fixture
def restarted(tmp_path):
    """restarted(work): (what work(units, tick) returns, the run being started again after every unit; how often it was; what
    was said to be used again)."""
    work = Workdir(tmp_path / "restarted", {})
    said: list[str] = []

    def refused(text):
        raise AssertionError(text)

    def call(do):
        for n_times in range(2_000):
            meter = Meter("work", 10**6, "rows", lambda event: None, lambda: False, 0.0)
            run = SimpleNamespace(stopping=lambda: True, warn=refused, reuse=said.append)
            checkpoint = SavedCheckpoint(work, "work", "key", "it", meter, run)
            try:
                return do(checkpoint, meter), n_times, said
            except Stopped:
                assert len(said) >= n_times, "what was done was not used again"
        raise AssertionError("it does not come to an end")

    yield call
    work.close()
