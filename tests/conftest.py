import importlib
import sys
import warnings

import numpy as np
import pytest
from hypothesis import settings

from streamumap import demo
from streamumap.blockfile import BlockFile
from streamumap.neighbors import reference
from streamumap.source import open_source
from streamumap.source.packed import pack
from streamumap.stage_plans import TINY, tiny

settings.register_profile("untimed", deadline=None)  # the first example may compile
settings.load_profile("untimed")


def pytest_collection_modifyitems(items):
    if tiny():
        for item in items:
            if item.get_closest_marker("sizes"):
                item.add_marker(pytest.mark.skip(reason=f"checks sizes that are not planned with {TINY}"))


@pytest.fixture(scope="session")
def codes():
    """600 real codes, float32 (600, 3072), 1% of which is not zero."""
    return demo.dense(demo.load())[::16].astype(np.float32)


@pytest.fixture(scope="session")
def codes_knn(codes):
    """The exact 15 neighbours of `codes` (cosine): indices int32, distances float32, as a search gives them."""
    return reference.search(codes, 15, "cosine")


@pytest.fixture
def packed():
    """packed(array) -> PackedRows in memory."""

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
    monkeypatch.setattr(part("approximate"), "cuda_width", lambda k: 8)
    monkeypatch.setattr(part("approximate"), "SHARES", (1 / 16, 1.0))
    smaller = {
        "MARGIN": 1, "TOGETHER": 64, "FORWARD": 4, "REVERSE": 3, "NEIGHBORS": 4, "CANDIDATES": (4 + 3) * 4,
        "CELL_ROWS": 16, "LLOYD": 2, "TILE": 8, "SPLITS": 2, "COUNTED_TOGETHER": 16,
    }  # fmt: skip
    for module in map(part, ("approximate", "exhaustive", "join", "packed", "probe", "sketch", "tiles")):
        for name in smaller.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, smaller[name])


@pytest.fixture(scope="session")
def umap_learn():
    """umap-learn's functions, its compiled loops as plain Python: a few hundred rows take less time than compiling."""
    import numba

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
