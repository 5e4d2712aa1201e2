"""A job of many pictures that survives kills: units of a source in, Parquet files out.

    OUT/scores-00000.parquet ...   the result, there only when it is whole
    OUT/_job.json                  what the job is: model, versions, source; and how it ended
    OUT/_work/                     what is done so far, and what is being done

A unit of the source (`data/sources.py`) is scored by one worker in chunks of some hundred
pictures; each chunk becomes a file in one step, under a name that says how many rows and failures
it has. So what a kill loses is the chunks that were in work, one per worker, and a run that goes
on needs no list but the names in `_work`. A chunk with failures is tried again by the next run,
its successes kept.

A worker notes the unit it begins with. One that finds the note of an earlier try goes picture by
picture and notes each; the one that kills it is an error from then on. So a picture kills at
most two workers. A run that ended may have been killed from outside: its last picture is to blame
only when the next run ends at it as well.

What this file does not do: run workers (`engines.py`), or know how a picture is scored
(`table.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import uuid
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import count, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ma_agiqa.data.sources import Item, Unit, file_system, sizes
from ma_agiqa.errors import DataError, ImageError, OutputError, first_line
from ma_agiqa.files import write_atomically
from ma_agiqa.scale.table import ScoreTable
from ma_agiqa.types import Row, Score
from ma_agiqa.version import __version__

CHUNK_ROWS, LEAST_CHUNK = 250, 16
MOST_TWICE = 1000
"""Pictures in work at once, so those that a kill makes the next run score again."""
ENOUGH_DEATHS = 2
"""Of runs that ended at a picture; a worker that ended while its run went on counts as two."""
FILE_ROWS = 1_000_000
"""Most rows of a file of the result."""
READERS = 16
"""Chunks read at once for the result: an object store answers each after a while."""

_CHUNK = re.compile(r"(\d{6})-(\d{6})-(\d+)-(\d+)(-end)?\.parquet")


@dataclass(frozen=True)
class Chunk:
    """A chunk that is done: its name says all of it.

    Attributes:
        unit, number: its place.
        rows, failed: how many pictures, and how many of them have no score.
        last: whether it ends its unit.
    """

    unit: int
    number: int
    rows: int
    failed: int
    last: bool

    @property
    def name(self) -> str:
        end = "-end" if self.last else ""
        return f"{self.unit:06d}-{self.number:06d}-{self.rows}-{self.failed}{end}.parquet"

    @property
    def standing(self) -> tuple[int, int, bool]:
        """Say which of two chunks of one place is the newer: it has more scores, or more rows."""
        return self.rows - self.failed, self.rows, not self.last

    @classmethod
    def from_name(cls, name: str) -> Chunk | None:
        if (found := _CHUNK.fullmatch(name)) is None:
            return None
        unit, number, rows, failed = map(int, found.groups()[:4])
        return cls(unit, number, rows, failed, last=found[5] is not None)


@dataclass(frozen=True)
class Task:
    """One unit for one worker.

    Attributes:
        number: of the unit.
        unit: what to read.
        done: its chunks of earlier runs.
    """

    number: int
    unit: Unit
    done: tuple[Chunk, ...] = ()

    def to_json(self) -> str:
        return json.dumps([self.number, self.unit.to_json(), [chunk.name for chunk in self.done]])

    @classmethod
    def from_json(cls, text: str) -> Task:
        number, unit, names = json.loads(text)
        found = (Chunk.from_name(name) for name in names)
        return cls(number, Unit.from_json(unit), tuple(chunk for chunk in found if chunk))


@dataclass(frozen=True)
class Place:
    """The folder or address that a job writes to; files appear in it whole or not at all."""

    address: str

    @cached_property
    def _fs(self) -> tuple[Any, str]:
        return file_system(self.address)

    def _path(self, name: str) -> str:
        return f"{self._fs[1].rstrip('/')}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Make a file, in one step.

        Raises:
            OutputError: the place cannot be written.
        """
        fs = self._fs[0]
        try:
            if "file" in fs.protocol:
                write_atomically(self._path(name), data)
            else:  # an object appears when all of it is there
                fs.pipe_file(self._path(name), data)
        except OutputError:
            raise
        except Exception as error:  # each store's library raises errors of its own
            raise OutputError(
                f"cannot be written: {first_line(error)}",
                path=self.address,
                remedy="choose another place, or give credentials",
            ) from error

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None where there is none."""
        try:
            data: bytes = self._fs[0].cat_file(self._path(name))
        except FileNotFoundError:
            return None
        except Exception as error:  # each store's library raises errors of its own
            raise OutputError(f"cannot be read: {first_line(error)}", path=self.address) from error
        return data

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted."""
        fs = self._fs[0]
        fs.invalidate_cache()
        try:
            found = fs.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:  # each store's library raises errors of its own
            raise OutputError(f"cannot be read: {first_line(error)}", path=self.address) from error
        return sorted(name.rsplit("/", 1)[-1] for name in found)

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it is there."""
        try:
            self._fs[0].rm(self._path(name), recursive=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(
                f"cannot be removed: {first_line(error)}", path=self.address
            ) from error


@dataclass(frozen=True)
class Settings:
    """How pictures are scored; a worker makes its `ScoreTable` of it.

    Attributes:
        place: address that the job writes to.
        chunk: pictures of a chunk.
        run: names the run, so that its notes are told from those of others.
        model and the rest: see `ScoreTable`.
    """

    place: str
    chunk: int
    run: str
    model: str
    revision: str | None = None
    lmm: str | None = None
    dtype: str | None = None
    device: str = "auto"
    threads: int | None = None
    contributions: bool = False
    isolate: bool = True

    def scorer(self) -> ScoreTable:
        own = {f.name for f in dataclasses.fields(self)} - {"place", "chunk", "run", "model"}
        return ScoreTable(self.model, **{name: getattr(self, name) for name in own})


class Worker:
    """Scores one unit after another."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.place = settings, Place(settings.place)
        self.table = settings.scorer()

    def answer(self, task: str) -> Iterator[str]:
        """Do a task given as text; yield the names of its chunks as they are written."""
        for chunk in self.work(Task.from_json(task)):
            yield chunk.name

    def work(self, task: Task) -> Iterator[Chunk]:
        """Score what of a unit is not done; yield its chunks as they are written."""
        note = Note(self.place, task.number, self.settings.run)
        done = {chunk.number: chunk for chunk in task.done}
        items, size = Ahead(task.unit.items()), self.settings.chunk
        for number in count():
            own, kept = islice(items, size), done.get(number)
            if kept is None or kept.failed:
                before = [] if kept is None else _read_chunk(self.place, kept).to_pylist()
                table = self._score(own, before, note)
                failed = table.column("score").null_count
                chunk = Chunk(task.number, number, len(table), failed, last=not items.more)
                self.place.write(f"_work/{chunk.name}", to_parquet(table))
                if kept is not None and kept != chunk:
                    self.place.remove(f"_work/{kept.name}")
                yield chunk
            deque(own, maxlen=0)  # past what is done
            if not items.more:
                break
        note.end()

    def _score(self, items: Iterator[Item], rows: list[Row], note: Note) -> pa.Table:
        """Score the items of a chunk; of `rows`, that an earlier run made, those that failed.

        There may be fewer rows than items: a container that broke off then is read on now.
        """
        wanted: list[int] = []

        def chosen() -> Iterator[Item]:
            for position, item in enumerate(items):
                if position >= len(rows) or rows[position]["error"]:
                    wanted.append(position)
                    yield note.watched(item) if note.careful else item

        scored: Iterator[tuple[str, Score]]
        if note.careful:
            scored = (one for item in chosen() for one in self._alone(item, note))
        else:
            scored = self.table.score(chosen())
        fresh = self.table.to_table(scored)
        if not rows:
            return fresh
        for position, row in zip(wanted, fresh.to_pylist(), strict=True):
            rows[position : position + 1] = [row]
        return pa.Table.from_pylist(rows, schema=fresh.schema)

    def _alone(self, item: Item, note: Note) -> list[tuple[str, Score]]:
        note.begin(item)
        return list(self.table.score([item]))


class Note:
    """What a worker leaves for the one that takes its place: see the head of this file.

    Attributes:
        careful: whether an earlier worker died at this unit.
    """

    def __init__(self, place: Place, unit: int, run: str) -> None:
        self._place, self._name = place, f"_work/{unit:06d}.note"
        left = json.loads(place.read(self._name) or b"null")
        self.careful = left is not None
        deaths: dict[str, int] = {} if left is None else left["deaths"]
        if left is not None and left["now"] is not None:
            weight = ENOUGH_DEATHS if left["run"] == run else 1
            deaths[left["now"]] = deaths.get(left["now"], 0) + weight
        self._content: dict[str, Any] = {"run": run, "now": None, "deaths": deaths}
        self._write()

    def begin(self, item: Item) -> None:
        self._content["now"] = item.name
        self._write()

    def watched(self, item: Item) -> Item:
        """Return the item, or in its place one that is an error, since it killed a worker."""
        if self._content["deaths"].get(item.name, 0) < ENOUGH_DEATHS:
            return item

        def read() -> bytes:
            raise ImageError("makes the process that scores it end", path=item.name)

        return Item(item.name, read)

    def end(self) -> None:
        self._place.remove(self._name)

    def _write(self) -> None:
        self._place.write(self._name, json.dumps(self._content).encode())


@dataclass
class Job:
    """One job: what is to be done, what is done, and the result.

    Attributes:
        place: what it writes to.
        units: of the source.
        settings: of its workers.
        chunks: that are done, by unit and number.
        reused: pictures that an earlier run scored.
    """

    place: Place
    units: list[Unit]
    settings: Settings
    description: dict[str, Any]
    chunks: dict[tuple[int, int], Chunk] = field(default_factory=dict)
    reused: int = 0

    @classmethod
    def begin(
        cls,
        out: str,
        units: list[Unit],
        settings: Mapping[str, Any],
        *,
        fingerprint: str,
        workers: int,
        most_twice: int = MOST_TWICE,
    ) -> Job:
        """Begin a job, or go on with one.

        Args:
            settings: of the workers, but for `place`, `chunk` and `run`.
            fingerprint: of the model.
            workers: they share, in a new job,
            most_twice: the pictures that may be in work at once.

        Raises:
            OutputError: the place cannot be written, or holds another job.
        """
        place = Place(out)
        identity = {
            "model": fingerprint,
            "version": __version__,
            "source": _fingerprint(units),
            "contributions": settings["contributions"],
        }
        known = json.loads(place.read("_job.json") or b"null")
        if known is None:
            if any(not name.startswith(".") for name in place.names("")):
                raise OutputError(
                    "holds other files", path=out, remedy="give an empty or a new place"
                )
            chunk = max(LEAST_CHUNK, min(CHUNK_ROWS, most_twice // workers))
            known = {**identity, "chunk": chunk, "units": len(units), "whole": False}
            place.write("_job.json", json.dumps(known).encode())
        for key, said in (
            ("model", "model"),
            ("version", "version of this package"),
            ("source", "source"),
            ("contributions", "choice of --contributions"),
        ):
            if known.get(key) != identity[key]:
                raise OutputError(
                    f"holds a job of another {said}",
                    path=out,
                    remedy="give the same one, or another place",
                )
        made = Settings(place=out, chunk=known["chunk"], run=uuid.uuid4().hex, **settings)
        job = cls(place, units, made, known)
        if job.finished:
            job.reused = known["rows"]
            return job
        for name in place.names("_work"):
            if (done := Chunk.from_name(name)) is not None:
                job.add(done)
        job.reused = sum(chunk.rows - chunk.failed for chunk in job.chunks.values())
        return job

    def add(self, chunk: Chunk) -> None:
        """Take note of a chunk; of two of one place the one with more scores counts."""
        key = (chunk.unit, chunk.number)
        if key not in self.chunks or chunk.standing >= self.chunks[key].standing:
            self.chunks[key] = chunk

    @property
    def finished(self) -> bool:
        """Whether every picture has a score, and the result is there."""
        return bool(self.description["whole"]) and not self.description["failed"]

    def tasks(self) -> list[Task]:
        """Return the units that are not done, or that have failures."""
        if self.finished:
            return []
        done = self._by_unit()
        return [
            Task(number, unit, tuple(done[number]))
            for number, unit in enumerate(self.units)
            if not _complete(done[number]) or any(chunk.failed for chunk in done[number])
        ]

    def _by_unit(self) -> defaultdict[int, list[Chunk]]:
        """Return the chunks of each unit, in order."""
        done: defaultdict[int, list[Chunk]] = defaultdict(list)
        for (unit, _), chunk in sorted(self.chunks.items()):
            done[unit].append(chunk)
        return done

    def write_result(self) -> tuple[int, int]:
        """Write the result and return how many pictures have a score, and how many have none.

        Raises:
            DataError: a chunk is missing or damaged.
            OutputError: the place cannot be written.
        """
        if self.finished:
            self.place.remove("_work")  # of which a kill may have left something
            return self.description["rows"], 0
        done = self._by_unit()
        for number in range(len(self.units)):
            if not _complete(done[number]):
                raise DataError(f"unit {number} is not done", path=self.place.address)
        ordered = [chunk for number in range(len(self.units)) for chunk in done[number]]
        failed = sum(chunk.failed for chunk in ordered)
        rows = sum(chunk.rows for chunk in ordered)
        read = partial(_read_chunk, self.place)
        with ThreadPoolExecutor(READERS) as pool:
            for number, group in enumerate(_groups(ordered, FILE_ROWS)):
                table = pa.concat_tables(pool.map(read, group))
                self.place.write(f"scores-{number:05d}.parquet", to_parquet(table))
        self.description.update(whole=True, rows=rows, failed=failed)
        self.place.write("_job.json", json.dumps(self.description).encode())
        if not failed:
            self.place.remove("_work")
        return rows - failed, failed


class Ahead:
    """Items, one of them read ahead to say whether there are more: each may hold its bytes."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._next = next(self._items, None)

    @property
    def more(self) -> bool:
        return self._next is not None

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._next is None:
            raise StopIteration
        item, self._next = self._next, next(self._items, None)
        return item


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as the content of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _read_chunk(place: Place, chunk: Chunk) -> pa.Table:
    data = place.read(f"_work/{chunk.name}")
    try:
        if data is None:
            raise ValueError("it is gone")
        table = pq.read_table(pa.BufferReader(data))
        if len(table) != chunk.rows:
            raise ValueError(f"it has {len(table)} rows")
    except (ValueError, OSError) as error:
        raise DataError(
            f"cannot be read: {first_line(error)}",
            path=f"{place.address}/_work/{chunk.name}",
            remedy="remove it: its pictures are scored again",
        ) from error
    return table


def _complete(done: list[Chunk]) -> bool:
    """Say whether the chunks of a unit, in order, are all there."""
    return bool(done) and done[-1].last and len(done) == done[-1].number + 1


def _groups(ordered: list[Chunk], most: int) -> Iterator[list[Chunk]]:
    group: list[Chunk] = []
    rows = 0
    for chunk in ordered:
        if group and rows + chunk.rows > most:
            yield group
            group, rows = [], 0
        group.append(chunk)
        rows += chunk.rows
    if group:
        yield group


def _fingerprint(units: list[Unit]) -> str:
    """Return a hash of a source: the places, rows, and sizes of containers.

    Not of single pictures: one that failed may be mended between two runs.
    """
    digest = hashlib.sha256()
    for unit in units:
        digest.update(unit.to_json().encode())
    digest.update(json.dumps(sizes(units)).encode())
    return digest.hexdigest()
