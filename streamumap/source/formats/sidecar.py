"""Finds the files beside TopK pairs: the other of the two, and the JSON with the width."""

import json
import os

from streamumap.source.checks import wrong
from streamumap.source.formats.tensors import PAIR_NAMES

WIDTH_FIELDS = ("n_features", "num_features", "d_sae", "num_latents", "dict_size")
"""Fields of a JSON file that hold the width of a code."""

MAX_JSON_BYTES = 1 << 20
MAX_JSON_FILES = 64
GIVE_WIDTH = "give the width with --features"


def find_pair(path: str) -> tuple[str, str] | None:
    """Returns the two `.npy` files (indices, values) of TopK pairs if `path` is one of them, else None. Raises InputError if
    the values are missing."""
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
    """Groups files into pairs (indices, values), in order, if every file is half of a pair; else returns none."""
    all_files, pairs = set(files), list[tuple[str, str]]()
    for file in files:
        folder, name = os.path.split(file)
        for names in _partners(name):
            pair = os.path.join(folder, names[0]), os.path.join(folder, names[1])
            if all_files.issuperset(pair) and pair not in pairs:
                pairs.append(pair)
    return pairs if pairs and {file for pair in pairs for file in pair} == all_files else []


def sidecar_width(indices: str) -> tuple[int, str]:
    """Returns (width, JSON file) for pairs with indices in X_indices.npy: from X.json, else from the JSON files beside it.
    Raises InputError unless exactly one width is found."""
    folder = os.path.dirname(indices)
    own = indices.removesuffix(".npy").removesuffix("_indices") + ".json"
    width = _width_in(own)
    if width is not None:
        return width, own
    file_of_width: dict[int, str] = {}
    for name in sorted(os.listdir(folder or "."))[: 1 << 16]:
        if name.endswith(".json") and len(file_of_width) < MAX_JSON_FILES:
            width = _width_in(os.path.join(folder, name))
            if width is not None:
                file_of_width.setdefault(width, os.path.join(folder, name))
    if len(file_of_width) == 1:
        return next(iter(file_of_width.items()))
    several = ", ".join(f"{width} in {os.path.basename(name)}" for width, name in file_of_width.items())
    expected = f"one of {', '.join(WIDTH_FIELDS)} in a JSON file beside it"
    raise wrong(indices, "features", expected, several or "none", GIVE_WIDTH)


def _partners(file: str) -> list[tuple[str, str]]:
    """Lists the names that indices and values may have if `file` is one of them."""
    stem, extension = os.path.splitext(file)
    return [
        (f"{stem.removesuffix(name)}{indices}.npy", f"{stem.removesuffix(name)}{values}.npy")
        for indices, values in PAIR_NAMES
        for name in (indices, values)
        if extension == ".npy" and (stem == name or stem.endswith("_" + name))
    ]


def _width_in(path: str) -> int | None:
    """Returns the width at the top level of a JSON file, None if there is none."""
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
