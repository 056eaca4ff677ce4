"""Checks that every option for reading an input has an effect on it."""

import os
from collections.abc import Collection
from typing import Any

from streamumap.errors import UnusedOption
from streamumap.source.checks import short, wrong
from streamumap.source.reading import Reading

OPTIONS = {
    "dtype": "--dtype", "n_features": "--features", "key": "--key", "shape": "--shape", "sae": "--sae", "of": "--of",
}  # fmt: skip
"""Options for reading an input, by their names in `Reading`."""

OF_ALL = ("sae", "of")
"""Fields of a Reading that every input uses."""


def check_used(name: str, what: str, reading: Reading, uses: Collection[str], of_all: tuple[str, ...] = OF_ALL) -> None:
    """Raises UnusedOption for an option of `reading` that `what`, the input, does not use: one that is not in `uses`."""
    for field, option in OPTIONS.items():
        value = getattr(reading, field)
        if value != getattr(Reading(), field) and field not in (*uses, *of_all):
            found = short(os.fspath(value)) if isinstance(value, os.PathLike) else short(value)
            message = wrong(name, option, f"no such option for {what}", found, f"leave {option} out")
            raise UnusedOption(str(message), field)


def check_no_input(reading: Reading) -> None:
    """Raises UnusedOption for an option that a plan without an input does not use."""
    check_used("plan --rows", "a matrix without a file", reading, ("dtype", "n_features"), ())


def check_width_used(source: Any, reading: Reading) -> None:
    """Raises UnusedOption where a width is given for rows that are not stored as pairs."""
    if getattr(source, "max_nonzero", None) is None:
        check_used(source.name, "rows that are not pairs", reading, OPTIONS.keys() - {"n_features"})
