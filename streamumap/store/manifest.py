"""manifest.json: the input of a run, and for each finished stage its key, its facts and the checksums of its files."""

import json
import os
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamumap.errors import InputChanged, InputError

SCHEMA = 1
NAME = "manifest.json"
IDENTITY = {"size": "size", "mtime_ns": "time of change", "inode": "inode", "blake2b": "content"}
"""Fields of a fingerprint that change with a file, and their names for people, the most telling first."""


def read_manifest(folder: Path, ours: set[str]) -> dict | None:
    """Reads the manifest of a folder; None where the folder is empty or holds files named in `ours` only.

    Raises InputError where the folder holds something else or the manifest is not one.
    """
    try:
        names = set(os.listdir(folder))
        if NAME not in names:
            if names - ours:
                raise InputError(
                    f"--out: {folder}: expected a new or empty folder or a run of this input, found other files; "
                    "choose another --out."
                )
            return None
        manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except InputError:
        raise
    except (ValueError, OSError, RecursionError) as e:
        raise _no_manifest(folder) from e
    if (
        not isinstance(manifest, dict)
        or manifest.get("schema") != SCHEMA
        or not isinstance(manifest.get("stages"), dict)
    ):
        raise _no_manifest(folder)
    return manifest


def new_manifest(fingerprint: dict, name: str) -> dict:
    return {"schema": SCHEMA, "input": fingerprint, "name": name, "stages": {}}


def as_text(manifest: dict) -> str:
    return json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=2) + "\n"


def is_whole(manifest: dict) -> bool:
    """Whether the manifest is as it was written, by its checksum."""
    return manifest.get("checksum") == _checksum(manifest)


def check_input(manifest: dict, fingerprint: dict, name: str, folder: Path) -> None:
    """Checks that the run is of this input.

    Raises InputChanged where the same input has changed, InputError where the run is of another one.
    """
    was = manifest.get("input")
    if was == fingerprint:
        return
    if name and manifest.get("name") == name:
        remedy = "--fresh starts again with the input as it is, another --out keeps this run"
        check_identity(was, fingerprint, name, f"as when the run in {folder} began", remedy)
    raise InputError(
        f"--out: {folder}: holds a run of another input, or of this one read otherwise; choose another --out, or --fresh to start again."
    )


def check_identity(was: Any, now: Any, name: str, when: str, remedy: str) -> None:
    """Compares two fingerprints. Raises InputChanged where they show the same input before and after a change."""
    changed = _changed(was, now)
    for field, text in IDENTITY.items():
        if field in changed:
            before, after = (_said(field, value) for value in changed[field])
            raise InputChanged(f"{name}: {text}: expected {before} {when}, found {after}; {remedy}.")


def _said(field: str, value: Any) -> str:
    if field != "mtime_ns":
        return str(value)
    seconds, rest = divmod(int(value), 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09d}"


def _changed(was: Any, now: Any) -> dict[str, tuple]:
    """The fields that differ, with both values.

    Empty where the two have different forms, or where none of the fields that identify a file differs.
    """
    out: dict[str, tuple] = {}
    if isinstance(was, dict) and isinstance(now, dict):
        for field in was.keys() & now.keys():
            if isinstance(was[field], (dict, list)):
                out |= _changed(was[field], now[field])
            elif was[field] != now[field]:
                out[field] = was[field], now[field]
    elif isinstance(was, list) and isinstance(now, list):
        for one, other in zip(was, now, strict=False):
            out |= _changed(one, other)
    only_content = out.keys() == {"blake2b"}
    return out if only_content or out.keys() & (IDENTITY.keys() - {"blake2b"}) else {}


def _checksum(manifest: dict) -> int:
    told = {key: value for key, value in manifest.items() if key != "checksum"}
    return zlib.crc32(json.dumps(told, sort_keys=True).encode())


def _no_manifest(folder: Path) -> InputError:
    return InputError(
        f"--out: {folder / NAME}: expected the manifest of a run, found something else; choose another --out."
    )
