"""Which of the named arrays of a container are the rows."""

from streamumap.source.checks import short, wrong

PAIR_NAMES = (("top_indices", "top_acts"), ("indices", "values"))
"""What the two parts of TopK pairs are called, alone or behind a prefix and "_"."""

CSR_NAMES = ("indptr", "indices", "data")


def choose_parts(name: str, shapes: dict[str, tuple[int, ...]], key: str | None) -> dict[str, str]:
    """Array names -> the part that each is of: {"rows": "acts"}, {"indices": ..., "values": ...} of TopK pairs, or
    {"indptr", "indices", "data"} of compressed sparse rows. `key` names the rows. Raises InputError."""
    if key is not None:
        if key not in shapes:
            raise wrong(name, "--key", f"one of {_listed(shapes)}", short(key), "choose one of these")
        return {"rows": key}
    if all(part in shapes for part in CSR_NAMES):
        return {part: part for part in CSR_NAMES}
    for indices, values in PAIR_NAMES:
        if indices in shapes and values in shapes:
            return {"indices": indices, "values": values}
    matrices = [array for array, shape in shapes.items() if len(shape) == 2]
    if len(matrices) == 1:
        return {"rows": matrices[0]}
    if not matrices and len(shapes) == 1:
        return {"rows": next(iter(shapes))}  # whose shape is then refused by name
    remedy = "name one with --key" if matrices else "save a matrix of rows x features"
    raise wrong(name, "arrays", "one with 2 dimensions", _listed(shapes), remedy)


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    names = [f"{array} {'x'.join(map(str, shape))}" for array, shape in list(shapes.items())[:8]]
    return ", ".join(names) + (f" and {len(shapes) - 8} more" if len(shapes) > 8 else "") if names else "none"
