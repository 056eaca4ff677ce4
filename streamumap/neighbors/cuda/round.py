"""How one round of a search goes while rows pass by."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """Round `number` of a search: rows of a group and of its window, at most; rows whose candidates are measured together; neighbors kept of
    each row, and candidates that sketches propose."""

    number: int
    seed: int
    group_rows: int
    window_rows: int
    chunk_rows: int
    width: int
    n_proposed: int
