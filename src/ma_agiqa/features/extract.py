"""Images -> vectors in a store, by an encoder (`extract`) or from the official script's files.

A run can be resumed, and no single image stops it. Files are read, hashed and decoded in threads
while the encoder works. An image whose content is in the store already is skipped before it is
decoded, so a second run only reads files and never loads the LMM. What cannot be read or encoded
becomes a failure with its reason.
Several processes may fill one store: each takes note of the shards that others have finished.

`import_official` reads what the official getFeature.py wrote: for an image `a.jpg`,
`a_semantic_content.pt` and `a_coherence.pt`, each a float16 tensor (1, 4096). Those files are
named by the stem, so two images of one stem have overwritten each other and are refused here. A
file may store the whole batch of 8 that its tensor is a view of (67 KB instead of 10), of which
only the view is taken. The files do not say which weights made them, so they count as made by an
encoder of their own, unless the caller says which one it was.

Shapes: K questions, D width.
"""

from __future__ import annotations

import pickle
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ma_agiqa import devices
from ma_agiqa.errors import FeatureError, ImageError, first_line
from ma_agiqa.features.source import content_hash, hash_source, key_of
from ma_agiqa.features.store import SHARD_SIZE, FeatureStore, ShardWriter
from ma_agiqa.images import decode, read_bytes
from ma_agiqa.lmm.encoder import (
    OFFICIAL,
    SemanticEncoder,
    encode_with_prompts,
    require_prompts,
)
from ma_agiqa.types import RGB

FIRST_BATCH, LARGEST_BATCH = 4, 64
WORTH_IT = 1.05
"""A larger batch must be faster by this factor to be kept."""

MAX_DEFAULT_WORKERS = 8

OFFICIAL_SUFFIXES = {"meaning": "_semantic_content.pt", "coherence": "_coherence.pt"}
OFFICIAL_WIDTH = 4096
OFFICIAL_IDENTITY = {
    "encoder": "files of the official getFeature.py, weights unknown",
    "width": OFFICIAL_WIDTH,
}
"""The encoder recorded for official vectors when the caller names none."""


@dataclass(frozen=True)
class Failure:
    """An image that got no vectors, and why."""

    path: str
    reason: str


@dataclass
class Extraction:
    """What a run did: images extracted, skipped because the store had them, and failed."""

    extracted: int = 0
    present: int = 0
    failures: list[Failure] = field(default_factory=list)


class BatchSize:
    """How many images go through the encoder at once; vectors do not depend on it.

    Args:
        fixed: the size, or None to double from 4 to at most 64 while that is faster.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.size = fixed or FIRST_BATCH
        self._growing = fixed is None
        self._speed: float | None = None

    def succeeded(self, images: int, seconds: float) -> None:
        """Record a batch; the first one is not measured, because it warms up."""
        if not self._growing or images < self.size:
            return
        speed = images / max(seconds, 1e-9)
        if self._speed is None:
            self._speed = 0.0
        elif speed < WORTH_IT * self._speed:
            self.size, self._growing = max(1, self.size // 2), False
        else:
            self._speed = speed
            self.size = min(2 * self.size, LARGEST_BATCH)
            self._growing = self.size < LARGEST_BATCH

    def ran_out(self, images: int) -> None:
        """Halve after a batch of `images` did not fit the memory."""
        self.size, self._growing = max(1, images // 2), False


@dataclass(frozen=True)
class _Item:
    path: str
    key: str
    prompt: str | None
    rgb: RGB | None


def extract(
    encoder: SemanticEncoder,
    images: Iterable[str | Path],
    store: FeatureStore,
    *,
    prompts: Sequence[str] | None = None,
    batch_size: int | None = None,
    shard_size: int = SHARD_SIZE,
    workers: int | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Extraction:
    """Put the vectors of images into a store; skip images that it has.

    Args:
        prompts: the prompt of each image, for questions that quote it.
        batch_size: images per pass; found by trying when None, halved when memory is short.
        shard_size: images per shard; a kill loses at most so many.
        workers: threads that read and decode; one per core, at most 8, when None.
        on_image: called after each image, for a progress bar.

    Raises:
        FeatureError: the store is of another encoder.
        UsageError: the store's questions quote prompts and there are none.
        OutputError: a shard could not be written; the shards before it are safe.
    """
    store.header.require_encoder(encoder.identity, source=store.path)
    paired = _with_prompts(images, prompts, store)
    workers = workers or min(devices.available_cores(), MAX_DEFAULT_WORKERS)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ma-agiqa-decode")
    try:
        with store.writer(shard_size=shard_size) as writer:
            run = _Run(encoder, store, writer, BatchSize(batch_size), on_image)
            ahead: deque[tuple[str, Future[_Item]]] = deque()
            for path, prompt in paired:
                ahead.append((path, pool.submit(_read, path, prompt, store)))
                if len(ahead) >= run.batch.size + workers:
                    run.take(*ahead.popleft())
            while ahead:
                run.take(*ahead.popleft())
            run.encode_waiting()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return run.done


def _with_prompts(
    images: Iterable[str | Path], prompts: Sequence[str] | None, store: FeatureStore
) -> Iterator[tuple[str, str | None]]:
    """Pair images with their prompts, equal ones in a row; None where no question quotes them."""
    require_prompts(store.header.questions, prompts)
    if prompts is None or not store.header.quotes_prompts:
        return ((str(path), None) for path in images)
    return iter(sorted(zip(map(str, images), prompts, strict=True), key=lambda pair: pair[1]))


def _read(path: str, prompt: str | None, store: FeatureStore) -> _Item:
    data = read_bytes(path)
    if prompt is not None and not prompt.strip():
        raise ImageError("the words that generated it are not known, and a question quotes them")
    key = key_of(content_hash(data), prompt)
    return _Item(path, key, prompt, None if store.has(key) else decode(data, name=path))


class _Run:
    """Collects decoded images into batches and sees each image through to its end."""

    def __init__(
        self,
        encoder: SemanticEncoder,
        store: FeatureStore,
        writer: ShardWriter,
        batch: BatchSize,
        on_image: Callable[[], None],
    ) -> None:
        self.encoder, self.store, self.writer = encoder, store, writer
        self.batch, self.on_image = batch, on_image
        self.done = Extraction()
        self._waiting: list[_Item] = []
        # Of each image that was taken: the copies that share its fate, None once it is kept.
        self._copies: dict[str, list[str] | None] = {}

    def take(self, path: str, future: Future[_Item]) -> None:
        """Wait for an image; encode when a batch is full."""
        try:
            item = future.result()
        except ImageError as error:
            self._fail(path, error.without_path)
            return
        except MemoryError:
            self._fail(path, "not enough memory to decode the image")
            return
        copies = self._copies.setdefault(item.key, []) if item.rgb is not None else None
        if copies is None or self.store.has(item.key):
            self._count_present()
            return
        copies.append(path)
        if len(copies) == 1:
            self._waiting.append(item)
        if len(self._waiting) >= self.batch.size:
            self.encode_waiting()

    def encode_waiting(self) -> None:
        """Encode what is decoded, in batches of the current size."""
        while self._waiting:
            now = self._waiting[: self.batch.size]
            self._waiting = self._waiting[len(now) :]
            self._encode(now)

    def _encode(self, items: list[_Item]) -> None:
        """Encode one batch; halve and repeat if memory is short or an image is refused."""
        started = time.perf_counter()
        try:
            images = [item.rgb for item in items if item.rgb is not None]
            prompts = [item.prompt for item in items]
            questions = self.store.header.questions
            vectors = encode_with_prompts(self.encoder, images, questions, prompts).cpu()
        except ImageError as error:
            why = error.without_path
        except (MemoryError, RuntimeError) as error:
            if not devices.is_out_of_memory(error):
                raise
            why = "not enough memory to encode the image"
            self.batch.ran_out(len(items))
        else:
            self.batch.succeeded(len(items), time.perf_counter() - started)
            for item, own in zip(items, vectors, strict=True):
                self._keep(item, own)
            return
        # Out of the except clause, so that the failed attempt's tensors are released.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(items) == 1:
            self._refuse(items[0], why)
            return
        middle = len(items) // 2
        self._encode(items[:middle])
        self._encode(items[middle:])

    def _keep(self, item: _Item, vectors: Tensor) -> None:
        try:
            self.writer.add(item.key, vectors)
        except FeatureError as error:
            self._refuse(item, error.without_path)
            return
        self.done.extracted += 1
        self.on_image()
        for _ in (self._copies[item.key] or ())[1:]:
            self._count_present()
        self._copies[item.key] = None

    def _count_present(self) -> None:
        self.done.present += 1
        self.on_image()

    def _refuse(self, item: _Item, why: str) -> None:
        for path in self._copies.pop(item.key) or ():
            self._fail(path, why)

    def _fail(self, path: str, why: str) -> None:
        self.done.failures.append(Failure(path, why))
        self.on_image()


def import_official(
    directory: str | Path,
    images: Sequence[str | Path],
    store: FeatureStore,
    *,
    on_image: Callable[[], None] = lambda: None,
) -> Extraction:
    """Put the official vectors of images into a store, by the content of each image.

    Raises:
        FeatureError: the store is not for the two official questions.
        OutputError: a shard could not be written.
    """
    directory, done = Path(directory), Extraction()
    if not directory.is_dir():
        raise FeatureError("no such folder of official features", path=directory)
    if store.header.questions != OFFICIAL:
        raise FeatureError("official features answer the two official questions", path=store.path)
    stems = Counter(Path(image).stem for image in images)
    with store.writer() as writer:
        for image in images:
            try:
                if stems[Path(image).stem] > 1:
                    raise FeatureError("another image has this stem; official files mix them up")
                sha256 = hash_source(image)
                assert sha256 is not None
                if store.has(sha256):
                    done.present += 1
                else:
                    writer.add(sha256, read_vectors(directory, image, store.header.width))
                    done.extracted += 1
            except ImageError as error:
                done.failures.append(Failure(str(image), error.without_path))
            except FeatureError as error:
                done.failures.append(Failure(str(image), str(error)))
            on_image()
    return done


def read_vectors(directory: Path, image: str | Path, width: int) -> Tensor:
    """Return the two vectors of an image in the order of `OFFICIAL`, (2, D).

    Raises:
        FeatureError: a file is missing, damaged, or holds another shape.
    """
    stem = Path(image).stem
    return torch.stack(
        [_vector(directory / (stem + OFFICIAL_SUFFIXES[q.name]), width) for q in OFFICIAL]
    )


def _vector(path: Path, width: int) -> Tensor:
    try:
        vector = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FeatureError("no such file", path=path) from error
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise FeatureError(f"damaged: {first_line(error)}", path=path) from error
    if not isinstance(vector, Tensor) or not vector.is_floating_point():
        raise FeatureError("holds no vector", path=path)
    if tuple(vector.shape) != (1, width):
        raise FeatureError(f"holds shape {tuple(vector.shape)}, expected (1, {width})", path=path)
    return vector[0].clone()  # not the batch it may be a view of
