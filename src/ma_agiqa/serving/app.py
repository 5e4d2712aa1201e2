"""The service: routes, limits, status codes, metrics. One scorer, one batcher.

    POST /v1/score           images as multipart files or base64 JSON -> rows of results
    GET  /v2/health/live     the process runs;  /v2/health/ready: it has scored, and takes requests
    GET  /v2, /v2/models/X   what is served, by the Open Inference Protocol
    GET  /metrics            for Prometheus
    GET  /                   the page;  /docs: the OpenAPI page
    POST /compute, /score    rewards for trainers, see `contracts.py`; so are /health, /rewards
    POST /                   the pickle dialects, where they are allowed

Of one image the status says what was wrong with it: 415 not an image, 422 cannot be decoded or
judged. Of several the status is 200 and each row has its own error. For all: 401 key, 408 the body
did not come, 413 too large, 429 the queue is full or bodies take too much memory, 503 ending, 504
over time. No address in a request is ever fetched.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartException

from ma_agiqa.errors import MAAGIQAError, UsageError, first_line
from ma_agiqa.images import FORMATS, Limits, decode, format_of
from ma_agiqa.isolation import IsolatedDecoder
from ma_agiqa.scorer import Scorer
from ma_agiqa.serving import contracts
from ma_agiqa.serving.batcher import RETRY_SECONDS, Batcher, Closed, Full
from ma_agiqa.types import RGB, Score
from ma_agiqa.version import __version__

PAGE = Path(__file__).with_name("page.html")
LOG = logging.getLogger("ma_agiqa.serving")
OPEN_ROUTES = frozenset({"/", "/health", "/v2/health/live", "/v2/health/ready"})
"""Routes that need no key: the page itself, and what an orchestrator polls."""

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
            raise _too_many(self.settings)
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


def create_app(scorer: Scorer, settings: Settings | None = None) -> FastAPI:
    """Return the service as an ASGI application; its threads start with it.

    What keeps it from starting is left in `app.state.failure` too.

    Raises:
        UsageError: the model needs more than the image that a request brings.
    """
    settings = settings or Settings()
    semantics = scorer.semantics
    if semantics is not None and semantics.needs_hash:
        raise UsageError(
            f"a service of {scorer.name} is sent new images, of which a store has no features",
            remedy="give the LMM that computes them: --lmm NAME|DIR",
        )
    if semantics is not None and semantics.quotes_prompts:
        raise UsageError(
            f"the questions of {scorer.name} quote the prompt of an image, and requests bring none",
            remedy="serve a model without such questions, or use `ma-agiqa score --prompt`",
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = app.state.service = Service(scorer, settings)
        try:
            await run_in_threadpool(service.warm_up)
        except Exception as error:
            app.state.failure = error
            await run_in_threadpool(service.close)
            raise
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="MA-AGIQA",
        version=__version__,
        description="Quality scores for AI-generated images that agree with people.",
        lifespan=lifespan,
    )
    app.state.failure = None
    _add_routes(app, scorer)
    _add_rewards(app, settings)
    app.add_middleware(_Gate, settings=settings, state=app.state)
    return app


def _add_routes(app: FastAPI, scorer: Scorer) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return PAGE.read_text(encoding="utf-8")

    @app.post("/v1/score", openapi_extra={"requestBody": _BODY})
    async def score(request: Request) -> JSONResponse:
        """Score one or several images.

        As `multipart/form-data` with files under any name, and `explain`; or as JSON:
        `{"images": [{"name": "a.png", "data": "<base64>"}], "explain": false}`.
        """
        named, explain = await _images_of(request)
        service: Service = request.app.state.service
        if len(named) == 1:
            _require_image(service, named[0][1])
        scores = await service.score([data for _, data in named], explain=explain)
        rows = [_row(name, one, explain) for (name, _), one in zip(named, scores, strict=True)]
        for row in rows:
            if row["error"] is not None:
                service.metrics.errors.labels("undecodable").inc()
        if len(rows) == 1 and rows[0]["error"] is not None:
            raise HTTPException(422, rows[0]["error"])
        return JSONResponse({"model": scorer.name, "results": rows})

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready(request: Request) -> JSONResponse:
        service: Service = request.app.state.service
        return JSONResponse({"ready": service.accepting}, 200 if service.accepting else 503)

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        return {"name": "ma-agiqa", "version": __version__, "extensions": []}

    @app.get("/v2/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name not in (scorer.name, scorer.config.name):
            raise HTTPException(404, f"no model named {name!r}; {scorer.name!r} is served")
        scale = scorer.config.scale
        return {
            "name": scorer.name,
            "platform": "ma-agiqa",
            "versions": [__version__],
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1]}],
            "low": scale.low,
            "high": scale.high,
        }

    @app.get("/metrics", response_class=Response, include_in_schema=False)
    async def metrics(request: Request) -> Response:
        service: Service = request.app.state.service
        return Response(generate_latest(service.metrics.registry), media_type=_PROMETHEUS)


_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "explain": {"type": "boolean", "default": False},
                },
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {
                    "images": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["data"],
                            "properties": {
                                "name": {"type": "string"},
                                "data": {"type": "string", "format": "byte"},
                            },
                        },
                    },
                    "explain": {"type": "boolean", "default": False},
                },
            }
        },
    },
}


def _add_rewards(app: FastAPI, settings: Settings) -> None:
    offered = {"rewards": {contracts.REWARD: list(contracts.SUBSCORES)}}

    @app.get("/health")
    async def health(request: Request) -> JSONResponse:
        service: Service = request.app.state.service
        body = {"status": "ok" if service.accepting else "not ready", **offered}
        return JSONResponse(body, 200 if service.accepting else 503)

    @app.get("/rewards")
    async def rewards() -> dict[str, Any]:
        return offered

    @app.post("/compute")
    async def compute(request: Request) -> dict[str, Any]:
        """Rewards for Flow-Factory."""
        images = _understood(contracts.flow_factory, await _json(request))
        return {"rewards": _rewards(await request.app.state.service.score(images))}

    @app.post("/score")
    async def unirl(request: Request) -> dict[str, Any]:
        """Rewards for UniRL; what fails is an error of its own request."""
        asked = _understood(contracts.unirl, await _json(request))
        judged = [one for one in asked if one.wanted and one.image is not None]
        images = [one.image for one in judged if one.image is not None]
        scores = dict(
            zip(map(id, judged), await request.app.state.service.score(images), strict=True)
        )
        results, errors = [], []
        for one in asked:
            failed = dict.fromkeys(one.unknown, "unknown reward")
            result: dict[str, Any] = {}
            score = scores.get(id(one))
            if one.wanted and (score is None or score.error is not None):
                failed[contracts.REWARD] = "no image" if score is None else str(score.error)
            elif score is not None:
                result[contracts.REWARD] = {
                    name: getattr(score, name)
                    for name in contracts.SUBSCORES
                    if getattr(score, name) is not None
                }
            results.append(result)
            errors.append(failed)
        identities = [one.identity for one in asked]
        return {"results": results, "errors": errors, "identities": identities}

    if not settings.allow_pickle:
        return

    @app.post("/", include_in_schema=False)
    async def pickled(request: Request) -> Response:
        """Rewards for flow_grpo and verl-omni."""
        try:
            images = await run_in_threadpool(contracts.pickled, await request.body())
            scores = _rewards(await request.app.state.service.score(images))
        except UsageError as error:
            return Response(contracts.pickle_error(str(error)), 400, media_type=_OCTETS)
        except HTTPException as error:
            content = contracts.pickle_error(str(error.detail))
            return Response(content, error.status_code, error.headers, media_type=_OCTETS)
        return Response(contracts.pickle_reply(scores), media_type=_OCTETS)


_OCTETS = "application/octet-stream"


def _understood(read: Callable[[Any], Any], body: Any) -> Any:
    try:
        return read(body)
    except UsageError as error:
        raise HTTPException(400, str(error)) from error


def _rewards(scores: list[Score]) -> list[float]:
    for number, score in enumerate(scores):
        if score.score is None:
            raise HTTPException(422, f"image {number}: {score.error}")
    return [float(score) for score in scores]


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is not JSON") from error


async def _images_of(request: Request) -> tuple[list[tuple[str, bytes]], bool]:
    """Return the named images of a request, and whether reasons are wanted."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        named, explain = await _of_form(request)
    elif kind == "application/json":
        named, explain = _of_json(await _json(request))
    else:
        raise HTTPException(415, "send multipart/form-data with files, or application/json")
    settings: Settings = request.app.state.service.settings
    if not named:
        raise HTTPException(422, f"a request holds 1 to {settings.max_images} images, not 0")
    limit = settings.max_bytes
    for name, data in named:
        if len(data) > limit:
            raise HTTPException(413, f"{name}: has {len(data):,} bytes, over {limit:,}")
    return named, explain


def _too_many(settings: Settings) -> HTTPException:
    most = settings.max_images
    return HTTPException(413, f"a request holds at most {most} images; send the rest in another")


async def _of_form(request: Request) -> tuple[list[tuple[str, bytes]], bool]:
    try:
        async with request.form(max_files=MOST_IMAGES, max_fields=8) as form:
            explain = str(form.get("explain", "false")).lower() in ("true", "1", "on")
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            named = [(file.filename or "image", await file.read()) for file in files]
    except (MultiPartException, StarletteHTTPException, UnicodeError) as error:
        if "Too many files" in str(error):  # nothing but its words sets this one apart
            raise _too_many(request.app.state.service.settings) from error
        # The last is of the charset that the request names.
        raise HTTPException(400, f"the form cannot be read: {error}") from error
    return [(_name(name), data) for name, data in named], explain


def _of_json(body: Any) -> tuple[list[tuple[str, bytes]], bool]:
    images = body.get("images") if isinstance(body, dict) else None
    if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
        raise HTTPException(422, 'expected {"images": [{"name": ..., "data": base64}, ...]}')
    named = [
        (
            _name(one.get("name") or f"image[{number}]"),
            _understood(contracts.from_base64, one.get("data")),
        )
        for number, one in enumerate(images)
    ]
    return named, body.get("explain") is True


def _name(name: Any) -> str:
    return str(_understood(partial(contracts.repeatable, what="the name of an image"), name))


def _require_image(service: Service, data: bytes) -> None:
    kind = format_of(data)
    if kind not in FORMATS:
        service.metrics.errors.labels("not an image").inc()
        what = "the file is not an image" if kind is None else f"{kind} is not read"
        raise HTTPException(415, f"{what}; send one of {', '.join(FORMATS)}")


def _row(name: str, score: Score, explain: bool) -> dict[str, Any]:
    row = {**score.to_row(), "path": name}
    if explain and score.error is None:
        row["contributions"] = score.contributions
        row["quality_map"] = None if score.map is None else np.round(score.map, 3).tolist()
    return row


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _Refused(Exception):
    """The body is not taken; the argument is the reply."""

    def __init__(self, reply: JSONResponse) -> None:
        self.reply = reply


class _Gate:
    """Before every route: the key, the size and time of the body, the metrics and the log."""

    def __init__(self, app: Any, *, settings: Settings, state: Any) -> None:
        self._app, self._settings, self._state = app, settings, state
        self._held = 0  # bytes of all requests that are not answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, taken, begun = time.perf_counter(), [500], [0], [False]
        whole = [False]

        async def counted() -> MutableMapping[str, Any]:
            if whole[0]:  # from here on a message says that the client has left
                return await receive()
            left = started + self._settings.timeout - time.perf_counter()
            try:
                message = await asyncio.wait_for(receive(), left)
            except asyncio.TimeoutError as error:
                raise _Refused(self._too_late()) from error
            size = len(message.get("body", b""))
            taken[0] += size
            self._held += size
            if taken[0] > self._settings.max_body:
                raise _Refused(self._too_large())
            if self._held > self._settings.max_held:
                raise _Refused(self._too_full())
            whole[0] = not message.get("more_body", False)
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0], begun[0] = message["status"], True
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self._app(scope, counted, noted)
            else:
                await refusal(scope, receive, noted)
        except _Refused as refused:
            if not begun[0]:
                await refused.reply(scope, receive, noted)
        finally:
            self._held -= taken[0]
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            service: Service | None = getattr(self._state, "service", None)
            if service is not None:
                service.metrics.requests.labels(route, str(status[0])).inc()
                service.metrics.latency.observe(seconds)
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "method": scope["method"],
                "path": scope["path"],
                "status": status[0],
                "ms": round(1000 * seconds, 1),
                "bytes": taken[0],
            }
            LOG.info(json.dumps(line))

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        key = self._settings.api_key
        free = scope["path"] in OPEN_ROUTES and scope["method"] in ("GET", "HEAD")
        if key is not None and not free:
            given = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(
                b"Bearer "
            )
            if not hmac.compare_digest(given, key.encode()):
                return JSONResponse(
                    {"detail": "this service needs a key: Authorization: Bearer KEY"},
                    401,
                    {"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._settings.max_body:
            return self._too_large()
        return None

    def _too_late(self) -> JSONResponse:
        detail = f"the body of the request did not come within {self._settings.timeout:g} s"
        return JSONResponse({"detail": detail}, 408, {"Connection": "close"})

    def _too_full(self) -> JSONResponse:
        headers = {"Retry-After": str(RETRY_SECONDS), "Connection": "close"}
        return JSONResponse({"detail": "too many bytes wait"}, 429, headers)

    def _too_large(self) -> JSONResponse:
        return JSONResponse(
            {"detail": f"the request has over {self._settings.max_body:,} bytes"}, 413
        )
