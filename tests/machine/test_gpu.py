"""Blocks shrink where the device runs out of memory."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from streamumap.graph import cuda, merge_cuda  # noqa: E402
from streamumap.machine import gpu  # noqa: E402

NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has less."


@pytest.fixture(autouse=True)
def nothing_said():
    gpu.shrunk()
    yield
    gpu.shrunk()


def too_large(work, most):
    """A work(start, stop) that runs out of memory on more than `most` rows."""

    def tried(start, stop):
        if stop - start > most:
            raise torch.OutOfMemoryError(NO_MEMORY)
        work(start, stop)

    return tried


@pytest.mark.parametrize("most", [100, 37, 1])
def test_every_row_is_done_once_and_in_order(most):
    done = []
    gpu.in_halves(too_large(lambda start, stop: done.extend(range(start, stop)), most), 5, 105)
    assert done == list(range(5, 105))
    said = gpu.shrunk()
    assert (not said) == (most == 100) and gpu.shrunk() == []
    assert all("done in halves (CUDA out of memory)" in text for text in said)


def test_blocks_are_whole_multiples():
    bounds = []
    gpu.in_halves(too_large(lambda *block: bounds.append(block), 40), 0, 100, least=16)
    assert bounds[-1][1] == 100 and all(start % 16 == 0 for start, _ in bounds)


def test_what_never_fits_is_the_devices_error():
    with pytest.raises(torch.OutOfMemoryError):
        gpu.in_halves(too_large(print, 0), 0, 8)


def test_another_error_is_not_tried_again():
    calls = []

    def work(start, stop):
        calls.append(start)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gpu.in_halves(work, 0, 8)
    assert calls == [0] and not gpu.shrunk()


def test_the_graph_is_the_same_to_the_byte(codes_knn, as_file, create, monkeypatch):
    indices, distances = (as_file(array) for array in codes_knn)
    wanted = dict(local_connectivity=1.0, set_op_mix_ratio=1.0)

    def made():
        graph, sizes = cuda.build(indices, distances, create, block_edges=6000, device="cpu", **wanted)
        block = graph.block(0, graph.n_rows)
        return block.indptr, block.targets, block.weights, sizes

    before = made()
    merged = merge_cuda.merged

    def small_device(keys, strengths, n_rows, mix):
        if n_rows > 50:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return merged(keys, strengths, n_rows, mix)

    monkeypatch.setattr(merge_cuda, "merged", small_device)
    after = made()
    assert len(gpu.shrunk()) > 2
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
