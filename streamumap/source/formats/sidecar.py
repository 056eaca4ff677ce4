"""TopK pairs in two files, and what lies beside them: the other file, and the JSON that knows the width."""

import json
import os

from streamumap.source.checks import wrong
from streamumap.source.formats.tensors import PAIR_NAMES

WIDTH_FIELDS = ("n_features", "num_features", "d_sae", "num_latents", "dict_size")
"""Where a JSON file keeps the width of a code."""

MAX_JSON_BYTES = 1 << 20
MAX_JSON_FILES = 64
GIVE_WIDTH = "give the width with --features"


def find_pair(path: str) -> tuple[str, str] | None:
    """The two `.npy` files of TopK pairs, of which `path` is one. None where it is none. Raises InputError where the
    values are missing."""
    folder, file = os.path.split(path)
    partners = _partners(file) if os.path.exists(path) else []
    for names in partners:
        indices, values = (os.path.join(folder, name) for name in names)
        if os.path.exists(indices) and os.path.exists(values):
            return indices, values
    if any(file == indices for indices, _ in partners):
        remedy = "put the values there, or give the file another name if its rows are no indices"
        raise wrong(path, "pairs", f"{partners[-1][1]} beside it", "no such file", remedy)
    return None


def group_pairs(files: list[str]) -> list[tuple[str, str]]:
    """The pairs of files that these are, in their order, where every one of them is half of a pair; else none."""
    there, found = set(files), list[tuple[str, str]]()
    for file in files:
        folder, name = os.path.split(file)
        for names in _partners(name):
            pair = os.path.join(folder, names[0]), os.path.join(folder, names[1])
            if there.issuperset(pair) and pair not in found:
                found.append(pair)
    return found if found and {file for pair in found for file in pair} == there else []


def sidecar_width(indices: str) -> tuple[int, str]:
    """(width, JSON file) of pairs whose indices are in X_indices.npy: from X.json, else from the JSON files beside it.
    Raises InputError where none or several widths are found."""
    folder = os.path.dirname(indices)
    own = indices.removesuffix(".npy").removesuffix("_indices") + ".json"
    width = _width_in(own)
    if width is not None:
        return width, own
    found: dict[int, str] = {}
    for name in sorted(os.listdir(folder or "."))[: 1 << 16]:
        if name.endswith(".json") and len(found) < MAX_JSON_FILES:
            width = _width_in(os.path.join(folder, name))
            if width is not None:
                found.setdefault(width, os.path.join(folder, name))
    if len(found) == 1:
        return next(iter(found.items()))
    several = ", ".join(f"{width} in {os.path.basename(name)}" for width, name in found.items())
    expected = f"one of {', '.join(WIDTH_FIELDS)} in a JSON file beside it"
    raise wrong(indices, "features", expected, several or "none", GIVE_WIDTH)


def _partners(file: str) -> list[tuple[str, str]]:
    """What the indices and the values may be called if `file` is one of them."""
    stem, extension = os.path.splitext(file)
    return [
        (f"{stem.removesuffix(name)}{indices}.npy", f"{stem.removesuffix(name)}{values}.npy")
        for indices, values in PAIR_NAMES
        for name in (indices, values)
        if extension == ".npy" and (stem == name or stem.endswith("_" + name))
    ]


def _width_in(path: str) -> int | None:
    """The width that a JSON file names at its top level, if it is one."""
    try:
        if os.path.getsize(path) > MAX_JSON_BYTES:
            return None
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    widths = {content[field] for field in WIDTH_FIELDS if type(content.get(field)) is int}
    return widths.pop() if len(widths) == 1 else None
