"""What stands before the HTTP application: rate, token, size and time of a request; its log line; security headers."""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Any

import structlog
from limits import parse as parse_rate
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistants.serving.limits import STATUS, RefusedError
from assistants.serving.service import Service
from frames.errors import FramefillError

log = structlog.get_logger("framefill")

#: Key of the ASGI scope under which a handler leaves what the log line should tell.
TOLD = "framefill"
#: Paths that probes and browsers read; they need no token, and nothing of a client's is in them.
OPEN = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
STATIC = "/static/"
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def error_response(error: FramefillError) -> JSONResponse:
    """An error as JSON, with the HTTP status of its code."""
    status = STATUS.get(error.code, 422)
    headers = {429: {"retry-after": "1"}, 503: {"retry-after": "1"}, 401: {"www-authenticate": "Bearer"}}.get(
        status, {}
    )
    if status in (408, 413):  # the rest of the body is not read, so the connection is of no more use
        headers = {"connection": "close"}
    told = {"code": error.code, "what": error.what, "where": error.where, "remedy": error.remedy}
    return JSONResponse({"error": told}, status, headers)


class Guard:
    """ASGI middleware.

    Args:
        app: the application.
        service: whose limits are kept.
        token: that a client must bear; None asks for none.
        paths: of the application; the metrics of all others are counted together.
    """

    def __init__(self, app: ASGIApp, service: Service, token: str | None, paths: frozenset[str]) -> None:
        self._app, self._service, self._paths = app, service, paths
        self._token = None if token is None else token.encode()
        self._rate = None if service.limits.rate is None else parse_rate(service.limits.rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500
        told: dict[str, Any] = {}
        scope[TOLD] = told

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self._service.draining:
                    headers["connection"] = "close"
            await send(message)

        try:
            try:
                await self._check(scope)
                body = await self._body(scope, receive)
            except RefusedError as error:
                await error_response(error)(scope, receive, sending)
            else:
                await self._app(scope, _replay(body, receive), sending)
        finally:
            seconds, path = time.perf_counter() - began, scope["path"]
            label = path if path in self._paths else "other"
            self._service.metrics.requests.labels(label, str(status)).inc()
            self._service.metrics.seconds.labels(label).observe(seconds)
            log.info("request", method=scope["method"], path=label, status=status, ms=round(1000 * seconds, 2), **told)

    async def _check(self, scope: Scope) -> None:
        path = scope["path"]
        if path in OPEN or path.startswith(STATIC):
            return
        client = (scope.get("client") or ("local", 0))[0]
        if self._rate is not None and not await self._limiter.hit(self._rate, client):
            raise RefusedError("E524", f"more than {self._service.limits.rate} requests.", remedy="Send fewer.")
        if self._token is not None:
            scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
            # Starlette reads a header as Latin-1. Browsers write it so, most other clients in UTF-8.
            forms = (given.encode("latin-1").strip(), given.encode().strip())
            # Compared in a time that does not tell how much of it was right.
            right = any([hmac.compare_digest(form, self._token) for form in forms])
            if not right or scheme.lower() != "bearer":
                raise RefusedError("E527", "the token is missing or wrong.", remedy="Send Authorization: Bearer TOKEN.")

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, read within the time and the size of a request."""
        limits = self._service.limits
        length = Headers(scope=scope).get("content-length", "0")
        parts: list[bytes] = []
        size = int(length) if length.isdecimal() else 0
        try:
            async with asyncio.timeout(limits.timeout):
                more = size <= limits.body
                size = 0 if more else size
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False) and size <= limits.body
        except TimeoutError:
            raise RefusedError(
                "E532", f"the body did not come within {limits.timeout:g} seconds.", remedy="Send it at once."
            ) from None
        if size > limits.body:
            raise RefusedError("E523", f"a body of {size} bytes or more.", remedy=f"Send at most {limits.body}.")
        return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the application a body that was read already, and then what else the connection tells."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
