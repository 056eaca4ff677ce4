"""The graph on a GPU, or on torch's CPU device: held to the CPU's, and its bytes to the plan."""

import numpy as np
import pytest
import torch
from graph_checks import DEVICE, content, random_knn, table
from tensor_bytes import TensorBytes

from streamumap.graph import cuda, merge_cuda, passing_cuda
from streamumap.graph import sizes as footprint


@pytest.mark.parametrize("local_connectivity", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("set_op_mix_ratio", [0.0, 0.7, 1.0])
def test_a_gpu_makes_the_graph_of_the_cpu(built_by, codes_knn, local_connectivity, set_op_mix_ratio):
    """Weights may differ by a step: an exponential may round up on one and down on the other."""
    for knn in (codes_knn, random_knn(11, 300, 9)):
        (cpus, its_sizes), (gpus, sizes) = (
            built_by(backend, knn, 70, local_connectivity, set_op_mix_ratio) for backend in ("cpu", "cuda")
        )
        assert content(cpus)[:2] == content(gpus)[:2] and np.array_equal(its_sizes, sizes)
        weights = [graph.weights.read(0, graph.n_edges).astype(int) for graph in (cpus, gpus)]
        assert np.abs(weights[0] - weights[1]).max() <= 1
        assert content(built_by("cuda", knn, 70, local_connectivity, set_op_mix_ratio)[0]) == content(gpus)


@pytest.mark.parametrize("block_rows", [13, 1000])
def test_a_graph_that_passes_by_is_the_resident_one(built_by, codes_knn, block_rows, monkeypatch):
    monkeypatch.setattr(passing_cuda, "INDEXED", 16)
    for knn in (codes_knn, random_knn(11, 300, 9), star(300)):
        (graph, sizes), (passed, its_sizes) = (built_by(name, knn, block_rows) for name in ("cuda", "passing"))
        assert content(graph) == content(passed) and np.array_equal(sizes, its_sizes)


def star(n):
    """A k-NN table in which every row's neighbour is row 7: one row has more edges than a block."""
    indices, distances = np.full((n, 3), -1), np.full((n, 3), np.inf)
    indices[:, 0], distances[:, 0] = np.arange(n), 0
    indices[:, 1], distances[:, 1] = 7, 1 + np.arange(n) % 5
    indices[7, 1] = 9
    return table(indices, distances)


def test_a_graph_that_passes_by_leaves_no_file(as_file, create, codes_knn, tmp_path):
    files = [as_file(array) for array in codes_knn]
    before = set(tmp_path.iterdir())
    made = dict(local_connectivity=1.0, set_op_mix_ratio=1.0, block_edges=500, device=DEVICE)
    cuda.build(*files, create, run_edges=700, **made)
    assert len(set(tmp_path.iterdir()) - before) == 3


def large_knn(n, k):
    rng = np.random.default_rng(12)
    indices = (np.arange(n)[:, None] + np.cumsum(rng.integers(1, n // k, (n, k)), 1) - 1) % n
    indices[:, 0] = np.arange(n)
    distances = np.sort(rng.random((n, k)), 1)
    distances[:, 0] = 0
    return table(indices, distances)


@pytest.mark.skipif(DEVICE != "cpu", reason="the allocator of a GPU is measured below")
@pytest.mark.parametrize(("n", "block_edges"), [(20_000, 1 << 14), (60_000, 1 << 20), (10_000, 1 << 17)])
def test_tensors_stay_within_the_plan(as_file, create, monkeypatch, n, block_edges):
    """Half of the formula is for the buffers of sorting, which are not tensors, where blocks are large."""
    k, run_edges = 15, 1 << 16
    for name, size in (("SCANNED", 1 << 16), ("JUMPED", 1 << 13)):
        for module in (footprint, cuda, merge_cuda):
            monkeypatch.setattr(module, name, size, raising=False)
    knn = [as_file(array) for array in large_knn(n, k)]
    resident = footprint.cuda(n, k, block_edges)
    passing = footprint.cuda_passing(n, block_edges, run_edges)
    for wanted, run in ((resident, 0), (passing, run_edges)):
        with TensorBytes() as tensors:
            cuda.build(
                *knn, create, local_connectivity=1.0, set_op_mix_ratio=1.0, block_edges=block_edges, run_edges=run,
                device=DEVICE,
            )  # fmt: skip
        assert 0.3 * wanted < tensors.peak < wanted


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: its memory is measured")
@pytest.mark.parametrize("run_edges", [0, 1 << 20, 1 << 22])
@pytest.mark.parametrize("block_edges", [1 << 20, footprint.MOST_EDGES])
def test_the_device_bytes_are_those_of_the_plan(as_file, create, block_edges, run_edges):
    n, k = 400_000, 15
    knn = [as_file(array) for array in large_knn(n, k)]
    wanted = footprint.cuda(n, k, block_edges)
    if run_edges:
        wanted = footprint.cuda_passing(n, block_edges, run_edges)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cuda.build(
        *knn, create, local_connectivity=1.0, set_op_mix_ratio=1.0, block_edges=block_edges, run_edges=run_edges,
        device=DEVICE,
    )  # fmt: skip
    used = torch.cuda.max_memory_allocated() - before
    assert 0.6 <= used / wanted <= 1.0
