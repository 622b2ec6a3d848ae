"""A real browser on a real server whose model says what a test wants it to."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from queue import Queue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import uvicorn

from tests.server.scripted import END_OF_TURN, ScriptedRunner
from tests.server.serving import Running, serving
from vivace.models.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Served:
    """A scripted server on a socket of its own."""

    url: str
    runner: ScriptedRunner

    def script(self, text: str) -> None:
        """What every answer says from now on."""
        self.runner.script = (*text.encode(), END_OF_TURN)


@dataclass
class Opened:
    """The page, and what it did behind its face."""

    page: Page
    server: Served
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    requests: list[Request] = field(default_factory=list)
    """Its chat requests."""

    def fill_and_send(self, text: str = "Hello") -> None:
        self.page.get_by_role("textbox", name="Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def ask(self, text: str = "Hello") -> None:
        """Send a message, and wait until its answer is whole, times included."""
        before = self.page.locator(".timing.whole").count()
        self.fill_and_send(text)
        self.wait_for(f"document.querySelectorAll('.timing.whole').length > {before}")

    def wait_for(self, expression: str) -> None:
        """Return once it is true in the page. (Playwright's own way evals in the page, which its policy forbids.)"""
        deadline = time.monotonic() + 20
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"still not true: {expression}"
            self.page.wait_for_timeout(10)

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of its chat requests."""
        return [request.post_data_json for request in self.requests]

    @property
    def reply(self) -> Locator:
        """The text of the last answer."""
        return self.page.locator(".reply .prose").last


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed with its module: while it is open, no other event loop may run in this thread."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path; apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def scripted_server(model: Model) -> Iterator[Served]:
    ready: Queue[tuple[Running, uvicorn.Server, int]] = Queue()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(model, ready)), daemon=True)
    thread.start()
    running, http, port = ready.get(timeout=30)
    yield Served(f"http://127.0.0.1:{port}", running.runner)
    running.runner.open_gate()
    http.should_exit = True
    thread.join(20)


async def _serve(model: Model, ready: Queue[tuple[Running, uvicorn.Server, int]]) -> None:
    async with serving(model) as running, _listening(running) as (http, sock):
        ready.put((running, http, sock.getsockname()[1]))
        await http.serve(sockets=[sock])


@asynccontextmanager
async def _listening(running: Running) -> AsyncIterator[tuple[uvicorn.Server, socket.socket]]:
    settings = uvicorn.Config(running.app, http="httptools", ws="none", lifespan="off", log_level="warning")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield uvicorn.Server(settings), sock


@pytest.fixture
def server(scripted_server: Served) -> Iterator[Served]:
    scripted_server.script("Hello there.")
    yield scripted_server
    scripted_server.runner.open_gate()


@pytest.fixture
def open_page(browser: Browser, server: Served) -> Iterator[Open]:
    """Opens the page in a browser that has never seen it. Takes what Playwright's `new_context` takes, and `before`:
    a script run before the page's own."""
    contexts: list[BrowserContext] = []

    def open_it(*, before: str = "", url: str = server.url, **options: Any) -> Opened:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 700}} | options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        return watch(context.new_page(), server, url, before)

    yield open_it
    for context in contexts:
        context.close()


def watch(page: Page, server: Served, url: str, before: str) -> Opened:
    opened = Opened(page, server)

    def note_message(message: Any) -> None:
        if message.type in ("error", "warning"):
            opened.errors.append(message.text)

    def note_request(request: Any) -> None:
        opened.hosts.add(urlsplit(request.url).netloc)
        if request.url.endswith("/v1/chat/completions"):
            opened.requests.append(request)

    page.on("console", note_message)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("request", note_request)
    if before:
        page.add_init_script(before)
    page.goto(url)
    return opened


@pytest.fixture
def opened(open_page: Open) -> Opened:
    return open_page()
