"""Feature store: semantic vectors, found by the content of the image.

    STORE/encoder.json                     the encoder, its questions, width and dtype:
        {"format_version", "fingerprint", "encoder": identity, "width", "dtype", "questions"}
    STORE/shards/WRITER-00003.safetensors  `vectors`, (n, K, D) float16
    STORE/shards/WRITER-00003.json         encoder, size and sha256 of that file, and the key
                                           of the image of each row

20,000 images with two questions take 328 MB in a hundred files. Reads are mapped into memory.
A file appears whole (`files.py`) and the index of a shard appears last, so a data file without
an index is the rest of an interrupted write and does not count.

Several processes may fill one store at once: each writes shards of its own names. A duplicate
is allowed, the first in order of names wins. A shard is compared with its sha256 when it is
first read. A damaged shard is named, its images count as missing, and the rest stays usable.

Vectors of two encoders never share a store, and a question is its text: both are compared, and
the error says what differs.
This file does not lock, delete vectors or compute them (`extract.py`).

Shapes: n images, K questions, D width.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ma_agiqa.errors import FeatureError, OutputError
from ma_agiqa.files import remove_leftovers, sha256, write_atomically
from ma_agiqa.lmm.encoder import (
    Question,
    diff_identity,
    fingerprint_of,
    from_record,
    quote_prompts,
    to_record,
)

HEADER = "encoder.json"
FORMAT_VERSION = 1
DTYPE = "float16"
"""Of stored vectors: the official one. They are means of a few hundred rounded numbers."""

FOLDER = "shards"
DATA, INDEX = ".safetensors", ".json"
VECTORS = "vectors"
SHARD_SIZE = 256
"""Images per shard; a kill loses at most so many."""

SHOWN = 3
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What JSON of another shape than ours leads to."""

_AGAIN = "delete the shard's two files and extract again; only its images are affected"


@dataclass(frozen=True)
class Header:
    """What all vectors of a store have in common.

    Attributes:
        encoder: identity of the encoder; see `lmm.encoder`.
        width: length of one vector.
        questions: in the order of the stored vectors.
    """

    encoder: Mapping[str, Any]
    width: int
    questions: tuple[Question, ...]

    @property
    def fingerprint(self) -> str:
        """Of the encoder."""
        return fingerprint_of(self.encoder)

    @property
    def quotes_prompts(self) -> bool:
        """Whether vectors also depend on the words that generated each image."""
        return quote_prompts(self.questions)

    def require_encoder(self, expected: Mapping[str, Any], *, source: str | Path) -> None:
        """Raise FeatureError, with what differs, unless this is the encoder expected."""
        if self.fingerprint != fingerprint_of(expected):
            raise FeatureError(
                f"holds vectors of encoder {self.fingerprint}, expected "
                f"{fingerprint_of(expected)} ({diff_identity(expected, self.encoder)})",
                path=source,
                remedy="use a store of that encoder, or extract into a new one",
            )

    def columns_of(self, wanted: Sequence[Question], *, source: str | Path) -> list[int]:
        """Return the column of each question.

        Raises:
            FeatureError: a question is not there, or has another text.
        """
        names = [question.name for question in self.questions]
        for question in wanted:
            if question.name not in names:
                raise FeatureError(
                    f"has no vectors for question {question.name!r}, only {', '.join(names)}",
                    path=source,
                    remedy="extract into a new store with all questions",
                )
            own = self.questions[names.index(question.name)]
            if own.fingerprint != question.fingerprint:
                raise FeatureError(
                    f"question {own.name!r} was {own.text!r} ({own.fingerprint}) when vectors "
                    f"were extracted, expected {question.text!r} ({question.fingerprint})",
                    path=source,
                    remedy="another text is another question: extract into a new store",
                )
        return [names.index(question.name) for question in wanted]

    def write(self, folder: Path) -> None:
        """Write `encoder.json`."""
        data = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "encoder": dict(self.encoder),
            "width": self.width,
            "dtype": DTYPE,
            "questions": to_record(self.questions),
        }
        write_atomically(folder / HEADER, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_header(folder: Path) -> Header:
    """Read `encoder.json`.

    Raises:
        FeatureError: no feature store, or a damaged one, or one of a newer version.
    """
    path = folder / HEADER
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version, dtype = data["format_version"], data["dtype"]
        header = Header(
            encoder=dict(data["encoder"]),
            width=int(data["width"]),
            questions=from_record(data["questions"], source=path),
        )
        recorded = data["fingerprint"]
        if header.width < 1:
            raise ValueError(f"a width of {header.width}")
    except FileNotFoundError as error:
        raise FeatureError(
            f"this is no feature store: it has no {HEADER}",
            path=folder,
            remedy="`ma-agiqa extract` makes one",
        ) from error
    except _UNREADABLE as error:
        raise FeatureError(f"damaged: {error!r}", path=path) from error
    if (version, dtype) != (FORMAT_VERSION, DTYPE):
        raise FeatureError(
            f"written in format {version} with {dtype} vectors, this version reads format "
            f"{FORMAT_VERSION} with {DTYPE}",
            path=path,
            remedy="pip install --upgrade ma-agiqa",
        )
    if recorded != header.fingerprint:
        raise FeatureError(
            f"its encoder parts give fingerprint {header.fingerprint}, recorded is {recorded}",
            path=path,
            remedy="the file was edited or damaged: restore it",
        )
    return header


@dataclass(frozen=True)
class Shard:
    """A shard whose index is complete.

    Attributes:
        data: the data file.
        hashes: key of the image of each row.
        size: of the data file, in bytes.
        sha256: of the data file.
    """

    data: Path
    hashes: tuple[str, ...]
    size: int
    sha256: str

    @property
    def index(self) -> Path:
        """The index file."""
        return self.data.with_suffix(INDEX)

    def vectors(self, *, questions: int, width: int) -> Tensor:
        """Compare the data file with its sha256 and map its vectors: (n, K, D) float16.

        Raises:
            FeatureError: the file is damaged.
        """
        expected = (len(self.hashes), questions, width)
        try:
            digest = sha256(self.data)
            if digest != self.sha256:
                raise _damaged(
                    self.data, f"sha256 {digest[:16]}…, the index says {self.sha256[:16]}…"
                )
            with safe_open(self.data, framework="pt") as file:
                vectors: Tensor = file.get_tensor(VECTORS)
        except (OSError, SafetensorError) as error:
            raise _damaged(self.data, error) from error
        if (tuple(vectors.shape), vectors.dtype) != (expected, getattr(torch, DTYPE)):
            raise _damaged(
                self.data, f"{vectors.dtype} {tuple(vectors.shape)}, expected {DTYPE} {expected}"
            )
        return vectors


def _damaged(path: Path, why: object) -> FeatureError:
    return FeatureError(f"damaged shard: {why}", path=path, remedy=_AGAIN)


def write_shard(data: Path, vectors: Tensor, hashes: Sequence[str], *, encoder: str) -> Shard:
    """Write a shard: the data, then the index that makes it count.

    Raises:
        OutputError: the disk is full or the place cannot be written; nothing is left behind.
    """
    content = save({VECTORS: vectors.contiguous()}, metadata={"encoder": encoder})
    shard = Shard(data, tuple(hashes), len(content), hashlib.sha256(content).hexdigest())
    index = {
        "encoder": encoder,
        "size": shard.size,
        "sha256": shard.sha256,
        "rows": list(hashes),
    }
    write_atomically(data, content)
    try:
        write_atomically(shard.index, json.dumps(index, indent=0) + "\n")
    except BaseException:
        with suppress(OSError):
            data.unlink(missing_ok=True)
        raise
    return shard


def read_index(index: Path, *, encoder: str) -> Shard:
    """Read the index of a shard and compare the size of the data file.

    Raises:
        FeatureError: the index or the data file is damaged, or of another encoder.
    """
    data = index.with_suffix(DATA)
    try:
        entry = json.loads(index.read_text(encoding="utf-8"))
        shard = Shard(data, tuple(entry["rows"]), int(entry["size"]), str(entry["sha256"]))
        wrong = [row for row in shard.hashes if not re.fullmatch(r"[0-9a-f]{64}", row)]
        found = data.stat().st_size
    except FileNotFoundError as error:
        raise FeatureError("the shard's data file is gone", path=data, remedy=_AGAIN) from error
    except _UNREADABLE as error:
        raise FeatureError(f"damaged index: {error!r}", path=index, remedy=_AGAIN) from error
    if entry.get("encoder") != encoder:
        raise FeatureError(
            f"holds vectors of encoder {entry.get('encoder')}, the store is of {encoder}",
            path=index,
            remedy="move it to its own store",
        )
    if wrong:
        raise FeatureError(
            f"damaged index: {wrong[0]!r} is no content hash", path=index, remedy=_AGAIN
        )
    if found != shard.size:
        raise _damaged(data, f"{found} bytes, the index says {shard.size}")
    return shard


class FeatureStore:
    """An opened store; threads may share one for reading.

    Attributes:
        path: its folder.
        header: what its vectors are of.
        damaged: shards that cannot be used, by the name of their index, with the reason. A shard
            is checked when it is first read, so this may grow.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self.damaged: dict[str, FeatureError] = {}
        self._known: set[str] = set()
        self._shards: dict[Path, Shard] = {}
        self._places: dict[str, tuple[Shard, int]] = {}
        self._mapped: dict[Path, Tensor] = {}
        self._lock = threading.RLock()
        self.refresh()

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a store that is there.

        Raises:
            FeatureError: it is not, or its header is damaged.
        """
        return cls(Path(path), read_header(Path(path)))

    @classmethod
    def create(cls, path: str | Path, header: Header) -> FeatureStore:
        """Open a store to be filled, making it if need be.

        Raises:
            FeatureError: it holds vectors of another encoder or to other questions.
            OutputError: it cannot be written, or the folder holds something else.
        """
        path = Path(path)
        if not (path / HEADER).exists():
            if _is_foreign(path) and not (path / HEADER).exists():
                raise OutputError(
                    "is there and is no feature store", path=path, remedy="give a new folder"
                )
            header.write(path)
        remove_leftovers(path / FOLDER)
        store = cls.open(path)  # what stands there now, if another process was first
        store.header.require_encoder(header.encoder, source=path)
        store.header.columns_of(header.questions, source=path)
        extra = [q.name for q in store.header.questions if q not in header.questions]
        if extra:
            raise FeatureError(
                f"also holds vectors for {', '.join(extra)}",
                path=path,
                remedy="ask the same questions, or extract into a new store",
            )
        return store

    def __len__(self) -> int:
        return len(self._places)

    def has(self, sha256: str) -> bool:
        """Say whether there are vectors of the image with this content."""
        return self._find(sha256) is not None

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """Return the images without vectors, each once, in order."""
        return [sha for sha in dict.fromkeys(hashes) if not self.has(sha)]

    def get(self, hashes: Sequence[str], *, questions: Sequence[Question] | None = None) -> Tensor:
        """Return the vectors of images, (n, K, D) float16, a copy.

        Args:
            hashes: content hashes; one may occur twice.
            questions: which, in which order; the store's own when None.

        Raises:
            FeatureError: an image or a question is not there, or the image's shard is damaged.
        """
        header = self.header
        wanted = header.questions if questions is None else questions
        columns = header.columns_of(wanted, source=self.path)
        found = [self._find(sha) for sha in hashes]
        rows = [row for row in found if row is not None]
        if len(rows) < len(hashes):
            absent = self.missing(hashes)
            raise FeatureError(
                f"has no vectors of {len(absent)} images, first with content "
                f"{', '.join(absent[:SHOWN])}{self.damage()}",
                path=self.path,
                remedy="extract them first",
            )
        vectors = torch.empty(len(rows), len(wanted), header.width, dtype=getattr(torch, DTYPE))
        for number, row in enumerate(rows):
            vectors[number] = row[columns]
        return vectors

    def damage(self) -> str:
        """Return what errors add when shards are damaged: how many, and the first by name."""
        if not self.damaged:
            return ""
        first = next(iter(self.damaged.values()))
        return f"; damaged shards: {len(self.damaged)}, first {first.path}: {first.reason}"

    def writer(self, *, shard_size: int = SHARD_SIZE) -> ShardWriter:
        """Return a new writer; use it as a context."""
        return ShardWriter(self, shard_size=shard_size)

    def refresh(self) -> None:
        """Read the indexes of shards written since, by this or another process."""
        for index in sorted((self.path / FOLDER).glob(f"[!.]*{INDEX}")):
            if index.name in self._known:
                continue
            self._known.add(index.name)
            try:
                self._adopt(read_index(index, encoder=self.header.fingerprint))
            except FeatureError as error:
                self.damaged[index.name] = error

    def _adopt(self, shard: Shard) -> None:
        with self._lock:
            self._known.add(shard.index.name)
            self._shards[shard.data] = shard
            for row, sha in enumerate(shard.hashes):
                self._places.setdefault(sha, (shard, row))

    def _find(self, sha256: str) -> Tensor | None:
        """Return the vectors of an image, (K, D), in a shard that was checked; None if missing."""
        while (place := self._places.get(sha256)) is not None:
            vectors = self._mapped.get(place[0].data)
            if vectors is None:
                vectors = self._map(place[0])
            if vectors is not None:
                return vectors[place[1]]
        return None

    def _map(self, shard: Shard) -> Tensor | None:
        """Check and map a shard; None if it is damaged, and then no image lies in it any more."""
        with self._lock:
            if shard.data in self._mapped or shard.data not in self._shards:
                return self._mapped.get(shard.data)
            questions, width = len(self.header.questions), self.header.width
            try:
                self._mapped[shard.data] = shard.vectors(questions=questions, width=width)
            except FeatureError as error:
                self.damaged[shard.index.name] = error
                del self._shards[shard.data]
                # Another shard may hold the same image; the first one wins.
                self._places = {
                    sha: (sound, row)
                    for sound in reversed(self._shards.values())
                    for row, sha in reversed([*enumerate(sound.hashes)])
                }
                return None
            return self._mapped[shard.data]


class ShardWriter:
    """Collects vectors into shards, under names that no other writer uses.

    What was added is on disk when a shard is full and when the context ends, also after an
    error or Ctrl-C.
    """

    def __init__(self, store: FeatureStore, *, shard_size: int) -> None:
        if shard_size < 1:
            raise ValueError(f"shard_size must be positive, got {shard_size}")
        self._store, self._shard_size = store, shard_size
        self._name, self._number = uuid.uuid4().hex[:12], 0
        self._hashes: list[str] = []
        self._vectors: list[Tensor] = []

    def add(self, sha256: str, vectors: Tensor) -> None:
        """Take the vectors of one image, (K, D).

        Raises:
            FeatureError: another shape, or values that are not finite as float16.
            OutputError: a full shard could not be written; its vectors are kept and tried
                again at the next.
        """
        header = self._store.header
        expected = (len(header.questions), header.width)
        if tuple(vectors.shape) != expected:
            raise FeatureError(f"expected vectors of shape {expected}, got {tuple(vectors.shape)}")
        rounded = vectors.detach().to("cpu", torch.float16)
        if not bool(rounded.isfinite().all()):
            raise FeatureError("the vectors are not finite as float16")
        self._hashes.append(sha256)
        self._vectors.append(rounded)
        if len(self._hashes) >= self._shard_size:
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last shard; look what others have written."""
        if self._hashes:
            name = f"{self._name}-{self._number:05d}{DATA}"
            shard = write_shard(
                self._store.path / FOLDER / name,
                torch.stack(self._vectors),
                self._hashes,
                encoder=self._store.header.fingerprint,
            )
            self._number += 1
            self._hashes, self._vectors = [], []
            self._store._adopt(shard)
        self._store.refresh()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, OutputError):
            self.flush()


def _is_foreign(path: Path) -> bool:
    """Say whether a path holds anything but a header that is being written."""
    if not path.exists():
        return False
    return not path.is_dir() or any(not inside.name.startswith(".") for inside in path.iterdir())
