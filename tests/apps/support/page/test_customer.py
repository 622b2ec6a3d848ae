"""The customer's chat: answered at once, with sources, over reloads and lost connections, and forgotten when asked to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.apps.support.page.conftest import Open, Opened, Shop
from tests.apps.support.people import PASSWORD

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser

QUESTION = "How many days do I have to return an item?"
ANSWER = "You can return any item within 30 days of delivery."


@pytest.mark.parametrize("width", [1280, 360])
def test_a_guest_is_answered_with_a_source_that_opens(open_page: Open, width: int) -> None:
    opened = open_page(viewport={"width": width, "height": 700})
    expect(opened.page.locator("#greeting")).not_to_be_empty()
    reply = opened.ask(QUESTION)
    expect(reply.locator(".prose").first).to_contain_text(ANSWER)
    reply.get_by_role("button", name="Open source 1").click()
    passage = reply.locator(".passage")
    expect(passage).to_contain_text("Returns")
    expect(passage).to_contain_text("The refund takes 5 working days")
    expect(passage).to_be_focused()


def test_a_reply_shows_where_its_time_went(open_page: Open) -> None:
    opened = open_page()
    reply = opened.ask()
    timing = reply.get_by_role("group", name=re.compile(r"understand [\d.]+ ms.*retrieve [\d.]+ ms.*check [\d.]+ ms"))
    expect(reply.locator(".summary")).to_have_text(re.compile(r"total [\d.]+\u2009m?s"))
    expect(reply.locator(".parts")).to_be_hidden()
    timing.focus()
    expect(reply.locator(".parts")).to_be_visible()
    assert reply.locator(".bar span").count() >= 3


def test_the_words_come_as_they_are_written(open_page: Open, shop: Shop) -> None:
    opened = open_page()
    shop.model.hold()
    opened.send(QUESTION)
    draft = opened.page.locator(".reply[aria-busy=true] .prose")
    expect(draft).to_have_text("You can")
    shop.model.let_go()
    expect(opened.page.locator(".reply[aria-busy=false] .prose").first).to_contain_text(ANSWER)
    assert opened.page.locator(".reply").count() == 1


def test_a_reload_in_the_middle_of_an_answer_loses_nothing_and_doubles_nothing(open_page: Open, shop: Shop) -> None:
    opened = open_page()
    shop.model.hold()
    opened.send(QUESTION)
    expect(opened.page.locator(".reply .prose")).to_have_text("You can")
    opened.page.reload()
    expect(opened.page.locator(".question .text")).to_have_text(QUESTION)
    expect(opened.page.locator(".reply .prose")).to_have_text("You can")
    shop.model.let_go()
    expect(opened.page.locator(".reply[aria-busy=false] .prose").first).to_contain_text(ANSWER)
    assert opened.page.locator(".question").count() == opened.page.locator(".reply").count() == 1


def test_nothing_is_lost_or_doubled_over_a_lost_network(open_page: Open) -> None:
    opened = open_page()
    page = opened.page
    opened.ask()
    page.route("**/events", lambda route: route.abort())
    page.context.set_offline(True)
    page.wait_for_timeout(300)
    page.context.set_offline(False)
    page.unroute("**/events")
    opened.ask("How many days do I have to return this item?")
    assert page.locator(".question").count() == page.locator(".reply").count() == 2


def test_a_broken_stream_is_resumed_after_the_last_event_seen(open_page: Open) -> None:
    asked, seen = open_page().page.evaluate("""async () => {
      const { follow } = await import("/static/follow.js");
      const write = (...ids) => ids.map((id) => `id: ${id}\\nevent: message\\ndata: {}\\n\\n`).join("");
      const streams = [write(4, 5), new Error("broken"), write(5, 6), write(7)];
      const [asked, seen] = [[], []];
      await new Promise((done) => {
        const session = { open: async (path, { headers }) => {
          asked.push(headers["last-event-id"]);
          const next = streams.shift();
          if (next instanceof Error) throw next;
          return new Response(next ?? "");
        } };
        const stop = follow(session, "/events", {
          after: 3,
          event: (kind, data, id) => { if (seen.push(id) === 4) { stop(); done(); } },
          link: () => {},
          lost: () => {},
        });
      });
      return [asked, seen];
    }""")
    assert asked == ["3", "5", "5", "6"]
    assert seen == [4, 5, 6, 7]


def test_a_message_that_could_not_be_sent_is_sent_once_on_trying_again(open_page: Open) -> None:
    opened = open_page()
    opened.ask()
    page = opened.page
    page.route("**/messages", lambda route: route.abort())
    opened.send("How many days do I have to return this item?")
    expect(page.locator(".problem")).to_contain_text("cannot be reached")
    page.unroute("**/messages")
    opened.button("Try again").click()
    expect(page.locator(".reply[aria-busy=false]")).to_have_count(2)
    expect(page.locator(".problem")).to_have_count(0)
    assert page.locator(".question").count() == 2


def test_personal_data_is_shown_as_it_was_kept(open_page: Open) -> None:
    opened = open_page()
    opened.send("My card is 4111 1111 1111 1111, can I return an item?")
    expect(opened.page.locator(".question .text")).to_contain_text("[card]")
    expect(opened.page.locator(".question .note")).to_contain_text("a card number")


def test_a_thumb_down_takes_a_reason_and_words_and_is_still_there_after_a_reload(open_page: Open) -> None:
    opened = open_page()
    reply = opened.ask()
    reply.get_by_role("button", name="Not helpful").click()
    reply.get_by_label("Incomplete").check()
    reply.get_by_label("Tell us more").fill("Which items?")
    reply.get_by_role("button", name="Send").click()
    expect(reply.get_by_text("Thank you.")).to_be_visible()
    opened.page.reload()
    expect(opened.page.get_by_role("button", name="Not helpful")).to_have_attribute("aria-pressed", "true")
    expect(opened.page.get_by_role("button", name="Helpful", exact=True)).to_have_attribute("aria-pressed", "false")


def test_asking_for_a_person_shows_the_place_in_the_queue(open_page: Open) -> None:
    opened = open_page()
    opened.ask()
    opened.button("Ask for a person").click()
    expect(opened.page.locator("#state")).to_have_text(re.compile(r"Waiting for a person · place \d+"))
    expect(opened.button("Ask for a person")).to_be_hidden()


def test_signing_up_keeps_the_conversation_and_signing_in_elsewhere_finds_it(open_page: Open) -> None:
    opened = open_page()
    opened.ask()
    sign_up(opened, "keeper@example.com")
    expect(opened.page.locator(".question .text")).to_have_text(QUESTION)
    other = open_page()
    other.button("Menu").click()
    other.button("Sign in").click()
    other.page.get_by_label("E-mail").fill("keeper@example.com")
    other.page.get_by_label("Password").fill("wrong password")
    other.page.keyboard.press("Enter")
    expect(other.page.get_by_role("alert").filter(has_text="E-mail or password is wrong")).to_be_visible()
    other.page.get_by_label("Password").fill(PASSWORD)
    other.page.keyboard.press("Enter")
    expect(other.page.locator(".question .text")).to_have_text(QUESTION)


def sign_up(opened: Opened, email: str) -> None:
    opened.button("Menu").click()
    opened.button("Make an account").click()
    opened.page.get_by_label("Name").fill("Kim Keeper")
    opened.page.get_by_label("E-mail").fill(email)
    opened.page.get_by_label("Password").fill(PASSWORD)
    opened.page.keyboard.press("Enter")
    expect(opened.page.locator("#menu")).to_be_hidden()


def test_what_is_kept_can_be_downloaded_and_deleted(open_page: Open, tmp_path: Path) -> None:
    opened = open_page()
    page = opened.page
    opened.ask()
    opened.button("Menu").click()
    with page.expect_download() as downloading:
        opened.button("Download my data").click()
    downloading.value.save_as(tmp_path / "my-data.json")
    assert QUESTION in json.dumps(json.loads((tmp_path / "my-data.json").read_text()))
    opened.button("Delete my data").click()
    expect(opened.button("Keep it")).to_be_focused()
    opened.button("Delete for good").click()
    expect(page.get_by_text("Everything that was kept about you is deleted.")).to_be_visible()
    assert page.locator(".turn").count() == 0
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes('support'))") == []
    page.reload()
    expect(page.locator("#greeting")).not_to_be_empty()
    assert page.locator(".turn").count() == 0


def test_a_closed_conversation_makes_way_for_a_new_one(open_page: Open) -> None:
    opened = open_page()
    opened.ask()
    opened.button("Menu").click()
    opened.button("End this conversation").click()
    expect(opened.page.get_by_text("This conversation is closed.").last).to_be_visible()
    expect(opened.page.locator("#prompt")).to_be_hidden()
    opened.button("New conversation").click()
    opened.ask()
    assert opened.page.locator(".question").count() == 1
    opened.button("Menu").click()
    expect(opened.page.locator("#conversations .entry")).to_have_count(2)


def test_an_expired_access_token_is_renewed_unseen(open_page: Open) -> None:
    opened = open_page()
    opened.ask()
    opened.page.evaluate("""() => {
      const key = Object.keys(localStorage).find((name) => name.startsWith("vivace.support"));
      const tokens = JSON.parse(localStorage.getItem(key));
      localStorage.setItem(key, JSON.stringify({ ...tokens, access_token: "worn.out.token" }));
    }""")
    opened.ask("How many days do I have to return this item?")
    expect(opened.page.locator(".problem")).to_have_count(0)


def test_a_chinese_customer_is_answered_in_chinese_on_a_chinese_page(open_page: Open, shop: Shop) -> None:
    opened = open_page(locale="zh-CN")
    shop.model.say("您可以在收到商品后30天内退货。")
    expect(opened.page.get_by_role("button", name="转人工客服")).to_be_visible()
    reply = opened.ask("收到商品后几天内可以退货？")
    expect(reply.locator(".prose").first).to_contain_text("30天内退货")
    assert opened.page.evaluate("document.documentElement.lang") == "zh-CN"
    opened.page.get_by_role("button", name="菜单").click()
    opened.page.get_by_role("button", name="English").click()
    expect(opened.page.locator("#ask-person")).to_have_text("Ask for a person")
