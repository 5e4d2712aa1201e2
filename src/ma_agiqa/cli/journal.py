"""Results kept while a run goes on, so that Ctrl-C, a crash or a kill loses none.

`FILE.partial` lies beside the result file it will become. It is append-only JSON lines, one
section per run: a header that names the model by the fingerprint of its weights, then one
line per image with the sha256 of its content. Each line ends in a checksum of itself and of its
run's header. A later run reuses a row only if line, model, version of this package and content
are the same, all of which the checksum and the sha256 tell; what does not check counts as absent.
Rows with an error are never reused, since their cause may be gone. Paths only find a candidate
row. While a run goes on it holds the lock of the result file: a second one is refused.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ma_agiqa.errors import OutputError
from ma_agiqa.files import Lock, remove_leftovers
from ma_agiqa.types import ROW_KEYS, Row
from ma_agiqa.version import __version__

MARK = "ma-agiqa journal"
_STARTS = (f'{{"{MARK}"'.encode(), b'{"sha256": ')


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
        OutputError: the place cannot be written, holds something else, or another run writes it.
    """

    def __init__(self, target: Path, *, model: str, keys: tuple[str, ...] = ROW_KEYS) -> None:
        self.path = target.with_name(target.name + ".partial")
        self._header = json_line({MARK: 2, "version": __version__, "model": model}).encode()
        self._seed = zlib.crc32(self._header)
        self._keys = set(keys)
        self._offsets: dict[str, int] = {}
        self._rows = 0
        self._lock = Lock(target)
        with ExitStack() as undo:
            undo.callback(self._lock.release)
            try:
                remove_leftovers(target.parent, of=target, older_than=0)
                # Unbuffered: a row is with the system before the next image is looked at.
                self._file = undo.enter_context(self.path.open("a+b", buffering=0))
                self._index()
                self._section = self._append(self._header)
                self._earlier = self.path.open("rb")
            except OSError as error:
                raise self._error(error) from error
            undo.pop_all()
        self.found = len(self._offsets)

    def reusable(self, path: str, sha256: str | None) -> Row | None:
        """Return the row an earlier run kept for this file with this content."""
        self._earlier.seek(self._offsets[path])
        entry = self._checked(self._earlier.readline())
        if entry is None or entry["sha256"] != sha256:
            return None
        row: Row = entry["row"]
        return row

    def knows(self, path: str) -> bool:
        """Say whether an earlier run kept a row for this path, so that hashing it pays."""
        return path in self._offsets

    def append(self, sha256: str | None, row: Row) -> None:
        """Keep one row.

        Raises:
            OutputError: the disk is full; the journal then ends with the row before.
        """
        try:
            line = json_line({"sha256": sha256, "row": row}).encode()
            self._append(b'%s, "check": "%08x"}\n' % (line[:-2], zlib.crc32(line, self._seed)))
            self._rows += 1
        except OSError as error:
            raise self._error(error) from error

    def rows(self) -> Iterator[Row]:
        """Yield the rows of this run, in order.

        Raises:
            OutputError: a row was changed by other hands since it was kept.
        """
        with self.path.open("rb") as file:
            file.seek(self._section)
            file.readline()
            for line in file:
                entry = self._checked(line)
                if entry is None:
                    raise OutputError(
                        "was changed while the run went on",
                        path=self.path,
                        remedy="the same command keeps the rows that are sound",
                    )
                yield entry["row"]

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
        self._lock.release()

    def _index(self) -> None:
        """Note where each reusable row of earlier runs starts; drop a line cut short by a kill."""
        end, ours = 0, False
        with open(self.path, "rb") as file:
            for line in file:
                ours = ours or line.startswith(_STARTS) or _STARTS[0].startswith(line)
                if not line.endswith(b"\n"):
                    break
                entry = self._checked(line)
                if entry is not None and self._is_reusable(entry["row"]):
                    self._offsets[entry["row"]["path"]] = end
                end += len(line)
            if file.tell() and not ours:
                raise OutputError(
                    "exists and is not a journal of ma-agiqa",
                    path=self.path,
                    remedy="move it away or choose another output file",
                )
        os.truncate(self.path, end)

    def _checked(self, line: bytes) -> dict[str, Any] | None:
        """Return what a line of a run like this one holds; None of any other, and of damage."""
        body, _, check = line.rpartition(b', "check": "')
        if check != b'%08x"}\n' % zlib.crc32(body + b"}\n", self._seed):
            return None
        entry: dict[str, Any] = json.loads(line)
        return entry

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


def json_line(row: Any, *, escape: bool = False) -> str:
    """Return one line of JSON, in readable UTF-8 unless `escape` or a path is not UTF-8 itself."""
    line = json.dumps(row, ensure_ascii=escape)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(row)
    return line + "\n"
