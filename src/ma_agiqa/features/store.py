"""Feature store: semantic vectors by the content of the image.

    STORE/encoder.json   the encoder, its questions, width and dtype (`header.py`)
    STORE/shards/        vectors and their indexes (`shards.py`)

20,000 images with two questions take 328 MB in a hundred files. Reads are mapped into memory.
Several processes may fill one store at once: each writes shards of its own names, a duplicate
is allowed and the first in order of names wins. A damaged shard is named, its images count as
missing, and the rest stays usable.
What this file does not do: lock, delete, or compute vectors (`extract.py`).

Shapes: n images, K questions, D width.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from ma_agiqa.errors import FeatureError, OutputError
from ma_agiqa.features import header as headers
from ma_agiqa.features.header import Header
from ma_agiqa.features.shards import DATA, FOLDER, INDEX, Shard, read_index, write_shard
from ma_agiqa.lmm.encoder import Question

SHARD_SIZE = 256
"""Images per shard; a kill loses at most so many."""

SHOWN = 3


class FeatureStore:
    """An opened store; threads may share one for reading.

    Attributes:
        path: its folder.
        header: what its vectors are of.
        damaged: shards that cannot be used, by the name of their index, with the reason.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self.damaged: dict[str, FeatureError] = {}
        self._known: set[str] = set()
        self._places: dict[str, tuple[Shard, int]] = {}
        self._mapped: dict[Path, Tensor] = {}
        self.refresh()

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a store that is there.

        Raises:
            FeatureError: it is not, or its header is damaged.
        """
        return cls(Path(path), headers.read(Path(path)))

    @classmethod
    def create(cls, path: str | Path, header: Header) -> FeatureStore:
        """Open a store to be filled, making it if need be.

        Raises:
            FeatureError: it holds vectors of another encoder or to other questions.
            OutputError: it cannot be written, or the folder holds something else.
        """
        path = Path(path)
        if not (path / headers.FILE).exists():
            if _is_foreign(path) and not (path / headers.FILE).exists():
                raise OutputError(
                    "is there and is no feature store", path=path, remedy="give a new folder"
                )
            header.write(path)
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
        return sha256 in self._places

    def missing(self, hashes: Iterable[str]) -> list[str]:
        """Return those images there are no vectors of, each once, in order."""
        return list(dict.fromkeys(sha for sha in hashes if sha not in self._places))

    def get(self, hashes: Sequence[str], *, questions: Sequence[Question] | None = None) -> Tensor:
        """Return the vectors of images, (n, K, D) float16, a copy.

        Args:
            hashes: content hashes; one may occur twice.
            questions: which, in which order; the store's own when None.

        Raises:
            FeatureError: an image or a question is not there, or a shard is damaged.
        """
        header = self.header
        wanted = header.questions if questions is None else questions
        columns = header.columns_of(wanted, source=self.path)
        if absent := self.missing(hashes):
            raise FeatureError(
                f"has no vectors of {len(absent)} images, first with content "
                f"{', '.join(absent[:SHOWN])}",
                path=self.path,
                remedy="extract them first",
            )
        found = torch.empty(len(hashes), len(wanted), header.width, dtype=torch.float16)
        for row, sha in enumerate(hashes):
            shard, place = self._places[sha]
            found[row] = self._vectors(shard)[place][columns]
        return found

    def writer(self, *, shard_size: int = SHARD_SIZE) -> ShardWriter:
        """Return a new writer; use it as a context."""
        return ShardWriter(self, shard_size=shard_size)

    def refresh(self) -> None:
        """Take up shards that have appeared since, of this or another process."""
        for index in sorted((self.path / FOLDER).glob(f"[!.]*{INDEX}")):
            if index.name in self._known:
                continue
            self._known.add(index.name)
            try:
                self._adopt(read_index(index, encoder=self.header.fingerprint))
            except FeatureError as error:
                self.damaged[index.name] = error

    def verify(self) -> list[FeatureError]:
        """Read every shard in full; return what is wrong, each error with its file.

        A shard that differs from its checksum is no longer used.
        """
        for shard in {id(s): s for s, _ in self._places.values()}.values():
            try:
                shard.check_content()
            except FeatureError as error:
                self.damaged[shard.data.with_suffix(INDEX).name] = error
                self._places = {k: v for k, v in self._places.items() if v[0] is not shard}
        return list(self.damaged.values())

    def _adopt(self, shard: Shard) -> None:
        self._known.add(shard.data.with_suffix(INDEX).name)
        for row, sha in enumerate(shard.hashes):
            self._places.setdefault(sha, (shard, row))

    def _vectors(self, shard: Shard) -> Tensor:
        if shard.data not in self._mapped:
            questions, width = len(self.header.questions), self.header.width
            self._mapped[shard.data] = shard.vectors(questions=questions, width=width)
        return self._mapped[shard.data]


class ShardWriter:
    """Gathers vectors into shards of names no other writer has.

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
    """Say whether a path holds anything but a header that is just being written."""
    if not path.exists():
        return False
    return not path.is_dir() or any(not inside.name.startswith(".") for inside in path.iterdir())
