import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamumap.errors import InputError
from streamumap.show.columns import (
    Labels,
    Numbers,
    feature_number,
    label_column,
    pick,
    read_features,
    read_lines,
    read_table,
    top_features,
)
from streamumap.source import open_source

lines_of_text = st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), min_size=1, max_size=30)


def texts(column):
    """The label of each row, None without a label."""
    return [column.values[code] if code >= 0 else None for code in column.codes]


@given(lines=lines_of_text, ended=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
def test_lines_are_read_as_they_are(lines, ended, end, tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "names.txt"
    path.write_bytes((end.join(lines) + (end if ended or not lines[-1] else "")).encode())
    assert read_lines("--names", path, len(lines)).to_pylist() == lines


@given(lines_of_text)
def test_labels_are_counted_and_the_most_frequent_is_first(values):
    column = label_column("l", values)
    assert texts(column) == [value or None for value in values]
    assert (np.diff(column.counts) <= 0).all() and column.counts.sum() == sum(map(bool, values))


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (["1", "2", "1"], Labels),
        ([str(i) for i in range(30)], Numbers),
        (["0.5", "1", ""], Numbers),
        (["a", "1"], Labels),
        (["", ""], Labels),
    ],
)
def test_a_text_file_is_numbers_or_labels(lines, kind, tmp_path):
    (tmp_path / "x.txt").write_text("\n".join(lines) + "\n")
    (column,) = read_table("--labels", tmp_path / "x.txt", len(lines))
    assert isinstance(column, kind) and column.name == "x"


def test_tables_of_every_kind(tmp_path):
    table = pa.table(
        {
            "row_id": [0, 1, 2],
            "kind": ["a", None, "a"],
            "size": [1.5, float("nan"), None],
            "flag": [True, False, None],
            "place": pa.array(["x", "y", "x"]).dictionary_encode(),
            "many": pa.array([[1], [2], [3]]),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    found = {column.name: column for column in read_table("--labels", tmp_path / "t.parquet", 3)}
    assert set(found) == {"kind", "size", "flag", "place"}
    assert texts(found["kind"]) == ["a", None, "a"] and texts(found["flag"]) == ["yes", "no", None]
    assert np.array_equal(found["size"].values, [1.5, np.nan, np.nan], equal_nan=True)
    (tmp_path / "t.csv").write_text('kind,size\n"a,b",1.5\nc,2\na,\n')
    found = read_table("--labels", tmp_path / "t.csv", 3)
    assert texts(found[0]) == ["a,b", "c", "a"] and isinstance(found[1], Numbers)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a\n1\n", "expected 3 rows, one for each of the map, found 1"),
        ("t.csv", b"a,b\n1\n", "cannot be read"),
        ("t.parquet", b"text", "cannot be read"),
        ("t.txt", b"1\n", "expected 3 lines, one a row, found 1"),
        ("t.txt", b"", "expected 3 lines, one a row, found 0"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"^--labels: .*{name}: .*{message}") as e:
        read_table("--labels", tmp_path / name, 3)
    assert "\n" not in str(e.value)


def test_colours_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="columns there are \\(a\\), found b; give one of these"):
        pick([label_column("a", ["x"])], "b")
    assert feature_number("section", 5) is None and feature_number("feature:4", 5) == 4
    for color in ("feature:5", "feature:", "feature:-1", "feature:٣", "feature:1e3"):
        with pytest.raises(InputError, match="expected feature:0 to feature:4"):
            feature_number(color, 5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
def test_features_are_streamed_in_blocks(dtype, monkeypatch):
    X = np.random.default_rng(0).integers(-3, 9, (50, 12)).astype(dtype)
    monkeypatch.setattr("streamumap.show.columns.BLOCK_BYTES", 7 * 12 * 4)
    seen = []
    one, two = read_features(open_source(X), [3, 11], seen.append)
    assert np.array_equal(one.values, X[:, 3]) and np.array_equal(two.values, X[:, 11]) and sum(seen) == 50
    top = top_features(open_source(X), 4)
    ids, values = top.ids, top.values
    want = np.maximum(-np.sort(-X.astype(np.float32), axis=1)[:, :4], 0)
    assert np.array_equal(values, want)
    there = values > 0
    assert np.array_equal(np.take_along_axis(X, ids.astype(int), axis=1)[there], want[there].astype(dtype))


def test_fewer_features_than_wanted():
    top = top_features(open_source(np.eye(3, 2, dtype=np.float32)), 4)
    assert top.ids.shape == top.values.shape == (3, 2) and top.values.tolist() == [[1, 0], [1, 0], [0, 0]]
