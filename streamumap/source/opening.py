"""What the user named -> the source of its rows: by content, not by name, and by what lies beside it."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from streamumap.source.base import RowSource, check_shape
from streamumap.source.checks import short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats.archive import Archive
from streamumap.source.formats.array import ArraySource
from streamumap.source.formats.convert import ToConvert
from streamumap.source.formats.csr import csr_of
from streamumap.source.formats.npy import npy_rows
from streamumap.source.formats.raw import raw_rows
from streamumap.source.formats.shard_files import check_sequence, in_folder, listed, make_room, matching
from streamumap.source.formats.shards import join
from streamumap.source.formats.sidecar import find_pair, group_pairs, sidecar_width
from streamumap.source.formats.topk import TopKSource

EXTENSIONS = (".npy", ".npz", ".safetensors", ".parquet", ".arrow", ".feather", ".pt", ".pth", ".h5", ".hdf5", ".h5ad")
"""Files of a folder that are its shards. What each of them is, its content says."""

KINDS = "a .npy, .npz, .safetensors, Parquet, Arrow, .pt or HDF5 file, or a folder of them"


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


def open_source(x: Any, reading: Reading | None = None, least_rows: int = 3) -> RowSource | ToConvert:
    """The rows of `x`: a path; a 2-D array, memmap, CPU tensor or list of rows; a `scipy.sparse` matrix in CSR form; the
    TopK pairs (indices, values, n_features), each of the first two a path or an array; an iterable of blocks of rows; or
    a source that is open already.

    A path is that of a file of rows, a folder or a glob of shards, a `.txt` that lists them, or TopK pairs: a folder with
    `X_indices.npy` and `X_values.npy`, or either of these. Their width is `reading.n_features`, or what a JSON file
    beside them says. What cannot be read in place is a ToConvert. Raises InputError, also where there are fewer than
    `least_rows` rows.
    """
    reading = reading or Reading()
    source = _open_as(x, reading)
    try:
        check_shape(source.name, source.n_rows, source.n_features, least_rows)
    except BaseException:
        source.close()
        raise
    return source


def open_rows(x: Any, reading: Reading | None = None) -> RowSource:
    """The same of what must be readable in place. Raises InputError."""
    source = open_source(x, reading)
    if isinstance(source, ToConvert):
        source.close()
        raise wrong(
            source.name, "file", "rows that can be read in place", "a container to convert", "save it with numpy.save"
        )
    return source


def _open_as(x: Any, reading: Reading) -> RowSource | ToConvert:
    """The rows, their codes, the features or the decoder of these, as `reading` wants it."""
    if reading.of not in ("rows", "features", "decoder"):
        raise wrong("--of", "value", "rows, features or decoder", short(reading.of), "choose one of these")
    if reading.of == "decoder":
        return _decoder(reading.sae if reading.sae is not None else x)
    source = _open(x, reading)
    try:
        if reading.sae is not None:
            from streamumap.source.sae.load import read_checkpoint
            from streamumap.source.sae.rows import EncodedRows

            source = EncodedRows(source, read_checkpoint(reading.sae))
        if reading.of == "features":
            from streamumap.source.views.transposed import TransposedRows

            source = TransposedRows(source)
        return source
    except BaseException:
        source.close()
        raise


def _decoder(x: Any) -> RowSource:
    from streamumap.source.sae.load import decoder_rows, read_checkpoint

    if not isinstance(x, (str, os.PathLike)):
        raise wrong("--of decoder", "input", "the checkpoint of an SAE", f"a {type(x).__name__}", "name it, or --sae")
    source = ArraySource(decoder_rows(read_checkpoint(x)))
    source.name = os.fspath(x)
    return source


def _open(x: Any, reading: Reading) -> RowSource | ToConvert:
    if isinstance(x, (str, bytes, os.PathLike)):
        return _open_path(os.fsdecode(x), reading)
    if isinstance(x, tuple) and len(x) == 3:
        return _pairs("the pairs", x[0], x[1], x[2], reading.dtype)
    if hasattr(x, "tocsr"):
        return csr_of(x)
    if isinstance(x, (RowSource, ToConvert)):
        return x
    if isinstance(x, Iterable) and not isinstance(x, (list, tuple, dict, set)) and not hasattr(x, "__array__"):
        from streamumap.source.formats.iterable import spooled_rows

        return spooled_rows(x, reading.dtype)
    return ArraySource(x, reading.dtype)


def _open_path(path: str, reading: Reading) -> RowSource | ToConvert:
    if os.path.isdir(path):
        return _open_folder(path, reading)
    if not os.path.lexists(path) and any(character in path for character in "*?["):
        return _shards(path, matching(path), reading)
    pair = find_pair(path)
    if pair is not None:
        return _with_width(path, [pair], reading)
    if path.endswith(".txt") and os.path.isfile(path):
        return _shards(path, listed(path), reading)
    return open_file(path, reading)


def open_file(path: str, reading: Reading) -> RowSource | ToConvert:
    """The rows of one file, by its content. Raises InputError."""
    if reading.shape is not None:
        return raw_rows(path, reading.shape, reading.dtype)
    with OpenFile(path, KINDS) as file:
        kind = _kind(file)
    if kind == "npy":
        return npy_rows(path, reading.dtype)
    if kind == "npz":
        from streamumap.source.formats.npz import npz_rows

        return npz_rows(path, reading.dtype, reading.key, reading.n_features)
    if kind == "pt":
        from streamumap.source.formats.torch_file import torch_rows

        return torch_rows(path, reading.key, reading.n_features)
    if kind == "safetensors":
        from streamumap.source.formats.safetensors import safetensors_rows

        return safetensors_rows(path, reading.key, reading.n_features)
    if kind == "hdf5":
        from streamumap.source.formats.hdf5 import hdf5_rows

        return hdf5_rows(path, reading.key, reading.n_features)
    from streamumap.source.formats.arrow import arrow_rows

    return arrow_rows(path, kind, reading.key)


def _kind(file: OpenFile) -> str:
    head = file.head(16)
    if head.startswith(b"PK"):
        return "pt" if any(name.endswith("/data.pkl") for name in Archive(file).members) else "npz"
    for magic, kind in (
        (b"\x93NUMPY", "npy"),
        (b"\x89HDF\r\n\x1a\n", "hdf5"),
        (b"PAR1", "parquet"),
        (b"ARROW1", "arrow"),
    ):
        if head.startswith(magic):
            return kind
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        remedy = "save the rows with numpy.save, or a tensor with torch.save"
        raise wrong(file.name, "content", KINDS, "serialised objects, which are never loaded", remedy)
    if head[8:9] == b"{" or file.name.endswith(".safetensors"):
        return "safetensors"
    if file.name.endswith(".npy"):
        return "npy"  # whose reader says what is wrong with it
    remedy = "give --shape and --dtype if it has no header"
    raise wrong(file.name, "content", KINDS, f"a file that begins with {short(head)}" if head else "0 bytes", remedy)


def _open_folder(path: str, reading: Reading) -> RowSource | ToConvert:
    from streamumap.source.formats.zarr_file import is_zarr, zarr_rows

    if is_zarr(path):
        return zarr_rows(path, reading.key, reading.n_features)
    files = in_folder(path, EXTENSIONS)
    pairs = group_pairs(files)
    if pairs:
        return _with_width(path, pairs, reading)
    kinds = {os.path.splitext(file)[1] for file in files}
    if len(kinds) > 1:
        remedy = f"name one kind with a glob: '{os.path.join(path, '*' + min(kinds))}'"
        raise wrong(path, "files", "shards of one kind", " and ".join(sorted(kinds)), remedy)
    return _shards(path, files, reading)


def _shards(name: str, paths: list[str], reading: Reading) -> RowSource | ToConvert:
    if not paths:
        raise wrong(
            name, "shards", f"files in the folder that end in {', '.join(EXTENSIONS)}", "none", "check the path"
        )
    if reading.shape is not None and len(paths) > 1:
        raise wrong(name, "--shape", "one file", f"{len(paths)}", "name one file without a header at a time")
    check_sequence(name, paths)
    make_room(len(paths))
    return _joined(name, (open_file(path, reading) for path in paths))


def _joined(name: str, opening: Iterable[RowSource | ToConvert]) -> Any:
    """Sources one after the other. Those that are open are closed where a later one cannot be."""
    opened: list[Any] = []
    try:
        for source in opening:
            opened.append(source)
        return join(name, opened)
    except BaseException:
        for source in opened:
            source.close()
        raise


def _with_width(name: str, pairs: list[tuple[str, str]], reading: Reading) -> RowSource:
    """TopK pairs in files."""
    width, notes = reading.n_features, tuple[str, ...]()
    if width is None:
        width, file = sidecar_width(pairs[0][0])
        notes = (f"{name}: {width:,} features, as {file} says",)
    check_sequence(name, [indices for indices, _ in pairs])
    make_room(2 * len(pairs))
    opening = (_pairs(name if len(pairs) == 1 else pair[0], *pair, width, reading.dtype) for pair in pairs)
    source = _joined(name, opening)
    source.notes = notes
    return source


def _pairs(name: str, indices: Any, values: Any, n_features: Any, dtype: str | None) -> TopKSource:
    parts: list[RowSource] = []
    try:
        for part, part_dtype in ((indices, None), (values, dtype)):
            is_path = isinstance(part, (str, bytes, os.PathLike))
            parts.append(npy_rows(part, part_dtype) if is_path else ArraySource(part, part_dtype))
        return TopKSource(name, parts[0], parts[1], n_features)
    except BaseException:
        for source in parts:
            source.close()
        raise
