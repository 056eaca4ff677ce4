"""The forms in which sparse matrices are saved: CSR is read as it is, CSC and COO are converted, others refused."""

from typing import Any

import numpy as np

from streamumap.errors import InputError, UnusedOption
from streamumap.source.base import RowSource
from streamumap.source.checks import short, wrong
from streamumap.source.formats.by_row import AGAIN, ByRow, to_csr
from streamumap.source.formats.convert import Parts, ToConvert, assemble

COO_NAMES = ("row", "col", "data")
OTHERS = ("bsr", "dia")


def coo_parts(name: str, form: str | None, arrays: Any) -> dict[str, str] | None:
    """Maps the parts of a matrix in COO form to their names, None where `form`, which the file names, is another. Raises
    InputError for forms that are not converted."""
    if form in OTHERS and "data" in arrays and ("offsets" in arrays or "indptr" in arrays):
        raise InputError(f"{name}: format: expected csr, csc or coo, found {form}; {to_csr(name)}")
    is_coo = form == "coo" and all(part in arrays for part in COO_NAMES)
    return {part: part for part in COO_NAMES} if is_coo else None


def join_parts(
    name: str,
    parts: Parts,
    width: int | None,
    shape: Any = None,
    form: str | None = None,
    fingerprint: dict | None = None,
    opened: list | None = None,
) -> RowSource | ToConvert:
    """Joins parts into rows as `assemble` does, and those of sparse matrices of other forms. `width`: as the option says.
    `shape` and `form` ("csr", "csc", "coo"): as the file says, if it does. Raises InputError."""
    if "indptr" not in parts and "row" not in parts:
        return assemble(name, parts, width, fingerprint, opened)
    n_bounds = parts["indptr"].n_rows if "indptr" in parts else 0
    sizes = _sizes(name, shape, width, n_bounds)
    doubt = form is None and sizes[0] == sizes[1]
    if form in ("csc", "coo") and shape is None:
        raise wrong(name, "shape", f"two sizes beside {form}", "none", "write it again with scipy.sparse.save_npz")
    if form is None:
        by_column = sizes[0] != n_bounds - 1 == sizes[1]
        form = "csc" if by_column else "csr"
    if form != "csr":
        return ByRow(name, form, parts, sizes, fingerprint or {}, opened or [])
    if sizes[0] != n_bounds - 1:
        raise wrong(name, "indptr", f"{sizes[0]} + 1 bounds, as the shape says", n_bounds, AGAIN)
    rows: Any = assemble(name, parts, sizes[1], fingerprint, opened)
    if doubt:
        doubted = (
            f"{name}: indptr: its bounds may be those of {sizes[0]} rows or of as many columns; they are read as rows, "
        )
        rows.warnings = (*rows.warnings, doubted + "as CSR has them.")
    return rows


def form_name(said: Any) -> str | None:
    """Returns the form of a sparse matrix that its file names, such as "csr" or b"csc_matrix", None for other text."""
    text = said.decode("latin-1") if isinstance(said, bytes) else str(said)
    form = text.removesuffix("_matrix").removesuffix("_array")
    return form if form in ("csr", "csc", "coo", *OTHERS) else None


def _sizes(name: str, shape: Any, width: int | None, n_bounds: int) -> tuple[int, Any]:
    """Returns (rows, features) as the file says, or else the option."""
    if shape is None:
        return n_bounds - 1, width
    sizes = np.asarray(shape)
    if sizes.shape != (2,) or sizes.dtype.kind not in "iu":
        raise wrong(name, "shape", "two sizes", short(sizes.tolist()), "write it again with scipy.sparse.save_npz")
    if width is not None and width != sizes[1]:
        message = wrong(name, "--features", f"{sizes[1]}, as the file says", width, "leave the option out")
        raise UnusedOption(str(message), "n_features")
    return int(sizes[0]), int(sizes[1])
