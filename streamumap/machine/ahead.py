"""Reading one part of something while another is used."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(read: Callable[[int, int], T], parts: Sequence[tuple[int, int]]) -> Iterator[T]:
    """Yield read(start, stop) of all parts (start, stop); a thread reads the next one meanwhile."""
    with ThreadPoolExecutor(1) as reader:
        waiting = [reader.submit(read, *part) for part in parts[:1]]
        for number in range(len(parts)):
            value = waiting.pop().result()
            waiting += [reader.submit(read, *part) for part in parts[number + 1 : number + 2]]
            yield value
