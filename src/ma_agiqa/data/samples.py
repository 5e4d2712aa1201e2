"""Images and their human scores, in columns; read from any CSV or Parquet table.

A CSV is read as text, every column of it: a prompt `007` stays what it was, and a score that
is no number is an error that names its row. Accepted: UTF-8 with or without byte order mark,
any line end, quoted commas and line breaks. Not read: spreadsheets, other delimiters.

Row numbers in errors count records from 1; the header is not a record.

Shapes: n records.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import ArrayLike, NDArray

from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.types import Scale

SHOWN = 5
"""How many offenders an error names before it only counts them."""


@dataclass(frozen=True, eq=False)
class Samples:
    """n records of one data set; row i of every column is one image.

    Attributes:
        name: unique key of each record, the file name as the data set gives it.
        path: absolute path of each image; it need not exist, see `require_images`.
        targets: human scores, name -> float64 (n,), finite; the first one is the default.
        groups: what records have in common, e.g. generator, setting, prompt -> (n,) texts.
        dataset: name of the data set.
        scale: nominal ends of every target; None where the source does not say.
    """

    name: tuple[str, ...]
    path: tuple[Path, ...]
    targets: Mapping[str, NDArray[np.float64]]
    groups: Mapping[str, tuple[str, ...]]
    dataset: str
    scale: Scale | None = None

    def __post_init__(self) -> None:
        columns = {"path": self.path, **self.targets, **self.groups}
        lengths = {key: len(column) for key, column in columns.items() if len(column) != len(self)}
        if lengths:
            raise DataError(f"{len(self)} names but columns of other lengths: {lengths}")
        if not self.targets:
            raise DataError(f"the data set {self.dataset} has no target")
        repeated = [name for name, count in Counter(self.name).items() if count > 1]
        if repeated:
            raise DataError(
                f"{some(repeated)} occur more than once in {self.dataset}",
                remedy="a record's name must be unique: keep one row per image",
            )

    def __len__(self) -> int:
        return len(self.name)

    def target(self, name: str | None = None) -> NDArray[np.float64]:
        """Return one column of human scores, shape (n,); the default one when None.

        Raises:
            UsageError: no such target.
        """
        wanted = next(iter(self.targets)) if name is None else name
        if wanted not in self.targets:
            raise UsageError(
                f"{self.dataset} has no target {wanted!r}{hint(wanted, self.targets, 'it has')}"
            )
        return self.targets[wanted]

    def subset(self, indices: ArrayLike) -> Samples:
        """Return the records at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        return Samples(
            name=tuple(self.name[i] for i in rows),
            path=tuple(self.path[i] for i in rows),
            targets={key: column[rows] for key, column in self.targets.items()},
            groups={key: tuple(column[i] for i in rows) for key, column in self.groups.items()},
            dataset=self.dataset,
            scale=self.scale,
        )


def load_table(
    path: str | Path,
    *,
    root: str | Path,
    image_column: str,
    score_column: str,
    group_columns: Mapping[str, str] | None = None,
) -> Samples:
    """Read a table with an image and a score column; the target is named as its column.

    Args:
        root: folder that image paths in the table are relative to; absolute ones stay.
        group_columns: group -> column.

    Raises:
        DataError: no such file, no such column, no rows, a score that is no finite number,
            a record without an image, a name that occurs twice.
    """
    table = read_table(path)
    names = text_column(table, image_column, source=path, allow_empty=False)
    return Samples(
        name=names,
        path=image_paths(root, names),
        targets={score_column: number_column(table, score_column, names=names, source=path)},
        groups={
            group: text_column(table, column, source=path)
            for group, column in (group_columns or {}).items()
        },
        dataset=Path(path).stem,
    )


def read_table(path: str | Path) -> pa.Table:
    """Read a CSV (all columns as text) or a Parquet file, told apart by content.

    Raises:
        DataError: missing, unreadable, neither format, damaged, or without rows.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        table = pa.parquet.read_table(path) if start == b"PAR1" else _read_csv(path, start)
    except FileNotFoundError as error:
        raise DataError("no such file", path=path) from error
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(
            f"cannot be read as a table: {str(error).splitlines()[0]}",
            path=path,
            remedy="expected a comma-separated UTF-8 file with a header, or Parquet",
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


def image_paths(root: str | Path, names: Iterable[str]) -> tuple[Path, ...]:
    """Return the absolute path of each image named relative to `root`."""
    base = Path(os.path.abspath(root))
    return tuple(base / name for name in names)


def require_images(samples: Samples) -> None:
    """Raise DataError when images are missing, naming the first few and how many."""
    missing = [str(path) for path in samples.path if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(samples)} images of {samples.dataset} are missing: "
            f"{some(missing)}",
            remedy="check the root folder, or complete the download",
        )


def some(items: Sequence[str]) -> str:
    """Return the first few items as text, and how many more there are."""
    rest = len(items) - SHOWN
    return ", ".join(items[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def hint(name: str, known: Iterable[str], lead: str) -> str:
    """Return `; LEAD a, b, c; did you mean b?` for an error about an unknown name."""
    choices = list(known)
    folded = {choice.casefold(): choice for choice in choices}
    close = [folded[key] for key in get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)]
    guess = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"; {lead} {', '.join(choices)}{guess}"


def _read_csv(path: str | Path, start: bytes) -> pa.Table:
    """Read every column as text; the header is read first because Arrow would guess types."""
    if start[:2] == b"PK":
        raise DataError(
            "this is a spreadsheet or archive, not a table of text",
            path=path,
            remedy="save the sheet as CSV",
        )
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise DataError(f"columns named twice: {some(repeated)}", path=path)
    return pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in header}, strings_can_be_null=False
        ),
    )


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
