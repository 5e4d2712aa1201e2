"""Tables of records: CSV, Parquet, Excel and MATLAB files, and their columns.

The kind is told by content, not by suffix. A CSV and a sheet are read as text, every column
of them: a prompt `007` stays what it was, and a score that is no number is an error that
names its row.

    CSV       UTF-8 with or without byte order mark, any line end, quoted commas and line
              breaks; not read: other delimiters
    Excel     the first sheet of an .xlsx; formulas count as the values stored with them
    MATLAB    version 4 to 7.2; the vectors of numbers are the columns, the longest ones where
              they differ in length; not read: version 7.3, which is HDF5
    Parquet   as it is

Row numbers in errors count records from 1; the header is not a record.

Shapes: n records.
"""

from __future__ import annotations

import csv
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from ma_agiqa.errors import DataError, MissingExtraError
from ma_agiqa.text import SHOWN, hint, some

BLANK = frozenset({"", "nan", "null", "none"})
"""What stands, in any case of letters, where a score was never given."""

_BROKEN_SHEET = (BadZipFile, zlib.error, EOFError, KeyError, IndexError, ValueError, ParseError)


def read_table(path: str | Path, *, header: Sequence[str] | None = None) -> pa.Table:
    """Read a table of any of the kinds above.

    Args:
        header: names of the columns of a CSV or sheet whose first row is a record already.

    Raises:
        DataError: missing, unreadable, of no kind read here, damaged, or without rows.
        MissingExtraError: an Excel file without the package that reads them.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(8)
        if start[:4] == b"PAR1":
            table = pa.parquet.read_table(path)
        elif start[:4] == b"PK\x03\x04":
            table = _read_sheet(path, header)
        elif start[:7] == b"MATLAB " or Path(path).suffix == ".mat":
            table = _read_matlab(path)
        else:
            table = _read_csv(path, header)
    except FileNotFoundError as error:
        raise DataError("no such file", path=path) from error
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(
            f"cannot be read as a table: {str(error).splitlines()[0]}",
            path=path,
            remedy="expected a comma-separated UTF-8 file with a header, Parquet, or .xlsx",
        ) from error
    if table.num_rows == 0:
        raise DataError("the table has no rows", path=path)
    return table


def text_column(
    table: pa.Table, column: str, *, source: str | Path, allow_empty: bool = True
) -> tuple[str, ...]:
    """Return a column as texts, None as "".

    Raises:
        DataError: no such column, or an empty value where `allow_empty` is false.
    """
    values = _column(table, column, source=source)
    texts = tuple("" if value is None else str(value) for value in values)
    if not allow_empty and "" in texts:
        raise DataError(f"row {texts.index('') + 1} has an empty {column!r}", path=source)
    return texts


def number_column(
    table: pa.Table, column: str, *, names: Sequence[str], source: str | Path
) -> NDArray[np.float64]:
    """Return a column as finite float64, shape (n,), read-only.

    Raises:
        DataError: no such column, or values that are no finite numbers; rows are named.
    """
    values = _column(table, column, source=source)
    numbers = np.array([_number(value) for value in values], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        shown = ", ".join(f"row {i + 1} ({names[i]}): {values[i]!r}" for i in bad[:SHOWN])
        raise DataError(
            f"{len(bad)} of {len(values)} values of {column!r} are no finite numbers: {shown}",
            path=source,
            remedy="give these records a score or remove them",
        )
    numbers.setflags(write=False)
    return numbers


def is_blank(table: pa.Table, column: str) -> bool:
    """Tell whether a column is not there or holds nothing at all."""
    if column not in table.column_names:
        return True
    values = table.column(column).to_pylist()
    return all(value is None or str(value).strip().casefold() in BLANK for value in values)


def _read_csv(path: str | Path, names: Sequence[str] | None) -> pa.Table:
    """Read every column as text; the header is read first because Arrow would guess types."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = list(names) if names else next(csv.reader(file), [])
    _check_header(header, path)
    return pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(column_names=list(names) if names else None),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in header}, strings_can_be_null=False
        ),
    )


def _read_sheet(path: str | Path, names: Sequence[str] | None) -> pa.Table:
    """Read the first sheet as text, without rows and columns that hold nothing."""
    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as error:
        raise MissingExtraError("openpyxl", "data") from error
    try:
        with open(path, "rb") as file:  # from a file object, the suffix does not matter
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some writers store wrong ones
            rows = [row for row in sheet.iter_rows(values_only=True) if any(map(_filled, row))]
    except (InvalidFileException, *_BROKEN_SHEET) as error:
        raise DataError(
            "this is a spreadsheet or archive that cannot be read: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}",
            path=path,
            remedy="copy it again, or save the sheet as CSV",
        ) from error
    width = max(map(len, rows), default=0)
    cells = [(*row, *[None] * (width - len(row))) for row in rows]
    header = [_text(name) or "" for name in (names or (cells.pop(0) if cells else ()))]
    kept = [i for i, name in enumerate(header) if name.strip()]
    _check_header([header[i].strip() for i in kept], path)
    if kept and kept[-1] >= width:
        raise DataError(f"{width} columns, expected {len(header)}: {some(header)}", path=path)
    columns = {header[i].strip(): [_text(row[i]) for row in cells] for i in kept}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _read_matlab(path: str | Path) -> pa.Table:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(path)
    except NotImplementedError as error:
        raise DataError(
            "a MATLAB file of version 7.3 is not read",
            path=path,
            remedy="in MATLAB: save(..., '-v7')",
        ) from error
    except (MatReadError, ValueError, TypeError, IndexError, KeyError, EOFError) as error:
        raise DataError(f"cannot be read as a MATLAB file: {error}", path=path) from error
    arrays = {name: v for name, v in variables.items() if isinstance(v, np.ndarray) and v.size}
    vectors = {
        name: array.ravel().astype(np.float64)
        for name, array in arrays.items()
        if array.dtype.kind in "iuf" and array.size == max(array.shape)
    }
    if not vectors:
        raise DataError(f"holds no vector of numbers, only {some(list(arrays))}", path=path)
    longest = max(map(len, vectors.values()))
    return pa.table({name: vector for name, vector in vectors.items() if len(vector) == longest})


def _check_header(header: Sequence[str], path: str | Path) -> None:
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise DataError(f"columns named twice: {some(repeated)}", path=path)


def _filled(cell: object) -> bool:
    return cell is not None and cell != ""


def _text(cell: object) -> str | None:
    """Return a cell as text; the shortest that reads back as the same number."""
    return None if cell is None else str(cell)


def _column(table: pa.Table, column: str, *, source: str | Path) -> list[object]:
    if column not in table.column_names:
        raise DataError(
            f"no column {column!r}{hint(column, table.column_names, 'there are')}", path=source
        )
    values: list[object] = table.column(column).to_pylist()
    return values


def _number(value: object) -> float:
    """Return the number a cell holds, NaN when it holds none."""
    if isinstance(value, str) and "_" in value:  # Python reads 1_0 as ten; no table means that
        return float("nan")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")
