"""What the words after `ma-agiqa score` stand for: images, one after the other.

    FILE       itself, whatever its suffix
    FOLDER     the images below it by suffix, in sorted order; hidden entries and linked
               folders are passed over, and so are files of other suffixes, which are counted
    'GLOB'     what the pattern matches, sorted; `**` crosses folders
    -          paths on stdin, one per line, relative to the working folder
    TABLE      with --column: the paths in that column of a CSV, Parquet or Excel file,
               relative to the table's folder or to --root, or addresses; the other columns on
               request. Or of a Parquet file the images themselves. At an
               address: Parquet files, archives, and folders of them
    SOURCE     an address such as s3://bucket/folder, a tar or zip archive, a saved data set: see
               `data/sources.py`

Everything is listed lazily. An image named twice is scored twice. What is missing or empty
becomes an item with a `problem`, so that it ends as a row with an error; only when there is
nothing at all to score is that wrong use.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ma_agiqa.errors import DataError, ImageError, MAAGIQAError, UsageError
from ma_agiqa.types import ROW_KEYS, SHOWN, Row

if TYPE_CHECKING:
    from ma_agiqa.metadata import Generation
    from ma_agiqa.types import RGB

TABLE_SUFFIXES = (".csv", ".parquet", ".xlsx")


@dataclass
class Input:
    """One image to score.

    Attributes:
        path: the file, as results name it.
        problem: why there is nothing to read; None for an ordinary file.
        sha256: of the file's content, in hex; None until read.
        load: gives the bytes, where `path` is no file.
        columns: the row of the table it comes from, as text, if that was asked for.
        generation: reads from the bytes how they were generated, to be noted as columns.
    """

    path: str
    problem: str | None = None
    sha256: str | None = None
    load: Callable[[], bytes] | None = None
    columns: dict[str, str | None] = field(default_factory=dict)
    generation: Callable[[bytes], Generation] | None = None

    def row(self, scored: Row) -> Row:
        """Return the row of results: the score, what the gallery shows, what the table had.

        A column of the table that is named like one of the results is called `table_NAME`.
        """
        own = {key: scored[key] for key in (*ROW_KEYS, SHOWN) if key in scored}
        kept = {f"table_{k}" if k in own else k: v for k, v in self.columns.items()}
        return {**own, "path": self.path, **kept}

    def read(self, decode: Callable[..., RGB]) -> RGB:
        """Read the file once, note the hash of its content, and decode it.

        Args:
            decode: takes the bytes and the `name` for errors, as `images.decode` does.

        Raises:
            ImageError: it cannot be read, or `problem` is set.
        """
        return decode(self.read_bytes(), name=self.path)

    def read_bytes(self) -> bytes:
        """Read the file and note the hash of its content."""
        import hashlib

        from ma_agiqa.data import sources

        if self.problem is not None:
            raise ImageError(self.problem, path=self.path)
        data = sources.read_bytes(self.path) if self.load is None else self.load()
        self.sha256 = hashlib.sha256(data).hexdigest()
        if self.generation is not None:
            for key, value in self.generation(data).items():
                if self.columns.get(key) is None:
                    self.columns[key] = value
        return data

    def with_metadata(self, generation: Callable[[bytes], Generation]) -> Input:
        """Return the input; its rows will say how it was generated, where the file does."""
        from ma_agiqa.metadata import KEYS

        self.columns = {**dict.fromkeys(KEYS), **self.columns}
        self.generation = generation
        return self


class Listing:
    """The images that the INPUT words of a command stand for, listed lazily and in order.

    Args:
        column: of the tables that the words then are, the one that holds paths.
        root: folder that a table's paths start from; else the table's own.
        keep_columns: give each input the whole row of the table.
        names: of tables of image bytes, the column that names the images.

    Attributes:
        passed_over: how many files of folders were no image by their suffix, so far.

    Raises:
        UsageError: options and inputs do not fit, or (when iterated) there is no image at all.
        DataError: (when iterated) a table cannot be read or lacks the column.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        column: str | None = None,
        root: Path | None = None,
        keep_columns: bool = False,
        names: str | None = None,
    ) -> None:
        if names is not None and column is None:
            raise UsageError("--id belongs to a table", remedy="name its column with --column")
        if root is not None and column is None:
            raise UsageError("--root belongs to a table", remedy="name its column with --column")
        if keep_columns and (column is None or len(words) != 1):
            raise UsageError("--keep-columns belongs to one table", remedy="give it and --column")
        if words.count("-") > 1:
            raise UsageError("stdin can be read only once", remedy="give `-` once")
        self._words, self._column, self._root, self._keep = words, column, root, keep_columns
        self._names = names
        self.passed_over = 0

    def __iter__(self) -> Iterator[Input]:
        found = False
        empty: list[Input] = []
        for word in self._words:
            items = self._of_table(word) if self._column is not None else self._of_word(word)
            first = next(items, None)
            if first is None:
                empty.append(Input(word, problem="no images found here"))
                continue
            found = True
            yield first
            yield from items
        if not found:
            passed = f"; {self.note()}" if self.passed_over else ""
            raise UsageError(
                f"no images found in {', '.join(self._words)}{passed}",
                remedy="give files, folders, quoted globs, or - for a list on stdin",
            )
        yield from empty

    def note(self) -> str:
        """Return what was passed over, as a line to print; "" where nothing was."""
        if not self.passed_over:
            return ""
        files = "file" if self.passed_over == 1 else "files"
        return f"{self.passed_over} {files} passed over: no image suffix"

    def _of_word(self, word: str) -> Iterator[Input]:
        from ma_agiqa.data import sources

        if word == "-":
            yield from _of_stdin()
        elif sources.is_source(word):
            yield from self._of_source(word)
        elif os.path.isdir(word):
            yield from self._of_folder(word)
        elif not os.path.lexists(word) and glob.has_magic(word):
            yield from (Input(path) for path in sorted(glob.iglob(word, recursive=True)))
        elif word.lower().endswith(TABLE_SUFFIXES):
            raise UsageError(
                f"{word} is a table", remedy="name the column that holds the paths with --column"
            )
        else:
            yield Input(word)

    def _of_folder(self, folder: str) -> Iterator[Input]:
        from ma_agiqa import images

        stack: list[str | os.DirEntry[str]] = [folder]
        while stack:
            place = stack.pop()
            if isinstance(place, str) or place.is_dir(follow_symlinks=False):
                path = os.fspath(place)
                try:
                    with os.scandir(path) as listing:
                        found = sorted(listing, key=lambda entry: entry.name, reverse=True)
                except OSError as error:
                    yield Input(path, problem=f"the folder cannot be listed: {error.strerror}")
                    continue
                stack += [entry for entry in found if not entry.name.startswith(".")]
            elif _is_linked_folder(place):
                continue
            elif images.is_image_path(place.path):
                yield Input(place.path)
            else:
                self.passed_over += 1

    def _of_source(self, word: str) -> Iterator[Input]:
        from ma_agiqa.data import sources

        folder = None if self._root is None else str(self._root)
        try:
            units = sources.plan(word, column=self._column, names=self._names, folder=folder)
        except DataError as error:
            yield Input(word, problem=error.without_path)
            return
        for unit in units:
            for item in unit.items():
                yield Input(item.name, load=item.read)

    def _of_table(self, word: str) -> Iterator[Input]:
        from ma_agiqa.data import sources
        from ma_agiqa.data.samples import stream_rows

        if sources.is_address(word):
            if word.lower().endswith((".csv", ".xlsx")):
                raise UsageError(
                    f"at an address --column reads Parquet tables, {word} is none",
                    remedy="copy it to this machine",
                )
            if self._keep:
                raise UsageError("--keep-columns needs a table that lies on this machine")
            yield from self._of_source(word)
            return
        if not word.lower().endswith(TABLE_SUFFIXES):
            raise UsageError(
                f"--column reads CSV, Parquet and Excel tables, {word} is none",
                remedy="score other inputs in a run of their own",
            )
        assert self._column is not None
        if sources.is_table_of_images(word, self._column):
            if self._keep:
                raise UsageError("--keep-columns needs a column of paths, this one holds images")
            yield from self._of_source(word)
            return
        if self._names is not None:
            raise UsageError("--id names images that lie in a table; paths name themselves")
        folder = Path(word).parent if self._root is None else self._root
        rows = stream_rows(word, self._column, whole=self._keep)
        for number, (cell, cells) in enumerate(rows, start=1):
            path, problem = cell or "", None
            if not sources.is_address(path):
                path = os.path.join(folder, path)
            if not cell:
                path = f"{word}[{number}]"
                problem = f"row {number} has no path in column {self._column!r}"
            yield Input(path, problem, columns=cells)


def _of_stdin() -> Iterator[Input]:
    for line in sys.stdin.buffer:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path:
            yield Input(path)


def _is_linked_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that loops, or leads where one may not go: reading it says so


def begun(listing: Listing) -> Iterator[Input]:
    """Return the inputs, the first one found already: "no images" is said before a model is loaded.

    Raises:
        UsageError, DataError: as of iterating the listing.
    """
    items = iter(listing)
    return chain([next(items)], items)


def count(words: list[str], column: str | None = None, root: Path | None = None) -> int | None:
    """Count the inputs by listing them a second time; None where that means reading them."""
    from ma_agiqa.data import sources

    try:
        if column is None and any(word == "-" or sources.is_source(word) for word in words):
            return None
        if column is not None and any(
            sources.is_address(word) or sources.is_table_of_images(word, column) for word in words
        ):
            return None
        return sum(1 for _ in Listing(words, column=column, root=root))
    except MAAGIQAError:
        return None  # the run itself meets the same error and reports it
