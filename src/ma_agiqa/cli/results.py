"""Rows of results: on stdout as a table, JSON lines or CSV, and whole in a file.

The promise held here: a row once computed is on stdout or in a file when the program ends,
however it ends, short of a row that neither the disk nor stdout would take (`journal.py`
keeps rows while a run goes on).

CSV and Parquet have columns for `TABLE_KEYS` and what was kept of a table, not for `INTERVAL`.

A path whose bytes are not UTF-8 is written with `\\udcNN` in CSV and Parquet, which must be
UTF-8, and with JSON's escapes in JSON lines.
"""

from __future__ import annotations

import csv
import heapq
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from io import StringIO
from itertools import chain, count, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import typer

from ma_agiqa import files
from ma_agiqa.cli import options
from ma_agiqa.cli.journal import Journal, json_line
from ma_agiqa.errors import DataError, OutputError, UsageError, first_line
from ma_agiqa.text import for_terminal, printable
from ma_agiqa.types import INTERVAL, TABLE_KEYS, Row

OUTPUT_SUFFIXES = (".csv", ".jsonl", ".parquet")
PARQUET_CHUNK = 10_000

MOST_HEADER = 2**20  # characters of a first line

PAGE = 500
"""Rows per table on a terminal; a longer run prints several, so memory stays bounded."""

BAR_WIDTH = 10

CAPTION = "model {model}; 'better than' is the share of its training images that people rated lower"


class Results:
    """Collect the rows of one run; leaving the context finishes it.

    Args:
        printer: shows rows on stdout.
        to: result file, or None.
        model: fingerprint of the model, for the journal beside `to`.
        few: what chooses the few rows to give; None to give all.
        fail_under: the score below which the run counts as missed.

    Attributes:
        journal: what keeps the rows until `to` is written; None without `to`.
        interrupted: the run was stopped with Ctrl-C.
    """

    def __init__(
        self,
        printer: Printer,
        *,
        to: Path | None = None,
        model: str = "",
        few: Few | None = None,
        fail_under: float | None = None,
    ) -> None:
        self.journal = None if to is None else Journal(to, model=model)
        self.interrupted = False
        self._printer = printer
        self._to = to
        self._few = few
        self._fail_under = fail_under
        self._scored = self._failed = self._reused = self._below = 0
        self._start = self._end = time.perf_counter()

    def add(self, row: Row, *, sha256: str | None, reused: bool) -> None:
        """Take one row; it is in the journal or on stdout when this returns."""
        failed = row["error"] is not None
        self._failed += failed
        self._scored += not failed
        self._reused += reused
        if not failed and self._fail_under is not None:
            self._below += row["score"] < self._fail_under
        if self.journal is not None:
            try:
                self.journal.append(sha256, row)
            except OutputError:
                self._rescue([*self._kept(), row])
                raise
        if self._few is None:
            self._printer.row(row)
        else:
            self._few.add(row)

    def status(self) -> int:
        """Return the exit status: failed inputs count before a missed threshold."""
        if self._failed:
            return options.SOME_FAILED
        return options.THRESHOLD_MISSED if self._below else options.OK

    def summary(self) -> str:
        """Return one line on what was done and how fast."""
        parts = [f"{self._scored} scored", f"{self._failed} failed"]
        if self._reused:
            parts.append(f"{self._reused} of them reused from an earlier run")
        if self._fail_under is not None:
            parts.append(f"{self._below} below {self._fail_under:g}")
        fresh = self._scored + self._failed - self._reused
        seconds = self._end - self._start
        if fresh and seconds > 0:
            parts.append(f"{fresh / seconds:.1f} images/s")
        return ", ".join(parts)

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._end = time.perf_counter()
        self.interrupted = isinstance(error, KeyboardInterrupt)
        try:
            self._finish(complete=error is None)
        finally:
            if self.journal is not None:
                self.journal.close()
        return self.interrupted

    def _finish(self, *, complete: bool) -> None:
        """Print what is held back, then write the result file or say where rows are kept."""
        if self._few is not None:
            for row in self._few.rows():
                self._printer.row(row)
        self._printer.close()
        if self.journal is None or self._to is None:
            if self.interrupted:
                typer.echo("interrupted: the rows above are all there are", err=True)
            return
        if not complete:
            self._say_kept()
            return
        try:
            write_table(self._to, self._kept())
        except OutputError:
            self._rescue(self._kept())
            self._say_kept()
            raise
        self.journal.remove()

    def _kept(self) -> Iterable[Row]:
        """Return the rows of the result file."""
        if self._few is not None:
            return self._few.rows()
        return () if self.journal is None else self.journal.rows()

    def _rescue(self, rows: Iterable[Row]) -> None:
        """Print rows that no file will hold, unless stdout has them already."""
        if type(self._printer) is Printer:
            printer = JsonPrinter()
            for row in rows:
                printer.row(row)

    def _say_kept(self) -> None:
        assert self.journal is not None
        count = self._scored + self._failed
        if self.interrupted:
            typer.echo("interrupted", err=True)
        if count:
            typer.echo(
                f"{count} rows are kept in {self.journal.path}; "
                "the same command goes on from there",
                err=True,
            )


class Format(str, Enum):
    """How rows look on stdout."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"


class Printer:
    """Where rows go, one after the other; this one prints nothing."""

    def row(self, row: Row) -> None:
        """Print one row, at once or later."""

    def close(self) -> None:
        """Print what is still held back."""


def make_printer(wanted: Format | None, *, to_file: bool) -> Printer:
    """Return the printer for stdout.

    Unless told, a terminal gets a table, a pipe gets JSON lines, and a pipe beside a result
    file gets nothing.
    """
    if wanted is None and sys.stdout.isatty():
        return TablePrinter()
    if wanted is None and to_file:
        return Printer()
    return PRINTERS[wanted or Format.jsonl]()


class JsonPrinter(Printer):
    """Print each row as a JSON object on a line of its own."""

    def row(self, row: Row) -> None:
        _put(json_line(row, escape=not _takes_any_text()))


class CsvPrinter(Printer):
    """Print a header, then each row as comma-separated values."""

    def __init__(self) -> None:
        self._started = False

    def row(self, row: Row) -> None:
        if not self._started:
            _put(_csv_line(_flat(row)))
            self._started = True
        _put(_csv_line(_flat(row).values()))


class TablePrinter(Printer):
    """Print rows as a table with a bar for the percentile, a page at a time."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def row(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == PAGE:
            self.close()

    def close(self) -> None:
        if not self._rows:
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        first = self._rows[0]
        caption = Text(for_terminal(CAPTION.format(**first)))
        table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
        table.add_column("image", overflow="fold")
        table.add_column(f"score ({first['low']:g} to {first['high']:g})", justify="right")
        table.add_column("better than", no_wrap=True)
        for row in self._rows:
            image = Text(for_terminal(printable(row["path"])))
            if row["error"] is not None:
                image.append(f"\n{for_terminal(row['error'])}", style="red")
                table.add_row(image, "no score", "")
            else:
                if row["hint"] is not None:
                    image.append(f"\n{row['hint']}", style="yellow")
                table.add_row(image, f"{row['score']:.2f}", _bar(row["percentile"]))
        self._rows = []
        console = Console()
        with console.capture() as capture:
            console.print(table)
        _put(capture.get())


PRINTERS: dict[Format, Callable[[], Printer]] = {
    Format.table: TablePrinter,
    Format.jsonl: JsonPrinter,
    Format.csv: CsvPrinter,
}


class Few:
    """Keep the `size` best rows, or the worst, in bounded memory; equal scores keep their order."""

    def __init__(self, size: int, *, worst: bool = False) -> None:
        self._size, self._sign = size, -1 if worst else 1
        self._heap: list[tuple[float, int, Row]] = []
        self._order = count()

    def add(self, row: Row) -> None:
        if row["score"] is None:
            return
        entry = (self._sign * row["score"], -next(self._order), row)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def rows(self) -> list[Row]:
        """Return them, the best or the worst first."""
        return [row for _, _, row in sorted(self._heap, reverse=True)]


def _bar(percentile: float | None) -> str:
    """Return a bar and the share of the training images' human scores that lie below."""
    if percentile is None:
        return "unknown"
    filled = round(percentile / 100 * BAR_WIDTH)
    return f"{'█' * filled}{'░' * (BAR_WIDTH - filled)} {percentile:3.0f} %"


def _takes_any_text() -> bool:
    """Say whether stdout is Unicode; a pipe on Windows is not."""
    return sys.stdout.encoding.lower().startswith("utf")


def _put(text: str) -> None:
    """Write to stdout at once, so that a reader behind a pipe sees rows as they come."""
    encoding = "utf-8" if _takes_any_text() else sys.stdout.encoding
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", path="stdout") from error


def prepare_output(path: Path) -> None:
    """Make the folder of a result file, or refuse one that could never be written.

    Raises:
        UsageError: the suffix names no known format.
        OutputError: the folder cannot be made, or the path is a folder.
    """
    if path.suffix.lower() not in OUTPUT_SUFFIXES:
        raise UsageError(
            f"{path}: cannot tell the format from {path.suffix or 'a name without suffix'!r}",
            remedy=f"end the name in {', '.join(OUTPUT_SUFFIXES)}",
        )
    if path.is_dir():
        raise OutputError("is a folder", path=path, remedy="name a file in it")
    make_folder_of(path)


def make_folder_of(path: Path) -> None:
    """Make the folder that a file will lie in.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"its folder cannot be made: {error.strerror}", path=path, remedy="choose another place"
        ) from error


def is_results(path: Path) -> bool:
    """Say whether a file is a result file of `score`, from its suffix and its columns."""
    if path.suffix.lower() not in OUTPUT_SUFFIXES or not path.is_file():
        return False
    try:
        return set(TABLE_KEYS) <= set(_header_of(path))
    except (OSError, ValueError):
        return False


def read_results(path: Path) -> list[Row]:
    """Return the rows of a result file of `score`, in order.

    Raises:
        DataError: it is damaged.
    """
    from ma_agiqa.data.samples import stream_rows

    try:
        if path.suffix.lower() == ".jsonl":
            with path.open(encoding="utf-8") as file:  # a path may hold what splitlines() takes
                rows = [json.loads(line) for line in file]  # for the end of a line
        else:
            texts = [row for _, row in stream_rows(path, "path", whole=True)]
            rows = [{**row, **{key: _number(row[key]) for key in _NUMBERS}} for row in texts]
        return _of_today(list(map(_checked, rows)))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read as results: {first_line(error)}", path=path, remedy="score again"
        ) from error


_NUMBERS = ("score", "percentile", "low", "high")


def _checked(row: Any) -> Row:
    """Return a row of results.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(row, dict) or not row.keys() >= set(TABLE_KEYS):
        raise ValueError(f"a row is none of results: {str(row)[:80]}")
    numbers = [row[key] for key in _NUMBERS if row[key] is not None]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"{row['path']}: the row holds no finite numbers")
    if not isinstance(row["path"], str) or (row["score"] is None) != (row["error"] is not None):
        raise ValueError(f"{row['path']}: the row has neither score nor error, or both")
    return row


def _of_today(rows: list[Row]) -> list[Row]:
    """Rename a column that an earlier version kept of a table, by a name that is ours today."""
    if not any(isinstance(row.get(INTERVAL), str) for row in rows):
        return rows
    return [
        {f"table_{key}" if key == INTERVAL else key: value for key, value in row.items()}
        for row in rows
    ]


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _header_of(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)
    with path.open(encoding="utf-8", newline="") as file:
        line = file.readline(MOST_HEADER)
    if path.suffix.lower() == ".csv":
        return next(csv.reader([line]), [])
    first = json.loads(line)
    return list(first) if isinstance(first, dict) else []


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write result rows to a CSV, JSON lines or Parquet file, whole or not at all.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    writer = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    with files.atomic_path(path) as temporary:
        try:
            writer[path.suffix.lower()](temporary, rows)
        except OSError as error:
            raise OutputError(
                f"cannot be written: {getattr(error, 'strerror', None) or error}", path=path
            ) from error


def _write_csv(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        keys, rows = _columns(rows)
        file.write(_csv_line(keys))
        file.writelines(_csv_line(row[key] for key in keys) for row in rows)


def _csv_line(values: Iterable[Any]) -> str:
    line, cells = StringIO(), list(values)
    odd = any(isinstance(cell, str) and "\r" in cell for cell in cells)  # ends a line for readers
    csv.writer(
        line, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC if odd else csv.QUOTE_MINIMAL
    ).writerow(cells)
    return line.getvalue()


def _write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json_line(row) for row in rows)


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    numbers = {"score", "percentile", "low", "high"}
    keys, rows = _columns(rows)
    schema = pyarrow.schema(
        [(key, pyarrow.float64() if key in numbers else pyarrow.string()) for key in keys]
    )
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rows, PARQUET_CHUNK)):
            plain = [{key: _storable(value) for key, value in row.items()} for row in chunk]
            writer.write_table(pyarrow.Table.from_pylist(plain, schema=schema))


def _storable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _columns(rows: Iterable[Row]) -> tuple[tuple[str, ...], Iterator[Row]]:
    """Return the columns that all rows have, and the rows without the rest."""
    flat = map(_flat, rows)
    first = next(flat, None)
    return (TABLE_KEYS, flat) if first is None else (tuple(first), chain([first], flat))


def _flat(row: Row) -> Row:
    """Return what a table has columns for."""
    return {key: value for key, value in row.items() if key != INTERVAL}
