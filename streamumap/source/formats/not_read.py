"""Files that people have and that are not read: each is refused with the line of Python that saves its rows as `.npy`."""

import csv
import os
import re

from streamumap.errors import InputError
from streamumap.source.checks import code_command, quoted, short
from streamumap.source.file import OpenFile

HEAD_BYTES = 1 << 20
"""Bytes of a text file that are looked at: its first lines."""

PACKED = ((b"\x1f\x8b", "gzip", ".gz"), (b"BZh", "bz2", ".bz2"), (b"\xfd7zXZ\x00", "lzma", ".xz"))
"""First bytes of compressed files, the modules of Python that unpack them, and the usual endings of their names."""

VECS = {".fvecs": ("<f4", 4), ".ivecs": ("<i4", 4), ".bvecs": ("u1", 1)}
"""Files of rows each behind its width (http://corpus-texmex.irisa.fr): dtype and bytes of a value."""

BINS = {".fbin": "<f4", ".ibin": "<i4", ".u8bin": "u1", ".i8bin": "i1"}
"""Files of rows behind their number and width (https://big-ann-benchmarks.com)."""

EXPECTED = "rows in a format that is read"


def known_but_not_read(file: OpenFile) -> InputError | None:
    """Returns the error for a file of a kind that is known but not read, with the command that converts it; else None."""
    for kind in (_packed, _matlab, _matrix_market, _vectors, table):
        error = kind(file)
        if error is not None:
            return error
    return None


def table(file: OpenFile) -> InputError | None:
    """Returns the error for text with some numbers a line: CSV, TSV, and vectors of words."""
    lines = _first_lines(file)[:2]
    if len(lines) < 2:
        return None
    sizes = re.fullmatch(r"\d+ (\d+)", lines[0].strip())
    sizes = sizes if sizes and len(lines[1].split()) == int(sizes[1]) + 1 else None
    delimiter = " " if sizes else next((it for it in "\t,;" if it in lines[1]), None)
    names, fields = (_split(line, delimiter) for line in lines)
    numbers = [i for i, field in enumerate(fields) if _is_number(field)]
    if len(numbers) < 2 or 2 * len(numbers) < len(fields) or not (sizes or len(names) == len(fields)):
        return None
    has_names = bool(sizes) or _are_names([names[i] for i in numbers])
    if sizes:
        what, numbers = "vectors of words as text", list(range(1, len(fields)))
    else:
        what = {"\t": "a table of text (TSV)", ",": "a table of text (CSV)"}.get(delimiter or "", "a table of text")
        numbers = numbers[1:] if has_names and names[numbers[0]] == "" else numbers  # the index that pandas writes
    spelled_names = f", {short(names[numbers[0]])} to {short(names[numbers[-1]])}" if has_names and not sizes else ""
    what += f" with {len(numbers)} columns of numbers{spelled_names}"
    how = f'delimiter={quoted(delimiter)}, skiprows={int(has_names)}, usecols={_spelled(numbers)}, dtype="float32", '
    how += f'comments=None, quotechar={"None" if sizes else "chr(34)"}, encoding="utf-8-sig"'
    load = f"a = np.loadtxt({quoted(file.name)}, {how})"
    return _refused(file, what, f"import numpy as np; {load}", "save the columns that are its rows (usecols)")


def _packed(file: OpenFile) -> InputError | None:
    for magic, module, ending in PACKED:
        if file.head(len(magic)) == magic:
            target = file.name.removesuffix(ending)
            target = target if target != file.name else f"{file.name}-unpacked"
            code = f'shutil.copyfileobj({module}.open({quoted(file.name)}), open({quoted(target)}, "xb"))'
            return _error(file, f"a file compressed with {module}", "unpack it", f"import {module}, shutil; {code}")
    return None


def _matlab(file: OpenFile) -> InputError | None:
    head = file.head(19)
    if head == b"MATLAB 7.3 MAT-file":
        of_file, whole = f"h5py.File({quoted(file.name)})", "a = a[:].T.copy()"
        imports, is_matrix = "h5py, numpy as np", 'getattr(v, "ndim", 0) == 2'
    elif head == b"MATLAB 5.0 MAT-file":
        of_file, whole = f"scipy.io.loadmat({quoted(file.name)})", "print(k, a.shape); a = a.copy()"
        imports, is_matrix = "scipy.io, numpy as np", "isinstance(v, np.ndarray) and v.ndim == 2"
    else:
        return None
    largest = f"k, a = max(((k, v) for k, v in {of_file}.items() if {is_matrix}), key=lambda p: p[1].size)"
    return _refused(file, "a file of MATLAB", f"import {imports}; {largest}; {whole}", "save its largest matrix")


def _matrix_market(file: OpenFile) -> InputError | None:
    if file.head(14) != b"%%MatrixMarket":
        return None
    target = quoted(os.path.splitext(file.name)[0] + "-rows.npz")
    code = f"import scipy.io, scipy.sparse as s; a = s.csr_matrix(scipy.io.mmread({quoted(file.name)})); s.save_npz({target}, a, False)"
    return _error(
        file,
        "a MatrixMarket file",
        "save it as CSR (with a = a.T.tocsr() before save_npz if its columns are the rows)",
        code,
    )


def _vectors(file: OpenFile) -> InputError | None:
    ending = os.path.splitext(file.name)[1]
    name = quoted(file.name)
    width, more = (int.from_bytes(file.head(4, at), "little") for at in (0, 4))
    if ending in VECS:
        dtype, itemsize = VECS[ending]
        row_bytes = 4 + width * itemsize
        if width and file.n_bytes % row_bytes == 0:
            lead, whole = 4 // itemsize, "<i4" if itemsize == 4 else "u1"
            load = f'a = np.memmap({name}, "{whole}", "r").reshape(-1, {width + lead})[:, {lead}:].view("{dtype}")'
            return _refused(file, f"a file of {ending[1:]}", f"import numpy as np; {load}", "save its rows")
    if ending in BINS and file.n_bytes == 8 + width * more * (4 if BINS[ending][1:] in ("f4", "i4") else 1):
        load = f'a = np.memmap({name}, "{BINS[ending]}", "r", 8, ({width}, {more}))'
        return _refused(file, f"a file of {ending[1:]}", f"import numpy as np; {load}", "save its rows")
    return None


def _refused(file: OpenFile, what: str, load: str, remedy: str) -> InputError:
    """Returns the error with a command that saves `a`, which `load` assigns, beside the file."""
    target = quoted(os.path.splitext(file.name)[0] + "-rows.npy")
    return _error(file, what, remedy, f"{load}; np.save({target}, a)")


def _error(file: OpenFile, what: str, remedy: str, code: str) -> InputError:
    return InputError(f"{file.name}: content: expected {EXPECTED}, found {what}; {remedy} with: {code_command(code)}")


def _first_lines(file: OpenFile) -> list[str]:
    """Returns the first whole lines of a text file, none of another."""
    head = file.head(HEAD_BYTES)
    if b"\x00" in head or b"\n" not in head:
        return []
    if file.n_bytes > len(head):
        head = head[: head.rindex(b"\n")]
    try:
        return [line for line in head.decode("utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError:
        return []


def _split(line: str, delimiter: str | None) -> list[str]:
    line = line.rstrip(" \r")
    try:
        return line.split(delimiter) if delimiter in (None, " ") else next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        return []


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _are_names(fields: list[str]) -> bool:
    """Tells whether the first line of a table has the names of the columns: words, or the numbers that pandas gives."""
    return not all(map(_is_number, fields)) or fields in ([str(i + k) for i in range(len(fields))] for k in (0, 1))


def _spelled(columns: list[int]) -> str:
    span = range(columns[0], columns[-1] + 1)
    return f"range({span.start}, {span.stop})" if len(span) == len(columns) else f"{columns}"
