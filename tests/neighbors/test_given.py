"""A k-NN graph that somebody else made: what is read, what is mended, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamumap import StreamUMAP, cli, engine
from streamumap.errors import InputChanged, InputError
from streamumap.events import Note
from streamumap.neighbors import reference
from streamumap.neighbors.given import look_at_distances, open_graph
from streamumap.neighbors.metric import EUCLIDEAN, named
from streamumap.params import Params
from streamumap.request import Request
from streamumap.run import prepare
from streamumap.source import open_source
from streamumap.source.views.normalized import DenseRows

N = 60
BOUNDS = dict(budget="1GB", device="cpu")
SHORT = Params(n_neighbors=6, n_epochs=4, metric="cosine")


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(1)
    return (np.abs(random.normal(size=(N, 50))) * (random.random((N, 50)) < 0.4)).astype(np.float32)


@pytest.fixture(scope="module")
def knn(rows):
    return reference.search(rows, 10, "cosine")


@pytest.fixture
def run(rows, tmp_path):
    """run(graph, rows=..., parameters): run.json, what was said, indices, distances."""

    def run(graph, x=rows, drop_nonfinite=False, out=tmp_path / "run", **changed):
        events = []
        params = replace(SHORT, **changed)
        done = engine.embed(
            Request(x, params, knn=graph, drop_nonfinite=drop_nonfinite, **BOUNDS), out, listener=events.append
        )
        said = [event.text for event in events if isinstance(event, Note)]
        return done, said, *(np.load(out / f"knn_{name}.npy") for name in ("indices", "distances"))

    return run


def cleaned(near, far, row, k, left_out=()):
    """One row as it has to be, in plain Python."""
    best = {}
    for j, d in zip(near.tolist(), far.tolist(), strict=True):
        if j >= 0 and j != row and j not in left_out and d < np.inf:
            best[j] = min(d, best.get(j, np.inf))
    order = {j: place for place, j in reversed(list(enumerate(near.tolist())))}
    found = sorted(best.items(), key=lambda item: (item[1], order[item[0]]))[: k - 1]
    return found


@st.composite
def graphs(draw):
    n, width = draw(st.integers(3, 12)), draw(st.integers(1, 6))
    near = draw(st.lists(st.lists(st.integers(-1, n - 1), min_size=width, max_size=width), min_size=n, max_size=n))
    steps = draw(st.lists(st.lists(st.integers(0, 5), min_size=width, max_size=width), min_size=n, max_size=n))
    far = np.array(steps, np.float32)
    far[far == 5] = np.inf
    left_out = draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n))
    return np.array(near), far, left_out


@given(graphs(), st.integers(2, 8), st.integers(1, 12))
def test_any_graph_becomes_what_a_search_gives(graph, k, block_rows):
    near, far, left_out = graph
    opened = open_graph((near, far), len(near))
    blocks = list(opened.blocks(k, block_rows, None if left_out is None else np.array(left_out)))
    assert [start for start, _, _ in blocks] == list(range(0, len(near), block_rows))
    indices, distances = (np.concatenate([block[i] for block in blocks]) for i in (1, 2))
    assert (indices.shape, indices.dtype, distances.dtype) == ((len(near), k), np.int32, np.float32)
    assert np.array_equal(indices[:, 0], np.arange(len(near))) and not distances[:, 0].any()
    assert np.array_equal(np.isinf(distances), indices < 0)
    for row in range(len(near)):
        expected = cleaned(near[row], far[row], row, k, set(np.flatnonzero(left_out or [])))
        found = [(j, d) for j, d in zip(indices[row, 1:], distances[row, 1:], strict=True) if j >= 0]
        assert [d for _, d in found] == [d for _, d in expected] and len({j for j, _ in found}) == len(found)
        assert (indices[row, 1 + len(found) :] == -1).all()
        least = found[-1][1] if found else 0  # which of several at the last distance is free
        assert {j for j, d in found if d < least} == {j for j, d in expected if d < least}


@pytest.mark.one_process
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint16"])
@pytest.mark.parametrize("kept", ["arrays", "files", "read-only maps"])
def test_our_own_graph_given_back_is_the_same_graph(rows, run, tmp_path, kept, dtype):
    engine.embed(Request(rows, SHORT, **BOUNDS), tmp_path / "own")
    own = [np.load(tmp_path / "own" / f"knn_{name}.npy") for name in ("indices", "distances")]
    assert (own[0] >= 0).all()
    paths = [tmp_path / "own" / "knn_indices.npy", tmp_path / "own" / "knn_distances.npy"]
    np.save(paths[0], own[0].astype(dtype))
    graph = {
        "arrays": own,
        "files": paths,
        "read-only maps": [np.load(path, mmap_mode="r") for path in paths],
    }[kept]
    done, said, *found = run(tuple(graph))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found, own, strict=True)) and said == []
    assert done["warnings"] == []
    assert done["quality"]["knn_recall"] == {"value": 1.0, "standard_error": 0.0, "k": 6, "sample_size": N}
    assert [stage["backend"] for stage in done["stages"] if stage["stage"] == "neighbors"] == ["given"]
    assert (done["given_knn"]["columns"], done["given_knn"]["self_column"]) == (6, True)
    assert (tmp_path / "own" / "embedding.npy").read_bytes() == (tmp_path / "run" / "embedding.npy").read_bytes()


@pytest.mark.one_process
def test_the_row_itself_is_added_and_more_neighbours_than_wanted_are_left(run, knn):
    indices, distances = knn
    done, said, near, far = run((indices[:, 1:], distances[:, 1:]))
    assert np.array_equal(near, indices[:, :6]) and np.array_equal(far, distances[:, :6])
    assert done["given_knn"]["self_column"] is False and done["warnings"] == []
    assert said == [
        "--knn: its first column is not the rows themselves; they are put in front",
        "--knn: it has 9 neighbours a row beside itself; the nearest 5 are used",
    ]


@pytest.mark.one_process
def test_distances_in_another_order_and_neighbours_given_twice_are_mended_aloud(run, knn):
    indices, distances = (array.copy() for array in knn)
    indices[3, 1:], distances[3, 1:] = indices[3, :0:-1].copy(), distances[3, :0:-1].copy()
    indices[7, 2], distances[7, 2] = indices[7, 1], distances[7, 1]
    done, _, near, far = run((indices, distances), n_neighbors=9)
    assert np.array_equal(near[3], knn[0][3, :9]) and np.array_equal(far[3], knn[1][3, :9])
    assert near[7].tolist() == knn[0][7, [0, 1, 3, 4, 5, 6, 7, 8, 9]].tolist()
    assert done["warnings"] == [
        "--knn: in 1 rows its neighbours were not in the order of their distances; they are sorted.",
        "--knn: in 1 rows it named a neighbour more than once; the nearest is kept.",
    ]


@pytest.mark.one_process
def test_a_poor_graph_is_used_and_its_recall_is_said(run, knn):
    indices = (np.arange(N)[:, None] + np.arange(8)) % N
    done, _, near, _ = run((indices, np.tile(np.arange(8) / 8, (N, 1))), recall=0.9)
    assert np.array_equal(near, indices[:, :6]) and done["quality"]["knn_recall"]["value"] < 0.5
    assert any(text.startswith("recall: 0.9 was asked for") and "given graph" in text for text in done["warnings"])
    assert any("they are not cosine distances of these rows, in row " in text for text in done["warnings"])


@pytest.mark.one_process
def test_the_graph_is_used_again_until_another_one_is_given(run, knn):
    graph = knn[0], knn[1]
    first = run(graph)[0]
    again = run(graph, n_epochs=6)[0]
    assert "the k-NN graph" in again["reused"] and "given_knn" in again
    assert not any(stage["stage"] == "neighbors" for stage in again["stages"])
    other = knn[1].copy()
    other[0, 1] *= 1.5
    third = run((knn[0], other))[0]
    assert any(stage["stage"] == "neighbors" for stage in third["stages"]) and first["reused"] == []


def test_rows_that_are_left_out_leave_the_graph_too(rows, run, knn):
    broken = rows.copy()
    broken[[4, 20], 3] = np.nan
    done, _, near, far = run(knn, broken, drop_nonfinite=True)
    assert (near[[4, 20]] == -1).all() and np.isnan(far[[4, 20]]).all() and not np.isin(near[:4], [4, 20]).any()
    kept = np.setdiff1d(np.arange(N), [4, 20])
    for row in kept:
        assert near[row, 1:].tolist() == [j for j in knn[0][row, 1:] if j not in (4, 20)][:5]
    assert done["quality"]["knn_recall"]["value"] == 1.0 and done["quality"]["knn_recall"]["sample_size"] == N - 2
    again = run((near, far), broken, drop_nonfinite=True)
    assert np.array_equal(again[2], near) and np.array_equal(again[3], far, equal_nan=True)


def test_rows_of_extreme_size(rows, run):
    huge = rows * np.float32(2.0**60)
    indices, distances = reference.search(huge, 6, "euclidean")
    done, _, near, far = run((indices, distances), huge, metric="euclidean")
    assert np.array_equal(near, indices) and np.array_equal(far, distances) and done["warnings"] == []


WRONG = {
    "rows of another input": (lambda i, d: (i[:-1], d[:-1]), "the indices: shape: expected 60 rows, as the input has, found 59"),
    "shapes that differ": (lambda i, d: (i, d[:, 1:]), "the distances: shape: expected 60 x 10, as the indices are, found 60 x 9"),
    "the wrong way about": (lambda i, d: (d, i), "the indices: dtype: expected integers.*give the indices first"),
    "indices as floats": (lambda i, d: (i.astype(float), d), "the indices: dtype: expected integers.*astype"),
    "whole distances": (lambda i, d: (i, i), "the distances: dtype: expected floats"),
    "one dimension": (lambda i, d: (i[:, 0], d), "shape: expected 2 dimensions"),
    "one matrix": (lambda i, d: (i,), "--knn: graph: expected indices and distances, found 1 of them"),
    "a path alone": (lambda i, d: "knn.npy", "--knn: graph: expected indices and distances, found a str"),
    "too few": (lambda i, d: (i[:, :4], d[:, :4]), r"expected 5 neighbours .*--n-neighbors 6, found 3; .* or --n-neighbors 4\.$"),
    "themselves alone": (lambda i, d: (i[:, :1], d[:, :1]), r"found 0; give a graph of more neighbours\.$"),
    "rows that are not there": (lambda i, d: (put(i, 60), d), "the indices: row 17: expected numbers of rows, 0 to 59.*found 60 in column 2"),
    "less than -1": (lambda i, d: (put(i, -2), d), "the indices: row 17: .*found -2 in column 2"),
    "NaN": (lambda i, d: (i, put(d, np.nan)), "the distances: row 17: expected distances from 0, found nan in column 2"),
    "negative distances": (lambda i, d: (i, put(d, -0.1)), "the distances: row 17: .*found -0.1"),
}  # fmt: skip


def put(array, value):
    array = array.copy()
    array[17, 2] = value
    return array


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_graph_is_refused(kind, run, knn, tmp_path):
    change, message = WRONG[kind]
    with pytest.raises(InputError, match=message) as refused:
        run(change(*knn))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "knn_indices.npy").exists()


@pytest.mark.parametrize("changed", [dict(reduce="pca"), dict(neighbors="dense")])
def test_options_that_say_how_to_search_are_refused(changed, run, knn):
    with pytest.raises(
        InputError, match=f"^--{next(iter(changed))}: .* and --knn gives them; leave one of the two out"
    ):
        run(knn, **changed)


def test_a_graph_that_changes_meanwhile_is_noticed(run, knn):
    indices, distances = (array.copy() for array in knn)
    graph = open_graph((indices, distances), N)
    distances[:] += 1
    with pytest.raises(InputChanged):
        graph.check_unchanged()


@pytest.mark.parametrize(
    ("metric", "change", "said"),
    [
        ("cosine", lambda d: d, None),
        ("cosine", lambda d: d.astype(np.float16), None),
        ("euclidean", lambda d: d**2, "they are squares of euclidean distances; give the square roots"),
        ("cosine", lambda d: 1 - d, "they are not cosine distances of these rows, in row "),
    ],
)
def test_distances_that_are_something_else_are_seen(rows, metric, change, said):
    indices, distances = reference.search(rows, 6, metric)
    sample = np.arange(0, N, 2)
    found = look_at_distances(
        DenseRows(open_source(rows), unit=named(metric).unit),
        sample,
        indices[sample, 1:],
        change(distances[sample, 1:]),
        named(metric),
    )
    assert found is None if said is None else found.startswith(said)


def test_nothing_to_look_at(rows):
    look = DenseRows(open_source(rows), unit=False)
    none, inf = np.full((3, 2), -1), np.full((3, 2), np.inf)
    assert look_at_distances(look, np.arange(3), none, inf, EUCLIDEAN) is None


def test_faces(rows, knn, tmp_path, capsys):
    """The command line and the estimator give the engine's map."""
    np.save(tmp_path / "rows.npy", rows)
    files = [tmp_path / "i.npy", tmp_path / "d.npy"]
    for file, array in zip(files, knn, strict=True):
        np.save(file, array)
    bounds = ["--budget", "1GB", "--device", "cpu", "--metric", "cosine", "--n-neighbors", "6", "--n-epochs", "4"]
    arguments = ["embed", str(tmp_path / "rows.npy"), *bounds, "--json", "-q", "--knn", *map(str, files)]
    cli.app(arguments, standalone_mode=False)
    run = json.loads(capsys.readouterr().out)
    assert run["given_knn"]["indices"] == str(files[0])
    model = StreamUMAP(n_neighbors=6, n_epochs=4, metric="cosine", **BOUNDS, precomputed_knn=(*knn, None))
    assert np.array_equal(model.fit_transform(rows), np.load(tmp_path / "rows.umap" / "embedding.npy"))
    assert model.run_["given_knn"]["indices"] == "the indices"
    searched = StreamUMAP(n_neighbors=6, n_epochs=4, metric="cosine", **BOUNDS, precomputed_knn=(None, None, None))
    assert "given_knn" not in searched.fit(rows).run_


def test_a_plan_with_a_graph(rows, knn):
    plan = prepare.outlook_of(Request(rows, Params(n_neighbors=6), "1GB", device="cpu", knn=knn))
    assert plan["neighbors"].backend == "given" and plan["neighbors"].blocks["block_rows"] == N
    with pytest.raises(InputError, match="--n-neighbors 15"):
        prepare.outlook_of(Request(rows, budget="1GB", device="cpu", knn=knn))
