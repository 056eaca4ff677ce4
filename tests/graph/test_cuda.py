"""The graph on a GPU, or on torch's CPU device: held to the CPU's, and its bytes to the plan."""

import numpy as np
import pytest
import torch
from graph_checks import BACKENDS, DEVICE, content, random_knn, table

from streamumap.graph import cuda
from streamumap.graph import sizes as footprint


@pytest.mark.parametrize("local_connectivity", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("set_op_mix_ratio", [0.0, 0.7, 1.0])
def test_a_gpu_makes_the_graph_of_the_cpu(built_by, codes_knn, local_connectivity, set_op_mix_ratio):
    """Weights may differ by a step: an exponential may round up on one and down on the other."""
    for knn in (codes_knn, random_knn(11, 300, 9)):
        (cpus, its_sizes), (gpus, sizes) = (
            built_by(backend, knn, 70, local_connectivity, set_op_mix_ratio) for backend in BACKENDS
        )
        assert content(cpus)[:2] == content(gpus)[:2] and np.array_equal(its_sizes, sizes)
        weights = [graph.weights.read(0, graph.n_edges).astype(int) for graph in (cpus, gpus)]
        assert np.abs(weights[0] - weights[1]).max() <= 1
        assert content(built_by("cuda", knn, 70, local_connectivity, set_op_mix_ratio)[0]) == content(gpus)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU: its memory is measured")
@pytest.mark.parametrize("block_edges", [1 << 20, footprint.MOST_EDGES])
def test_the_device_bytes_are_those_of_the_plan(as_file, create, block_edges):
    n, k = 400_000, 15
    rng = np.random.default_rng(12)
    indices = (np.arange(n)[:, None] + np.cumsum(rng.integers(1, 30_000, (n, k)), 1) - 1) % n
    indices[:, 0] = np.arange(n)
    distances = np.sort(rng.random((n, k)), 1)
    distances[:, 0] = 0
    knn = [as_file(array) for array in table(indices, distances)]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    cuda.build(
        *knn, create, local_connectivity=1.0, set_op_mix_ratio=1.0, block_edges=block_edges, device=DEVICE
    )  # fmt: skip
    used = torch.cuda.max_memory_allocated() - before
    assert 0.6 <= used / footprint.cuda(n, k, block_edges) <= 1.0
