"""A new metric is one object on a GPU as well, and an unknown one is refused."""

from dataclasses import replace

import numpy as np
import pytest
from devices import FORMS, GPU, compared, part
from metric_checks import MADE_UP, others_of, searched, unknown
from neighbor_checks import check_neighbors, hard_rows

from streamumap.errors import InputError
from streamumap.neighbors import cuvs, reference
from streamumap.neighbors.cuda import search as cuda
from streamumap.neighbors.metric import EUCLIDEAN, METRICS

pytestmark = pytest.mark.usefixtures("few_programs")

N, K = (300, 12) if GPU else (24, 3)
BLOCKS = dict(query_rows=1000, other_rows=64, chunk_rows=0, group_rows=0, window_rows=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_rows", [0, 100])
@pytest.mark.parametrize("metric", MADE_UP)
def test_a_new_metric_is_one_object(metric, chunk_rows, form, monkeypatch):
    monkeypatch.setitem(METRICS, metric, MADE_UP[metric])
    rows = hard_rows(N)
    there, blocks = compared(rows, metric, form), BLOCKS | {"chunk_rows": chunk_rows}
    found = searched(cuda, there, K, blocks, is_zero=~rows.any(1), sample=np.arange(N))
    if not chunk_rows:
        check_neighbors(found, rows, K, metric, atol=1e-4)
    true = np.take_along_axis(reference.distance_matrix(rows, rows, metric), np.maximum(found.indices, 0), 1)
    named = found.indices >= 0
    np.testing.assert_allclose(found.distances[named], true[named], rtol=1e-4, atol=1e-4)
    expected = reference.nearest(rows[:4], rows, K, metric, True)[1]
    np.testing.assert_allclose(others_of(part("nearest"), there, rows[:4], K)[1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_a_metric_that_a_gpu_does_not_have_is_refused(form):
    rows = replace(compared(hard_rows(N), "euclidean", form), metric=unknown(EUCLIDEAN))
    for name, entry in (
        ("cuda", lambda: searched(cuda, rows, K, BLOCKS)),
        ("cuda", lambda: cuda.count_closer(rows, np.arange(3), np.zeros((3, 2), int), 10)),
        ("cuda", lambda: others_of(part("nearest"), rows, hard_rows(N), K)),
        ("cuvs", lambda: searched(cuvs, rows, K, BLOCKS)),
    ):
        with pytest.raises(
            InputError, match=f"--neighbors {name} has \\(euclidean, cosine\\), found 'unknown'; choose"
        ):
            entry()
