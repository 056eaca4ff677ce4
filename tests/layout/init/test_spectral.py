"""The spectral start, held to eigenvectors of NumPy and scipy."""

import re
import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import eigsh
from spectral_checks import blobs, check_product, csr, path, ring, share, solved, true_eigenvectors

from streamumap import demo, engine
from streamumap.errors import Stopped
from streamumap.events import StageStarted
from streamumap.layout import epochs
from streamumap.layout.init import pca, spectral, spectral_sizes
from streamumap.machine.memory import Budget, Device, Machine
from streamumap.params import Params
from streamumap.planning.job import Job
from streamumap.planning.planner import make_plan
from streamumap.request import Request
from streamumap.run import initialize

CPU = epochs.cpu_backend()


def test_the_product_is_the_dense_one():
    check_product(CPU)
    check_product(CPU, n=700, width=9)


@pytest.mark.parametrize("n_components", [1, 2, 3])
@pytest.mark.parametrize(
    "dense",
    [path(300), path(300, 7), ring(300), blobs([250]), blobs([30])],
    ids=["path", "chain", "ring", "blob", "small"],
)
def test_they_are_the_eigenvectors(dense, n_components):
    solution, _ = solved(csr(dense), n_components)
    true, values = true_eigenvectors(dense, n_components + 2)
    assert solution.converged and solution.n_products < 5000
    tied = values[n_components + 1] - values[n_components] < 1e-6 * values[n_components]  # a ring's come in pairs
    expected = true[:, : n_components + tied]
    assert share(solution.vectors, expected) > n_components - 0.02
    ours = np.linalg.qr(solution.vectors)[0]
    degrees = dense.sum(1, dtype=np.float64)
    energy = n_components - np.trace(ours.T @ (dense / np.sqrt(degrees[:, None] * degrees)) @ ours)
    assert energy <= values[1 : n_components + 1].sum() * 1.05
    np.testing.assert_allclose(np.linalg.norm(solution.vectors, axis=0), 1, rtol=1e-6)


def test_each_component_has_its_own():
    sizes = (60, 5, 1, 90, 3, 4, 33)
    dense = blobs([s for s in sizes if s > 1])
    dense = np.pad(dense, ((0, 1), (0, 1)))  # and a vertex without an edge
    solution, parts = solved(csr(dense))
    assert solution.converged and sorted(np.diff(parts.bounds)) == [4, 5, 33, 60, 90]
    assert (parts.part >= 0).sum() == len(parts.order) == 192 and parts.part[-1] == -1
    for number in range(parts.n_parts):
        rows = parts.order[parts.bounds[number] : parts.bounds[number + 1]]
        assert (parts.part[rows] == number).all() and np.isfinite(solution.vectors[rows]).all()
        own = dense[np.ix_(rows, rows)]
        assert share(solution.vectors[rows], true_eigenvectors(own, 2)[0]) > 1.98


def test_components_lie_where_the_others_have_them():
    dense = blobs([80, 3, 50])
    solution, parts = solved(csr(dense))
    others = np.random.default_rng(0).normal(size=(133, 2)).astype(np.float32)
    others[:80] = others[:80] * 3 + [40, 0]
    out = spectral.apart(solution, parts, others)
    assert np.array_equal(out[80:83], others[80:83])
    for rows in (slice(0, 80), slice(83, 133)):
        np.testing.assert_allclose(out[rows].mean(0), others[rows].mean(0), atol=1e-5)
        np.testing.assert_allclose(out[rows].var(0).sum(), others[rows].astype(float).var(0).sum(), rtol=1e-5)
        assert (
            share(
                out[rows] - out[rows].mean(0), np.linalg.qr(solution.vectors[rows] - solution.vectors[rows].mean(0))[0]
            )
            > 1.99
        )


def test_blocks_change_nothing_and_a_seed_little():
    graph = csr(blobs([150, 40]))
    solution = solved(graph)[0].vectors
    for cuts in ((0, 190), (0, 1, 60, 190)):
        assert solved(graph, cuts=cuts, block_rows=17)[0].vectors.tobytes() == solution.tobytes()
    other = solved(graph, seed=1)[0].vectors
    assert other.tobytes() != solution.tobytes() and share(other[:150], np.linalg.qr(solution[:150])[0]) > 1.98


def test_the_number_of_threads_changes_nothing(with_threads, monkeypatch):
    monkeypatch.setattr(spectral, "TASK_ROWS", 50)
    graph = csr(blobs([600, 40]))
    one, two = (with_threads(n, solved, graph)[0].vectors.tobytes() for n in (1, 2))
    assert one == two


def test_it_gives_up_after_a_bounded_number_of_products(monkeypatch):
    monkeypatch.setattr(spectral, "LEAST_PRODUCTS", 100)
    monkeypatch.setattr(spectral, "EDGE_VISITS", 0)
    solution, _ = solved(csr(path(600)))
    assert not solution.converged and 0 < solution.n_products <= 100


@pytest.mark.parametrize("n_components", [1, 2, 10])
@pytest.mark.parametrize("n", [3, 4, 12, 25])
def test_tiny_graphs(n, n_components):
    solution, parts = solved(csr((1 - np.eye(n)) * 65535), n_components)
    assert solution.converged and np.isfinite(solution.vectors[parts.order]).all()
    assert len(parts.order) == (n if n >= max(2 * n_components, n_components + 2) else 0)


def test_thousands_of_components(monkeypatch):
    monkeypatch.setattr(spectral, "SUMS_BYTES", 1 << 16)  # a few at a time
    n = 6000
    rows = np.repeat(np.arange(n), 5)
    targets = rows // 6 * 6 + np.resize(np.array([[j for j in range(6) if j != i] for i in range(6)]), n * 5)
    weights = np.random.default_rng(0).integers(1, 65536, len(rows))
    matrix = sparse.csr_matrix((weights, (rows, targets)), shape=(n, n))
    solution, parts = solved(csr(matrix.maximum(matrix.T)))
    assert solution.converged and parts.n_parts == 1000
    own = matrix.maximum(matrix.T)[600:606, 600:606].toarray()
    assert share(solution.vectors[600:606], true_eigenvectors(own, 2)[0]) > 1.98


@pytest.mark.sizes
def test_memory_is_what_the_footprint_says(monkeypatch):
    monkeypatch.setattr(spectral, "EDGE_VISITS", 0)
    monkeypatch.setattr(spectral, "LEAST_PRODUCTS", 40)
    n, k = 60_000, 8
    random = np.random.default_rng(0)
    rows, targets = np.repeat(np.arange(n), k), random.integers(1, n, n * k)
    matrix = sparse.csr_matrix((random.integers(1, 65536, n * k), (rows, (rows + targets) % n)), shape=(n, n))
    graph = csr(matrix.maximum(matrix.T))
    solved(csr(blobs([30])))
    tracemalloc.start()
    try:
        solved(graph)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    predicted = spectral_sizes.host(n, 2, n, 0)  # the graph was there before
    assert 0.6 * predicted < peak < predicted


@pytest.mark.sizes
@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("n_rows", [5_000, 3_000_000])
def test_the_plan_of_a_spectral_start_has_its_bytes_and_the_default_ones(n_rows, gpu):
    job, device = Job(n_rows, 512, "float16"), Device(0, "Fake", 80 * 10**9, 79 * 10**9) if gpu else None
    machine = Machine(16, 128 * 10**9, device)
    budget = Budget(100 * 10**9, 70 * 10**9 if gpu else None)
    plans = [make_plan(job, Params(init=init), budget, machine)["start"] for init in ("auto", "spectral")]
    auto, ours = (plan.predicted for plan in plans)
    sizes = n_rows, 2, n_rows, 2 * n_rows * 14
    footprint = spectral_sizes.host_beside_gpu if gpu else spectral_sizes.host
    assert ours.host_bytes >= max(auto.host_bytes, footprint(*sizes))
    assert not gpu or ours.device_bytes >= max(auto.device_bytes, spectral_sizes.device(*sizes))


def started(x, tmp_path, monkeypatch, **params):
    """Runs one epoch. Returns the graph, the positions of all rows along its eigenvectors, the first positions, and the messages."""
    seen = {}
    begin, along = initialize.first_positions, initialize._spectral

    def first_positions(rows, plan, p, blocks, *rest):
        block = blocks.graph.block(0, blocks.graph.n_rows)
        seen["graph"] = sparse.csr_matrix((block.weights.astype(float), block.targets, block.indptr))
        seen["start"], seen["said"] = begin(rows, plan, p, blocks, *rest)
        return seen["start"], seen["said"]

    def spectral_positions(*args):
        top_positions, how = along(*args)
        seen["all"] = top_positions(np.arange(len(x)))
        return top_positions, how

    monkeypatch.setattr("streamumap.run.stages.layout.first_positions", first_positions)
    monkeypatch.setattr(initialize, "_spectral", spectral_positions)
    seen["run"] = engine.embed(
        Request(x, Params(n_epochs=1, init="spectral", **params), budget="1GB", device="cpu"), tmp_path
    )
    return seen


def test_the_start_of_the_demo_is_spectral(tmp_path, monkeypatch):
    seen = started(demo.dense(demo.load()), tmp_path, monkeypatch, metric="cosine")
    graph, start = seen["graph"], seen["all"]
    scale = sparse.diags(1 / np.sqrt(np.asarray(graph.sum(1)).ravel()))
    values, vectors = eigsh(scale @ graph @ scale, 3, which="LA", tol=1e-10, ncv=80, v0=np.ones(graph.shape[0]))
    true = vectors[:, np.argsort(-values)[1:]]
    centred = true - true.mean(0)
    assert share(start.astype(np.float64), np.linalg.qr(centred)[0]) > 1.99
    assert np.abs(start).max() == pytest.approx(pca.WIDTH, rel=1e-3) and len(np.unique(start, axis=0)) == len(start)
    said = r"multilevel, 9,600 -> 4,096 vertices, the last along eigenvectors after \d+ products"
    assert re.fullmatch(said, seen["said"]) and seen["run"]["warnings"] == []
    assert np.isfinite(seen["start"]).all() and len(np.unique(seen["start"], axis=0)) > 0.99 * len(start)


def test_pieces_of_a_graph_lie_apart(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    x = (random.normal(size=(300, 8)) + 40 * np.repeat(np.eye(3, 8), 100, axis=0)).astype(np.float32)
    seen = started(x, tmp_path, monkeypatch)
    start = seen["start"]
    assert re.fullmatch(
        r"along eigenvectors after \d+ products, 3 of the graph's pieces each along its own", seen["said"]
    )
    assert np.array_equal(start, seen["all"]), "few rows start there themselves"
    centres = np.stack([start[i : i + 100].mean(0) for i in (0, 100, 200)])
    widths = [np.linalg.norm(start[i : i + 100] - c, axis=1).max() for i, c in zip((0, 100, 200), centres, strict=True)]
    assert min(np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 2 * max(widths)
    for i in (0, 100, 200):
        true, _ = true_eigenvectors(seen["graph"][i : i + 100, i : i + 100].toarray(), 2)
        assert share(start[i : i + 100] - start[i : i + 100].mean(0), np.linalg.qr(true - true.mean(0))[0]) > 1.95


def test_a_stop_is_noticed_while_eigenvectors_are_sought(tmp_path):
    """Solving may take half a minute, so the run listens after every product."""
    n_asked, events = 0, []

    def stopping():
        nonlocal n_asked
        n_asked += any(isinstance(e, StageStarted) and e.stage == "start" for e in events)
        return n_asked > 3

    x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    with pytest.raises(Stopped, match="^stopped while start was at 0 of 200 rows"):
        engine.embed(
            Request(x, Params(init="spectral"), budget="1GB", device="cpu"),
            tmp_path,
            listener=events.append,
            stopping=stopping,
        )


def test_it_says_what_is_used_instead(tmp_path, monkeypatch):
    monkeypatch.setattr(spectral, "LEAST_PRODUCTS", 5)
    monkeypatch.setattr(spectral, "EDGE_VISITS", 0)
    x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    seen = started(x, tmp_path, monkeypatch)
    assert seen["said"] == "by pca" and len(seen["run"]["warnings"]) == 1
    assert seen["run"]["warnings"][0].startswith("--init spectral: no eigenvectors after ")
    assert "the default start is used instead" in seen["run"]["warnings"][0]
