"""`Choice`: what was read of an input that holds more than the rows, and the sentence that names it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamumap.source.formats.tensors import spelled

MOST_NAMES = 3


@dataclass(frozen=True)
class Choice:
    """`what`: the array, column or pairs that are the rows of `file`."""

    what: str
    file: str


def with_choice(rows: Any, file: str, chosen: dict[str, str]) -> Any:
    """Returns `rows`, which remember the names of their parts in the container `file`; `chosen` as of `choose_parts`."""
    names = {part: spelled(name) for part, name in chosen.items()}
    if "col" in names:
        what = f"COO {names['data']}, {names['row']} and {names['col']}"
    elif "indptr" in names:
        what = f"{getattr(rows, 'form', 'csr').upper()} {names['data']}, {names['indices']} and {names['indptr']}"
    elif "indices" in names:
        what = f"TopK pairs {names['indices']} and {names['values']}"
    else:
        what = names["rows"]
    rows.choice = Choice(what, file)
    return rows


def joint_choice(sources: Sequence[Any]) -> Choice | None:
    """Returns what was read of several files together; None where there was nothing to choose from."""
    choices = [source.choice for source in sources if getattr(source, "choice", None) is not None]
    if not choices:
        return None
    whats = list(dict.fromkeys(choice.what for choice in choices))
    more = f" and {len(whats) - MOST_NAMES} more" if len(whats) > MOST_NAMES else ""
    files = f"{len(choices)} files, {choices[0].file} to {os.path.basename(choices[-1].file)}"
    return Choice(", ".join(whats[:MOST_NAMES]) + more, files)


def name_choice(source: Any) -> Any:
    """Returns `source`, whose `chosen` and first note name what was read, its dtype and shape, where there was a choice."""
    choice = getattr(source, "choice", None)
    if choice is not None:
        shape = f"{source.n_rows:,} x {source.n_features:,}"
        source.chosen = f"{choice.what} of {choice.file}, {source.dtype}, {shape}"
        source.notes = (f"reading {source.chosen}", *getattr(source, "notes", ()))
    return source
