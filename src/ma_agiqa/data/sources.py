"""Where images lie when they are no files of a folder: archives, tables of bytes, object stores.

    scheme://place      any address that fsspec opens: s3, gs, az, https, file, ...
    NAME.tar[.gz]       the images in it, in its order; so are the shards of WebDataset
    NAME.zip            the same
    NAME.parquet        a column of image bytes, of addresses, or of both as Hugging Face has it
    DATASET             a folder that `datasets.save_to_disk` wrote

Two steps: `plan` turns one of these into units, cheaply, from names and footers; `Unit.items` reads
the images of one, in a fixed order. A unit is plain data, so another process may read it.

What this file does not do: decode images, or walk the folders of this machine (`cli/inputs.py`).
"""

from __future__ import annotations

import bisect
import json
import math
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ma_agiqa import images
from ma_agiqa.errors import DataError, ImageError, first_line
from ma_agiqa.images import DEFAULT_LIMITS

if TYPE_CHECKING:
    import pyarrow as pa

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
ROWS_AT_A_TIME = 64  # of a table, since a row holds an image
LEAST_UNIT, MOST_UNIT, UNITS = 50, 1000, 40
"""Images of a unit, where a source can be cut anywhere, and how many units there should be at
least, so that many workers have something to do; an archive is one unit."""

_UNCUT = ("tar", "zip")
_HIDDEN = re.compile(r"(^|/)(\.|(_work|_temporary|_delta_log)/)")
"""What is passed over below a folder: hidden entries, and what `scale/job.py`, Spark and Delta Lake
keep beside their results. An underscore alone says nothing: cameras begin names with one."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")


@dataclass(frozen=True)
class Item:
    """One image of a source.

    Attributes:
        name: what results call it.
        read: gives its bytes, or raises ImageError.
    """

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Unit:
    """A piece of a source that is read alone.

    Attributes:
        kind: `files`, `tar`, `zip`, `parquet` or `arrow`.
        places: the files, or the one container.
        start, stop: rows of a table.
        column: of a table, the one with the images.
        names: of a table, the one with their names; None to number the rows.
        folder: that relative paths of a table start from.
    """

    kind: str
    places: tuple[str, ...]
    start: int = 0
    stop: int = 0
    column: str = ""
    names: str | None = None
    folder: str = ""

    def items(self) -> Iterator[Item]:
        """Yield the images in order. A container that is damaged ends with an item that says so."""
        if self.kind == "files":
            yield from (Item(place, partial(read_bytes, place)) for place in self.places)
            return
        try:
            yield from _READERS[self.kind](self)
        except DataError as error:  # it cannot be opened
            yield _refused(self.places[0], error.without_path)

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Unit:
        fields = json.loads(text)
        return cls(**{**fields, "places": tuple(fields["places"])})


def is_address(word: str) -> bool:
    """Say whether a word is an address rather than a path.

    >>> is_address("s3://bucket/a.png"), is_address("C:\\\\a.png")
    (True, False)
    """
    return _ADDRESS.match(word) is not None


def is_source(word: str) -> bool:
    """Say whether a word names a source of this file: an address, an archive, or a data set."""
    path = Path(word)
    return (
        is_address(word)
        or (word.lower().endswith(ARCHIVE_SUFFIXES) and not path.is_dir())
        or _is_saved_dataset(word)
    )


def read_bytes(place: str) -> bytes:
    """Return the content of an image file, of this machine or at an address.

    Raises:
        ImageError: as `images.read_bytes`; or the store refuses, or does not answer.
    """
    if not is_address(place):
        return images.read_bytes(place)
    try:
        fs, path = file_system(place)
        data: bytes = fs.cat_file(path, end=DEFAULT_LIMITS.max_bytes + 1)
    except DataError as error:
        raise ImageError(error.reason, path=place, remedy=error.remedy) from error
    except Exception as error:  # each store's library raises errors of its own
        reason, remedy = _reason(error)
        raise ImageError(reason, path=place, remedy=remedy) from error
    return data


def plan(
    source: str,
    *,
    column: str | None = None,
    names: str | None = None,
    folder: str | None = None,
    out: str | None = None,
) -> list[Unit]:
    """Return the units of a source, in a fixed order.

    Args:
        source: an address, an archive, a Parquet file, a saved data set, or a folder of these or of
            images. A folder that holds images and containers gives both.
        column: of tables, the one with the images; without it, the one column that holds such.
        names: of tables, the one with their names.
        folder: that paths in a table start from; else the table's own.
        out: folder or address of a result; what lies in it is left out.

    Raises:
        DataError: there is no such place, it cannot be listed, or a table has no such column.
    """
    containers: list[Unit] = []
    plain: list[str] = []
    for place in _listed(source, out):
        kind = _kind(place)
        if kind is None:
            plain.append(place)
        elif kind in _UNCUT:
            containers.append(Unit(kind, (place,)))
        else:
            containers.append(_table(kind, place, column=column, names=names, folder=folder))
    total = len(plain) + sum(unit.stop for unit in containers)
    size = max(LEAST_UNIT, min(MOST_UNIT, math.ceil(total / UNITS)))
    units: list[Unit] = []
    for unit in containers:
        if unit.kind in _UNCUT:
            units.append(unit)
            continue
        cuts = range(0, unit.stop, size)
        units += [replace(unit, start=at, stop=min(at + size, unit.stop)) for at in cuts]
    units += [Unit("files", tuple(plain[at : at + size])) for at in range(0, len(plain), size)]
    if not units:
        raise DataError(
            "there are no images here", path=source, remedy="give images, archives or Parquet files"
        )
    return units


def count(units: list[Unit]) -> int | None:
    """Return how many images units hold, None where only reading an archive tells."""
    if any(unit.kind in _UNCUT for unit in units):
        return None
    return sum(
        len(unit.places) if unit.kind == "files" else unit.stop - unit.start for unit in units
    )


def sizes(units: list[Unit]) -> dict[str, int]:
    """Return the size in bytes of every container: with the units, what tells a source apart."""
    places = {unit.places[0] for unit in units if unit.kind != "files"}
    return {place: file_system(place)[0].size(file_system(place)[1]) for place in sorted(places)}


def is_table_of_images(place: str, column: str) -> bool:
    """Say whether a column of a Parquet file holds images themselves, not their paths.

    What cannot be read as Parquet holds none: reading it says why.
    """
    if _kind(place) != "parquet":
        return False
    try:
        with _opened(place) as file:
            schema = _guarded(place, lambda: _parquet(file).schema_arrow)
    except DataError:
        return False
    return column in schema.names and _holds_images(schema.field(column))


def file_system(place: str) -> tuple[Any, str]:
    """Return the file system of a place and its path there.

    Raises:
        DataError: no file system has this scheme, or its package is not installed.
    """
    import fsspec

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(place)
    except ImportError as error:  # "Install s3fs to access S3"
        raise DataError(
            f"the package for such addresses is not installed: {first_line(error)}",
            path=place,
            remedy="pip install what it names",
        ) from error
    except ValueError as error:
        raise DataError(
            first_line(error), path=place, remedy="known schemes are those of fsspec"
        ) from error
    return found


def _reason(error: Exception) -> tuple[str, str]:
    """Return what a store's error means, and what to do."""
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return "no such file, folder or bucket", "check the address"
    if isinstance(error, PermissionError) or "Credential" in name:
        return (
            f"access refused: {first_line(error)}",
            "give credentials as the store's library wants them",
        )
    return f"cannot be read: {first_line(error)}", "check the address and the network"


def _guarded(place: str, work: Callable[[], Any]) -> Any:
    """Do something with a store or a container; its errors become ours.

    Raises:
        DataError: it failed.
    """
    try:
        return work()
    except DataError:
        raise
    except Exception as error:  # each store's library raises errors of its own
        reason, remedy = _reason(error)
        raise DataError(reason, path=place, remedy=remedy) from error


def _opened(place: str) -> IO[bytes]:
    fs, path = file_system(place)
    opened: IO[bytes] = _guarded(place, lambda: fs.open(path, "rb"))
    return opened


def _listed(source: str, out: str | None) -> list[str]:
    """Return the images and containers below a place, sorted, those in `out` left out.

    A file is itself. A name with wildcards is a pattern, unless a folder has that very name.
    """
    if _is_saved_dataset(source):
        return _saved_files(source)
    pattern = re.search(r"[*?\[]", source)
    if os.path.isfile(source) or (is_address(source) and pattern is None and _is_named(source)):
        return [source]

    def listing() -> list[str]:
        fs, path = file_system(source)
        local = not is_address(source)
        wild = pattern is not None and not fs.isdir(path)
        found = fs.glob(path) if wild else fs.find(path)
        if not found:
            if not fs.exists(path):
                raise FileNotFoundError(source)
            return []
        root = re.split(r"[*?\[]", path)[0].rpartition("/")[0] if wild else path.rstrip("/")
        result_fs, result = (None, "") if out is None else file_system(out)
        if local and result_fs == fs:
            result = _below(root or "/", result)
        own = f"{result.rstrip('/')}/"
        inside = result_fs == fs and not f"{root}/".startswith(own)
        named = [
            name if local else fs.unstrip_protocol(name)
            for name in found
            if not (_HIDDEN.search(name[len(root) :]) or (inside and name.startswith(own)))
        ]
        return sorted(filter(_is_named, named))

    places: list[str] = _guarded(source, listing)
    if not places and is_address(source) and not source.endswith("/"):
        fs, path = file_system(source)
        if _guarded(source, lambda: fs.isfile(path)):
            return [source]  # an image without a suffix
    return places


def _below(root: str, folder: str) -> str:
    """Return a local folder by the name it has below `root`, or as it is if it lies elsewhere."""
    real_root, real = os.path.realpath(root), os.path.realpath(folder)
    return root + real.removeprefix(real_root) if real.startswith(f"{real_root}/") else folder


def _is_named(place: str) -> bool:
    """Say whether a name is that of an image or a container."""
    return _kind(place) is not None or images.is_image_path(place)


def _kind(place: str) -> str | None:
    """Return what kind of container a name says, None for an image."""
    lower = place.lower()
    if lower.endswith(ARCHIVE_SUFFIXES):
        return "zip" if lower.endswith(".zip") else "tar"
    return {".parquet": "parquet", ".arrow": "arrow"}.get(os.path.splitext(lower)[1])


def _is_saved_dataset(place: str) -> bool:
    """Say whether `datasets` saved a folder; many programs write a `state.json`, but not both."""
    saved = all(Path(place, name).is_file() for name in ("state.json", "dataset_info.json"))
    return saved or Path(place, "dataset_dict.json").is_file()


def _saved_files(folder: str) -> list[str]:
    """Return the Arrow files of a data set that Hugging Face `datasets` saved."""
    try:
        if (listed := Path(folder, "dataset_dict.json")).is_file():
            splits = json.loads(listed.read_text(encoding="utf-8"))["splits"]
            return [file for split in splits for file in _saved_files(os.path.join(folder, split))]
        state = json.loads(Path(folder, "state.json").read_text(encoding="utf-8"))
        return [os.path.join(folder, file["filename"]) for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"cannot be read as a saved data set: {first_line(error)}",
            path=folder,
            remedy="save it again",
        ) from error


_DAMAGED = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]


class _Member(tarfile.TarInfo):
    """A member of a tar; behind the first, `tarfile` takes a damaged header for the end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(archive)
        except _DAMAGED as error:
            raise tarfile.ReadError(str(error)) from error


def _from_tar(unit: Unit) -> Iterator[Item]:
    place, found = unit.places[0], 0
    with _opened(place) as file:
        try:
            with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as tar:
                for member in tar:
                    if not member.isfile() or not images.is_image_path(member.name):
                        continue
                    name = f"{place}/{member.name.removeprefix('./')}"
                    if member.size > DEFAULT_LIMITS.max_bytes:
                        yield _refused(name, f"has {member.size:,} bytes, over the limit")
                        continue
                    content = tar.extractfile(member)
                    assert content is not None
                    yield _held(name, content.read())
                    found += 1
        except Exception as error:  # of tar, of what it is compressed with, or of a store
            yield _cut(place, found, error)


def _from_zip(unit: Unit) -> Iterator[Item]:
    place = unit.places[0]
    file = _opened(place)  # closed with the last item that reads from it
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # of zip, or of a store
        yield _cut(place, 0, error)
        return

    def read(info: zipfile.ZipInfo, name: str) -> bytes:
        try:
            with archive.open(info) as member:
                return member.read(DEFAULT_LIMITS.max_bytes + 1)
        except Exception as error:  # of zip, of each way to compress, or of a store
            raise ImageError(
                f"cannot be taken from the archive: {first_line(error)}",
                path=name,
                remedy="make or fetch it again",
            ) from error

    for info in archive.infolist():
        if images.is_image_path(info.filename) and not info.is_dir():  # it fails without a name
            name = f"{place}/{info.filename}"
            yield Item(name, partial(read, info, name))


def _from_table(unit: Unit) -> Iterator[Item]:
    place, row = unit.places[0], unit.start
    columns = [unit.column, *([unit.names] if unit.names else [])]
    with _opened(place) as file:
        try:
            for batch in _BATCHES[unit.kind](file, unit.start, unit.stop, columns):
                cells = batch.column(unit.column).to_pylist()
                named = batch.column(unit.names).to_pylist() if unit.names else [None] * len(cells)
                for cell, name in zip(cells, named, strict=True):
                    row += 1
                    label = f"{place}[{row}]" if name is None else str(name)
                    yield _of_cell(cell, label, unit, named=name is not None)
        except Exception as error:  # of Arrow, or of a store
            yield _cut(place, row, error)


def _of_cell(cell: Any, label: str, unit: Unit, *, named: bool) -> Item:
    """Return the image in a cell: bytes, an address, or both in the manner of Hugging Face."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return _held(label, cell)
    if not cell:
        return _refused(label, "the row has no image")
    place = str(cell)
    if not is_address(place):
        place = os.path.join(unit.folder, place)
    return Item(label if named else place, partial(read_bytes, place))


def _parquet(file: IO[bytes]) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(file)


def _parquet_batches(
    file: IO[bytes], start: int, stop: int, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    table = _parquet(file)
    ends = list(
        accumulate(table.metadata.row_group(i).num_rows for i in range(table.num_row_groups))
    )
    first, last = bisect.bisect_right(ends, start), bisect.bisect_left(ends, stop)
    before = ends[first - 1] if first else 0
    batches = table.iter_batches(
        ROWS_AT_A_TIME, row_groups=range(first, min(last + 1, len(ends))), columns=columns
    )
    yield from _window(batches, start - before, stop - before)


def _arrow_batches(
    file: IO[bytes], start: int, stop: int, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    def small(reader: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in reader:
            batch.validate(full=True)  # what a damaged file points to may lie outside of memory
            for at in range(0, batch.num_rows, ROWS_AT_A_TIME):
                yield batch.slice(at, ROWS_AT_A_TIME)

    with pa.ipc.open_stream(file) as reader:
        yield from (batch.select(columns) for batch in _window(small(reader), start, stop))


def _window(batches: Iterator[pa.RecordBatch], start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Yield rows `start` to `stop` of some batches."""
    at = 0
    for batch in batches:
        low, high = max(start - at, 0), min(stop - at, batch.num_rows)
        if low < high:
            yield batch.slice(low, high - low)
        at += batch.num_rows
        if at >= stop:
            return


def _table(
    kind: str, place: str, *, column: str | None, names: str | None, folder: str | None
) -> Unit:
    """Return a table as one unit."""

    def footer() -> tuple[list[str], str, int]:
        import pyarrow as pa

        with _opened(place) as file:
            if kind == "parquet":
                table = _parquet(file)
                schema, rows = table.schema_arrow, table.metadata.num_rows
            else:
                with pa.ipc.open_stream(file) as reader:
                    schema, rows = reader.schema, sum(batch.num_rows for batch in reader)
        return schema.names, column or _only_image_column(schema, place), rows

    held, chosen, rows = _guarded(place, footer)
    for name in filter(None, (chosen, names)):
        if name not in held:
            raise DataError(
                f"has no column {name!r}", path=place, remedy=f"it has {', '.join(held)}"
            )
    return Unit(
        kind,
        (place,),
        stop=rows,
        column=chosen,
        names=names,
        folder=folder or os.path.dirname(place),
    )


def _only_image_column(schema: pa.Schema, place: str) -> str:
    held = [field.name for field in schema if not _is_text(field.type) and _holds_images(field)]
    if len(held) == 1:
        return str(held[0])
    raise DataError(
        "holds no column of images" if not held else f"images in {', '.join(held)}",
        path=place,
        remedy=f"name one with --column: it has {', '.join(schema.names)}",
    )


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_images(field: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(field.type):
        return {"bytes", "path"} <= {inner.name for inner in field.type}
    return bool(pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))


def _held(name: str, data: bytes) -> Item:
    return Item(name, lambda: data)


def _refused(name: str, reason: str) -> Item:
    def read() -> bytes:
        raise ImageError(reason, path=name)

    return Item(name, read)


def _cut(place: str, found: int, error: Exception) -> Item:
    return _refused(
        place, f"damaged or cut off after {found} images: {first_line(error)} (fetch it again)"
    )


_READERS: dict[str, Callable[[Unit], Iterator[Item]]] = {
    "tar": _from_tar,
    "zip": _from_zip,
    "parquet": _from_table,
    "arrow": _from_table,
}
_BATCHES = {"parquet": _parquet_batches, "arrow": _arrow_batches}
