"""What the words after `ma-agiqa score` stand for: images, one after the other.

    FILE       itself, whatever its suffix
    FOLDER     the images below it by suffix, in sorted order; hidden entries and linked
               folders are passed over
    'GLOB'     what the pattern matches, sorted; `**` crosses folders
    -          paths on stdin, one per line, relative to the working folder
    TABLE      with --column: the paths in that column of a CSV, Parquet or Excel file,
               relative to the table's folder or to --root

Everything is listed lazily. An image named twice is scored twice. What is missing or empty
becomes an item with a `problem`, so that it ends as a row with an error; only when there is
nothing at all to score is that wrong use.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ma_agiqa.errors import ImageError, UsageError

if TYPE_CHECKING:
    from ma_agiqa.types import RGB

TABLE_SUFFIXES = (".csv", ".parquet", ".xlsx")


@dataclass
class Input:
    """One image to score.

    Attributes:
        path: the file, as results name it.
        problem: why there is nothing to read; None for an ordinary file.
        sha256: of the file's content, in hex; None until read.
    """

    path: str
    problem: str | None = None
    sha256: str | None = None

    def read(self) -> RGB:
        """Read the file once, note the hash of its content, and decode it.

        Raises:
            ImageError: it cannot be read, or `problem` is set.
        """
        from ma_agiqa import images

        return images.decode(self.read_bytes(), name=self.path)

    def read_bytes(self) -> bytes:
        """Read the file and note the hash of its content."""
        import hashlib

        from ma_agiqa import images

        if self.problem is not None:
            raise ImageError(self.problem, path=self.path)
        data = images.read_bytes(self.path)
        self.sha256 = hashlib.sha256(data).hexdigest()
        return data


def expand(
    words: Sequence[str], *, column: str | None = None, root: Path | None = None
) -> Iterator[Input]:
    """List the images that the INPUT words of a command stand for, lazily and in order.

    Raises:
        UsageError: options and inputs do not fit, or there is no image at all.
        DataError: a table cannot be read or lacks the column.
    """
    if root is not None and column is None:
        raise UsageError("--root belongs to a table", remedy="name its column with --column")
    if words.count("-") > 1:
        raise UsageError("stdin can be read only once", remedy="give `-` once")
    return _listed(words, column=column, root=root)


def _listed(words: Sequence[str], *, column: str | None, root: Path | None) -> Iterator[Input]:
    found = False
    empty: list[Input] = []
    for word in words:
        items = iter(_of_table(word, column, root) if column is not None else _of_word(word))
        first = next(items, None)
        if first is None:
            empty.append(Input(word, problem="no images found here"))
            continue
        found = True
        yield first
        yield from items
    if not found:
        raise UsageError(
            f"no images found in {', '.join(words)}",
            remedy="give files, folders, quoted globs, or - for a list on stdin",
        )
    yield from empty


def _of_word(word: str) -> Iterator[Input]:
    if word == "-":
        yield from _of_stdin()
    elif os.path.isdir(word):
        yield from _of_folder(word)
    elif not os.path.lexists(word) and glob.has_magic(word):
        yield from (Input(path) for path in sorted(glob.iglob(word, recursive=True)))
    elif word.lower().endswith(TABLE_SUFFIXES):
        raise UsageError(
            f"{word} is a table", remedy="name the column that holds the paths with --column"
        )
    else:
        yield Input(word)


def _of_stdin() -> Iterator[Input]:
    for line in sys.stdin.buffer:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path:
            yield Input(path)


def _of_folder(folder: str) -> Iterator[Input]:
    from ma_agiqa import images

    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        yield Input(folder, problem=f"the folder cannot be listed: {error.strerror}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _of_folder(entry.path)
        elif images.is_image_path(entry.path) and not entry.is_dir():
            yield Input(entry.path)


def _of_table(word: str, column: str | None, root: Path | None) -> Iterator[Input]:
    from ma_agiqa.data.samples import stream_texts

    if not word.lower().endswith(TABLE_SUFFIXES):
        raise UsageError(
            f"--column reads CSV, Parquet and Excel tables, {word} is none",
            remedy="score other inputs in a run of their own",
        )
    assert column is not None
    folder = Path(word).parent if root is None else root
    for row, cell in enumerate(stream_texts(word, column), start=1):
        if cell:
            yield Input(os.path.join(folder, cell))
        else:
            yield Input(f"{word}[{row}]", problem=f"row {row} has no path in column {column!r}")
