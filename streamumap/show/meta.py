"""Meta: the user's table of the rows, a CSV or Parquet file or a text file with an id a line, for embedding.parquet.

It is read twice, batch by batch: before any work, to find errors in it, and when it is written.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

from streamumap.errors import InputError

BLOCK_BYTES = 4 << 20
BATCH_ROWS = 65_536
OWN_COLUMNS = ("row_id", "x", "y", "z", "is_zero", "duplicate_of", "placed", "distortion")


class Meta:
    """The table in the file `path`. Raises InputError where it has not exactly `n_rows` rows or cannot be read."""

    def __init__(self, path: str | os.PathLike, n_rows: int):
        self.path = os.fspath(path)
        self._text_columns: set[str] = set()
        if not os.path.isfile(self.path):
            raise self._wrong("a CSV, Parquet or text file", "none", "check the path")
        with open(self.path, "rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        extension = os.path.splitext(self.path)[1].lower()
        self._kind = "parquet" if is_parquet else {".csv": ",", ".tsv": "\t"}.get(extension, "lines")
        n_found = self._checked()
        if n_found != n_rows:
            header = ", its header not counted" if self._kind in (",", "\t") else ""
            raise self._wrong(f"{n_rows} rows, one for each row of the input", f"{n_found}{header}", "give as many")

    def batches(self) -> Iterator[Any]:
        """The rows in order, as pyarrow record batches. Raises InputError."""
        import pyarrow as pa

        try:
            yield from self._batches()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._wrong("a whole file in UTF-8", " ".join(str(error).split())[:200], "mend it") from error

    def _checked(self) -> int:
        """Reads the whole table and counts its rows. A CSV column whose later values do not fit the type of the first
        becomes text."""
        while True:
            n_rows, checked = 0, False
            try:
                for batch in self.batches():
                    n_rows += batch.num_rows
                    if not checked:
                        self._check_names(batch.schema.names)
                        checked = True
                return n_rows
            except InputError as error:
                column = re.search(r"In CSV column #(\d+)", str(error))
                name = self._header()[int(column.group(1))] if column else None
                if name is None or name in self._text_columns:
                    raise
                self._text_columns.add(name)

    def _check_names(self, names: list[str]) -> None:
        taken = [name for name in names if name in OWN_COLUMNS or re.fullmatch(r"dim\d+", name)]
        if taken or len(set(names)) < len(names):
            found = ", ".join(taken) or "a name twice"
            raise self._wrong(f"columns other than {', '.join(OWN_COLUMNS)}, each once", found, "rename them")

    def _batches(self) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet

        if self._kind == "parquet":
            with pyarrow.parquet.ParquetFile(self.path, buffer_size=BLOCK_BYTES, pre_buffer=False) as file:
                yield from file.iter_batches(BATCH_ROWS)
        elif self._kind == "lines":
            with open(self.path, encoding="utf-8") as file:
                lines = (line.rstrip("\r\n") for line in file)
                while ids := [line for line, _ in zip(lines, range(BATCH_ROWS), strict=False)]:
                    yield pa.record_batch({"id": pa.array(ids, pa.string())})
        else:
            with self._csv() as reader:
                yield from reader

    def _csv(self) -> Any:
        import pyarrow as pa
        import pyarrow.csv as csv

        texts = dict.fromkeys(self._text_columns, pa.string())
        return csv.open_csv(
            self.path,
            csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            csv.ParseOptions(delimiter=self._kind, newlines_in_values=True),
            csv.ConvertOptions(column_types=texts),
        )

    def _header(self) -> list[str]:
        with self._csv() as reader:
            return reader.schema.names

    def _wrong(self, expected: str, found: str, remedy: str) -> InputError:
        return InputError(f"--meta: {self.path}: expected {expected}, found {found}; {remedy}.")
