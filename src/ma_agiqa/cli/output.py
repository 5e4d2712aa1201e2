"""Result rows on stdout: a table for people, JSON lines or CSV for programs.

What this file does not do: result files (`tables.py`) and what survives a kill
(`journal.py`).
"""

from __future__ import annotations

import csv
import heapq
import sys
from collections.abc import Callable
from enum import Enum
from itertools import count
from typing import Protocol

from ma_agiqa.cli.tables import Row, json_line, printable
from ma_agiqa.errors import OutputError
from ma_agiqa.types import ROW_KEYS

PAGE = 500
"""Rows per table on a terminal; a longer run prints several, so memory stays bounded."""

BAR_WIDTH = 10

CAPTION = "model {model}; 'better than' is the share of its training images that people rated lower"


class Format(str, Enum):
    """How rows look on stdout."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"


class Printer(Protocol):
    """Where rows go, one after the other."""

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
        return Silent()
    return PRINTERS[wanted or Format.jsonl]()


class Silent:
    """Print nothing."""

    def row(self, row: Row) -> None:
        pass

    def close(self) -> None:
        pass


class JsonPrinter:
    """Print each row as a JSON object on a line of its own."""

    def row(self, row: Row) -> None:
        _put(json_line(row, escape=not _takes_any_text()))

    def close(self) -> None:
        pass


class CsvPrinter:
    """Print a header, then each row as comma-separated values."""

    def __init__(self) -> None:
        self._started = False
        self._writer = csv.writer(_Stdout(), lineterminator="\n")

    def row(self, row: Row) -> None:
        if not self._started:
            self._writer.writerow(ROW_KEYS)
            self._started = True
        self._writer.writerow([row[key] for key in ROW_KEYS])

    def close(self) -> None:
        pass


class TablePrinter:
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
        table = Table(box=box.SIMPLE_HEAD, caption=CAPTION.format(**first), caption_justify="left")
        table.add_column("image", overflow="fold")
        table.add_column(f"score ({first['low']:g} to {first['high']:g})", justify="right")
        table.add_column("better than", no_wrap=True)
        for row in self._rows:
            image = Text(printable(row["path"]))
            if row["error"] is not None:
                image.append(f"\n{row['error']}", style="red")
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


class Best:
    """Keep the `size` rows of highest score, in bounded memory; equal scores keep their order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[float, int, Row]] = []
        self._order = count()

    def add(self, row: Row) -> None:
        if row["score"] is None:
            return
        entry = (row["score"], -next(self._order), row)
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def rows(self) -> list[Row]:
        """Return them, best first."""
        return [row for _, _, row in sorted(self._heap, reverse=True)]


def _bar(percentile: float | None) -> str:
    """Return a bar and the share of the training images' human scores that lie below."""
    if percentile is None:
        return "unknown"
    filled = round(percentile / 100 * BAR_WIDTH)
    return f"{'█' * filled}{'░' * (BAR_WIDTH - filled)} {percentile:3.0f} %"


class _Stdout:
    """The file that the csv module writes to."""

    def write(self, text: str) -> None:
        _put(text)


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
