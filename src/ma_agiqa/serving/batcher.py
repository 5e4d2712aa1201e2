"""From single requests to batches: threads that take what waits and score it together.

Two threads take turns: while one batch is in the network, the next one is decoded. A bad image is
an error of its own, so no image of a batch takes another down, and no score depends on what an
image was batched with. What waits is bounded: beyond that a request is refused at once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from ma_agiqa.scorer import Scorer
from ma_agiqa.types import RGB, Score

THREADS = 2
RETRY_SECONDS = 1


class Full(Exception):
    """More images wait than the queue may hold."""


class Closed(Exception):
    """The service is ending and takes no more."""


@dataclass
class Job:
    """One image that waits for its score.

    Attributes:
        data: the encoded image.
        explain: whether the reasons are wanted too.
    """

    data: bytes
    explain: bool = False
    future: Future[Score] = field(default_factory=Future)
    came: float = field(default_factory=time.perf_counter)


class Watcher(Protocol):
    """Is told of every batch: how many images, and how long each of them waited."""

    def __call__(self, size: int, waits: list[float]) -> None: ...


class Batcher:
    """Owns the queue and the threads that empty it.

    Args:
        decode: as `images.decode`, for bytes of strangers.
        size: most images of a batch.
        wait: seconds that a batch waits for more images, if there are fewer.
        capacity: most images that wait.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        decode: Callable[[bytes], RGB],
        size: int,
        wait: float,
        capacity: int,
        watch: Watcher = lambda size, waits: None,
    ) -> None:
        self._scorer, self._decode, self._watch = scorer, decode, watch
        self._size, self._wait = size, wait
        self._waiting: queue.Queue[Job | None] = queue.Queue(capacity)
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name="ma-agiqa-batch", daemon=True)
            for _ in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many images wait, about."""
        return self._waiting.qsize()

    def submit(self, data: bytes, *, explain: bool = False) -> Future[Score]:
        """Take an image; the future gives its score, which may be an error.

        A future that is cancelled before its turn costs nothing more.

        Raises:
            Full, Closed: it was not taken.
        """
        if self._closed:
            raise Closed
        job = Job(data, explain)
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            raise Full from None
        return job.future

    def close(self) -> None:
        """Score what waits, then end the threads."""
        self._closed = True
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            if batch:
                self._score(batch)

    def _take(self) -> list[Job] | None:
        """Wait for an image, then a little for more; None at the end."""
        first = self._waiting.get()
        if first is None:
            return None
        batch, until = [first], time.perf_counter() + self._wait
        while len(batch) < self._size:
            try:
                job = self._waiting.get(timeout=max(0.0, until - time.perf_counter()))
            except queue.Empty:
                break
            if job is None:
                self._waiting.put(None)  # for whoever looks next: this thread, after the batch
                break
            batch.append(job)
        return [job for job in batch if job.future.set_running_or_notify_cancel()]

    def _score(self, batch: list[Job]) -> None:
        now = time.perf_counter()
        self._watch(len(batch), [now - job.came for job in batch])
        explain = any(job.explain for job in batch)
        try:
            scores = list(
                self._scorer.score(
                    batch,
                    explain=explain,
                    read=lambda job: self._decode(job.data),
                    content=lambda job: None,
                )
            )
        except Exception as error:  # whatever it is, nobody may wait for ever
            for job in batch:
                job.future.set_exception(error)
            return
        for job, score in zip(batch, scores, strict=True):
            job.future.set_result(score)
