"""Reading ahead."""

import threading

import pytest

from streamumap.machine.ahead import read_ahead


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_all_parts_come_in_order(n):
    parts = [(i, 2 * i) for i in range(n)]
    assert list(read_ahead(lambda start, stop: stop - start, parts)) == list(range(n))


def test_one_part_is_read_while_another_is_used():
    second = threading.Event()
    parts = read_ahead(lambda start, stop: second.set() if start else None, [(0, 1), (1, 2), (2, 3)])
    next(parts)
    assert second.wait(10)
    parts.close()


def test_an_error_comes_where_the_part_would():
    def read(start, stop):
        if start == 1:
            raise OSError("cut")
        return start

    parts = read_ahead(read, [(0, 1), (1, 2)])
    assert next(parts) == 0
    with pytest.raises(OSError, match="cut"):
        next(parts)
