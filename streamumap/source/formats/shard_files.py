"""Finds the files that are the shards of an input, in order. Links to files are followed, wherever they lead."""

import glob
import os
import re
import resource
from contextlib import suppress

from streamumap.source.checks import short, wrong

MAX_LIST_BYTES = 8 << 20
SPARE_FILES = 256

RUN = ".umap"
"""The ending of the name of a run's folder, unless the user gives it another."""


def in_folder(folder: str, extensions: tuple[str, ...]) -> list[str]:
    """Lists the files of a folder with one of these extensions, in natural order. Raises InputError."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith(extensions) and not name.startswith(".")]
    except OSError as error:
        raise wrong(
            folder, "folder", "a readable one", f"'{error.strerror}'", "get the permission to read it"
        ) from error
    return _each_once(folder, sorted((os.path.join(folder, name) for name in names), key=natural))


def matching(pattern: str) -> list[str]:
    """Lists the files that a glob matches, in natural order; `**` is any number of folders. Leaves out folders and, unless
    the glob names them, the files of runs. Raises InputError."""
    paths = {path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)}
    if RUN not in pattern:
        paths = {path for path in paths if not any(part.endswith(RUN) for part in path.split(os.sep)[:-1])}
    return _each_once(pattern, sorted(paths, key=natural))


def listed(path: str) -> list[str]:
    """Reads a list of files, one a line, relative to the folder of the list and within it. Raises InputError."""
    folder = os.path.dirname(path)
    if os.path.getsize(path) > MAX_LIST_BYTES:
        raise wrong(path, "size", f"at most {MAX_LIST_BYTES} bytes", os.path.getsize(path), "list fewer files")
    try:
        with open(path, encoding="utf-8") as file:
            names = [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise wrong(
            path, "list of files", "text in UTF-8", f"byte {error.object[error.start]}", "save it as UTF-8"
        ) from error
    for name in names:
        outside = os.path.isabs(name) or os.path.normpath(name).startswith(os.pardir)
        if outside or not name.isprintable():
            remedy = "list files beside the list, by their names"
            raise wrong(folder or ".", "shard", "a file within this folder", short(name), remedy)
    if not names:
        raise wrong(path, "list of files", "a file a line", "none", "list the shards")
    return [os.path.join(folder, name) for name in names]


def natural(path: str) -> list:
    """Returns a sort key that orders numbers by value, within the names of folders and then of files."""
    names = [re.split(r"([0-9]+)", name) for name in path.split(os.sep)]
    return [[(int(part), part) if i % 2 else (-1, part) for i, part in enumerate(parts)] for parts in names]


def make_room(n_files: int) -> None:
    """Raises the limit of open files of this process to `n_files` and some more, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n_files + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard)
        )


def _each_once(name: str, paths: list[str]) -> list[str]:
    """Returns `paths` if they lead to as many files. Raises InputError."""
    first_of: dict[tuple[int, int], str] = {}
    for path in paths:
        with suppress(OSError):  # said when the file is opened
            status = os.stat(path)
            first = first_of.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                remedy = "name the files that you mean with a glob, or list them in a .txt file"
                raise wrong(name, "shards", "each file once", f"{first} and {path}, which are one file", remedy)
    return paths
