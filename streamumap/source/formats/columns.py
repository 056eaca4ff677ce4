"""Chooses which column of a Parquet or Arrow file is the rows. Where several could be, the user is asked."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from streamumap.errors import InputError
from streamumap.source.checks import quoted, rows_command, short, wrong
from streamumap.source.formats.tensors import listed, spelled

READ_TABLE = {"parquet": "from pyarrow.parquet import read_table", "arrow": "from pyarrow.feather import read_table"}

FLOATS_OR_BYTES = (
    "halffloat", "float", "double", "decimal", "binary", "large_binary", "fixed_size_binary",
)  # fmt: skip
"""Beginnings of the names of types that hold floats or bytes."""


def choose_column(path: str, schema: Any, kind: str, key: str | None) -> str:
    """Returns the name of the column of lists of numbers that is the rows: `key`, else the only one of floats, else the only one
    of integers where no column may hold floats. `kind`: "parquet" or "arrow". Raises InputError."""
    columns = {field.name: field.type for field in schema}
    column = _chosen(path, columns, kind, key)
    if schema.names.count(column) > 1:
        raise wrong(path, "columns", f"one that is called {spelled(column)}", "several", "rename them")
    return column


def _chosen(path: str, columns: dict[str, Any], kind: str, key: str | None) -> str:
    if key is not None:
        if key not in columns:
            raise wrong(path, "--key", f"one of {_listed(columns, columns)}", short(key), "choose one of these")
        return _checked(path, kind, key, columns[key])
    floats = [name for name, it in columns.items() if _numbers_of(it) == "float"]
    integers = [name for name, it in columns.items() if _numbers_of(it) == "integer"]
    tensors = [name for name, it in columns.items() if _is_tensor(it)]
    if len(floats) == 1 and not any(_may_hold_floats(columns[name]) for name in tensors):
        return floats[0]
    if len(integers) == 1 and not floats and not tensors and not any(map(_may_hold_floats, columns.values())):
        return integers[0]
    if len(tensors) == 1 and not floats and not integers:
        return _checked(path, kind, tensors[0], columns[tensors[0]])
    first = [*floats, *tensors, *(name for name, it in columns.items() if _may_hold_floats(it)), *integers]
    named = _listed(columns, [*first, *columns])
    if floats or integers or tensors:
        remedy = "name one with --key NAME, or save the rows as a column of lists"
        raise wrong(path, "columns", "only one that can be the rows", named, remedy)
    raise wrong(path, "columns", "one of lists of numbers", named, "save the rows as a column of fixed-size lists")


def _checked(path: str, kind: str, column: str, it: Any) -> str:
    """Returns the name of a column if it holds lists of numbers. Raises InputError, with the command that makes rows of it where it
    holds arrays."""
    if _numbers_of(it):
        return column
    called, expected = f"{path}[{spelled(column)}]", "a list of numbers in each row"
    if not _is_tensor(it):
        raise wrong(
            called, "type", expected, _spelled(it), "choose another column with --key, or save it as lists of floats"
        )
    array = f"read_table({quoted(path)})[{quoted(column)}].combine_chunks()"
    if _is_fixed_shape(it):
        load = f"a = {array}.to_numpy_ndarray()"
    else:
        depth, leaf = 0, it
        while _is_list(leaf):
            depth, leaf = depth + 1, leaf.value_type
        dtype = np.dtype(leaf.to_pandas_dtype()).name
        load = f'a = np.array({array}{".flatten()" * (depth - 1)}.to_pylist(), "{dtype}")'
    command = rows_command(path, f"{READ_TABLE[kind]}; {load}")
    raise InputError(
        f"{called}: type: expected {expected}, found {_spelled(it)}; make rows of its last dimension with: {command}"
    )


def _listed(columns: dict[str, Any], order: Iterable[str]) -> str:
    """Spells names and types of columns, in this order, for a message."""
    return listed({name: _spelled(columns[name]) for name in order})


def _spelled(it: Any) -> str:
    """Spells a type: alike in all versions of pyarrow for lists and tensors."""
    if _is_list(it):
        return f"list<{_spelled(it.value_type)}>"
    return f"tensor<{it.value_type}>[{' x '.join(map(str, it.shape))}]" if _is_fixed_shape(it) else str(it)


def _is_list(it: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_fixed_size_list(it) or pa.types.is_list(it) or pa.types.is_large_list(it)


def _is_fixed_shape(it: Any) -> bool:
    import pyarrow as pa

    return isinstance(it, pa.FixedShapeTensorType)


def _numbers_of(it: Any) -> str:
    """Returns "float" or "integer" for lists of these, else ""."""
    import pyarrow as pa

    if not _is_list(it):
        return ""
    return "float" if pa.types.is_floating(it.value_type) else "integer" if pa.types.is_integer(it.value_type) else ""


def _is_tensor(it: Any) -> bool:
    """Tells whether a type is of arrays: a tensor of fixed shape, or lists of lists of numbers."""
    if _is_list(it) and _is_list(it.value_type):
        return bool(_numbers_of(it.value_type)) or _is_tensor(it.value_type)
    return _is_fixed_shape(it)


def _may_hold_floats(it: Any) -> bool:
    """Tells whether values of a type hold floats at any depth, or bytes, which may be such."""
    import pyarrow as pa

    if isinstance(it, pa.BaseExtensionType):
        return _may_hold_floats(it.storage_type)
    if pa.types.is_dictionary(it):
        return _may_hold_floats(it.value_type)
    inner = [it.field(i).type for i in range(it.num_fields)]
    return str(it).startswith(FLOATS_OR_BYTES) or any(map(_may_hold_floats, inner))
