"""Talking through the page: what is typed is answered as it comes, can be stopped, changed and asked again."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.server.page.conftest import Open, Opened
from tests.server.serving import serve_process
from vivace.models.model import Model

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = sync_api.expect

pytestmark = pytest.mark.browser


def hold(opened: Opened, script: str, tokens: int) -> None:
    """Let the server say the first tokens of the script, and wait."""
    opened.server.script(script)
    opened.server.runner.hold_after(tokens)


def roles_and_texts(asked: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in asked["messages"]]


def refuse(opened: Opened, status: int, code: str, message: str, **headers: str) -> None:
    """Answer every chat request so from now on."""
    body = json.dumps({"error": {"message": message, "type": "x", "param": None, "code": code}})
    opened.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=status, body=body, headers={"content-type": "application/json"} | headers),
    )


@pytest.mark.parametrize("width", [1280, 360])
def test_a_message_is_answered_as_the_tokens_come(open_page: Open, width: int) -> None:
    opened = open_page(viewport={"width": width, "height": 700})
    hold(opened, "Hello there, you.", 5)
    opened.fill_and_send("Good morning")
    expect(opened.reply).to_have_text("Hello")
    opened.server.runner.let(6)
    expect(opened.reply).to_have_text("Hello there")
    opened.server.runner.open_gate()
    expect(opened.reply).to_have_text("Hello there, you.")
    expect(opened.page.locator(".timing.whole")).to_be_visible()
    expect(opened.page.locator(".question .text")).to_have_text("Good morning")
    assert opened.asked[0]["stream_options"] == {"include_usage": True}
    assert opened.errors == []
    assert opened.hosts == {urlsplit(opened.server.url).netloc}


def test_each_reply_shows_where_its_time_went(opened: Opened) -> None:
    opened.ask()
    page = opened.page
    summary = page.locator(".summary").inner_text()
    assert re.search(r"first token\s+[\d.]+\s*\u2009m?s", summary)
    assert re.search(r"[\d.]+\s*\u2009tokens/s", summary)
    assert re.search(r"total\s+[\d.]+\s*\u2009m?s", summary)
    timing = page.get_by_role("group", name=re.compile("preprocess .* queue .* prefill .* decode .* flush"))
    expect(page.locator(".parts")).to_be_hidden()
    timing.focus()
    expect(page.locator(".parts")).to_be_visible()
    assert page.locator(".bar span").count() >= 3


def test_the_conversation_so_far_is_sent(opened: Opened) -> None:
    opened.ask("One")
    opened.ask("Two")
    answer = ("assistant", "Hello there.")
    assert roles_and_texts(opened.asked[1]) == [("user", "One"), answer, ("user", "Two")]


@pytest.mark.parametrize("by", ["Escape", "button"])
def test_an_answer_can_be_stopped_and_the_conversation_goes_on(opened: Opened, by: str) -> None:
    hold(opened, "Hello there.", 5)
    opened.fill_and_send()
    expect(opened.reply).to_have_text("Hello")
    if by == "Escape":
        opened.page.keyboard.press("Escape")
    else:
        opened.button("Stop").click()
    expect(opened.page.get_by_text("Stopped.").first).to_be_visible()
    opened.server.runner.open_gate()
    opened.ask("Again")
    assert opened.page.locator(".reply .prose").all_text_contents() == ["Hello", "Hello there."]
    assert roles_and_texts(opened.asked[1])[1] == ("assistant", "Hello")
    assert opened.errors == []


def test_an_answer_can_be_generated_anew(opened: Opened) -> None:
    opened.ask()
    opened.server.script("Another one.")
    opened.button("Regenerate").click()
    expect(opened.reply).to_have_text("Another one.")
    expect(opened.page.locator(".reply")).to_have_count(1)
    assert roles_and_texts(opened.asked[1]) == [("user", "Hello")]


@pytest.mark.parametrize("how", ["failed", "stopped"])
def test_an_answer_that_cannot_be_had_anew_stays(opened: Opened, how: str) -> None:
    opened.ask()
    if how == "failed":
        opened.page.route("**/v1/**", lambda route: route.abort())
    else:
        opened.server.runner.hold_after(0)
    opened.button("Regenerate").click()
    if how == "failed":
        expect(opened.page.get_by_role("alert")).to_contain_text("cannot be reached")
    else:
        expect(opened.button("Stop")).to_be_visible()
        opened.page.keyboard.press("Escape")
    expect(opened.reply).to_have_text("Hello there.")
    expect(opened.button("Send")).to_be_visible()


def test_a_question_can_be_edited_and_what_follows_is_asked_anew(opened: Opened) -> None:
    for text in ("One", "Two", "Three"):
        opened.ask(text)
    question = opened.page.locator(".question").nth(1)
    question.hover()
    question.get_by_role("button", name="Edit").click()
    box = opened.page.get_by_label("Edit the message")
    expect(box).to_be_focused()
    assert box.input_value() == "Two"
    box.fill("Deux")
    opened.button("Send again").click()
    expect(opened.page.locator(".timing.whole")).to_have_count(2)
    assert opened.page.locator(".question .text").all_text_contents() == ["One", "Deux"]
    answer = ("assistant", "Hello there.")
    assert roles_and_texts(opened.asked[3]) == [("user", "One"), answer, ("user", "Deux")]


def test_editing_while_the_answer_comes_stops_it(opened: Opened) -> None:
    hold(opened, "Hello there.", 3)
    opened.fill_and_send("One")
    expect(opened.reply).to_have_text("Hel")
    opened.page.keyboard.press("ArrowUp")
    opened.page.get_by_label("Edit the message").fill("Two")
    opened.page.keyboard.press("Enter")
    opened.server.runner.open_gate()
    expect(opened.page.locator(".timing.whole")).to_have_count(1)
    expect(opened.reply).to_have_text("Hello there.")
    assert opened.page.locator(".question .text").all_text_contents() == ["Two"]
    assert roles_and_texts(opened.asked[1]) == [("user", "Two")]


def test_two_conversations_are_answered_side_by_side(opened: Opened) -> None:
    hold(opened, "Hello there.", 5)
    opened.fill_and_send("One")
    expect(opened.reply).to_have_text("Hello")
    opened.button("New conversation").click()
    opened.fill_and_send("Two")
    opened.server.runner.open_gate()
    expect(opened.reply).to_have_text("Hello there.")
    opened.page.locator("#conversations .name", has_text="One").click()
    expect(opened.reply).to_have_text("Hello there.")
    assert opened.page.locator(".question .text").all_text_contents() == ["One"]


def test_the_settings_go_with_every_question_and_the_key_is_not_written_down(opened: Opened) -> None:
    page = opened.page
    opened.button("Settings").click()
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Longest answer").fill("5")
    page.get_by_label("API key").fill("secret-1")
    opened.button("Done").click()
    opened.ask()
    expect(page.get_by_text("Cut short")).to_be_visible()
    asked = opened.asked[0]
    assert (asked["temperature"], asked["max_tokens"]) == (0.5, 5)
    assert roles_and_texts(asked) == [("system", "Be brief."), ("user", "Hello")]
    assert opened.requests[-1].all_headers()["authorization"] == "Bearer secret-1"
    assert "secret-1" not in page.evaluate("JSON.stringify({ ...localStorage })")
    page.reload()
    opened.ask("Again")
    assert opened.asked[1]["temperature"] == 0.5
    assert opened.requests[-1].all_headers()["authorization"] == "Bearer secret-1"


def test_a_setting_out_of_range_is_not_taken(opened: Opened) -> None:
    opened.button("Settings").click()
    opened.page.get_by_label("Temperature").fill("7")
    opened.button("Done").click()
    expect(opened.page.get_by_role("dialog")).to_be_visible()
    opened.page.keyboard.press("Escape")
    opened.ask()
    assert "temperature" not in opened.asked[0]


# Errors: what happened, and what to do


def test_a_server_that_cannot_be_reached_can_be_tried_again(opened: Opened) -> None:
    opened.page.route("**/v1/**", lambda route: route.abort())
    opened.fill_and_send()
    expect(opened.page.get_by_role("alert")).to_contain_text("cannot be reached. See that it runs")
    opened.page.unroute("**/v1/**")
    opened.button("Try again").click()
    expect(opened.reply).to_have_text("Hello there.")
    assert opened.page.get_by_role("alert").count() == 0
    assert opened.page.locator(".turn").count() == 2


def test_a_server_that_has_come_back_with_another_model_is_asked_for_it(opened: Opened) -> None:
    opened.ask("One")
    refuse(opened, 404, "model_not_found", "There is no model 'tiny' here.")
    opened.fill_and_send("Two")
    expect(opened.page.get_by_role("alert")).to_contain_text("no model 'tiny'")
    listed = json.dumps({"data": [{"id": "other", "context_length": 99}]})
    opened.page.route("**/v1/models", lambda route: route.fulfill(body=listed, content_type="application/json"))
    opened.button("Try again").click()
    opened.wait_for("document.querySelector('#model').textContent === 'other'")
    assert opened.asked[-1]["model"] == "other"


def test_a_full_server_says_when_to_come_back(opened: Opened) -> None:
    refuse(opened, 429, "queue_full", "64 requests wait already.", **{"retry-after": "7"})
    opened.fill_and_send()
    alert = opened.page.get_by_role("alert")
    expect(alert).to_contain_text("The server is full")
    expect(alert).to_contain_text("Try again in about 7 s.")
    expect(alert).to_contain_text("64 requests wait already.")


def test_a_server_that_wants_a_key_is_given_it(opened: Opened) -> None:
    refuse(opened, 401, "invalid_api_key", "The API key is missing.")
    opened.fill_and_send()
    expect(opened.page.get_by_role("alert")).to_contain_text("wants an API key")
    opened.button("Enter the key").click()
    expect(opened.page.get_by_label("API key")).to_be_focused()
    opened.page.keyboard.type("secret")
    opened.page.keyboard.press("Enter")
    opened.page.unroute("**/v1/chat/completions")
    opened.button("Try again").click()
    expect(opened.reply).to_have_text("Hello there.")


def test_a_conversation_that_has_grown_too_long_goes_on_without_its_beginning(opened: Opened) -> None:
    for text in ("One", "Two", "Three"):
        opened.ask(text)
    opened.fill_and_send("x" * 440)
    alert = opened.page.get_by_role("alert")
    expect(alert).to_contain_text("longer than the model can take")
    expect(alert).to_contain_text("512")
    opened.button("Leave out older messages").click()
    expect(opened.page.locator(".boundary")).to_be_visible()
    opened.wait_for("document.querySelector('#send').checkVisibility()")
    if alert.count():
        opened.button("Leave out older messages").click()
    expect(opened.reply).to_have_text("Hello there.")
    assert ("user", "One") not in roles_and_texts(opened.asked[-1])
    assert opened.page.locator(".question").count() == 4


def test_a_message_that_is_too_long_by_itself_is_shortened_by_its_writer(opened: Opened) -> None:
    opened.fill_and_send("x" * 600)
    expect(opened.page.get_by_role("alert")).to_contain_text("Shorten the message")
    assert opened.button("Leave out older messages").count() == 0
    opened.page.get_by_role("alert").get_by_role("button", name="Edit").click()
    opened.page.get_by_label("Edit the message").fill("x")
    opened.page.keyboard.press("Enter")
    expect(opened.reply).to_have_text("Hello there.")
    assert opened.page.locator(".question").count() == 1


def test_a_server_that_goes_away_in_mid_answer_leaves_what_came(open_page: Open, model: Model) -> None:
    with serve_process(model, "Hello " * 70) as (process, url):
        opened = open_page(url=url)
        opened.fill_and_send()
        expect(opened.reply).to_contain_text("Hello Hello")
        process.kill()
        alert = opened.page.get_by_role("alert")
        expect(alert).to_contain_text("The connection broke")
        expect(opened.reply).to_contain_text("Hello Hello")
        opened.button("Try again").click()
        expect(alert).to_contain_text("cannot be reached")
        expect(opened.reply).to_contain_text("Hello Hello")


@pytest.mark.parametrize("width", [1280, 360])
def test_a_question_without_an_answer_is_not_sent_with_the_next(open_page: Open, width: int) -> None:
    opened = open_page(viewport={"width": width, "height": 700})
    refuse(opened, 400, "x", "No <b>such</b> thing. Change it.")
    opened.fill_and_send("One")
    expect(opened.page.get_by_role("alert")).to_contain_text("No <b>such</b> thing. Change it.")
    opened.page.unroute("**/v1/chat/completions")
    opened.ask("Two")
    assert roles_and_texts(opened.asked[1]) == [("user", "Two")]
