"""CsrBuilder collects rows exactly, within its room, or gives up."""

import numpy as np
from source_checks import to_dense

from streamumap.source.sparse.csr_builder import CsrBuilder

ROOM = 10**9


def pieces(rows, sizes):
    """Cuts rows into arguments of `CsrBuilder.add`, of these sizes."""
    start = 0
    for size in sizes:
        part = rows[start : start + size]
        row, column = np.nonzero(part)
        yield np.bincount(row, minlength=size), column.astype(np.uint16), part[row, column]
        start += size
    assert start == len(rows)


def fill(rows, sizes, room_bytes):
    builder = CsrBuilder(*rows.shape, str(rows.dtype), room_bytes)
    for piece in pieces(rows, sizes):
        builder.add(*piece)
    return builder


def even_rows(n_rows=100, per_row=3, n_features=200):
    rows = np.zeros((n_rows, n_features), np.float16)
    for i, row in enumerate(rows):
        row[(np.arange(per_row) * 61 + i) % n_features] = i + 1
    return rows


def test_filled_rows_are_the_rows():
    rows = even_rows()
    rows[17:20] = 0
    found = fill(rows, (1, 9, 50, 40), ROOM).finish()
    assert np.array_equal(to_dense(found.block(0, 100), 200), rows)
    assert (found.n_nonzero, found.dtype) == (np.count_nonzero(rows), "float16")
    assert found.host_bytes == found.n_nonzero * 4 + 101 * 8


def test_a_little_more_than_the_first_rows_promised_is_enough():
    """The room is a quarter more than expected, plus twice the first piece."""
    rows = even_rows()
    first = np.count_nonzero(rows[:10])
    for more, is_enough in ((0.25 * 300 + 2 * first, True), (0.25 * 300 + 2 * first + 1, False)):
        fuller = rows.copy()
        for row in fuller[10:]:
            n = min(int(more), 20)
            row[np.flatnonzero(row == 0)[:n]] = 1
            more -= n
        assert more == 0
        builder = fill(fuller, (10, 90), ROOM)
        assert builder.open == is_enough and (builder.finish() is not None) == is_enough


def test_room_is_for_what_is_expected():
    rows = even_rows()
    expected = int(300 * 1.25 + 2 * 30) * 4
    assert fill(rows, (10, 90), expected).finish() is not None
    assert fill(rows, (10, 90), expected - 1).finish() is None


def test_first_rows_of_zeros_promise_nothing():
    rows = even_rows()
    rows[:10] = 0
    assert fill(rows, (10, 90), ROOM).finish() is None
    assert fill(rows * 0, (10, 90), ROOM).finish().n_nonzero == 0


def test_what_was_given_up_takes_no_more():
    builder = CsrBuilder(100, 200, "float16", 0)
    for piece in pieces(even_rows(), (10, 90)):
        builder.add(*piece)
        assert not builder.open and not builder._arrays
    assert builder.finish() is None
