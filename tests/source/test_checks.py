import pytest

from streamumap.errors import InputError
from streamumap.source.checks import check_dtype


@pytest.mark.parametrize("dtype", ["bool", "bfloat16", "float16", "float64", "uint8"])
def test_dtypes_of_rows_are_named_as_sources_name_them(dtype):
    assert check_dtype(dtype) == dtype


@pytest.mark.parametrize("dtype", ["", "half", "complex64", "object", "f2", "float8"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(InputError, match="^--dtype: expected one of bool, .*, found .*; choose one of these"):
        check_dtype(dtype)
