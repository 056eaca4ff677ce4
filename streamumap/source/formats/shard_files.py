"""Finds the files that are the shards of an input, in order."""

import glob
import os
import re
import resource

from streamumap.source.checks import short, wrong

MAX_LIST_BYTES = 8 << 20
SPARE_FILES = 256


def in_folder(folder: str, extensions: tuple[str, ...]) -> list[str]:
    """Lists the files of a folder with one of these extensions, in natural order. Refuses links that lead out of it.
    Raises InputError."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith(extensions) and not name.startswith(".")]
    except OSError as error:
        raise wrong(
            folder, "folder", "a readable one", f"'{error.strerror}'", "get the permission to read it"
        ) from error
    for name in names:
        _check_inside(folder, name, f"quote a glob instead: '{os.path.join(folder, '*' + os.path.splitext(name)[1])}'")
    return [os.path.join(folder, name) for name in sorted(names, key=natural)]


def matching(pattern: str) -> list[str]:
    """Lists the files that a glob matches, in natural order."""
    return sorted((path for path in glob.glob(pattern) if os.path.isfile(path)), key=natural)


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
        _check_inside(folder, name, "list files beside the list, by their names")
    if not names:
        raise wrong(path, "list of files", "a file a line", "none", "list the shards")
    return [os.path.join(folder, name) for name in names]


def natural(path: str) -> list:
    """Returns a sort key that orders numbers within names by value."""
    parts = re.split(r"([0-9]+)", os.path.basename(path))
    return [(int(part), part) if i % 2 else (-1, part) for i, part in enumerate(parts)] + [(-1, path)]


def check_sequence(name: str, paths: list[str]) -> None:
    """Raises InputError if a number is missing among numbered files, or there are not as many as `-of-N` says."""
    split = [re.split(r"([0-9]+)", os.path.splitext(os.path.basename(path))[0]) for path in paths]
    if len({tuple(parts[0::2]) for parts in split}) != 1:
        return
    columns = list(zip(*(map(int, parts[1::2]) for parts in split), strict=True))
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) == 1:
        numbers = set(varying[0])
        missing = next((n for n in range(min(numbers), max(numbers)) if n not in numbers), None)
        if missing is not None:
            place = columns.index(varying[0])
            around = f"number {missing} between {min(numbers)} and {max(numbers)}"
            raise wrong(
                name, "shards", around, "none", f"{_like(paths[0], place, missing)} is missing: get it"
            ) from None
    total = re.search(r"-of-([0-9]+)$", os.path.splitext(os.path.basename(paths[0]))[0])
    if total and int(total.group(1)) != len(paths):
        raise wrong(name, "shards", f"{int(total.group(1))}, as their names say", len(paths), "get the others")


def make_room(n_files: int) -> None:
    """Raises the limit of open files of this process to `n_files` and some more, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n_files + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard)
        )


def _like(path: str, place: int, number: int) -> str:
    parts = re.split(r"([0-9]+)", os.path.basename(path))
    parts[2 * place + 1] = str(number).zfill(len(parts[2 * place + 1]) if parts[2 * place + 1].startswith("0") else 0)
    return "".join(parts)


def _check_inside(folder: str, name: str, remedy: str) -> None:
    root, inside = os.path.realpath(folder or "."), not os.path.isabs(name) and name.isprintable()
    if not inside or os.path.commonpath([root, os.path.realpath(os.path.join(folder, name))]) != root:
        raise wrong(folder or ".", "shard", "a file within this folder", short(name), remedy)
