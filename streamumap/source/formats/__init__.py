"""The table of file formats: how each is recognized and which function reads it.

The module of a format has two functions: `is_X(file)` looks at the content, `X_rows(file, reading)` gives the rows. Both
take the open file; a format that is a folder takes its path. A new format is a module with these two and a row here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from streamumap.source.base import RowSource
from streamumap.source.file import OpenFile
from streamumap.source.formats.arrow import arrow_rows, is_arrow, is_parquet, parquet_rows
from streamumap.source.formats.convert import ToConvert
from streamumap.source.formats.hdf5 import hdf5_rows, is_hdf5
from streamumap.source.formats.npy import is_npy
from streamumap.source.formats.npy_file import npy_rows
from streamumap.source.formats.npz import is_npz, npz_rows
from streamumap.source.formats.safetensors import is_safetensors, safetensors_rows
from streamumap.source.formats.torch_file import is_torch, torch_rows
from streamumap.source.formats.zarr_file import is_zarr, zarr_rows
from streamumap.source.reading import Reading

Input = TypeVar("Input", OpenFile, str)


@dataclass(frozen=True)
class Format(Generic[Input]):
    """One format. `reader` raises InputError where the content is not whole; it may leave the file open then."""

    name: str  # as messages call it
    extensions: tuple[str, ...]  # files of a folder with one of these are its shards
    recognizes: Callable[[Input], bool]  # by content, and true of no other format
    reader: Callable[[Input, Reading], RowSource | ToConvert]
    uses: tuple[str, ...]  # fields of Reading that the reader looks at; others may not be given
    name_suffices: bool = False  # a file with such an extension is read even if not recognized: the reader says why not


ALL = ("dtype", "n_features", "key")
"""The options of containers, which have several arrays, and pairs among them."""

FILES: tuple[Format[OpenFile], ...] = (
    Format(".npy", (".npy",), is_npy, npy_rows, ("dtype",), name_suffices=True),
    Format(".npz", (".npz",), is_npz, npz_rows, ALL),
    Format(".safetensors", (".safetensors",), is_safetensors, safetensors_rows, ALL, name_suffices=True),
    Format("Parquet", (".parquet",), is_parquet, parquet_rows, ("dtype", "key")),
    Format("Arrow", (".arrow", ".feather"), is_arrow, arrow_rows, ("dtype", "key")),
    Format(".pt", (".pt", ".pth"), is_torch, torch_rows, ALL),
    Format("HDF5", (".h5", ".hdf5", ".h5ad"), is_hdf5, hdf5_rows, ALL),
)

FOLDERS: tuple[Format[str], ...] = (Format("Zarr", (), is_zarr, zarr_rows, ALL),)
