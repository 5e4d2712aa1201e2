"""Before every route: the key, the size and time of the body, the count and the log of requests.

It speaks ASGI and not FastAPI, since a body has to be refused while it comes.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse

from ma_agiqa.serving.batcher import RETRY_SECONDS
from ma_agiqa.serving.service import Service, Settings

LOG = logging.getLogger("ma_agiqa.serving")
OPEN_ROUTES = frozenset({"/", "/health", "/v2/health/live", "/v2/health/ready"})
"""Routes that need no key: the page itself, and what an orchestrator polls."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _Refused(Exception):
    """The body is not taken; the argument is the reply."""

    def __init__(self, reply: JSONResponse) -> None:
        self.reply = reply


class Gate:
    """ASGI middleware around the service in `state.service`."""

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
