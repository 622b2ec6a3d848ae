"""The pages can be read and used by everyone: by keyboard, by ear, on a phone, in the dark, in Chinese."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.apps.support.page.conftest import Open, Shop

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser

SMALL = """() => [...document.querySelectorAll("button, input:not([type=radio], [type=checkbox]), select, textarea, a.button")]
  .filter((node) => node.checkVisibility() && !node.classList.contains("cite") && !node.classList.contains("unseen"))
  .map((node) => [node.getAttribute("aria-label") ?? node.textContent, node.getBoundingClientRect()])
  .filter(([, { width, height }]) => width < 40 || height < 40)
  .map(([name, { width, height }]) => `${name} ${width}×${height}`)"""


def test_a_whole_conversation_goes_by_keyboard(open_page: Open) -> None:
    opened = open_page()
    page, keys = opened.page, opened.page.keyboard
    expect(page.locator("#greeting")).not_to_be_empty()
    keys.type("How many days do I have")
    keys.press("Shift+Enter")
    keys.type("to return an item?")
    keys.press("Enter")
    expect(page.locator(".reply[aria-busy=false]")).to_have_count(1)
    assert page.locator(".question .text").text_content() == "How many days do I have\nto return an item?"
    page.locator(".cite").first.focus()
    keys.press("Enter")
    expect(page.locator(".passage")).to_be_focused()
    keys.press("/")
    expect(page.locator("#prompt")).to_be_focused()


def test_an_answer_is_read_out_once(open_page: Open, shop: Shop) -> None:
    opened = open_page()
    opened.page.evaluate("""() => {
      globalThis.heard = [];
      new MutationObserver((changes) => changes.forEach(({ addedNodes }) =>
        addedNodes.forEach((node) => globalThis.heard.push(node.textContent))))
        .observe(document.querySelector("[aria-live=polite]"), { childList: true });
    }""")
    opened.ask()
    opened.wait_for("globalThis.heard.join('').includes('delivery')")
    assert opened.page.evaluate("globalThis.heard.join('')").count("30 days of delivery") == 1
    opened.page.reload()
    expect(opened.page.locator(".reply[aria-busy=false]")).to_have_count(1)
    assert opened.page.locator("#announcer").inner_text() == ""


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize("path", ["/", "/agent", "/admin", "/reset#token"])
def test_nothing_is_wider_or_smaller_than_a_phone_allows(open_page: Open, path: str, locale: str) -> None:
    opened = open_page(path, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True, locale=locale)
    if path == "/":
        opened.ask()
        opened.send("word " * 12 + "x" * 60)
        expect(opened.page.locator(".question")).to_have_count(2)
        opened.page.locator("#open-menu").click()
        assert opened.page.evaluate(SMALL) == []
        opened.page.locator("#close-menu").click()
    elif path.startswith("/reset"):
        expect(opened.page.locator("[name=again]")).to_be_visible()
    else:
        opened.page.locator("[name=email]").fill("admin0@example.com")
        opened.page.locator("[name=password]").fill("correct horse battery")
        opened.page.keyboard.press("Enter")
        opened.page.locator("#inside").wait_for()
    assert opened.page.evaluate("document.scrollingElement.scrollWidth") <= 360
    assert opened.page.evaluate(SMALL) == []


@pytest.mark.parametrize("path", ["/", "/agent", "/admin", "/reset#token"])
def test_the_page_follows_the_system_into_the_dark(open_page: Open, path: str) -> None:
    shades = [
        open_page(path, color_scheme=scheme).page.evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    assert shades == ["rgb(253, 253, 252)", "rgb(19, 20, 22)"]


def test_both_languages_say_the_same_things(open_page: Open) -> None:
    english, chinese = open_page().page.evaluate("""async () => {
      const { WORDS } = await import("/static/words.js");
      const marks = (text) => text.match(/\\{\\w+\\}/g)?.sort().join() ?? "";
      const list = (words) => Object.entries(words).map(([key, text]) => `${key} ${marks(text)}`).sort();
      return [WORDS.en, WORDS.zh].map(list);
    }""")
    assert english == chinese


@contextmanager
def site(address: str, body: str) -> Iterator[None]:
    """Another site, with a page that embeds the chat."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", urlsplit(address).port or 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_one_script_tag_puts_the_chat_into_another_site(open_page: Open, shop: Shop) -> None:
    body = f'<!doctype html><link rel="icon" href="data:,"><h1>Other</h1><script src="{shop.url}/embed.js" data-label="Need help?"></script>'
    with site(shop.site, body):
        opened = open_page(f"{shop.site}/")
        opened.hosts.clear()
        button = opened.page.get_by_role("button", name="Need help?")
        button.click()
        frame = opened.page.frame_locator("iframe")
        expect(frame.locator("#greeting")).not_to_be_empty()
        frame.locator("#prompt").fill("How many days do I have to return an item?")
        frame.locator("#prompt").press("Enter")
        expect(frame.locator(".reply[aria-busy=false] .prose").first).to_contain_text("30 days")
        frame.get_by_role("button", name="Close").click()
        expect(opened.page.locator("iframe")).to_be_hidden()
        expect(button).to_be_focused()
        opened.page.reload()
        button.click()
        expect(frame.locator(".question .text")).to_contain_text("How many days")
    assert opened.hosts <= {urlsplit(shop.url).netloc, urlsplit(shop.site).netloc}
    opened.hosts.clear()
