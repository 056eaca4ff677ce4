"""Chooses which named arrays of a container are the rows."""

from streamumap.source.checks import short, wrong

PAIR_NAMES = (("top_indices", "top_acts"), ("indices", "values"))
"""Names of the two parts of TopK pairs, alone or after a prefix and "_"."""

VALUES = ("rows", "values", "data")
"""Parts of the rows whose dtype is that of the rows."""

CSR_NAMES = ("indptr", "indices", "data")


def choose_parts(name: str, shapes: dict[str, tuple[int, ...]], key: str | None) -> dict[str, str]:
    """Maps each part of the rows to the name of its array: "rows"; "indices" and "values" of TopK pairs; or "indptr",
    "indices" and "data" of compressed sparse rows. `shapes`: of all arrays by name. `key` names the rows. Raises
    InputError."""
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
        return {"rows": next(iter(shapes))}  # its shape is refused later, by name
    remedy = "name one with --key" if matrices else "save a matrix of rows x features"
    raise wrong(name, "arrays", "one with 2 dimensions", _listed(shapes), remedy)


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    names = [f"{array} {'x'.join(map(str, shape))}" for array, shape in list(shapes.items())[:8]]
    return ", ".join(names) + (f" and {len(shapes) - 8} more" if len(shapes) > 8 else "") if names else "none"
