"""Conversations stay in the browser: over reloads, damaged entries, full storage and none at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.page.conftest import Open, Opened, Served

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = sync_api.expect

pytestmark = pytest.mark.browser

PREFIX = "vivace.conversation."

STORE = """
class Small {
  constructor(room) { this.room = room; this.entries = new Map(); }
  get length() { return this.entries.size; }
  key(i) { return [...this.entries.keys()][i] ?? null; }
  getItem(key) { return this.entries.get(key) ?? null; }
  removeItem(key) { this.entries.delete(key); }
  setItem(key, value) {
    const others = [...this.entries].filter(([name]) => name !== key);
    const used = others.reduce((sum, [, entry]) => sum + entry.length, 0);
    if (used + value.length > this.room) throw new DOMException("full", "QuotaExceededError");
    this.entries.set(key, value);
  }
}
const talk = (id, text = "x", turns = 1) => ({
  id, title: text, named: false, updated: Number(id), sentFrom: 0,
  turns: Array.from({ length: turns }, () => [
    { role: "user", text }, { role: "assistant", text, model: "m", state: "done", problem: null, usage: null },
  ]).flat(),
});
const { openStore, toMessages } = await import("/static/store.js");
"""


def in_store(opened: Opened, body: str) -> Any:
    return opened.page.evaluate(f"async () => {{ {STORE} {body} }}")


def names(opened: Opened) -> list[str]:
    texts: list[str] = opened.page.locator("#conversations .name").all_text_contents()
    return texts


def test_a_reload_finds_the_conversation(opened: Opened) -> None:
    opened.ask("One")
    opened.ask("Two")
    figures = opened.page.locator(".summary").last.inner_text()
    opened.page.reload()
    assert opened.page.locator(".question .text").all_text_contents() == ["One", "Two"]
    assert opened.page.locator(".reply .prose").all_text_contents() == ["Hello there."] * 2
    assert opened.page.locator(".summary").last.inner_text() == figures
    opened.ask("Three")
    assert len(opened.asked[2]["messages"]) == 5
    assert opened.errors == []


def test_a_reload_in_mid_answer_keeps_what_had_come(opened: Opened) -> None:
    opened.server.runner.hold_after(5)
    opened.fill_and_send()
    expect(opened.reply).to_have_text("Hello")
    opened.page.reload()
    expect(opened.reply).to_have_text("Hello")
    expect(opened.page.get_by_role("alert")).to_contain_text("The page was left before the answer was whole.")
    opened.server.runner.open_gate()
    opened.button("Try again").click()
    expect(opened.reply).to_have_text("Hello there.")


def test_conversations_are_listed_newest_first_and_can_be_gone_back_to(opened: Opened) -> None:
    opened.ask("One")
    opened.button("New conversation").click()
    assert opened.page.locator(".turn").count() == 0
    opened.ask("Two")
    assert names(opened) == ["Two", "One"]
    opened.page.locator("#conversations .name", has_text="One").click()
    assert opened.page.locator(".question .text").all_text_contents() == ["One"]
    opened.page.goto(opened.server.url)
    assert names(opened) == ["Two", "One"]
    assert opened.page.locator(".turn").count() == 0


def test_a_conversation_is_renamed(opened: Opened) -> None:
    opened.ask("One")
    opened.button("Rename").click()
    box = opened.page.get_by_label("Name of the conversation")
    box.fill("Rivers")
    box.press("Enter")
    assert names(opened) == ["Rivers"]
    opened.button("Rename").click()
    opened.page.get_by_label("Name of the conversation").fill("Lakes")
    opened.page.keyboard.press("Escape")
    opened.page.reload()
    assert names(opened) == ["Rivers"]


def test_a_deleted_conversation_is_gone_unless_it_is_taken_back(opened: Opened) -> None:
    opened.ask("One")
    opened.button("Delete").click()
    assert names(opened) == []
    assert opened.page.locator(".turn").count() == 0
    opened.button("Undo").click()
    assert opened.page.locator(".question .text").all_text_contents() == ["One"]
    opened.button("Delete").click()
    opened.page.reload()
    assert names(opened) == []


def test_deleting_a_conversation_stops_its_answer(opened: Opened) -> None:
    opened.server.runner.hold_after(5)
    opened.fill_and_send("One")
    expect(opened.reply).to_have_text("Hello")
    opened.button("Delete").click()
    opened.server.runner.open_gate()
    opened.ask("Two")
    assert names(opened) == ["Two"]
    opened.page.reload()
    assert names(opened) == ["Two"]


GOOD = {
    "id": "good",
    "title": "Good",
    "updated": 5,
    "turns": [{"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Ho", "state": "done"}],
}


def test_damaged_entries_cost_only_themselves(open_page: Open) -> None:
    damaged: list[Any] = [
        "{",
        "null",
        "[]",
        '"x"',
        GOOD | {"id": 5},
        GOOD | {"id": "another"},
        GOOD | {"turns": []},
        GOOD | {"turns": [{"role": "user"}]},
        GOOD | {"turns": [GOOD["turns"][1]]},  # type: ignore[index]
        GOOD | {"turns": [GOOD["turns"][0], {"role": "assistant", "text": "x", "state": "odd"}]},  # type: ignore[index]
        GOOD | {"updated": "now"},
    ]
    entries = {f"{PREFIX}bad{i}": value for i, value in enumerate(damaged)} | {f"{PREFIX}good": GOOD}
    entries |= {"vivace.settings": "{{", "vivace.theme": "pink", "vivace.language": "constructor"}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in entries.items()}
    opened = open_page(before=f"for (const [k, v] of Object.entries({json.dumps(texts)})) localStorage.setItem(k, v);")
    assert names(opened) == ["Good"]
    opened.page.goto(f"{opened.server.url}#good")
    expect(opened.reply).to_have_text("Ho")
    opened.ask()
    assert opened.errors == []


def test_odd_figures_are_left_out(open_page: Open, server: Served) -> None:
    odd = {"timing": {"preprocess_ms": "<b>", "queue_ms": -1, "decode_ms": None}, "completion_tokens": "x"}
    turns = [{"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Ho", "state": "done", "usage": odd}]
    entry = json.dumps(GOOD | {"turns": turns})
    before = f"localStorage.setItem('{PREFIX}good', {json.dumps(entry)});"
    opened = open_page(before=before, url=f"{server.url}#good")
    expect(opened.reply).to_have_text("Ho")
    assert opened.page.locator(".timing.whole").count() == 0
    assert opened.errors == []


def test_a_full_storage_gives_up_the_oldest(opened: Opened) -> None:
    kept = in_store(
        opened,
        """
        const storage = new Small(3000);
        const store = openStore(storage);
        const removed = ["1", "2", "3", "4"].map((id) => store.save(talk(id, "x".repeat(300))));
        return [removed, store.list().map(({ id }) => id), openStore(storage).list().map(({ id }) => id)];
        """,
    )
    assert kept == [[0, 0, 1, 1], ["4", "3"], ["4", "3"]]


def test_a_conversation_larger_than_the_storage_is_told(opened: Opened) -> None:
    assert in_store(opened, "return openStore(new Small(100)).save(talk('1'));") == -1


def test_what_is_kept_is_bounded(opened: Opened) -> None:
    counts = in_store(
        opened,
        """
        const storage = new Small(1e9);
        const store = openStore(storage);
        for (let i = 1; i <= 120; i += 1) store.save(talk(String(i)));
        store.save(talk("500", "x", 300));
        return [store.list().length, storage.length, openStore(storage).find("500").turns.length];
        """,
    )
    assert counts == [100, 100, 400]


def test_without_storage_the_page_works_and_says_that_it_forgets(open_page: Open) -> None:
    denied = "{ get() { throw new DOMException('no', 'SecurityError'); } }"
    opened = open_page(before=f"Object.defineProperty(window, 'localStorage', {denied});")
    expect(opened.page.get_by_text("The browser keeps nothing")).to_be_visible()
    opened.ask("One")
    opened.ask("Two")
    assert names(opened) == ["One"]
    assert opened.errors == []


def test_another_tab_sees_what_is_said_here(opened: Opened) -> None:
    other = opened.page.context.new_page()
    other.goto(opened.server.url)
    opened.ask("One")
    expect(other.locator("#conversations .name")).to_have_text(["One"])
    other.locator("#conversations .name").click()
    opened.ask("Two")
    expect(other.locator(".question .text")).to_have_text(["One", "Two"])
