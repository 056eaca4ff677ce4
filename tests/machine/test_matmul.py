import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from streamumap.machine import matmul


@pytest.mark.parametrize(("n_rows", "n_columns", "n_others"), [(1, 1, 1), (700, 3, 40), (512, 512, 1), (40, 1100, 7)])
def test_products_are_numpys(n_rows, n_columns, n_others):
    random = np.random.default_rng(0)
    rows = random.normal(size=(n_rows, n_columns)).astype(np.float32)
    others = random.normal(size=(n_columns, n_others)).astype(np.float32)
    ours = matmul.gram(rows)
    assert ours.dtype == np.float32 and np.array_equal(ours, ours.T)
    np.testing.assert_allclose(ours, rows.T.astype(float) @ rows, atol=1e-3)
    product = matmul.product(rows, others)
    assert product.dtype == np.float32
    np.testing.assert_allclose(product, rows.astype(float) @ others, atol=1e-3)


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    random = np.random.default_rng(0)
    rows, others = (random.normal(size=shape).astype(np.float32) for shape in ((1500, 1100), (1100, 40)))
    found = set()
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(matmul, "n_cores", lambda n=n_threads: n)
        with threadpool_limits(n_threads, "blas"):
            found.add((matmul.gram(rows).tobytes(), matmul.product(rows, others).tobytes()))
    assert len(found) == 1
