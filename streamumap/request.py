"""Request: everything that the user asks of a run."""

import os
from dataclasses import dataclass, field
from typing import Any

from streamumap.params import Params
from streamumap.source import Reading


@dataclass(frozen=True)
class Request:
    """The rows of a map, its parameters, the memory it may take, and what else goes into it. Every field but the first has a default.

    input : a path, an array, a sparse matrix, TopK pairs or an iterable of blocks, see `source.open_source`.
    params : parameters of the map. `transform` takes those of the map that it adds to.
    budget, host_budget : caps on memory, a size such as "40GB" or bytes; None for 80% of what is free.
    device : "auto", "cpu", "cuda" or "cuda:N".
    reading : how the input is read; None for what the input itself says.
    meta : a file whose columns go into embedding.parquet, row for row.
    drop_nonfinite : rows with NaN or Inf are left out, and are NaN in the map.
    sample : how many rows are mapped, drawn with the seed; the others are NaN in the map.
    stratify : a file of labels whose shares the sample keeps, or of the numbers of the rows to map.
    place_rest : the rows that are not sampled get a position on the finished map, which they do not change.
    knn : a k-NN graph of the rows, (indices, distances), each a .npy file or an array, see `neighbors.given`.
    snapshots : how many positions are kept on the way, evenly spaced over the epochs.
    fresh : files that an earlier run left in the output folder are removed first.
    """

    input: Any
    params: Params = field(default_factory=Params)
    budget: str | int | None = None
    host_budget: str | int | None = None
    device: str = "auto"
    reading: Reading | None = None
    meta: str | os.PathLike | None = None
    drop_nonfinite: bool = False
    sample: int | None = None
    stratify: str | os.PathLike | None = None
    place_rest: bool = False
    knn: Any = None
    snapshots: int = 0
    fresh: bool = False

    @property
    def path(self) -> str:
        """The absolute path of the input; "" where it is in memory."""
        given = self.input
        return os.path.abspath(os.fsdecode(given)) if isinstance(given, (str, bytes, os.PathLike)) else ""
