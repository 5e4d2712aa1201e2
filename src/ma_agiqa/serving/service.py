"""What a running service is, without HTTP: its limits, its figures, its scorer and its queue.

    Settings    the limits;  Metrics: what Prometheus asks for
    Service     one scorer, one batcher, one decoder; whether it is ready or ending

A request that cannot be scored now is an HTTPException already, with the status that `app` lists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import numpy as np
from fastapi import HTTPException
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ma_agiqa.errors import MAAGIQAError, UsageError, first_line
from ma_agiqa.images import Limits, decode
from ma_agiqa.isolation import IsolatedDecoder
from ma_agiqa.scorer import Scorer
from ma_agiqa.serving.batcher import RETRY_SECONDS, Batcher, Closed, Full
from ma_agiqa.types import RGB, Score

MOST_IMAGES = 256  # of one request
BODY_FACTOR = 4 / 3  # of base64
MOST_BODIES = 8  # of full size at once, of smaller ones as many as take no more memory,
LEAST_HELD = 2**30  # and however small they must be, so many bytes
LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Settings:
    """Limits of a service.

    Attributes:
        max_bytes: of one image, and of a whole request eight times that.
        max_pixels: of one image.
        queue: most images that wait; more are refused with 429.
        batch: most images of a batch; wait: seconds that a batch waits for more.
        timeout: seconds until a request is given up: for its body, and again for its scores.
        api_key: what requests must bring, if anything.
        allow_pickle: answer pickled requests too.
        isolate: decode in child processes.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    queue: int = 256
    batch: int = 8
    wait: float = 0.005
    timeout: float = 30.0
    api_key: str | None = None
    allow_pickle: bool = False
    isolate: bool = True

    @property
    def max_body(self) -> int:
        """Bytes of a request."""
        return int(8 * self.max_bytes * BODY_FACTOR)

    @property
    def max_held(self) -> int:
        """Bytes of all requests that are not answered."""
        return max(MOST_BODIES * self.max_body, LEAST_HELD)

    @property
    def max_images(self) -> int:
        """Images of a request: more than the queue holds could never be taken."""
        return min(MOST_IMAGES, self.queue)


class Metrics:
    """What Prometheus asks for."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "ma_agiqa_requests", "Requests", ["route", "status"], registry=registry
        )
        self.images = Counter("ma_agiqa_images", "Images scored", registry=registry)
        self.errors = Counter("ma_agiqa_errors", "Images refused", ["kind"], registry=registry)
        self.batches = Histogram(
            "ma_agiqa_batch_size",
            "Images of a batch",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=registry,
        )
        self.waits = Histogram(
            "ma_agiqa_wait_seconds", "Wait of an image", buckets=LATENCIES, registry=registry
        )
        self.latency = Histogram(
            "ma_agiqa_request_seconds", "Time of a request", buckets=LATENCIES, registry=registry
        )
        Gauge("ma_agiqa_queue_length", "Images that wait", registry=registry).set_function(waiting)

    def watch(self, size: int, waits: list[float]) -> None:
        self.batches.observe(size)
        for wait in waits:
            self.waits.observe(wait)


class Service:
    """What the routes share: the batcher, the limits, the metrics, and whether it is ending."""

    def __init__(self, scorer: Scorer, settings: Settings) -> None:
        self.scorer, self.settings = scorer, settings
        self.ready = self.draining = False
        self._decoder: IsolatedDecoder | None = None
        decoder: Callable[..., RGB] = decode
        if settings.isolate:
            decoder = self._decoder = IsolatedDecoder(scorer.workers, seconds=settings.timeout)
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.batcher = Batcher(
            scorer,
            decode=partial(decoder, limits=Limits(settings.max_bytes, settings.max_pixels)),
            size=settings.batch,
            wait=settings.wait,
            capacity=settings.queue,
            watch=self.metrics.watch,
        )

    @property
    def accepting(self) -> bool:
        """Whether it has scored an image and is not ending."""
        return self.ready and not self.draining

    def warm_up(self) -> None:
        """Score a plain image; from then on the service is ready.

        Raises:
            UsageError: it cannot be scored.
        """
        file = BytesIO()
        Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(file, "PNG")
        try:
            wrong = self.batcher.submit(file.getvalue()).result().error
        except MAAGIQAError:
            raise
        except Exception as error:  # of the model, the device or the LMM: whatever it is
            raise UsageError(
                f"the model cannot score a plain image: {first_line(error)}"
            ) from error
        if wrong is not None:
            raise UsageError(f"the model cannot score a plain image: {wrong}")
        self.ready = True

    def close(self) -> None:
        self.draining = True
        self.batcher.close()
        if self._decoder is not None:
            self._decoder.close()

    async def score(self, images: list[bytes], *, explain: bool = False) -> list[Score]:
        """Score the images of one request.

        Raises:
            HTTPException: 413, 429, 503 or 504; what was submitted before is given up.
        """
        if len(images) > self.settings.max_images:
            raise too_many(self.settings)
        if self.draining:
            raise HTTPException(503, "the service is ending")
        futures = []
        try:
            for data in images:
                futures.append(self.batcher.submit(data, explain=explain))
            waiting = [asyncio.wrap_future(future) for future in futures]
            scores = await asyncio.wait_for(asyncio.gather(*waiting), self.settings.timeout)
        except Full as error:
            raise HTTPException(
                429, "too many images wait", headers={"Retry-After": str(RETRY_SECONDS)}
            ) from error
        except Closed as error:
            raise HTTPException(503, "the service is ending") from error
        except asyncio.TimeoutError as error:
            raise HTTPException(504, f"no score within {self.settings.timeout:g} s") from error
        finally:
            for future in futures:
                future.cancel()
        self.metrics.images.inc(sum(score.error is None for score in scores))
        return list(scores)


def too_many(settings: Settings) -> HTTPException:
    """Return the refusal of a request with more images than `Settings.max_images`."""
    most = settings.max_images
    return HTTPException(413, f"a request holds at most {most} images; send the rest in another")
