"""Files under their final name are whole: they are written beside it, synced, then renamed."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from streamumap.errors import OutputError
from streamumap.store.atomic import write_whole


def publish(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """`write(file)` makes the content of a new file, which then gets its name. Raises OutputError; nothing is left
    behind then."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _writing(path):
        try:
            write_whole(unfinished, write)
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as e:
        raise OutputError(
            f"{path}: expected to write a file, found: {e.strerror or e}; free space or choose another place."
        ) from e
