"""Chooses which named arrays of a container are the rows. Where several could be, the user is asked."""

from dataclasses import dataclass

from streamumap.source.checks import check_2d, short, wrong

PAIR_NAMES = (("top_indices", "top_acts"), ("indices", "values"))
"""Names of the two parts of TopK pairs, alone or after a prefix and "_"."""

VALUES = ("rows", "values", "data")
"""Parts of the rows whose dtype is that of the rows."""

CSR_NAMES = ("indptr", "indices", "data")

TEXT = ("str", "bytes", "datetime", "timedelta")
"""Beginnings of the names of dtypes that hold text and dates."""

NO_NUMBERS = (*TEXT, "object")
"""Beginnings of the names of dtypes that cannot be rows: text, objects, dates."""

MOST_LISTED = 16


@dataclass(frozen=True)
class Named:
    """An array of a container, as its header describes it. `load`: Python that assigns it to `a`, for a message."""

    shape: tuple[int, ...]
    dtype: str
    load: str

    @property
    def is_integer(self) -> bool:
        return self.dtype.startswith(("bool", "int", "uint"))

    @property
    def is_float(self) -> bool:
        """Whether it may hold activations: any numbers that are no integers, of types that cannot be read too."""
        return not self.is_integer and not self.dtype.lower().startswith(NO_NUMBERS)

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.dtype, " x ".join(map(str, self.shape)))))


def choose_parts(name: str, arrays: dict[str, Named], key: str | None) -> dict[str, str]:
    """Maps each part of the rows to the name of its array: "rows"; "indices" and "values" of TopK pairs; or "indptr",
    "indices" and "data" of compressed sparse rows. `arrays`: all of them by name. `key` names the rows. Raises
    InputError."""
    if key is not None:
        if key not in arrays:
            raise wrong(name, "--key", f"one of {listed(arrays)}", short(key), "choose one of these")
        _check_dimensions(name, key, arrays[key])
        return {"rows": key}
    if all(part in arrays for part in CSR_NAMES):
        return {part: part for part in CSR_NAMES}
    for indices, values in PAIR_NAMES:
        if indices in arrays and values in arrays:
            return {"indices": indices, "values": values}
    return {"rows": _only_rows(name, arrays)}


def _only_rows(name: str, arrays: dict[str, Named]) -> str:
    """Returns the name of the only array that can be meant as the rows. Raises InputError where there is none, or a choice."""
    matrices = [array for array, it in arrays.items() if len(it.shape) == 2 and not it.dtype.lower().startswith(TEXT)]
    larger = [array for array, it in arrays.items() if len(it.shape) > 2]
    if len(matrices) == 1 and not _has_rival(arrays, matrices[0]):
        return matrices[0]
    if not matrices and len(larger) == 1:
        _check_dimensions(name, larger[0], arrays[larger[0]])
    if not matrices and len(arrays) == 1:
        return next(iter(arrays))  # its shape is refused later, by name
    if matrices or larger:
        raise wrong(name, "arrays", "only one that can be the rows", listed(arrays), "name one with --key NAME")
    raise wrong(name, "arrays", "one with 2 dimensions", listed(arrays), "save a matrix of rows x features")


def _has_rival(arrays: dict[str, Named], matrix: str) -> bool:
    """Tells whether another array than the only matrix may be meant: one of floats with more dimensions; where the matrix has
    integers, which may be tokens or places, any array of floats, and any with more dimensions."""
    integers = arrays[matrix].is_integer
    return any(
        len(it.shape) > 2 and (integers or it.is_float) or integers and it.is_float and it.shape
        for array, it in arrays.items()
        if array != matrix
    )


def _check_dimensions(name: str, array: str, it: Named) -> None:
    """Raises InputError, with the command that makes rows of it, for an array of more than 2 dimensions."""
    if len(it.shape) > 2:
        check_2d(f"{name}[{spelled(array)}]" if array else name, it.shape, name, it.load)


def listed(named: dict) -> str:
    """Spells names with what they name, for a message: arrays of most dimensions, and floats, first."""
    order = sorted(named.items(), key=lambda item: _rank(*item))
    names = [f"{spelled(name)} ({it})" for name, it in order[:MOST_LISTED]]
    more = f" and {len(named) - MOST_LISTED} more" if len(named) > MOST_LISTED else ""
    return ", ".join(names) + more if names else "none"


def _rank(name: str, it: object) -> tuple:
    return (len(it.shape) < 2, it.is_integer, name) if isinstance(it, Named) else ()


def spelled(name: str) -> str:
    """Spells the name of an array in one line."""
    return name if name.isprintable() and len(name) <= 80 else short(name)
