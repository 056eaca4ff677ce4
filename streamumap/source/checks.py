"""Checks of dtypes and shapes, and the sentence that reports what is wrong with an input."""

import json
import math
import os
import shlex

import numpy as np

from streamumap.errors import InputError, UnusedOption

NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
DTYPES = (*(np.dtype(number).name for number in NUMBERS), "bfloat16")
SUPPORTED = "bool, int8 to int64, uint8 to uint64, float16, float32 or float64"
WORDS = (np.dtype("V2"), np.dtype(np.uint16), np.dtype(np.int16))
"""Stored dtypes, in the machine's byte order, whose bits may be bfloat16."""

KINDS = {"O": "Python objects", "M": "dates", "m": "time spans", "S": "text", "U": "text", "c": "complex numbers"}


def wrong(name: str, field: str, expected: object, found: object, remedy: str) -> InputError:
    """Returns an InputError in one sentence: what, where, expected, found, remedy."""
    return InputError(f"{name}: {field}: expected {expected}, found {found}; {remedy}.")


def short(value: object) -> str:
    """Spells `value` in at most 80 characters. Python refuses to spell numbers of too many digits."""
    try:
        spelled = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"
    return spelled if len(spelled) <= 80 else spelled[:77] + "..."


def refused_dtype(name: str, kind: str, itemsize: int, found: str) -> InputError:
    """Returns the error for a dtype that is not in `SUPPORTED`; kind as in `numpy.dtype.kind`."""
    meaning, remedy = KINDS.get(kind, "not supported"), "convert it to float16 or float32 first"
    if kind == "V" and itemsize == 1:
        meaning, remedy = "one byte without a meaning, as float8 is saved", "convert it with .astype('float16') first"
    return wrong(name, "dtype", SUPPORTED, f"{found} ({meaning})", remedy)


def check_dtype(dtype: str) -> str:
    """The dtype, as `RowSource.dtype` names it. Raises InputError where rows cannot have it."""
    if dtype not in DTYPES:
        raise InputError(f"--dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}; choose one of these.")
    return dtype


def resolve_dtype(name: str, stored: np.dtype, dtype: str | None) -> str:
    """Returns the `RowSource.dtype` of rows stored as `stored`. The option `dtype` may only declare two-byte words bfloat16.

    Raises InputError if the stored dtype is not numeric, UnusedOption if it contradicts `dtype`.
    """
    if dtype == "bfloat16" and stored.newbyteorder("=") in WORDS:
        return dtype
    if stored == np.dtype("V2"):
        remedy = "say dtype='bfloat16' (--dtype bfloat16) if they are that"
        raise wrong(name, "dtype", SUPPORTED, "V2, two bytes without a meaning, as bfloat16 is saved", remedy)
    if f"{stored.kind}{stored.itemsize}" not in NUMBERS:
        raise refused_dtype(name, stored.kind, stored.itemsize, short(str(stored)))
    plain = stored.newbyteorder("=").name
    return declared_dtype(name, plain, dtype) or plain


def declared_dtype(name: str, known: str | None, said: str | None) -> str | None:
    """Returns the dtype that the input itself names, `known`, or else the one that the option says. Raises UnusedOption if
    they differ."""
    if known is not None and said not in (None, known):
        message = wrong(name, "dtype", f"{said} as the option says", known, "leave the option out")
        raise UnusedOption(str(message), "dtype")
    return known or said


def check_2d(name: str, shape: tuple[int, ...], path: str = "", load: str = "") -> tuple[int, int]:
    """Returns `shape` if it has two dimensions, which may be 0. Raises InputError; where there are more, with the command that
    makes rows of them if `load` is given: Python that assigns the array in the file `path` to `a`."""
    expected, found = "2 dimensions (rows, features)", f"{len(shape)} in {short(shape)}"
    if len(shape) < 2:
        raise wrong(name, "shape", expected, found, "reshape it to (rows, features)")
    if len(shape) > 2:
        flat = short((math.prod(shape[:-1]), shape[-1]))
        places = " x ".join(map(str, shape[:-1]))
        found += f", as {places} positions of {shape[-1]} features have"
        how = f"with: {rows_command(path, load)}" if load else "with a.reshape(-1, a.shape[-1])."
        raise InputError(f"{name}: shape: expected {expected}, found {found}; flatten it to {flat} {how}")
    return shape[0], shape[1]


def rows_command(path: str, load: str) -> str:
    """Returns the command that saves an array of a file as rows of its last dimension; `load` as in `check_2d`. Nothing may
    follow it in a message, so that it can be pasted."""
    target = quoted(os.path.splitext(path)[0] + "-rows.npy")
    return code_command(f"import numpy as np; {load}; np.save({target}, a.reshape(-1, a.shape[-1]))")


def code_command(code: str) -> str:
    """Returns the command that runs a line of Python. Nothing may follow it in a message, so that it can be pasted."""
    return f"python -c {shlex.quote(code)}"


def quoted(value: object) -> str:
    """Spells a path or the key of a dictionary as Python, with double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
