"""`Reading`: options for inputs that do not describe themselves."""

import os
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Reading:
    """The user's options for reading an input.

    dtype: "bfloat16" for bfloat16 stored as V2, uint16 or int16; the dtype of a file without a header. n_features: the width
    of rows stored as pairs. key: the name of the array, tensor, column or data set that holds the rows. shape: the shape of
    a file without a header. sae: a checkpoint that encodes the rows. of: "rows"; "features", the rows of the transposed
    matrix; "decoder", the directions of the latents of `sae`.
    """

    dtype: str | None = None
    n_features: int | None = None
    key: str | None = None
    shape: tuple[int, ...] | None = None
    sae: str | os.PathLike | None = None
    of: str = "rows"

    def to_json(self) -> dict:
        """Returns the options that were given, with absolute paths."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return said | ({} if self.sae is None else {"sae": os.path.abspath(os.fsdecode(self.sae))})

    @classmethod
    def from_json(cls, said: dict) -> "Reading":
        shape = said.get("shape")
        return cls(**said | {"shape": None if shape is None else tuple(shape)})
