import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from streamumap.show import clusters
from streamumap.show.clusters import Words, find, name, write
from streamumap.show.columns import TopFeatures

CENTRES = np.array([[0, 0], [20, 0], [0, 20], [20, 20]], np.float32)


def islands(n=4000, seed=0):
    """Positions (n, 2) around four centres, and the centre of each row; the first has the most rows."""
    rng = np.random.default_rng(seed)
    which = np.sort(rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1]))
    return (CENTRES[which] + rng.normal(size=(n, 2))).astype(np.float32), which


def purity(codes, which):
    inside = codes >= 0
    return (codes[inside] == which[inside]).mean()


@pytest.mark.parametrize("sample_rows", [20_000, 900])
def test_islands_are_found_from_all_rows_or_a_sample(monkeypatch, sample_rows):
    monkeypatch.setattr(clusters, "SAMPLE_ROWS", sample_rows)
    X, which = islands()
    X[::100] = np.nan
    coarse, fine = find(X)
    assert coarse.n_clusters == 4 and fine.n_clusters >= 4
    assert purity(coarse.codes, which) == 1 and (coarse.codes >= 0).mean() > 0.8 and (coarse.codes[::100] == -1).all()
    assert coarse.codes.dtype == np.int32 and np.array_equal(find(X)[0].codes, coarse.codes)


def test_rows_far_from_all_are_in_no_cluster():
    X, _ = islands()
    X[5] = [500, 500]
    assert find(X)[0].codes[5] == -1


@pytest.mark.parametrize("n", [0, 1, 19])
def test_few_rows_have_no_clusters(n):
    assert [level.n_clusters for level in find(np.zeros((n, 2), np.float32))] == [0, 0]


def test_rows_in_one_place():
    for level in find(np.zeros((500, 2), np.float32)):
        assert level.codes.shape == (500,)


def test_clusters_are_named_by_what_tells_them_apart():
    X, which = islands()
    words = ["apple tree", "pear tree", "plum tree", ""]
    names = pa.array([f"the {words[island]} {row}" for row, island in enumerate(which)])
    levels = find(X)
    found = name(X, levels[:1], Words(names))
    assert [cluster.text for cluster in found] == ["apple", "pear", "plum"]
    assert found[0].n_rows > found[1].n_rows and np.hypot(found[1].x - 20, found[1].y) < 1
    assert name(X, levels, Words(names))[:3] == found


def test_clusters_are_named_by_features_where_there_are_no_names():
    X, which = islands()
    ids = np.stack([which + 70, np.full(len(X), 3), 9 - which], axis=1).astype(np.uint16)
    values = np.tile(np.float32([2, 1, 0]), (len(X), 1))
    assert [c.text for c in name(X, find(X)[:1], Words(features=TopFeatures(ids, values)))] == [
        "#70",
        "#71",
        "#72",
        "#73",
    ]


def test_the_table_of_labels(tmp_path):
    X, which = islands()
    found = name(X, find(X), Words(pa.array([f"kind{'abcd'[i]}" for i in which])))
    write(tmp_path / "labels.parquet", found)
    table = pyarrow.parquet.read_table(tmp_path / "labels.parquet")
    assert table.column_names == ["x", "y", "text", "level", "priority", "cluster", "n_rows"]
    assert table["text"].to_pylist()[:4] == ["kinda", "kindb", "kindc", "kindd"]
    write(tmp_path / "none.parquet", [])
    assert pyarrow.parquet.read_table(tmp_path / "none.parquet").num_rows == 0
