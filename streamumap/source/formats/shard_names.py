"""Tells from the names of shards whether they belong together, which one is missing, and what their order is."""

import glob
import math
import os
import re
import shlex

from streamumap.source.checks import wrong
from streamumap.source.formats.shard_files import matching

UUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
HASH = r"(?<![0-9A-Za-z])(?=[A-Fa-f]*[0-9])[0-9A-Fa-f]{8,}(?![0-9A-Za-z])"
NUMBER = re.compile(f"({UUID}|{HASH}|[0-9]+)")
"""The parts of names in which shards of one set may differ: numbers, hashes, UUIDs."""

COUNTED = re.compile(r"(?P<stem>.*?)(?P<number>[0-9]+)[-_]of[-_](?P<total>[0-9]+)(?![0-9]).*")
"""The name of a shard that says how many there are: `train-00002-of-00010`."""

SHOWN = 6


def read_names(name: str, paths: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns (warnings, notes) on shards in natural order, by their names. Raises InputError if they may not belong to one
    map, or if fewer are there than their names say."""
    _check_one_kind(name, paths)
    counted = _check_counts(name, paths)
    warnings, notes = _gaps(name, paths) if counted is None else ((), counted)
    if len({os.path.dirname(path) for path in paths}) > 1:
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        first, last = (os.path.relpath(path, root or ".") for path in (paths[0], paths[-1]))
        notes = (f"{len(paths)} shards, {first} to {last}", *notes)
    return warnings, notes


def _check_one_kind(name: str, paths: list[str]) -> None:
    """Raises InputError if names differ in more than their numbers."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for path in paths:
        groups.setdefault(tuple(NUMBER.split(path)[0::2]), []).append(path)
    if len(groups) > 1:
        _ask(name, "names that differ in their numbers only", list(groups.values()))


def _ask(name: str, expected: str, groups: list[list[str]]) -> None:
    """Raises the InputError that asks which of the groups are the rows."""
    shown = [_shown(group) for group in groups[:SHOWN]]
    more = f" and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
    remedy = "name the one that you mean, or list all files in their order, one a line, in a .txt file in their folder"
    raise wrong(name, "shards", expected, f"{len(groups)} kinds: {', '.join(shown)}{more}", remedy)


def _shown(group: list[str]) -> str:
    """Spells files as what names them all: a glob, quoted for a shell, if there is one."""
    if len(group) == 1:
        return f"{shlex.quote(group[0])} (1 file)"
    pattern = _glob_of(group)
    if pattern is None:
        return f"{group[0]} and {len(group) - 1} more like it"
    return f"{shlex.quote(pattern)} ({len(group)} files)"


def _glob_of(group: list[str]) -> str | None:
    """Returns a glob of exactly these files, whose names differ in their numbers only; None if it is not easily made."""
    columns = list(zip(*(NUMBER.split(path) for path in group), strict=True))
    globs = []
    for digits in ("*", "[0-9]", "[0-9]*"):
        parts = []
        for column in columns:
            any_number = digits * len(column[0]) if digits == "[0-9]" else digits
            any_number = any_number if all(part.isdecimal() for part in column) else "*"
            parts.append(glob.escape(column[0]) if len(set(column)) == 1 else any_number)
        globs.append("".join(parts))
    return next((pattern for pattern in globs if set(matching(pattern)) == set(group)), None)


def _check_counts(name: str, paths: list[str]) -> tuple[str, ...] | None:
    """Returns notes if the names say how many shards there are, else None. Raises InputError if one of them is nowhere."""
    sets: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path in paths:
        folder, file = os.path.split(path)
        match = COUNTED.fullmatch(file)
        if match is None:
            return None
        sets.setdefault((folder, match["stem"]), {}).setdefault(match["total"], []).append(path)
    for by_total in sets.values():
        if len(by_total) > 1:
            _ask(name, "names that say one number of shards", list(by_total.values()))
        for group in by_total.values():
            _check_count(name, group)
    n_said = sum(int(total) for by_total in sets.values() for total in by_total)
    return (f"{len(paths)} of the {n_said} shards that are there by their names",) if n_said > len(paths) else ()


def _check_count(name: str, group: list[str]) -> None:
    """Raises InputError if one of the shards that these names count is neither among them nor beside them."""
    folder, file = os.path.split(group[0])
    match = COUNTED.fullmatch(file)
    assert match is not None
    total, kind = int(match["total"]), os.path.splitext(file)[1]
    beside = (COUNTED.fullmatch(other) for other in os.listdir(folder or ".") if other.endswith(kind))
    same = (other for other in beside if other and (other["stem"], other["total"]) == (match["stem"], match["total"]))
    numbers = {int(other["number"]) for other in same}
    first = 0 if 0 in numbers else 1
    missing = next((number for number in range(first, first + total) if number not in numbers), None)
    if missing is not None:
        wanted = (
            match["stem"] + str(missing).zfill(len(match["number"])) + file[match.end("number") : match.end("total")]
        )
        remedy = f"{wanted} is missing: get it, or list the files that you have in a .txt file in their folder"
        raise wrong(name, "shards", f"{total}, as their names say", len(group), remedy)


def _gaps(name: str, paths: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns (warnings, notes) on numbers that are not there, in the names of folders or else in the first folder where some
    are not: a warning where most are there."""
    files: dict[str, list[str]] = {}
    for path in paths:
        files.setdefault(os.path.dirname(path), []).append(path)
    of_folders, of_files = _numbers([list(files)]), _numbers(list(files.values()))
    for numbers, step in (
        *((one, _step(of_folders)) for one in of_folders),
        *((one, _step(of_files)) for one in of_files),
    ):
        first, last = min(numbers), max(numbers)
        n_missing = (last - first) // step + 1 - len(numbers)
        if 2 * n_missing >= len(numbers):
            return (), (f"{name}: the numbers of the shards go from {first} to {last} with gaps",)
        if n_missing:
            missing = next(number for number in range(first, last, step) if number not in numbers)
            around = f"{n_missing} missing among the numbers from {first} to {last}, first {missing}"
            return (f"{name}: shards: {around}; the {len(paths)} that are there are read.",), ()
    return (), ()


def _numbers(groups: list[list[str]]) -> list[set[int]]:
    """Returns the numbers of each group of paths, less those groups that differ in nothing, or not in one number only."""
    found = []
    for group in groups:
        columns = list(zip(*map(NUMBER.split, group), strict=True))
        varying = [column for column in columns if len(set(column)) > 1]
        if len(varying) == 1 and all(part.isdecimal() for part in varying[0]):
            found.append(set(map(int, varying[0])))
    return found


def _step(groups: list[set[int]]) -> int:
    """Returns the largest step of which the numbers of all groups are multiples, each counted from its first."""
    return math.gcd(*(number - min(numbers) for numbers in groups for number in numbers)) or 1
