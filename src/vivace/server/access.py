"""Who may ask, and what was asked how often: keys, counts and a log line for each request, around the whole app.

Keys are compared in constant time. Log lines hold paths, figures and times, and nothing of what was asked or answered.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace.server.replies import ErrorBody, ErrorReply, encode
from vivace.server.routes import CALLER, TOLD

GUARDED = ("/v1/", "/tokenize", "/metrics")
"""Paths that need a key, where there is one; the page, the documentation and /health do not."""

_ROUTES = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/models",
        "/tokenize",
        "/health",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/",
    }
)

_logger = logging.getLogger("vivace.requests")


class Access:
    """An ASGI app around another. `count` is told each request's route and status."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], count: Callable[[str, int], None]) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]
        self._secret = secrets.token_bytes(32)
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        told = scope[TOLD] = {}

        def note(status: int) -> None:
            self._count(find_route(scope["path"]), status)
            if _logger.isEnabledFor(logging.INFO):
                _log(scope, status, 1000 * (time.monotonic() - began), told)

        await watch_status(self._app if self._is_let_in(scope) else _refuse, scope, receive, send, note)

    def _is_let_in(self, scope: Scope) -> bool:
        if not self._digests or not scope["path"].startswith(GUARDED):
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, key = given.partition(b" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        scope[CALLER] = hmac.new(self._secret, digest, hashlib.sha256).hexdigest()
        return kind.lower() == b"bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    """Of equal length for all keys, so that not even that can be measured."""
    return hashlib.sha256(key).digest()


async def watch_status(app: ASGIApp, scope: Scope, receive: Receive, send: Send, note: Callable[[int], None]) -> None:
    """Run an app on one request, and note with which status it ended: 500 if it failed, 499 if nothing was sent since
    the client had gone."""
    status = 499

    async def watch(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await app(scope, receive, watch)
    except Exception:
        status = 500
        raise
    finally:
        note(status)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    message = "The API key is missing or wrong. Send the header Authorization: Bearer KEY, with the server's --api-key."
    body = encode(ErrorReply(ErrorBody(message, "invalid_request_error", code="invalid_api_key")))
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def find_route(path: str) -> str:
    """The route of a path, for counting: callers cannot make up more of them."""
    if path in _ROUTES:
        return path
    return "/v1/models/{name}" if path.startswith("/v1/models/") else "other"


def _log(scope: Scope, status: int, total_ms: float, told: dict[str, Any]) -> None:
    about = {"method": scope["method"][:20], "route": find_route(scope["path"]), "status": status}
    _logger.info("request", extra={"fields": about | {"response_ms": round(total_ms, 3)} | told})
