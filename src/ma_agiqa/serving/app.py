"""The routes of the service and their status codes.

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

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import generate_latest
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartException

from ma_agiqa.errors import UsageError
from ma_agiqa.images import FORMATS, format_of
from ma_agiqa.scorer import Scorer
from ma_agiqa.serving import contracts
from ma_agiqa.serving.gate import Gate
from ma_agiqa.serving.service import MOST_IMAGES, Service, Settings, too_many
from ma_agiqa.types import Score
from ma_agiqa.version import __version__

PAGE = Path(__file__).with_name("page.html")


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
    app.add_middleware(Gate, settings=settings, state=app.state)
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


async def _of_form(request: Request) -> tuple[list[tuple[str, bytes]], bool]:
    try:
        async with request.form(max_files=MOST_IMAGES, max_fields=8) as form:
            explain = str(form.get("explain", "false")).lower() in ("true", "1", "on")
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            named = [(file.filename or "image", await file.read()) for file in files]
    except (MultiPartException, StarletteHTTPException, UnicodeError) as error:
        if "Too many files" in str(error):  # nothing but its words sets this one apart
            raise too_many(request.app.state.service.settings) from error
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
