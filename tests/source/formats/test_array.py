"""Rows of arrays, tensors and lists are read exactly, or refused."""

import numpy as np
import pytest
import torch
from npy_checks import DTYPES, numbers, says

from streamumap.errors import InputChanged, InputError
from streamumap.source import RowSource, open_source
from streamumap.source.formats.array import ArraySource


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_array_rows_come_back_exactly(dtype, order):
    x = numbers(50, 6, dtype)
    given_array = {"C": x, "F": np.asfortranarray(x), "strided": np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3]}[order]
    source = open_source(given_array)
    assert isinstance(source, RowSource)
    out = np.empty((20, 6), x.dtype.newbyteorder("="))
    got = source.read(5, 17, out)
    assert np.shares_memory(got, out) and np.array_equal(got, x[5:17])
    taken = source.take(np.array([0, 3, 49]))
    assert taken.flags.c_contiguous and taken.dtype.isnative and np.array_equal(taken, x[[0, 3, 49]])
    taken[:] = 0
    assert np.array_equal(given_array, x), "the caller's array was written to"


def test_memmaps_lists_and_tensors(save):
    x = numbers(6, 4)
    tensor = torch.from_numpy(x)
    for rows in (np.load(save(x), mmap_mode="r"), x.tolist(), tensor, tensor.clone().requires_grad_()):
        source = open_source(rows)
        assert np.array_equal(source.read(0, 6), x)
    assert open_source(x.tolist()).dtype == "float64"
    assert open_source(torch.from_numpy(x).half()).dtype == "float16"


@pytest.mark.parametrize(
    "rows, parts",
    [
        (torch.zeros(4, 3, dtype=torch.bfloat16), ["bfloat16", ".float()"]),
        (torch.zeros(4, 3, device="meta"), ["Tensor", ".cpu()"]),
        (np.zeros(12), ["2 dimensions", "found 1"]),
        (np.zeros((3, 4, 5)), ["2 dimensions", "found 3", "(12, 5)"]),
        (np.zeros((2, 4)), ["3 rows", "found 2"]),
        (np.zeros((4, 0)), ["feature", "found 0"]),
        (np.zeros((4, 3), complex), ["complex"]),
        (np.zeros((4, 3), object), ["Python objects"]),
        (np.zeros((4, 3), "M8[s]"), ["dates"]),
        (np.zeros((4, 3), "V1"), ["float8"]),
        (np.zeros((4, 3), "V2"), ["V2", "bfloat16"]),
        (np.zeros((4, 3), "f4,f4"), ["dtype"]),
        (np.ma.masked_array(np.zeros((4, 3)), mask=True), ["mask", ".filled()"]),
        ([["a", "b"]] * 3, ["text"]),
        ([[1, 2], [3], [4, 5]], ["lengths"]),
        (7, ["a int", "path"]),
        (None, ["NoneType"]),
    ],
)
def test_arrays_that_are_not_read(rows, parts):
    with pytest.raises(InputError) as caught:
        open_source(rows)
    says(str(caught.value), "the array: ", "expected", "found", *parts)


def test_an_array_that_is_changed_meanwhile():
    x = numbers(3000, 60)
    source = ArraySource(x)
    source.check_unchanged()
    x[-1, -1] += 1
    with pytest.raises(InputChanged, match="sampled rows"):
        source.check_unchanged()
