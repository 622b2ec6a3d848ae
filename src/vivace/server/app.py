"""The server as a whole: routes, page and engine thread put together, and run as a process.

Knows how to start and to stop; what is answered is the routes' affair.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vivace import listening
from vivace.budget import NO_BUDGET, Budget
from vivace.engine.bridge import EngineThread
from vivace.errors import ConfigError, RequestError, VivaceError
from vivace.models.model import Model
from vivace.server.access import Access
from vivace.server.cache import ResponseCache
from vivace.server.docs import build_docs_routes
from vivace.server.drift import CertifiedLimit, DriftWatch
from vivace.server.log import LogFormat, LogLevel, logging_to
from vivace.server.metrics import Metrics
from vivace.server.routes import (
    Service,
    build_routes,
    drop_reply,
    report_bug,
    report_error,
    report_http_error,
)
from vivace.server.sharing import Sharing
from vivace.server.tracing import Tracing, find_tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

SWITCH_S = 0.0005
"""How long a thread of Python may keep another waiting: the engine's would else wait 5 ms for the event loop."""
PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_STATIC = (Path(__file__).parents[1] / "pages", Path(__file__).parent / "static")
"""What all of vivace's pages share, and the chat page's own."""
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where to listen, and the limits of the HTTP side. Raises `ConfigError` when a value is out of its range."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    max_body_bytes: int = 4 * 2**20
    prompt_threads: int = 2
    """Threads that run templates and the tokenizer."""
    budget: Budget = NO_BUDGET
    """Of every request that does not ask for less."""
    stuck_after_ms: float = 10_000.0
    """A step that takes longer makes /health red."""
    drain_ms: float = 10_000.0
    """How long answers under way may take to finish when the server stops; then their readers are told."""
    keep_alive_s: int = 75
    """An idle connection is closed after this long."""
    api_keys: tuple[str, ...] = ()
    """Requests to the API need one of these, where there are any."""
    log_format: LogFormat = "text"
    log_level: LogLevel = "warning"
    """`info` has a line for each request."""
    response_cache_bytes: int = 0
    """Room for answers to deterministic requests, which are then told again instead of computed; 0 keeps none."""
    response_cache_ttl_s: float = 3600.0
    """How long such an answer is told."""
    coalesce: bool = False
    """Equal deterministic requests under way share one generation. With a response cache they always do."""
    share_responses: bool = False
    """Callers with different API keys share what was answered."""
    isolate_prefixes: bool = False
    """Callers with different API keys share no prefix, so that none can tell from times what another one sent."""
    certified: tuple[CertifiedLimit, ...] = ()
    """What answers are watched against."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"The port is {self.port}; it must be 0 (any free one) to 65535.")
        for name in ("max_body_bytes", "prompt_threads", "keep_alive_s"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("stuck_after_ms", "drain_ms"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more.")
        if self.response_cache_bytes < 0 or not self.response_cache_ttl_s > 0:
            raise ConfigError("The response cache needs 0 or more bytes, and a time to live above 0 seconds.")
        if self.isolate_prefixes and not self.api_keys:
            raise ConfigError("Prefixes are isolated by API key, and there is none. Give --api-key or --api-key-file.")
        if not all(key.strip() == key and key.isascii() and key for key in self.api_keys):
            raise ConfigError("An API key is empty, has a space at an end, or goes beyond ASCII. Change it.")


def build_app(model: Model, bridge: EngineThread, config: ServerConfig, tracer: Tracer | None = None) -> Starlette:
    """The ASGI application. Its lifespan starts the bridge, and closes it. With a tracer, requests leave spans."""
    pool = ThreadPoolExecutor(config.prompt_threads, thread_name_prefix="prompt")
    sharing = _build_sharing(config, pool)
    metrics = Metrics(bridge, sharing, DriftWatch(config.certified) if config.certified else None)
    service = Service(
        model,
        bridge,
        pool,
        metrics,
        config.max_body_bytes,
        config.budget,
        config.stuck_after_ms,
        int(time.time()),
        sharing,
        config.share_responses,
        not config.isolate_prefixes,
    )

    traced = [] if tracer is None else [Middleware(Tracing, tracer, model.name)]

    @asynccontextmanager
    async def run_engine(app: Starlette) -> AsyncIterator[None]:
        bridge.start()
        pool.submit(_warm_up, model)
        try:
            yield
        finally:
            await asyncio.to_thread(bridge.close, drain_ms=0.0)
            pool.shutdown(wait=False, cancel_futures=True)

    return Starlette(
        routes=build_routes(service) + build_docs_routes(model.name, bool(config.api_keys)) + _page_routes(),
        middleware=[*traced, Middleware(Access, config.api_keys, metrics.count)],
        lifespan=run_engine,
        exception_handlers={
            VivaceError: report_error,
            HTTPException: report_http_error,
            ClientDisconnect: drop_reply,
            Exception: report_bug,
        },
    )


def _build_sharing(config: ServerConfig, pool: Executor) -> Sharing | None:
    if not config.response_cache_bytes:
        return Sharing(None, pool) if config.coalesce else None
    return Sharing(ResponseCache(config.response_cache_bytes, config.response_cache_ttl_s), pool)


def _warm_up(model: Model) -> None:
    """Compile the chat template before the first request has to wait for it."""
    with suppress(RequestError):
        model.tokenizer.encode_chat([{"role": "user", "content": "."}])


def _page_routes() -> list[Route]:
    files = {
        file.name: partial(_send_file, *_read_file(file))
        for folder in _STATIC
        for file in folder.iterdir()
        if file.is_file()
    }
    return [Route("/", files["index.html"]), *(Route(f"/static/{name}", send) for name, send in files.items())]


def _read_file(file: Path) -> tuple[bytes, str, str]:
    content = file.read_bytes()
    return content, _MEDIA_TYPES[file.suffix], f'"{hashlib.sha256(content).hexdigest()[:16]}"'


async def _send_file(content: bytes, media_type: str, etag: str, request: Request) -> Response:
    headers = PAGE_HEADERS | {"etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


def listen(config: ServerConfig) -> socket.socket:
    """A socket bound to the configured address. Raises `ConfigError` when that cannot be had."""
    remedy = "Choose another with --port (0 takes a free one) or --host, or stop the program that holds it."
    return listening.listen(config.host, config.port, remedy)


def serve(
    model: Model, bridge: EngineThread, config: ServerConfig, announce: Callable[[str], None] | None = None
) -> None:
    """Listen and answer until SIGINT or SIGTERM; answers under way finish, or their readers are told.

    `announce` is called once with the server's URL when it can be reached. Call from the main thread.
    Raises `ConfigError` when the address cannot be had, or what the environment asks of OpenTelemetry.
    """
    tracer = find_tracer(os.environ)
    sock = listen(config)
    settings = uvicorn.Config(
        build_app(model, bridge, config, tracer),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=config.keep_alive_s,
        timeout_graceful_shutdown=int(config.drain_ms / 1000) + 5,
    )
    server = _Server(
        settings,
        partial(bridge.close, drain_ms=config.drain_ms),
        partial(announce or _stay_silent, listening.find_url(sock)),
    )
    with (
        closing(sock),
        listening.handling_signals(server.handle_exit, SWITCH_S),
        logging_to(None, config.log_format, config.log_level),
    ):
        server.run(sockets=[sock])


class _Server(uvicorn.Server):
    """A uvicorn server that says when it is up, and drains the engine while it waits for open connections."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None], announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.ensure_future(asyncio.to_thread(self._drain))
        await super().shutdown(sockets)
        await draining


def _stay_silent(url: str) -> None:
    pass
