"""Which column of a Parquet or Arrow file is read: never integers beside floats, never one of several; and it is named."""

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from choice_checks import CUBE, LABELS, ROWS, TOKENS, VECTOR, paste, read, refused

FIXED = pa.FixedShapeTensorArray.from_numpy_ndarray(CUBE)
FLAT = pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS)
FLOATS = pa.array(ROWS.tolist(), pa.list_(pa.float32()))
INTEGERS = pa.array(TOKENS.tolist(), pa.list_(pa.int32()))
NESTED = pa.array(CUBE.tolist(), pa.list_(pa.list_(pa.float32())))
BYTES = pa.array([row.tobytes() for row in ROWS])
STRUCTS = pa.array([{"vector": row.tolist(), "norm": 1.0} for row in ROWS])
SCORES, NAMES = pa.array(VECTOR), pa.array([["a", "b"]] * 70)


def parquet(path, columns):
    pa.parquet.write_table(pa.table(columns), path, row_group_size=16)


def arrow(path, columns):
    pa.feather.write_feather(pa.table(columns), path, chunksize=16)


@pytest.fixture(params=[(parquet, "x.parquet"), (arrow, "x.feather")], ids=["parquet", "arrow"])
def table(request, tmp_path):
    def saved(**columns):
        write, name = request.param
        write(tmp_path / name, columns)
        return tmp_path / name

    return saved


TABLES = {
    "tensors": (FIXED, "emb (tensor<float>[10 x 48])"),
    "flat tensors": (FLAT, "emb (tensor<float>[48])"),
    "bytes": (BYTES, "emb (binary)"),
    "structs": (STRUCTS, "emb (struct<vector: list<"),
    "lists of lists": (NESTED, "emb (list<list<float>>)"),
    "scalars": (SCORES, "emb (float)"),
}


@pytest.mark.parametrize("column, named", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("integers", ["input_ids", "bbox"])
def test_lists_of_integers_are_not_taken_beside_what_holds_floats(table, column, named, integers):
    path = table(**{integers: INTEGERS, "emb": column, "text": NAMES})
    message = refused(path)
    assert f"x{path.suffix}: columns: expected only one that can be the rows, found {named}" in message
    assert f", {integers} (list<int32>)" in message
    assert message.endswith("; name one with --key NAME, or save the rows as a column of lists.")
    rows, chosen = read(path, key=integers)
    np.testing.assert_array_equal(rows, TOKENS)
    assert chosen == f"{integers} of {path}, int32, 70 x 10"


def test_several_columns_of_floats_are_a_question(table):
    path = table(text_emb=FLOATS, img_emb=FLOATS, input_ids=INTEGERS)
    message = refused(path)
    assert "text_emb (list<float>), img_emb (list<float>), input_ids (list<" in message
    assert "--key NAME" in message and read(path, key="img_emb")[1].startswith("img_emb of ")
    assert refused(path, key="image").count("text_emb (") == 1
    assert "tokens (list<list<" in refused(table(pooled=FLOATS, tokens=NESTED))


@pytest.mark.parametrize(
    "others",
    [{}, {"input_ids": INTEGERS}, {"a": INTEGERS, "b": INTEGERS, "tags": NAMES}, {"image": BYTES, "score": SCORES, "s": STRUCTS}],
)  # fmt: skip
def test_the_only_lists_of_floats_are_read_and_named(table, others):
    path = table(**others, emb=FLOATS)
    rows, chosen = read(path)
    np.testing.assert_array_equal(rows, ROWS)
    assert chosen == f"emb of {path}, float32, 70 x 48"


def test_the_only_lists_of_integers_are_read_and_named(table):
    path = table(id=pa.array(LABELS), codes=INTEGERS, tags=NAMES)
    rows, chosen = read(path)
    np.testing.assert_array_equal(rows, TOKENS)
    assert chosen == f"codes of {path}, int32, 70 x 10"


@pytest.mark.parametrize("column", [FIXED, FLAT, NESTED], ids=["tensors", "flat tensors", "lists of lists"])
def test_arrays_in_a_column_come_with_the_command_that_makes_rows(table, column):
    path = table(**{"it's": column, "id": pa.array(LABELS)})
    paste(refused(path))
    found = np.load(path.with_name("x-rows.npy"))
    np.testing.assert_array_equal(found, ROWS if column is FLAT else CUBE.reshape(-1, 48))
    assert found.dtype == np.float32


def test_two_columns_of_one_name(tmp_path):
    two = pa.Table.from_arrays([FLOATS, FLOATS, pa.array(LABELS), pa.array(LABELS)], ["emb", "emb", "id", "id"])
    pa.parquet.write_table(two, tmp_path / "x.parquet")
    assert "columns: expected one that is called emb, found several; rename them." in refused(tmp_path / "x.parquet")
    pa.parquet.write_table(two.remove_column(0), tmp_path / "x.parquet")
    np.testing.assert_array_equal(read(tmp_path / "x.parquet")[0], ROWS)


def test_columns_that_are_no_rows(table):
    path = table(text=NAMES, score=SCORES)
    assert "columns: expected one of lists of numbers, found score (float), text (list<" in refused(path)
    assert f"x{path.suffix}[text]: type: expected a list of numbers in each row" in refused(path, key="text")
