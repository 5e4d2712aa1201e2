"""What becomes of each row of `ma-agiqa score`: counted, kept, printed, written.

The promise held here: a row once computed is on stdout or in a file when the program ends,
however it ends, short of a row that neither the disk nor stdout would take.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import typer

from ma_agiqa.cli import exits, tables
from ma_agiqa.cli.journal import Journal
from ma_agiqa.cli.output import Best, JsonPrinter, Printer, Silent
from ma_agiqa.cli.tables import Row
from ma_agiqa.errors import OutputError


class Results:
    """Collect the rows of one run; leaving the context finishes it.

    Args:
        printer: shows rows on stdout.
        to: result file, or None.
        model: fingerprint of the model, for the journal beside `to`.
        top: give only so many rows, best first.
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
        top: int | None = None,
        fail_under: float | None = None,
    ) -> None:
        self.journal = None if to is None else Journal(to, model=model)
        self.interrupted = False
        self._printer = printer
        self._to = to
        self._best = None if top is None else Best(top)
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
        if self._best is None:
            self._printer.row(row)
        else:
            self._best.add(row)
            if failed:
                typer.echo(f"failed: {row['path']}: {row['error']}", err=True)

    def status(self) -> int:
        """Return the exit status: failed inputs count before a missed threshold."""
        if self._failed:
            return exits.SOME_FAILED
        return exits.THRESHOLD_MISSED if self._below else exits.OK

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
        if self._best is not None:
            for row in self._best.rows():
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
            tables.write(self._to, self._kept())
        except OutputError:
            self._rescue(self._kept())
            self._say_kept()
            raise
        self.journal.remove()

    def _kept(self) -> Iterable[Row]:
        """Return the rows of the result file."""
        if self._best is not None:
            return self._best.rows()
        return () if self.journal is None else self.journal.rows()

    def _rescue(self, rows: Iterable[Row]) -> None:
        """Print rows that no file will hold, unless stdout has them already."""
        if isinstance(self._printer, Silent):
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
