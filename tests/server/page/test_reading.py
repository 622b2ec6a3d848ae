"""The page can be read and used by everyone: by keyboard, by ear, on a phone, in the dark, in Chinese."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.page.conftest import Open, Opened

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = sync_api.expect

pytestmark = pytest.mark.browser

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}

WIDE = "word " * 12 + "x" * 60 + "\n```py\n" + "y" * 80 + "\n```\n|a|b|\n|-|-|\n|" + "z" * 30 + "|" + "w" * 30 + "|"

CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (color) => rgb(color)
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const probe = document.createElement("i");
  document.body.append(probe);
  const read = (name) => {
    probe.style.color = `var(--${name})`;
    return luminance(getComputedStyle(probe).color);
  };
  const texts = ["ink", "quiet", "accent", "kept", "at-risk", "missed"];
  const pairs = texts.flatMap((over) => [[over, "paper"], [over, "tint"]]);
  const found = [...pairs, ["on-accent", "accent"]].map(([over, under]) => {
    const [a, b] = [read(over), read(under)].sort((x, y) => y - x);
    return [`${over} on ${under}`, (a + 0.05) / (b + 0.05)];
  });
  probe.remove();
  return Object.fromEntries(found);
}"""


def background(opened: Opened) -> str:
    color: str = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    return color


# By keyboard


def test_a_whole_conversation_goes_by_keyboard(opened: Opened) -> None:
    page, keys = opened.page, opened.page.keyboard
    keys.type("One")
    keys.press("Shift+Enter")
    keys.type("more")
    keys.press("Enter")
    expect(page.locator(".timing.whole")).to_have_count(1)
    assert page.locator(".question .text").text_content() == "One\nmore"
    keys.press("ArrowUp")
    expect(page.get_by_label("Edit the message")).to_be_focused()
    keys.press("Escape")
    expect(page.get_by_label("Edit the message")).to_have_count(0)
    keys.press("/")
    expect(page.locator("#prompt")).to_be_focused()
    keys.press("ArrowUp")
    keys.press("End")
    keys.type("!")
    keys.press("Enter")
    expect(page.locator(".question .text")).to_have_text("One\nmore!")
    expect(page.locator("#prompt")).to_be_focused()
    expect(page.locator(".timing.whole")).to_have_count(1)


def test_a_slash_in_a_message_is_a_slash(opened: Opened) -> None:
    opened.page.keyboard.type("and/or")
    assert opened.page.locator("#prompt").input_value() == "and/or"


def test_a_message_of_nothing_is_not_sent(opened: Opened) -> None:
    opened.fill_and_send("  \n ")
    assert opened.page.locator(".turn").count() == 0


def test_enter_that_ends_a_composition_does_not_send(opened: Opened) -> None:
    box = opened.page.locator("#prompt")
    box.fill("nihao")
    box.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    assert opened.page.locator(".turn").count() == 0


def test_every_control_is_reached_by_tab_and_shows_it(opened: Opened) -> None:
    opened.ask()
    page = opened.page
    page.reload()
    page.evaluate("document.querySelector('#new').focus()")
    page.keyboard.press("Shift+Tab")
    reached: set[str] = set()
    describe = """() => {
      const node = document.activeElement;
      const styles = [node, ...node.querySelectorAll(".bar")].map((one) => getComputedStyle(one));
      const shows = ({ outlineStyle, outlineWidth }) => outlineStyle !== "none" && outlineWidth !== "0px";
      const outlined = styles.some(shows);
      return [node.getAttribute("aria-label") ?? node.textContent, outlined];
    }"""
    for _ in range(30):
        page.keyboard.press("Tab")
        name, outlined = page.evaluate(describe)
        if page.evaluate("document.activeElement === document.body"):
            break
        assert outlined, name
        reached.add(name)
    expected = {"New conversation", "Hello", "Rename", "Delete", "Use dark", "中文", "Settings", "Copy", "Edit"}
    assert expected | {"Regenerate", "Message"} <= reached


def test_the_drawer_opens_and_closes_by_keyboard(open_page: Open) -> None:
    opened = open_page(viewport={"width": 360, "height": 640})
    opened.ask()
    menu = opened.button("Conversations")
    menu.focus()
    opened.page.keyboard.press("Enter")
    expect(opened.page.locator("#conversations .name")).to_be_focused()
    opened.page.keyboard.press("Escape")
    expect(opened.page.locator("#sidebar")).to_be_hidden()
    expect(menu).to_be_focused()


# By ear


def test_an_answer_is_read_out_once_sentence_by_sentence(opened: Opened) -> None:
    opened.server.script("One two. Three *four*. Five")
    opened.server.runner.hold_after(12)
    opened.page.evaluate("""() => {
      globalThis.heard = [];
      new MutationObserver((changes) => changes.forEach(({ addedNodes }) =>
        addedNodes.forEach((node) => globalThis.heard.push(node.textContent))))
        .observe(document.querySelector("[aria-live=polite]"), { childList: true });
    }""")
    opened.fill_and_send()
    opened.wait_for("globalThis.heard.length === 1")
    assert opened.page.evaluate("globalThis.heard[0]") == "One two."
    opened.server.runner.open_gate()
    expect(opened.page.locator(".timing.whole")).to_be_visible()
    assert opened.page.evaluate("globalThis.heard.join('')") == "One two. Three *four*. Five"


# On a phone


@pytest.mark.parametrize("locale", ["en", "zh-CN"])
def test_nothing_is_wider_than_a_phone(open_page: Open, locale: str) -> None:
    opened = open_page(**PHONE, locale=locale)
    page = opened.page
    fits = "document.documentElement.scrollWidth <= innerWidth && innerWidth === 360"
    assert page.evaluate(fits)
    opened.server.script(WIDE)
    page.locator("#prompt").fill("x" * 120)
    page.keyboard.press("Enter")
    expect(page.locator(".timing.whole")).to_be_visible()
    assert page.evaluate(fits)
    page.locator(".timing").focus()
    assert page.evaluate(fits)
    page.locator("#prompt").focus()
    page.keyboard.press("ArrowUp")
    assert page.evaluate(fits)
    page.keyboard.press("Escape")
    page.locator("#menu").click()
    assert page.evaluate(fits)
    page.locator("#open-settings").click()
    assert page.evaluate(fits)


def test_what_is_touched_is_large_enough_for_a_finger(open_page: Open) -> None:
    opened = open_page(**PHONE)
    page = opened.page
    opened.server.script("```py\nx\n```")
    small = """() => [...document.querySelectorAll("button, input:not([type=checkbox]), textarea, select")]
      .filter((node) => node.checkVisibility())
      .map((node) => [node.textContent || node.id, node.getBoundingClientRect()])
      .filter(([, { width, height }]) => height < 40 || width < 40).map(([name]) => name)"""
    page.locator("#prompt").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.locator(".timing.whole")).to_be_visible()
    assert page.evaluate(small) == []
    page.locator("#menu").click()
    assert page.evaluate(small) == []
    page.locator("#open-settings").click()
    assert page.evaluate(small) == []


# In the dark


def test_the_page_follows_the_system_and_the_switch_outlives_a_reload(open_page: Open) -> None:
    opened = open_page(color_scheme="dark")
    dark = background(opened)
    opened.page.emulate_media(color_scheme="light")
    light = background(opened)
    assert dark != light
    opened.button("Use dark").click()
    assert background(opened) == dark
    opened.page.reload()
    assert background(opened) == dark
    opened.button("Use light").click()
    opened.page.emulate_media(color_scheme="dark")
    assert background(opened) == dark  # back to the system's own: follows it


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(open_page: Open, scheme: str) -> None:
    contrasts = open_page(color_scheme=scheme).page.evaluate(CONTRASTS)
    assert {pair: ratio for pair, ratio in contrasts.items() if ratio < 4.5} == {}


# In Chinese


def test_a_chinese_reader_gets_a_chinese_page(open_page: Open) -> None:
    opened = open_page(locale="zh-CN")
    page = opened.page
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    opened.server.script("你好。")
    page.get_by_role("textbox", name="消息").fill("你是谁")
    page.get_by_role("button", name="发送", exact=True).click()
    expect(opened.reply).to_have_text("你好。")
    expect(page.locator(".summary")).to_contain_text("首个 token")
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_role("button", name="重新生成").click()
    expect(page.get_by_role("alert")).to_contain_text("无法连接服务器")
    expect(page.get_by_role("button", name="重试")).to_be_visible()


def test_the_language_is_switched_in_place_and_stays(opened: Opened) -> None:
    opened.server.runner.hold_after(5)
    opened.fill_and_send()
    expect(opened.reply).to_have_text("Hello")
    opened.button("中文").click()
    expect(opened.page.locator(".question .who")).to_have_text("你")
    opened.server.runner.open_gate()
    expect(opened.reply).to_have_text("Hello there.")
    opened.page.reload()
    expect(opened.page.get_by_role("button", name="English")).to_be_visible()
    opened.page.get_by_role("button", name="English").click()
    expect(opened.button("Settings")).to_be_visible()
    assert opened.errors == []


def test_both_languages_say_the_same_things(opened: Opened) -> None:
    english, chinese = opened.page.evaluate("""async () => {
      const { WORDS } = await import("/static/words.js");
      const marks = (text) => text.match(/\\{\\w+\\}/g)?.sort().join() ?? "";
      const list = (words) => Object.entries(words).map(([key, text]) => `${key} ${marks(text)}`).sort();
      return [WORDS.en, WORDS.zh].map(list);
    }""")
    assert english == chinese


# Nothing jumps


def test_a_reader_who_has_scrolled_up_is_left_there(open_page: Open) -> None:
    opened = open_page(viewport={"width": 1280, "height": 500})
    lines = "\n\n".join(f"{i}" for i in range(40))
    opened.server.script(lines)
    opened.server.runner.hold_after(len(lines) - 20)
    opened.fill_and_send()
    expect(opened.reply).to_contain_text("32")
    to_end = "document.scrollingElement.scrollHeight - innerHeight - scrollY"
    assert opened.page.evaluate(to_end) < 2
    opened.page.mouse.move(700, 250)
    opened.page.mouse.wheel(0, -400)
    opened.wait_for(f"{to_end} > 200")
    before = opened.page.evaluate("scrollY")
    opened.server.runner.open_gate()
    expect(opened.page.locator(".timing.whole")).to_have_count(1)
    assert opened.page.evaluate("scrollY") == before
    opened.button("To the end").click()
    opened.wait_for(f"{to_end} < 2")
    expect(opened.button("To the end")).to_be_hidden()


@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_moves_when_an_answer_begins_and_ends(open_page: Open, width: int) -> None:
    opened = open_page(viewport={"width": width, "height": 700})
    boxes = """() => {
      const names = [".question", ".reply .who", ".reply .prose", ".reply .foot", "#form", "#prompt"];
      return names.map((name) => [name, document.querySelector(name).getBoundingClientRect().toJSON()]);
    }"""
    opened.server.runner.hold_after(0)
    opened.fill_and_send()
    expect(opened.button("Stop")).to_be_visible()
    expect(opened.page.locator(".reply .who")).to_have_text("tiny")
    begun = opened.page.evaluate(boxes)
    opened.server.runner.let(3)
    expect(opened.reply).to_have_text("Hel")
    assert opened.page.evaluate(boxes) == begun
    opened.server.runner.open_gate()
    expect(opened.page.locator(".timing.whole")).to_be_visible()
    expect(opened.button("Send")).to_be_visible()
    assert opened.page.evaluate(boxes) == begun
    opened.page.locator(".timing").focus()
    assert opened.page.evaluate(boxes) == begun
