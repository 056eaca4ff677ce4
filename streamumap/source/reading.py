"""What the user says about an input that does not say it itself."""

import os
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Reading:
    """How an input is to be read, where it does not say so itself.

    dtype: "bfloat16" where that is kept as V2 or uint16; of a headerless file, its dtype. n_features: the width of rows
    that are kept as pairs. key: which array, tensor, column or data set is the rows. shape: of a headerless file.
    sae: a checkpoint whose codes of the rows are wanted. of: "rows"; "features", the rows of the transposed matrix;
    "decoder", the directions of the latents of `sae`.
    """

    dtype: str | None = None
    n_features: int | None = None
    key: str | None = None
    shape: tuple[int, ...] | None = None
    sae: str | os.PathLike | None = None
    of: str = "rows"

    def to_json(self) -> dict:
        """What was said, with whole paths."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return said | ({} if self.sae is None else {"sae": os.path.abspath(os.fsdecode(self.sae))})

    @classmethod
    def from_json(cls, said: dict) -> "Reading":
        shape = said.get("shape")
        return cls(**said | {"shape": None if shape is None else tuple(shape)})
