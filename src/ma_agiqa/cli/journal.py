"""Results kept while a run goes on, so that Ctrl-C, a crash or a kill loses none.

`FILE.partial` lies beside the result file it will become. It is append-only JSON lines, one
section per run: a header that names the model by the fingerprint of its weights, then one
line per image with the sha256 of its content. A later run reuses a row only if the
fingerprint, the version of this package and the content are the same; rows with an error
are never reused, since their cause may be gone. Paths only find a candidate row.

Not guarded against: two runs writing the same file at the same time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ma_agiqa.errors import OutputError
from ma_agiqa.types import ROW_KEYS, Row
from ma_agiqa.version import __version__

MARK = "ma-agiqa journal"


class Journal:
    """The rows of one run on their way into `target`.

    Args:
        target: the result file.
        model: fingerprint of what computes the rows.
        keys: what a row of an earlier run must hold to be reused.

    Attributes:
        path: the journal itself.
        found: how many rows earlier runs left that may be reused.

    Raises:
        OutputError: the place cannot be written, or holds something else.
    """

    def __init__(self, target: Path, *, model: str, keys: tuple[str, ...] = ROW_KEYS) -> None:
        self.path = target.with_name(target.name + ".partial")
        self._header = {MARK: 1, "version": __version__, "model": model}
        self._keys = set(keys)
        self._offsets: dict[str, int] = {}
        self._rows = 0
        try:
            # Unbuffered: a row is with the system before the next image is looked at.
            self._file = self.path.open("a+b", buffering=0)
            self._index()
            self._section = self._append(json_line(self._header).encode())
        except OSError as error:
            raise self._error(error) from error
        self.found = len(self._offsets)
        self._earlier = self.path.open("rb")

    def reusable(self, path: str, sha256: str | None) -> Row | None:
        """Return the row an earlier run kept for this file with this content."""
        self._earlier.seek(self._offsets[path])
        entry = json.loads(self._earlier.readline())
        row: Row = entry["row"]
        return row if entry["sha256"] == sha256 else None

    def knows(self, path: str) -> bool:
        """Say whether an earlier run kept a row for this path, so that hashing it pays."""
        return path in self._offsets

    def append(self, sha256: str | None, row: Row) -> None:
        """Keep one row.

        Raises:
            OutputError: the disk is full; the journal then ends with the row before.
        """
        try:
            self._append(json_line({"sha256": sha256, "row": row}).encode())
            self._rows += 1
        except OSError as error:
            raise self._error(error) from error

    def rows(self) -> Iterator[Row]:
        """Yield the rows of this run, in order."""
        with self.path.open("rb") as file:
            file.seek(self._section)
            file.readline()
            for line in file:
                yield json.loads(line)["row"]

    def remove(self) -> None:
        """Delete the journal, once its rows are safe elsewhere."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; one that never held a row is removed."""
        self._file.close()
        self._earlier.close()
        if self._section == 0 and not self._rows:
            self.path.unlink(missing_ok=True)

    def _index(self) -> None:
        """Note where each reusable row of earlier runs starts; drop a line cut short by a kill."""
        self._file.seek(0)
        same_model, end = False, 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file):
                entry = _parse(line)
                if number == 0 and not _is_header(line):
                    raise OutputError(
                        "exists and is not a journal of ma-agiqa",
                        path=self.path,
                        remedy="move it away or choose another output file",
                    )
                if not line.endswith(b"\n"):
                    break
                if MARK in entry:
                    same_model = entry == self._header
                elif same_model and self._is_reusable(entry.get("row")):
                    self._offsets[entry["row"]["path"]] = end
                end += len(line)
        os.truncate(self.path, end)

    def _is_reusable(self, row: Any) -> bool:
        """Say whether a row of an earlier run is a score with all that rows have today."""
        return isinstance(row, dict) and row.keys() >= self._keys and row["error"] is None

    def _append(self, line: bytes) -> int:
        """Write a whole line or none of it; return where it starts."""
        start = self._file.seek(0, os.SEEK_END)
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            os.truncate(self.path, start)
            raise
        return start

    def _error(self, error: OSError) -> OutputError:
        return OutputError(
            f"results cannot be kept here: {error.strerror}",
            path=self.path,
            remedy="free space, check permissions, or choose another --output",
        )


def _is_header(line: bytes) -> bool:
    """Say whether a first line is ours, be it cut short by a kill."""
    start = f'{{"{MARK}"'.encode()
    return line.startswith(start) or (start.startswith(line) and not line.endswith(b"\n"))


def _parse(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def json_line(row: Any, *, escape: bool = False) -> str:
    """Return one line of JSON, in readable UTF-8 unless `escape` or a path is not UTF-8 itself."""
    line = json.dumps(row, ensure_ascii=escape)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(row)
    return line + "\n"
