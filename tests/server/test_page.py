"""The chat page in a real browser: what is typed is answered, as it comes, and nothing else is loaded."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.server.serving import serve_process
from vivace.models.model import Model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; apt-get install chromium"),
]

WATCH_GROWTH = """
globalThis.lengths = new Set();
new MutationObserver(() => {
  const text = [...document.querySelectorAll(".reply .text")].at(-1)?.textContent;
  if (text) globalThis.lengths.add(text.length);
}).observe(document, { subtree: true, childList: true, characterData: true });
"""


@dataclass
class Opened:
    """The page, and what it did behind its face."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(model: Model) -> Iterator[str]:
    """Of a server whose answers take a second or two."""
    with serve_process(model, "Hello <b>you</b>. " * 16) as (_, url):
        yield url


@pytest.fixture(params=[1280, 360])
def opened(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": request.param, "height": 700})
    opened = Opened(context.new_page(), address)

    def note_error(message: Any) -> None:
        if message.type == "error":
            opened.errors.append(message.text)

    opened.page.on("console", note_error)
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.on("request", lambda sent: opened.hosts.add(urlsplit(sent.url).netloc))
    opened.page.add_init_script(WATCH_GROWTH)
    opened.page.goto(address)
    yield opened
    context.close()


def ask(page: Page, text: str = "Hello") -> None:
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")


def test_a_message_is_answered_as_the_tokens_come(opened: Opened) -> None:
    page = opened.page
    ask(page)
    sync_api.expect(page.locator(".bar")).to_be_visible(timeout=20_000)
    assert page.locator(".question .text").text_content() == "Hello"
    assert page.locator(".reply .text").text_content() == "Hello <b>you</b>. " * 16
    assert page.evaluate("globalThis.lengths.size") > 5
    assert opened.errors == []
    assert opened.hosts == {urlsplit(opened.url).netloc}


def test_each_reply_shows_where_its_time_went(opened: Opened) -> None:
    page = opened.page
    ask(page)
    sync_api.expect(page.locator(".bar")).to_be_visible(timeout=20_000)
    summary = page.locator(".summary").inner_text()
    assert re.search(r"first token [\d.]+\u2009ms", summary)
    assert re.search(r"[\d.]+\u2009tokens/s", summary)
    timing = page.get_by_role("group", name=re.compile("preprocess .* queue .* prefill .* decode .* flush"))
    timing.focus()
    sync_api.expect(page.locator(".parts")).to_be_visible()
    assert page.locator(".bar span").count() >= 3


def test_escape_stops_an_answer_and_the_conversation_goes_on(opened: Opened) -> None:
    page = opened.page
    ask(page)
    sync_api.expect(page.locator(".reply .text")).not_to_be_empty()
    page.keyboard.press("Escape")
    sync_api.expect(page.get_by_text("Stopped.")).to_be_visible()
    assert len(page.locator(".reply .text").text_content() or "") < len("Hello <b>you</b>. " * 16)
    ask(page, "Again")
    sync_api.expect(page.locator(".reply")).to_have_count(2)
    page.get_by_role("button", name="Stop").click()
    sync_api.expect(page.get_by_text("Stopped.")).to_have_count(2)
    assert opened.errors == []


def test_shift_enter_breaks_the_line_and_a_slash_comes_back(opened: Opened) -> None:
    page = opened.page
    box = page.get_by_label("Message")
    box.fill("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert box.input_value() == "one\ntwo"
    assert page.locator(".turn").count() == 0
    box.evaluate("box => box.blur()")
    page.keyboard.press("/")
    assert box.evaluate("box => document.activeElement === box")
    assert box.input_value() == "one\ntwo"


def test_an_error_says_what_to_do_and_can_be_tried_again(opened: Opened) -> None:
    page = opened.page
    ask(page, "x" * 1000)
    alert = page.get_by_role("alert")
    sync_api.expect(alert).to_contain_text("Shorten the prompt")
    ask(page)
    sync_api.expect(page.locator(".bar")).to_be_visible(timeout=20_000)
    assert alert.count() == 0
    page.route("**/v1/**", lambda route: route.abort())
    ask(page)
    sync_api.expect(alert).to_contain_text("cannot be reached")
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try again").click()
    sync_api.expect(page.locator(".reply")).to_have_count(2)
    sync_api.expect(page.locator(".reply .text").last).not_to_be_empty()


def test_starting_over_forgets_the_conversation(opened: Opened) -> None:
    page = opened.page
    ask(page)
    sync_api.expect(page.locator(".reply .text")).not_to_be_empty()
    page.get_by_role("button", name="Start over").click()
    assert page.locator(".turn").count() == 0
    ask(page, "Again")
    sync_api.expect(page.locator(".bar")).to_be_visible(timeout=20_000)
    assert page.locator(".turn").count() == 2


def test_nothing_is_wider_than_the_window(opened: Opened) -> None:
    page = opened.page
    ask(page, "x" * 200)
    sync_api.expect(page.locator(".bar")).to_be_visible(timeout=20_000)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_theme_can_be_switched_and_stays(opened: Opened) -> None:
    page = opened.page
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Use dark").click()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    sync_api.expect(page.get_by_role("button", name="Use light")).to_be_visible()
    assert page.evaluate(background) == dark
