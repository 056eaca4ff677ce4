"""Opens any input as a source of rows. A file is recognized by its content, not by its name."""

import glob
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from streamumap.errors import InputError
from streamumap.events import Note
from streamumap.source.base import RowSource, check_shape
from streamumap.source.checks import short, wrong
from streamumap.source.file import OpenFile
from streamumap.source.formats import FILES, FOLDERS, Format
from streamumap.source.formats.array import ArraySource
from streamumap.source.formats.choice import Choice, name_choice
from streamumap.source.formats.convert import ToConvert
from streamumap.source.formats.csr import csr_of
from streamumap.source.formats.iterable import iterable_rows
from streamumap.source.formats.not_read import known_but_not_read, table
from streamumap.source.formats.npy_file import open_pairs
from streamumap.source.formats.options import check_used, check_width_used
from streamumap.source.formats.raw import raw_rows
from streamumap.source.formats.safetensors import read_tensors, safetensors_rows
from streamumap.source.formats.shard_files import in_folder, listed, make_room, matching
from streamumap.source.formats.shard_names import read_names
from streamumap.source.formats.shards import join
from streamumap.source.formats.sidecar import find_pair, group_pairs, sidecar_width
from streamumap.source.reading import Reading
from streamumap.source.sae.checkpoint import read_checkpoint
from streamumap.source.sae.load import decoder_rows
from streamumap.source.sae.rows import EncodedRows
from streamumap.source.views.transposed import TransposedRows

EXTENSIONS = tuple(extension for format in FILES for extension in format.extensions)
"""Files of a folder with one of these are its shards; their content says what each of them is."""

KINDS = f"a {', '.join(format.name for format in FILES[:-1])} or {FILES[-1].name} file, or a folder of them"
"""The formats of files, for messages."""

PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5))


def open_source(x: Any, reading: Reading | None = None, least_rows: int = 3) -> RowSource | ToConvert:
    """Opens the rows of `x`: a path; a 2-D array, memmap, CPU tensor or list of rows; a `scipy.sparse` matrix in CSR form; the
    TopK pairs (indices, values, n_features), each of the first two a path or an array; an iterable of blocks of rows; or
    a source that is open already.

    A path names a file of rows, a folder or a glob of shards, a `.txt` that lists them, or TopK pairs: a folder with
    `X_indices.npy` and `X_values.npy`, or either of these. Their width is `reading.n_features`, or the one in a JSON file
    beside them. Rows that cannot be read in place are a ToConvert. Where a path holds more than the rows, `chosen` and the first
    of `notes` of the source name what was read. Raises InputError, also if there are fewer than `least_rows` rows.
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
    """Opens rows that can be read in place. Raises InputError for others."""
    source = open_source(x, reading)
    if isinstance(source, ToConvert):
        source.close()
        raise wrong(
            source.name, "file", "rows that can be read in place", "a container to convert", "save it with numpy.save"
        )
    return source


def notes_of(source: RowSource | ToConvert) -> Iterator[Note]:
    """Yields what opening a source has shown: notes, of which the first names what was read, then warnings."""
    for level, texts in (("info", "notes"), ("warning", "warnings")):
        for text in getattr(source, texts, ()):
            yield Note(level, text)


def _open_as(x: Any, reading: Reading) -> RowSource | ToConvert:
    """Opens the rows, their codes by an SAE, their features as rows, or the decoder of an SAE, as `reading` says."""
    if reading.of not in ("rows", "features", "decoder"):
        raise wrong("--of", "value", "rows, features or decoder", short(reading.of), "choose one of these")
    if reading.of == "decoder":
        check_used("--of decoder", "directions of an SAE", reading, ())
        return _decoder(reading.sae if reading.sae is not None else x)
    source = _open(x, reading)
    chosen = getattr(source, "chosen", None)
    try:
        if reading.sae is not None:
            source = EncodedRows(source, read_checkpoint(reading.sae))
        if reading.of == "features":
            source = TransposedRows(source)
        if chosen is not None:
            source.chosen = chosen
        return source
    except BaseException:
        source.close()
        raise


def _decoder(x: Any) -> RowSource:
    if not isinstance(x, (str, os.PathLike)):
        raise wrong("--of decoder", "input", "the checkpoint of an SAE", f"a {type(x).__name__}", "name it, or --sae")
    source = ArraySource(decoder_rows(read_checkpoint(x)))
    source.name = os.fspath(x)
    return source


def _open(x: Any, reading: Reading) -> Any:
    if isinstance(x, (str, bytes, os.PathLike)):
        return name_choice(_open_path(os.fsdecode(x), reading))
    if isinstance(x, tuple) and len(x) == 3:
        check_used("the pairs", "pairs that come with their width", reading, ("dtype",))
        return open_pairs("the pairs", x[0], x[1], x[2], reading.dtype)
    if isinstance(x, (RowSource, ToConvert)):
        check_used(x.name, "rows that are open already", reading, ())
        return x
    check_used(f"the {type(x).__name__}", "rows in memory", reading, ("dtype",))
    if hasattr(x, "tocsr"):
        return csr_of(x, reading.dtype)
    if isinstance(x, Iterable) and not isinstance(x, (list, tuple, dict, set)) and not hasattr(x, "__array__"):
        return iterable_rows(x, reading.dtype)
    return ArraySource(x, reading.dtype)


def _open_path(path: str, reading: Reading) -> RowSource | ToConvert:
    if os.path.isdir(path):
        return _open_folder(path, reading)
    if not os.path.lexists(path) and any(character in path for character in "*?["):
        return _shards(path, matching(path), reading)
    pair = find_pair(path)
    if pair is not None:
        return _pair_files(path, [pair], reading)
    if path.endswith(".txt") and os.path.isfile(path):
        with OpenFile(path) as file:
            error = table(file)
        if error is not None:
            raise error
        return _shards(path, listed(path), reading, in_order=True)
    return open_file(path, reading)


def open_file(path: str, reading: Reading) -> RowSource | ToConvert:
    """Opens the rows of one file: without a header if its shape is given, else by its content. Raises InputError."""
    file = OpenFile(path, KINDS if reading.shape is None else "a file of rows")
    try:
        format = _format_of(file) if reading.shape is None else _with_header(file)
        if format is None:
            check_used(path, "a file without a header", reading, ("dtype", "shape"))
            return raw_rows(file, reading)
        check_used(path, f"{format.name} files", reading, format.uses)
        rows = format.reader(file, reading)
        check_width_used(rows, reading)
        return rows
    except BaseException:
        file.close()
        raise


def _with_header(file: OpenFile) -> Format[OpenFile] | None:
    """Returns the format of a file that says itself what its shape is. Numbers may begin like a format, so its header must be
    readable as well."""
    for format in FILES:
        with suppress(InputError):
            if format.recognizes(file):
                if format.reader is safetensors_rows:
                    read_tensors(file)
                return format
    return None


def _format_of(file: OpenFile) -> Format[OpenFile]:
    head = file.head(16)
    if head.startswith(PICKLES):
        remedy = "save the rows with numpy.save, or a tensor with torch.save"
        raise wrong(file.name, "content", KINDS, "serialised objects, which are never loaded", remedy)
    for format in FILES:
        if format.recognizes(file):
            return format
    for format in FILES:
        if format.name_suffices and file.name.endswith(format.extensions):
            return format
    error = known_but_not_read(file)
    if error is not None:
        raise error
    remedy = "give --shape and --dtype if it has no header"
    raise wrong(file.name, "content", KINDS, f"a file that begins with {short(head)}" if head else "0 bytes", remedy)


def _open_folder(path: str, reading: Reading) -> RowSource | ToConvert:
    for format in FOLDERS:
        if format.recognizes(path):
            check_used(path, f"{format.name} folders", reading, format.uses)
            rows = format.reader(path, reading)
            check_width_used(rows, reading)
            return rows
    files = in_folder(path, EXTENSIONS)
    pairs = group_pairs(files)
    if pairs:
        return _pair_files(path, pairs, reading, *read_names(path, [indices for indices, _ in pairs]))
    kinds = {os.path.splitext(file)[1] for file in files}
    if len(kinds) > 1:
        remedy = f"name one kind with a glob: '{os.path.join(path, '*' + min(kinds))}'"
        raise wrong(path, "files", "shards of one kind", " and ".join(sorted(kinds)), remedy)
    return _shards(path, files, reading)


def _shards(name: str, paths: list[str], reading: Reading, in_order: bool = False) -> RowSource | ToConvert:
    """Opens the rows of several files. `in_order`: the user has listed them himself, and their names mean nothing."""
    if not paths:
        raise _no_shards(name)
    warnings, notes = ((), ()) if in_order else read_names(name, paths)
    pairs = [find_pair(path) for path in paths]
    if all(pairs):
        return _pair_files(name, list(dict.fromkeys(pair for pair in pairs if pair)), reading, warnings, notes)
    if any(pairs):
        of_pairs = paths[pairs.index(next(filter(None, pairs)))]
        raise wrong(
            name, "shards", "TopK pairs or other rows", f"both, {of_pairs} of pairs", "leave out the one or the other"
        )
    if reading.shape is not None and len(paths) > 1:
        raise wrong(name, "--shape", "one file", f"{len(paths)}", "name one file without a header at a time")
    make_room(len(paths))
    source = _joined(name, (open_file(path, reading) for path in paths))
    source.warnings = (*warnings, *getattr(source, "warnings", ()))
    source.notes = (*notes, *getattr(source, "notes", ()))
    return source


def _no_shards(name: str) -> InputError:
    """Returns the error for a folder or glob without a shard."""
    if not os.path.isdir(name):
        return wrong(name, "shards", "files that this glob matches", "none", "check it; ** stands for any folders")
    deeper = next((kind for kind in EXTENSIONS if matching(os.path.join(glob.escape(name), "*", f"*{kind}"))), None)
    remedy = "check the path"
    if deeper:
        remedy = (
            f"name those in its folders with a glob: {shlex.quote(os.path.join(glob.escape(name), '**', '*' + deeper))}"
        )
    return wrong(name, "shards", f"files in the folder that end in {', '.join(EXTENSIONS)}", "none", remedy)


def _joined(name: str, opening: Iterable[RowSource | ToConvert]) -> Any:
    """Joins sources one after the other. Closes those that are open if a later one cannot be opened."""
    opened: list[Any] = []
    try:
        for source in opening:
            opened.append(source)
        return join(name, opened)
    except BaseException:
        for source in opened:
            source.close()
        raise


def _pair_files(
    name: str,
    pairs: list[tuple[str, str]],
    reading: Reading,
    warnings: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> RowSource | ToConvert:
    """Opens TopK pairs in files, with their width from `reading` or a JSON file beside them. `warnings` and `notes` are
    those on their names."""
    check_used(name, "files of TopK pairs", reading, ("dtype", "n_features"))
    width = reading.n_features
    if width is None:
        width, file = sidecar_width(pairs[0][0])
        notes = (*notes, f"{name}: {width:,} features, as {file} says")
    make_room(2 * len(pairs))
    source = _joined(name, (_pair(name if len(pairs) == 1 else pair[0], *pair, width, reading.dtype) for pair in pairs))
    source.warnings, source.notes = (*warnings, *source.warnings), notes
    return source


def _pair(name: str, indices: str, values: str, width: int, dtype: str | None) -> Any:
    """Opens the TopK pairs in two files, which remembers both."""
    source: Any = open_pairs(name, indices, values, width, dtype)
    source.choice = Choice("TopK pairs", f"{indices} and {os.path.basename(values)}")
    return source
