import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from show_checks import cloud

from streamumap.show.table import write_parquet


@pytest.mark.parametrize(
    ("n_components", "axes"), [(1, ["x"]), (2, ["x", "y"]), (3, ["x", "y", "z"]), (5, ["x", "y", "z", "dim3", "dim4"])]
)
def test_the_table_opens_in_pandas_and_pyarrow(n_components, axes, tmp_path):
    map_, is_zero = cloud(4, columns=n_components), np.array([False, True, False, False])
    write_parquet(tmp_path / "e.parquet", map_, is_zero, np.array([-1, -1, 0, 2]))
    table = pyarrow.parquet.read_table(tmp_path / "e.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {"row_id": "int64"} | dict.fromkeys(axes, "float") | {"is_zero": "bool", "duplicate_of": "int64"}
    assert table["duplicate_of"].to_pylist() == [None, None, 0, 2]
    frame = pd.read_parquet(tmp_path / "e.parquet")
    assert frame["row_id"].tolist() == [0, 1, 2, 3] and frame["is_zero"].tolist() == is_zero.tolist()
    assert np.array_equal(frame[axes].to_numpy(), map_)


def test_no_duplicates_are_a_column_of_nulls(tmp_path):
    write_parquet(tmp_path / "e.parquet", cloud(3), np.zeros(3, bool), np.full(3, -1))
    assert pyarrow.parquet.read_table(tmp_path / "e.parquet")["duplicate_of"].null_count == 3


def test_how_much_of_each_row_the_map_lost(tmp_path):
    lost = np.array([0, 0.5, np.nan], np.float32)
    write_parquet(tmp_path / "e.parquet", cloud(3), np.zeros(3, bool), np.full(3, -1), distortion=lost)
    column = pyarrow.parquet.read_table(tmp_path / "e.parquet")["distortion"]
    assert str(column.type) == "float" and column.to_pylist() == [0, 0.5, None]


def test_the_table_opens_in_duckdb_as_it_is(real):
    duckdb = pytest.importorskip("duckdb")
    path = real.run / "embedding.parquet"
    assert duckdb.sql(f"select count(*), max(row_id), bool_or(is_zero) from '{path}'").fetchall() == [(300, 299, False)]
