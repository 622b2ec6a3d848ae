"""Real browsers on a real `vivace support` process, whose model server says what a test wants it to."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.apps.support.databases import find_port
from tests.apps.support.people import PASSWORD, fill_shop, make_config
from tests.apps.support.scripted_model import ScriptedModel
from tests.server.page.conftest import browser
from vivace.apps.support import accounts
from vivace.apps.support.app import build_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page

__all__ = ["browser"]

WAIT_MS = 60_000
STAFF = {"admin": "Ada Admin", "agent": "Sam Agent", "second": "Lee Agent"}
ACCOUNTS = 20
"""Of each: whoever signs in too often has to wait."""


@dataclass
class ModelServer:
    """A scripted model behind a socket, on a thread of its own."""

    url: str
    model: ScriptedModel
    loop: asyncio.AbstractEventLoop

    def say(self, text: str) -> None:
        self.model.say(text)

    def hold(self) -> None:
        """Every answer waits after its first piece."""
        self._call(self.model.hold)

    def let_go(self) -> None:
        self._call(self.model.let_go)

    def _call(self, change: Callable[[], None]) -> None:
        """On the model's own event loop, and done when this returns."""

        async def run() -> None:
            change()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(WAIT_MS / 1000)


@contextmanager
def serving_model() -> Iterator[ModelServer]:
    model, ready = ScriptedModel(), Queue[tuple[int, asyncio.AbstractEventLoop]]()

    async def pass_on(request: Request) -> Response:
        asked = httpx.Request(request.method, str(request.url), content=await request.body())
        reply = await model.handle_async_request(asked)
        headers = {"content-type": reply.headers.get("content-type", "text/event-stream")}
        return StreamingResponse(_read(reply), reply.status_code, headers)

    async def serve() -> None:
        await server.serve()

    app = Starlette(routes=[Route("/v1/{path:path}", pass_on, methods=["GET", "POST"])])
    settings = uvicorn.Config(app, port=0, http="httptools", ws="none", lifespan="off", log_config=None)
    server = _Announcing(settings, ready)
    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    port, loop = ready.get(timeout=WAIT_MS / 1000)
    yield ModelServer(f"http://127.0.0.1:{port}", model, loop)
    server.should_exit = True
    thread.join(20)


async def _read(reply: httpx.Response) -> AsyncIterator[bytes]:
    if reply.is_stream_consumed:
        yield reply.content
        return
    async for piece in reply.aiter_raw():
        yield piece


class _Announcing(uvicorn.Server):
    """Says which port it got."""

    def __init__(self, config: uvicorn.Config, ready: Queue[tuple[int, asyncio.AbstractEventLoop]]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._ready.put((self.servers[0].sockets[0].getsockname()[1], asyncio.get_running_loop()))


@dataclass
class Shop:
    """The application's process, and the model server it asks."""

    url: str
    model: ModelServer
    process: subprocess.Popen[str]
    site: str
    """Where the chat may be embedded."""


@pytest.fixture(scope="module")
def shop_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("support")
    _prepare(directory)
    site = f"http://127.0.0.1:{find_port()}"
    with serving_model() as model, _application(directory, model.url, site) as (process, url):
        yield Shop(url, model, process, site)


def _prepare(directory: Path) -> None:
    """The small shop of the other tests, and its staff."""
    service = build_service(make_config(directory))
    fill_shop(service)
    tenant, password_hash = service.config.tenants[0], service.passwords.hash(PASSWORD)
    for name, shown in STAFF.items():
        role = "admin" if name == "admin" else "agent"
        for number in range(ACCOUNTS):
            email = f"{name}{number}@example.com"
            service.store.write(accounts.create, tenant, role, shown, "en", service.clock(), email, password_hash)
    service.workers.close()
    service.stream_workers.close()
    service.password_workers.close()
    service.knowledge.close()
    service.store.close()


@contextmanager
def _application(directory: Path, server: str, embed_origin: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Each browser says where it comes from, so that their rates are counted apart."""
    options = ["--directory", str(directory), "--server", server, "--port", "0", "--trusted-proxy", "127.0.0.1"]
    command = [sys.executable, "-m", "vivace", "support", *options, "--embed-origin", embed_origin]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--log-format", "json"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            assert told["event"] == "support"
            yield process, told["url"]
        finally:
            process.kill()


@pytest.fixture
def shop(shop_process: Shop) -> Iterator[Shop]:
    shop_process.model.say("You can return any item within 30 days of delivery.")
    yield shop_process
    shop_process.model.let_go()


@dataclass
class Opened:
    """A page, and what it did behind its face."""

    page: Page
    shop: Shop
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def send(self, text: str) -> None:
        """In the customer's chat, or an agent's reply."""
        self.page.locator("#prompt").fill(text)
        self.page.locator("#prompt").press("Enter")

    def ask(self, text: str = "How many days do I have to return an item?") -> Locator:
        """The reply, once it is whole."""
        before = self.page.locator(".reply[aria-busy=false]").count()
        self.send(text)
        reply = self.page.locator(".reply[aria-busy=false]").nth(before)
        reply.wait_for()
        return reply

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def sign_in(self, name: str) -> Opened:
        """One of the staff, or any address."""
        email = name if "@" in name else f"{name}{next(_numbers) % ACCOUNTS}@example.com"
        self.page.get_by_label("E-mail").fill(email)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.locator("#inside").wait_for()
        return self

    def wait_for(self, expression: str) -> None:
        """Return once it is true in the page. (Playwright's own way evals in the page, which its policy forbids.)"""
        deadline = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"still not true: {expression}"
            self.page.wait_for_timeout(20)


Open = Callable[..., Opened]
_addresses, _numbers = itertools.count(1), itertools.count()


@pytest.fixture
def open_page(browser: Browser, shop: Shop) -> Iterator[Open]:
    """Opens a page in a browser that has never seen it. Takes what Playwright's `new_context` takes, and `context` to
    open it beside another page of the same browser. A page that complained fails the test, unless it may."""
    contexts: list[BrowserContext] = []
    pages: list[Opened] = []

    def open_it(path: str = "/", *, context: BrowserContext | None = None, **options: Any) -> Opened:
        if context is None:
            number = next(_addresses)
            headers = {"x-forwarded-for": f"10.0.{number // 250}.{number % 250 + 1}"}
            context = browser.new_context(
                **{"viewport": {"width": 1280, "height": 800}, "extra_http_headers": headers} | options
            )
            context.set_default_timeout(WAIT_MS)
            contexts.append(context)
        opened = watch(context.new_page(), shop)
        opened.page.goto(path if "://" in path else shop.url + path)
        pages.append(opened)
        return opened

    yield open_it
    for context in contexts:
        context.close()
    for opened in pages:
        assert opened.errors == []
        assert opened.hosts <= {urlsplit(shop.url).netloc, ""}


def watch(page: Page, shop: Shop) -> Opened:
    opened = Opened(page, shop)

    def note_message(message: ConsoleMessage) -> None:
        refused = message.text.startswith("Failed to load resource")  # a status that the page has to deal with
        if message.type in ("error", "warning") and not refused:
            opened.errors.append(message.text)

    page.on("console", note_message)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("request", lambda request: opened.hosts.add(urlsplit(request.url).netloc))
    return opened
