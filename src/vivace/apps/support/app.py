"""The application as a whole: its parts put together, and run as a process.

Knows how to start and to stop; what is answered is the routes' affair.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vivace import listening
from vivace.apps.support import shops, upkeep
from vivace.apps.support.accounts import Passwords
from vivace.apps.support.answering import Answering
from vivace.apps.support.delivery import Sender
from vivace.apps.support.hub import Hub
from vivace.apps.support.index import PassageIndex
from vivace.apps.support.intent_store import Classifier
from vivace.apps.support.knowledge import KnowledgeBase
from vivace.apps.support.log import logging_to
from vivace.apps.support.model_client import ModelClient
from vivace.apps.support.pages import build_page_routes
from vivace.apps.support.pipeline import Pipeline
from vivace.apps.support.routes_admin import build_admin_routes
from vivace.apps.support.routes_agent import build_agent_routes
from vivace.apps.support.routes_conversations import build_conversation_routes
from vivace.apps.support.routes_people import build_people_routes
from vivace.apps.support.service import Limiters, Service, reply
from vivace.apps.support.sessions import TokenMaker, load_key
from vivace.apps.support.settings import SupportConfig
from vivace.apps.support.store import open_store
from vivace.apps.support.workers import Workers
from vivace.errors import (
    BusyError,
    ConflictError,
    CredentialsError,
    ForbiddenError,
    InvalidError,
    ModelServerError,
    NotFoundError,
    RateLimitedError,
    SignedOutError,
    SupportError,
    TooLargeError,
    VivaceError,
)

SWITCH_S = 0.0005
"""How long a thread may keep the event loop waiting, when both want to run Python."""
KEEP_ALIVE_S = 75
"""An idle connection is closed after this long: customers think."""
PASSWORD_THREADS = 2
STREAM_THREADS = 2
MAX_WAITING_PASSWORDS = 64

STATUSES: dict[type[VivaceError], tuple[int, str]] = {
    InvalidError: (400, "invalid"),
    SignedOutError: (401, "signed_out"),
    CredentialsError: (401, "wrong_credentials"),
    ForbiddenError: (403, "forbidden"),
    NotFoundError: (404, "not_found"),
    ConflictError: (409, "conflict"),
    TooLargeError: (413, "too_large"),
    RateLimitedError: (429, "rate_limited"),
    BusyError: (503, "busy"),
    ModelServerError: (503, "busy"),
}

_logger = logging.getLogger("vivace.support")
_requests = logging.getLogger("vivace.support.requests")


def build_service(
    config: SupportConfig,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.time,
) -> Service:
    """Open everything. Raises `ConfigError`. `transport` stands in for the network to the model server."""
    key = load_key(config.directory)
    store = open_store(config.database_url, config.worker_threads + STREAM_THREADS + 4)
    workers = Workers("work", config.worker_threads, config.max_waiting_work)
    hub, classifier = Hub(), Classifier(store)
    knowledge = KnowledgeBase(store, PassageIndex(config.directory / "index.db"))
    model = ModelClient(config, transport)
    pipeline = Pipeline(config, store, workers, hub, classifier, knowledge, model, clock)
    sender = Sender(store, workers, key, config.allow_private_webhooks, clock)
    return Service(
        config=config,
        key=key,
        store=store,
        workers=workers,
        stream_workers=Workers("stream", STREAM_THREADS, config.max_streams + config.max_waiting_work),
        password_workers=Workers("password", PASSWORD_THREADS, MAX_WAITING_PASSWORDS),
        passwords=Passwords(config.password_cost),
        tokens=TokenMaker(key, config),
        limiters=Limiters(config.rates),
        hub=hub,
        classifier=classifier,
        knowledge=knowledge,
        model=model,
        answering=Answering(pipeline, store, workers, hub, sender.wake, config.answer_wait_s),
        sender=sender,
        streams={},
        clock=clock,
    )


def build_app(service: Service, *, with_upkeep: bool = True) -> Starlette:
    """The ASGI application. Its lifespan takes up what an earlier process left, and closes the service."""

    @asynccontextmanager
    async def run(app: Starlette) -> AsyncIterator[None]:
        await service.workers.run(prepare, service)
        tasks = [asyncio.create_task(service.sender.run())]
        if with_upkeep:
            tasks.append(asyncio.create_task(upkeep.run(service)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await service.answering.stop()
            await service.model.close()
            await asyncio.to_thread(_close, service)

    handlers: dict[Any, Any] = dict.fromkeys((*STATUSES, SupportError), report_error)
    return Starlette(
        routes=[
            *build_people_routes(service),
            *build_conversation_routes(service),
            *build_agent_routes(service),
            *build_admin_routes(service),
            Route("/health", partial(show_health, service)),
            *build_page_routes(service.config.embed_origins),
        ],
        middleware=[Middleware(RequestLog), Middleware(PathGuard)],
        lifespan=run,
        exception_handlers=handlers | {HTTPException: report_http_error, Exception: report_bug},
    )


def prepare(service: Service) -> None:
    """Train the intents, and bring the index into step; on a worker thread."""
    for tenant in service.config.tenants:
        service.classifier.train(tenant)
        service.knowledge.bring_all_into_step(tenant)


def _close(service: Service) -> None:
    service.workers.close()
    service.stream_workers.close()
    service.password_workers.close()
    service.knowledge.close()
    service.store.close()


async def show_health(service: Service, request: Request) -> Response:
    model_server = await service.model.is_up()
    try:
        await service.read(shops.load, service.config.tenants[0])
        store = True
    except Exception:
        store = False
    healthy = model_server and store
    status = {"status": "ok" if healthy else "degraded", "model_server": model_server, "store": store}
    return reply(status, 200 if healthy else 503)


def report_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, VivaceError)
    status, code = next((found for kind, found in STATUSES.items() if isinstance(error, kind)), (500, "internal"))
    shown = reply({"error": {"code": getattr(error, "code", code), "message": str(error)}}, status)
    wait_s = getattr(error, "retry_after_s", 1.0 if status == 503 else None)
    if wait_s is not None:
        shown.headers["retry-after"] = str(max(1, round(wait_s)))
    if status == 401:
        shown.headers["www-authenticate"] = "Bearer"
    return shown


def report_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "invalid"}.get(error.status_code, "invalid")
    message = "There is nothing at this address." if error.status_code == 404 else "This address takes other methods."
    return reply({"error": {"code": code, "message": message}}, error.status_code)


def report_bug(request: Request, error: Exception) -> Response:
    message = "Something went wrong here, and was logged. Try again."
    return reply({"error": {"code": "internal", "message": message}}, 500)


class RequestLog:
    """A line for each request at level info: route, status and time, without ids, addresses or parameters."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _requests.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            endpoint = getattr(scope.get("endpoint"), "__qualname__", "none")
            fields = {"method": scope["method"][:10], "endpoint": endpoint, "status": status}
            _requests.info("request", extra={"fields": fields | {"ms": round(1000 * (time.perf_counter() - began), 1)}})


class PathGuard:
    """What has control characters in its path is nowhere: PostgreSQL takes no NUL, even to say that there is no
    such id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (len(scope["path"]) > 500 or not scope["path"].isprintable()):
            await report_http_error(Request(scope), HTTPException(404))(scope, receive, send)
            return
        await self._app(scope, receive, send)


def listen(config: SupportConfig) -> socket.socket:
    """A socket bound to the configured address. Raises `ConfigError` when that cannot be had."""
    remedy = "Choose another port (0 takes a free one), or stop the program that holds it."
    return listening.listen(config.host, config.port, remedy)


def serve(config: SupportConfig, announce: Callable[[str], None]) -> None:
    """Listen and answer until SIGINT or SIGTERM. `announce` is called once with the URL when it can be reached.

    Call from the main thread. Raises `ConfigError` when the address or the database cannot be had.
    """
    with closing(listen(config)) as sock:
        settings = uvicorn.Config(
            build_app(build_service(config)),
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=2,
        )
        server = _Server(settings, partial(announce, listening.find_url(sock)))
        with (
            listening.handling_signals(server.handle_exit, SWITCH_S),
            logging_to(None, config.log_format, config.log_level),
        ):
            server.run(sockets=[sock])


class _Server(uvicorn.Server):
    """A uvicorn server that says when it is up."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()
