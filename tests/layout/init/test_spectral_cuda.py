"""The product of the spectral start in Triton, on a GPU or in Triton's interpreter."""

import numpy as np
from devices import GPU
from spectral_checks import blobs, check_product, csr, share, solved

from streamumap.layout import epochs

DEVICE = epochs.cuda_backend("cuda" if GPU else "cpu")


def test_the_product_is_the_dense_one():
    check_product(DEVICE)
    check_product(DEVICE, n=30, width=9)


def test_the_eigenvectors_are_those_of_the_cpu():
    graph = csr(blobs([300, 40] if GPU else [12, 6]))
    (solution, parts), (ours, _) = solved(graph, backend=DEVICE), solved(graph)
    assert solution.converged and solution.n_products == ours.n_products
    for number in range(parts.n_parts):
        rows = parts.order[parts.bounds[number] : parts.bounds[number + 1]]
        assert share(solution.vectors[rows], np.linalg.qr(ours.vectors[rows])[0]) > 1.999
    assert solved(graph, backend=DEVICE)[0].vectors.tobytes() == solution.vectors.tobytes()
