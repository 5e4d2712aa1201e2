"""Images and their human scores in columns, and the tables they are read from.

The kind of a table is recognised by content, not by suffix. A CSV and a sheet are read as
text, every column of them: a prompt `007` stays what it was, and a score that is no number is
an error that names its row.

    CSV       UTF-8 with or without byte order mark, any line end, quoted commas and line
              breaks; not read: other delimiters
    Excel     the first sheet of an .xlsx; formulas count as the values stored with them
    MATLAB    version 4 to 7.2; the vectors of numbers are the columns, the longest ones where
              they differ in length; not read: version 7.3, which is HDF5
    Parquet   as it is

Columns without a name are left out. Row numbers in errors count records from 1; the header is
not a record.

Shapes: n records.
"""

from __future__ import annotations

import io
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ma_agiqa.errors import DataError, MissingExtraError, UsageError, first_line
from ma_agiqa.text import SHOWN, did_you_mean, join_some
from ma_agiqa.types import Scale

if TYPE_CHECKING:
    import pandas as pd

Table: TypeAlias = "pd.DataFrame"

BLANK = frozenset({"", "nan", "null", "none"})
"""What stands, in any case of letters, where a score was never given."""

CHUNK = 1000
"""Rows of a long CSV or Parquet file that are in memory at a time while it is streamed."""


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
        official_set: which set the publisher put each record in, training, validation or test
            -> (n,) texts; None where there is no such division.
        paper: what the split name `paper` stands for here, see `splits`.
        photographs: these were taken with a camera, so there are no prompts to share.
        caveats: what a reader of a number on these records must know, e.g. images reduced.
        std: standard deviation over the raters, target -> float64 (n,), NaN where the file
            holds no number; only for targets that have one.
        files: annotation files that were read.
        unread: annotation files that are not there or hold no scores.
    """

    name: tuple[str, ...]
    path: tuple[Path, ...]
    targets: Mapping[str, NDArray[np.float64]]
    groups: Mapping[str, tuple[str, ...]]
    dataset: str
    scale: Scale | None = None
    official_set: tuple[str, ...] | None = None
    paper: str = "random-20"
    photographs: bool = False
    caveats: tuple[str, ...] = ()
    std: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    unread: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = {"path": self.path, **self.targets, **self.groups}
        columns.update({f"std of {key}": column for key, column in self.std.items()})
        if self.official_set is not None:
            columns["official_set"] = self.official_set
        lengths = {key: len(column) for key, column in columns.items() if len(column) != len(self)}
        if lengths:
            raise DataError(f"{len(self)} names but columns of other lengths: {lengths}")
        if not self.targets:
            raise DataError(f"the data set {self.dataset} has no target")
        repeated = [name for name, count in Counter(self.name).items() if count > 1]
        if repeated:
            raise DataError(
                f"{join_some(repeated)} occur more than once in {self.dataset}",
                remedy="a record's name must be unique: keep one row per image",
            )
        named: dict[str, list[str]] = {}
        for name, path in zip(self.name, self.path, strict=True):
            named.setdefault(os.path.normpath(path), []).append(name)
        several = [" and ".join(names) for names in named.values() if len(names) > 1]
        if several:
            raise DataError(
                f"{self.dataset} names one image in several ways: {join_some(several)}",
                remedy="keep one row per image",
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
                f"{self.dataset} has no target {wanted!r}"
                f"{did_you_mean(wanted, self.targets, 'it has')}"
            )
        return self.targets[wanted]

    def subset(self, indices: ArrayLike) -> Samples:
        """Return the records at `indices`, in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        official = self.official_set
        return replace(
            self,
            name=tuple(self.name[i] for i in rows),
            path=tuple(self.path[i] for i in rows),
            targets={key: column[rows] for key, column in self.targets.items()},
            groups={key: tuple(column[i] for i in rows) for key, column in self.groups.items()},
            official_set=None if official is None else tuple(official[i] for i in rows),
            std={key: column[rows] for key, column in self.std.items()},
        )


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a table of one's own hold what.

    Attributes:
        image: path of the image, relative to the root, or absolute.
        score: the human score; the target is named as this column.
        prompt: the text that generated the image, or None; splits by prompt need it.
    """

    image: str = "image"
    score: str = "score"
    prompt: str | None = None


def load_table(path: str | Path, root: str | Path, columns: TableColumns) -> Samples:
    """Read a table of one's own; the target is named as its column.

    Args:
        root: folder that image paths in the table are relative to; absolute ones stay.

    Raises:
        DataError: no such file, no such column, no rows, a score that is no finite number,
            a record without an image, a name that occurs twice.
    """
    table = read_table(path)
    names = text_column(table, columns.image, source=path, allow_empty=False)
    prompt = columns.prompt
    return Samples(
        name=names,
        path=image_paths(root, names),
        targets={columns.score: number_column(table, columns.score, names=names, source=path)},
        groups={} if prompt is None else {"prompt": text_column(table, prompt, source=path)},
        dataset=Path(path).stem,
    )


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
            f"{join_some(missing)}",
            remedy="check the root folder, or complete the download",
        )


def read_table(path: str | Path, *, header: Sequence[str] | None = None) -> Table:
    """Read a whole table of any of the kinds above.

    Args:
        header: names of the columns of a CSV or sheet whose first row is a record already.

    Raises:
        DataError: missing, unreadable, of no kind read here, damaged, or without rows.
        MissingExtraError: an Excel file without the package that reads them.
    """
    import pandas as pd

    chunks = list(_chunks(path, header=header))
    table = pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame()
    if len(table) == 0:
        raise DataError("the table has no rows", path=path)
    return table


def stream_rows(
    path: str | Path, column: str, *, whole: bool = False
) -> Iterator[tuple[str | None, dict[str, str | None]]]:
    """Yield one column of texts row by row, None where a row has none.

    Beside it stands the whole row as text by column, if asked for; else nothing.

    For lists that do not fit in memory: of a CSV and a Parquet file a part is held at a time,
    and a file that is damaged in the middle gives the rows before that.

    Raises:
        DataError: as `read_table`, or the column is missing or holds something else than text.
        MissingExtraError: an Excel file without the package that reads them.
    """
    for chunk in _chunks(path, only=None if whole else column):
        names = [str(name) for name in chunk.columns] if whole else []
        cells = chunk.itertuples(index=False, name=None) if whole else repeat(())
        for value, row in zip(_column(chunk, column, source=path), cells, strict=False):
            if not (_is_missing(value) or isinstance(value, str)):
                kind = type(value).__name__
                raise DataError(f"column {column!r} holds {kind} values, not text", path=path)
            texts = (_text(cell) or None for cell in row)
            yield _text(value) or None, dict(zip(names, texts, strict=True))


def text_column(
    table: Table, column: str, *, source: str | Path, allow_empty: bool = True
) -> tuple[str, ...]:
    """Return a column as texts, a missing value as "".

    Raises:
        DataError: no such column, or an empty value where `allow_empty` is false.
    """
    texts = tuple(map(_text, _column(table, column, source=source)))
    if not allow_empty and "" in texts:
        raise DataError(f"row {texts.index('') + 1} has an empty {column!r}", path=source)
    return texts


def number_column(
    table: Table,
    column: str,
    *,
    names: Sequence[str],
    source: str | Path,
    scale: Scale | None = None,
) -> NDArray[np.float64]:
    """Return a column as finite float64, shape (n,), read-only.

    Args:
        names: of the rows, for errors.
        scale: the values must lie within its ends.

    Raises:
        DataError: no such column, values that are no finite numbers or not on the scale; with
            a count and the first names.
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
    low, high = (-np.inf, np.inf) if scale is None else (scale.low, scale.high)
    outside = np.flatnonzero((numbers < low) | (numbers > high)).tolist()
    if outside:
        worst = join_some([f"{names[i]} ({numbers[i]:g})" for i in outside])
        raise DataError(
            f"{len(outside)} values of {column!r} outside {low:g} to {high:g}: {worst}",
            path=source,
            remedy="check the scale of the file: it is not as published",
        )
    numbers.setflags(write=False)
    return numbers


def numbers_or_nan(table: Table, column: str, *, source: str | Path) -> NDArray[np.float64]:
    """Return a column as float64, shape (n,), NaN where it holds no number."""
    return np.array([_number(value) for value in _column(table, column, source=source)])


def is_blank(table: Table, column: str) -> bool:
    """Return whether a column is missing or holds nothing at all."""
    if column not in table.columns:
        return True
    return all(_text(value).strip().casefold() in BLANK for value in table[column].tolist())


def _chunks(
    path: str | Path, *, header: Sequence[str] | None = None, only: str | None = None
) -> Iterator[Table]:
    """Yield a table in parts; of a Parquet file the column `only`, if that is given."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except FileNotFoundError as error:
        raise DataError("no such file", path=path) from error
    except OSError as error:
        raise DataError(f"cannot be read as a table: {error}", path=path) from error
    if start[:4] == b"PAR1":
        yield from _guarded(_parquet_chunks(path, only), path, "cannot be read as a table")
    elif start[:4] == b"PK\x03\x04":
        sheet = _guarded(_sheet(path), path, "this is a spreadsheet or archive that cannot be read")
        yield from _named(sheet, header, path)
    elif start[:7] == b"MATLAB " or Path(path).suffix == ".mat":
        yield from _guarded(_matlab(path), path, "cannot be read as a MATLAB file")
    else:
        lines = _guarded(_csv_chunks(path), path, "cannot be read as a table")
        yield from _named(lines, header, path)


_DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, IndexError, NotImplementedError),
    *(BadZipFile, zlib.error, ParseError),
)
"""What the libraries raise on damaged files; errors of pandas and Arrow are ValueErrors too."""


def _guarded(chunks: Iterator[Table], path: str | Path, reason: str) -> Iterator[Table]:
    try:
        yield from chunks
    except _DAMAGE as error:
        raise DataError(
            f"{reason}: {first_line(error)}",
            path=path,
            remedy="copy it again, or save it as a comma-separated UTF-8 file with a header",
        ) from error


def _named(
    chunks: Iterator[Table], header: Sequence[str] | None, path: str | Path
) -> Iterator[Table]:
    """Name the columns by `header` or by the first row, and leave out those without a name."""
    names = list(header or ())
    for chunk in chunks:
        if not names and len(chunk):
            names = [str(name).strip() for name in chunk.iloc[0]]
            chunk = chunk.iloc[1:]
        kept = [i for i, name in enumerate(names) if name]
        repeated = [name for name, n in Counter(names[i] for i in kept).items() if n > 1]
        if repeated:
            raise DataError(f"columns named twice: {join_some(repeated)}", path=path)
        width = chunk.shape[1]
        if kept and kept[-1] >= width:
            raise DataError(
                f"{width} columns, expected {len(names)}: {join_some(names)}", path=path
            )
        yield chunk.iloc[:, kept].set_axis([names[i] for i in kept], axis=1)


class _ShortReads(io.TextIOWrapper):
    """Text that is decoded a little at a time: bytes that are no UTF-8 spoil few rows before."""

    def read(self, size: int | None = -1) -> str:
        return super().read(8192 if size is None or size < 0 else min(size, 8192))


def _csv_chunks(path: str | Path) -> Iterator[Table]:
    import pandas as pd

    with _ShortReads(open(path, "rb"), encoding="utf-8-sig", newline="") as text:
        yield from pd.read_csv(text, header=None, dtype=str, na_filter=False, chunksize=CHUNK)


def _parquet_chunks(path: str | Path, only: str | None) -> Iterator[Table]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        chosen = [only] if only in file.schema_arrow.names else None
        yield file.schema_arrow.empty_table().to_pandas(ignore_metadata=True)
        for batch in file.iter_batches(CHUNK, columns=chosen):
            batch.validate(full=True)  # texts that are none would be found out later
            # Stored indices count as columns; whole numbers stay whole beside missing ones.
            yield batch.to_pandas(ignore_metadata=True, integer_object_nulls=True)


def _sheet(path: str | Path) -> Iterator[Table]:
    """Yield the first sheet as text, without rows that hold nothing."""
    import pandas as pd

    with open(path, "rb") as file:  # from a file object, the suffix does not matter
        try:
            sheet = pd.read_excel(file, header=None, dtype=str, na_filter=False, engine="openpyxl")
        except ImportError as error:
            raise MissingExtraError("openpyxl", "data") from error
    yield sheet[(sheet != "").any(axis=1)]


def _matlab(path: str | Path) -> Iterator[Table]:
    import pandas as pd
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
    except MatReadError as error:
        raise ValueError(str(error)) from error
    arrays = {name: v for name, v in variables.items() if isinstance(v, np.ndarray) and v.size}
    vectors = {
        name: array.ravel().astype(np.float64)
        for name, array in arrays.items()
        if array.dtype.kind in "iuf" and array.size == max(array.shape)
    }
    if not vectors:
        raise DataError(f"holds no vector of numbers, only {join_some(list(arrays))}", path=path)
    longest = max(map(len, vectors.values()))
    yield pd.DataFrame({name: v for name, v in vectors.items() if len(v) == longest})


def _column(table: Table, column: str, *, source: str | Path) -> list[Any]:
    if column not in table.columns:
        known = did_you_mean(column, map(str, table.columns), "there are")
        raise DataError(f"no column {column!r}{known}", path=source)
    values: list[Any] = table[column].tolist()
    return values


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: object) -> str:
    return "" if _is_missing(value) else str(value)


def _number(value: Any) -> float:
    """Return the number a cell holds, NaN when it holds none."""
    if isinstance(value, str) and "_" in value:  # Python reads 1_0 as ten; no table means that
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
