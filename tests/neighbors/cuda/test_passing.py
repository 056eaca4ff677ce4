"""The approximate search while a device holds only a window of the rows."""

import numpy as np
import pytest
from devices import FORMS, GPU, METRICS, compared, part
from neighbor_checks import search_request
from search_checks import Floor, check_graph, group_rows, true_recall

from streamumap.neighbors.cuda import search as cuda
from streamumap.store.blockfile import BlockFile
from streamumap.store.checkpoint import NoCheckpoint

pytestmark = pytest.mark.usefixtures("few_programs")

N = 3000 if GPU else 150
GROUP, WINDOW = (700, 1500) if GPU else (50, 120)


@pytest.fixture
def scratch(tmp_path):
    return NoCheckpoint(lambda name, shape, dtype: BlockFile.create(tmp_path / f"{name}.npy", shape, dtype))


@pytest.fixture(autouse=True)
def several_regions(monkeypatch):
    if GPU:
        monkeypatch.setattr(part("regions"), "REGION_ROWS", 200)
        monkeypatch.setattr(part("cells"), "ALL_REGIONS", 4)
        monkeypatch.setattr(part("cells"), "NEAREST", 3)


def search(rows, k, metric, form, dtype, scratch, *, group_rows=GROUP, window_rows=WINDOW, reached=None, **more):
    blocks = dict(query_rows=50, other_rows=64, chunk_rows=64, group_rows=group_rows, window_rows=window_rows)
    options = dict(is_zero=~rows.any(1), sample=np.arange(len(rows)), checkpoint=scratch) | more
    reached = reached or (lambda neighbors: True)
    return cuda.search(search_request(compared(rows, metric, form, dtype), k, blocks, reached=reached, **options))


@pytest.mark.parametrize(("form", "dtype"), [("streamed", "float16"), ("packed", "float16"), ("packed", "bfloat16")])
@pytest.mark.parametrize("metric", METRICS)
def test_windows_find_the_recall_that_is_asked_for(metric, form, dtype, scratch):
    rows = group_rows(N)
    rows = (
        rows.astype(dtype).astype(np.float32)
        if dtype == "float16"
        else (rows.view(np.uint32) & 0xFFFF0000).view(np.float32)
    )
    floor = Floor(rows, metric, 0.9)
    found = search(rows, 6, metric, form, dtype, scratch, reached=floor)
    print(floor.recalls)
    check_graph(found, rows, 6, metric, 0.9)
    assert floor.recalls[-1] == true_recall(rows, found[0][:, 1:], floor.sample, metric)


@pytest.mark.parametrize("form", FORMS)
def test_another_round_makes_the_graph_better(form, scratch):
    rows, asked = group_rows(N).astype(np.float16).astype(np.float32), []

    def twice(neighbors):
        asked.append(true_recall(rows, neighbors, np.arange(N), "cosine"))
        return len(asked) == 2

    check_graph(search(rows, 6, "cosine", form, "float16", scratch, reached=twice), rows, 6, "cosine", asked[1])
    assert asked[1] >= asked[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("of", ["copies", "zeros"])
def test_rows_that_are_all_the_same(of, form, scratch):
    rows = np.full((40, 12), 0 if of == "zeros" else 0.5, np.float32)
    indices, distances = search(rows, 4, "cosine", form, "float16", scratch, group_rows=10, window_rows=30)
    assert (indices >= 0).all() and (np.abs(distances) < 1e-6).all()
    assert all(len(set(row)) == 4 for row in indices)


@pytest.mark.parametrize("form", FORMS)
def test_copies_and_zero_rows_that_are_most_of_all(form, scratch):
    rows = group_rows(60)
    rows[10:40], rows[40:50] = rows[10], 0
    rows = rows[np.random.default_rng(0).permutation(60)]
    check_graph(
        search(rows, 4, "cosine", form, "float32", scratch, group_rows=12, window_rows=60), rows, 4, "cosine", 0.8
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "group_rows", "window_rows"), [(3, 1, 1), (5, 3, 3), (9, 9, 9)])
def test_fewer_rows_than_a_tile_and_windows_of_a_group_alone(n, group_rows, window_rows, form, scratch):
    rows = np.eye(n, 12, dtype=np.float32) + 1
    found = search(rows, 3, "euclidean", form, "float16", scratch, group_rows=group_rows, window_rows=window_rows)
    check_graph(found, rows, 3, "euclidean", 0.0)


@pytest.mark.parametrize("form", FORMS)
def test_as_many_neighbours_as_a_list_may_hold(form, scratch, monkeypatch):
    for name in ("list_width", "passing_width"):
        monkeypatch.setattr(part("passing"), name, getattr(part("sizes"), name))
    rows = np.random.default_rng(0).random((140, 12)).astype(np.float32) + 1
    found = search(rows, 129, "euclidean", form, "float32", scratch, group_rows=70, window_rows=140)
    assert (found.indices >= 0).sum(1).min() > 16  # few are proposed in the interpreter
    check_graph(found, rows, 129, "euclidean", 0.9 if GPU else 0.0)
