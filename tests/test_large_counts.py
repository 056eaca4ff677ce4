"""More than 2^31 of anything: files with holes stand for the disk it would take."""

import numpy as np
import pytest

from streamumap.engine import embed
from streamumap.errors import InputError
from streamumap.graph.files import Graph
from streamumap.planning.job import job_of
from streamumap.request import Request
from streamumap.source import open_source
from streamumap.source.scan.cpu import scan
from streamumap.source.sparse.csr_rows import CsrRows
from streamumap.store.blockfile import BlockFile

FAR = 2**31 + 1000


@pytest.fixture(autouse=True)
def room(tmp_path):
    """Files with holes, where the file system has them; they take no room."""
    path = tmp_path / "holes"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    if path.stat().st_blocks > 8:
        pytest.skip("this file system keeps no holes")
    path.unlink()


def npy_with_hole(path, shape, dtype, tail):
    """Zeros but for the last rows, `tail`."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        )
        body = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        tail = np.ascontiguousarray(tail, dtype)
        file.seek(file.tell() + body - tail.nbytes)
        file.write(tail.tobytes())
    return path


def test_the_last_rows_of_a_matrix_of_36_billion_values(tmp_path):
    shape, tail = (3_000_000, 12_288), np.arange(2 * 12_288).reshape(2, -1) % 97
    source = open_source(npy_with_hole(tmp_path / "a.npy", shape, "float16", tail))
    assert (source.n_rows, source.n_features) == shape
    assert np.array_equal(source.read(2_999_998, 3_000_000), tail)
    assert np.array_equal(source.take(np.array([5, 2_999_999]))[1], tail[1])
    source.close()


def test_the_last_rows_of_more_pairs_than_an_int32_counts(tmp_path):
    n, k = FAR // 32 + 1, 32
    indices, values = np.arange(3 * k).reshape(3, k), np.ones((3, k))
    npy_with_hole(tmp_path / "x_indices.npy", (n, k), "uint16", indices)
    npy_with_hole(tmp_path / "x_values.npy", (n, k), "float16", values)
    source = open_source((str(tmp_path / "x_indices.npy"), str(tmp_path / "x_values.npy"), 3072))
    assert job_of(source).n_nonzero == n * k > 2**31
    pairs = source.pairs(n - 3, n)
    assert np.array_equal(pairs.indices, indices.ravel()) and np.array_equal(np.diff(pairs.indptr), [k] * 3)
    source.close()


def test_more_rows_than_int32_counts_are_refused_before_one_is_read(tmp_path):
    path = npy_with_hole(tmp_path / "a.npy", (2**31, 4), "uint8", [[1, 2, 3, 4]])
    with pytest.raises(InputError, match="^rows: expected at most 2,147,483,647 on a map"):
        embed(Request(path, budget="40TB", device="cpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Far:
    """A store of values that begin at FAR."""

    def __init__(self, values):
        self.values = values

    def read(self, start, stop):
        return self.values[start - FAR : stop - FAR]


def test_packed_rows_behind_two_billion_values():
    counts = np.array([3, 0, 2])
    indptr = np.concatenate([[0], FAR + np.cumsum(np.concatenate([[0], counts]))])
    rows = CsrRows(
        indptr, Far(np.array([1, 4, 9, 0, 7], np.uint16)), Far(np.arange(1, 6, dtype=np.float16)), 10, "float16"
    )
    assert rows.n_nonzero == FAR + 5
    bounds, indices, values = rows.block(1, 4)
    assert (
        bounds.tolist() == [0, 3, 3, 5] and indices.tolist() == [1, 4, 9, 0, 7] and values.tolist() == [1, 2, 3, 4, 5]
    )
    bounds, indices, values = rows.take(np.array([1, 3]))
    assert bounds.tolist() == [0, 3, 5] and indices.tolist() == [1, 4, 9, 0, 7]


def test_graph_blocks_behind_two_billion_edges(tmp_path):
    n = 4
    np.save(tmp_path / "indptr.npy", np.array([0, FAR, FAR + 2, FAR + 2, FAR + 3]))
    npy_with_hole(tmp_path / "targets.npy", (FAR + 3,), "int32", [2, 3, 1])
    npy_with_hole(tmp_path / "weights.npy", (FAR + 3,), "uint16", [9, 8, 7])
    graph = Graph(*(BlockFile.open(tmp_path / f"{name}.npy") for name in ("indptr", "targets", "weights")))
    assert graph.n_rows == n and graph.n_edges == FAR + 3
    block = graph.block(1, 4)
    assert block.first_edge == FAR and block.indptr.tolist() == [0, 2, 2, 3]
    assert block.targets.tolist() == [2, 3, 1] and block.weights.tolist() == [9, 8, 7]


class Broad:
    """A source of 2.4 billion ones, made as they are read."""

    name, n_rows, n_features, dtype, row_bytes, fingerprint = "broad", 600_000, 4096, "uint8", 4096, {}

    def read(self, start, stop, out=None):
        rows = np.zeros((stop - start, self.n_features), np.uint8) if out is None else out[: stop - start]
        rows[:] = 1
        return rows


def test_a_scan_counts_more_than_two_billion_values():
    found = scan(Broad(), 4096)
    assert found.n_nonzero == Broad.n_rows * Broad.n_features > 2**31
    assert (found.active_per_feature == Broad.n_rows).all() and found.n_duplicate_rows == Broad.n_rows - 1


class ManyPairs:
    """Packed rows of 3,000 ones each; of twos, the last."""

    n_rows, n_features, dtype, n_nonzero = 750_000, 3072, "float16", 750_000 * 3000

    def stored(self, start, stop):
        values = np.ones((stop - start, 3000), np.float16)
        if stop == self.n_rows:
            values[-1] = 2
        indices = np.tile(np.arange(3000, dtype=np.uint16), stop - start)
        return np.arange(stop - start + 1) * 3000, indices, values.ravel()


@pytest.mark.gpu
def test_pairs_on_a_device_behind_two_billion_values():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available() or torch.cuda.mem_get_info()[0] < 2e10:
        pytest.skip("needs a GPU with 20 GB free")
    from streamumap.neighbors.cuda.search import SparseOnDevice
    from streamumap.neighbors.metric import EUCLIDEAN

    n = ManyPairs.n_rows
    rows = SparseOnDevice(ManyPairs(), EUCLIDEAN, "cuda")
    found = rows.measure(
        torch.tensor([n - 1, n - 2], dtype=torch.int32, device="cuda"),
        torch.tensor([[n - 2, 0], [n - 3, n - 1]], dtype=torch.int32, device="cuda"),
    )
    assert found.tolist() == [[3000.0, 3000.0], [0.0, 3000.0]]
    assert (rows.chunk(n - 1, n)[0] == 2).sum() == 3000
