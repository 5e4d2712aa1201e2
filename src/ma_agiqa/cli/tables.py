"""Tables of results: CSV, JSON lines and Parquet, written row by row.

A path whose bytes are not UTF-8 is written with `\\xNN` in CSV and Parquet, which must be
UTF-8, and with JSON's escapes in JSON lines.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from ma_agiqa import files
from ma_agiqa.errors import OutputError, UsageError
from ma_agiqa.types import ROW_KEYS

OUTPUT_SUFFIXES = (".csv", ".jsonl", ".parquet")
PARQUET_CHUNK = 10_000

Row = dict[str, Any]


def check_output(path: Path) -> None:
    """Refuse a result file that could never be written, before work starts.

    Raises:
        UsageError: the suffix names no known format.
        OutputError: there is no such folder, or the path is a folder.
    """
    if path.suffix.lower() not in OUTPUT_SUFFIXES:
        raise UsageError(
            f"{path}: cannot tell the format from {path.suffix or 'a name without suffix'!r}",
            remedy=f"end the name in {', '.join(OUTPUT_SUFFIXES)}",
        )
    if path.is_dir():
        raise OutputError("is a folder", path=path, remedy="name a file in it")
    if not path.parent.is_dir():
        raise OutputError("its folder does not exist", path=path, remedy="make it first")


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write result rows to a CSV, JSON lines or Parquet file, whole or not at all.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    writer = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    with files.atomic_path(path) as temporary:
        try:
            writer[path.suffix.lower()](temporary, rows)
        except OSError as error:
            raise OutputError(f"cannot be written: {_why(error)}", path=path) from error


def _write_csv(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, ROW_KEYS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json_line(row) for row in rows)


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    numbers = {"score", "percentile", "low", "high"}
    schema = pyarrow.schema(
        [(key, pyarrow.float64() if key in numbers else pyarrow.string()) for key in ROW_KEYS]
    )
    rows = iter(rows)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rows, PARQUET_CHUNK)):
            plain = [{**row, "path": printable(row["path"])} for row in chunk]
            writer.write_table(pyarrow.Table.from_pylist(plain, schema=schema))


def json_line(row: Any, *, escape: bool = False) -> str:
    """Return one line of JSON, in readable UTF-8 unless `escape` or a path is not UTF-8 itself."""
    line = json.dumps(row, ensure_ascii=escape)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(row)
    return line + "\n"


def printable(text: str) -> str:
    """Return text that any UTF-8 output takes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
