"""The agent desk, and what the customer sees of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.apps.support.page.conftest import Open, Opened

if TYPE_CHECKING:
    from playwright.sync_api import Locator

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser


def wait_in_queue(open_page: Open, question: str) -> Opened:
    customer = open_page()
    customer.ask(question)
    customer.button("Ask for a person").click()
    expect(customer.page.locator("#state")).to_contain_text("Waiting for a person")
    return customer


def find_ticket(desk: Opened, question: str) -> Locator:
    return desk.page.locator("#waiting .ticket").filter(has_text=question)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_customer_is_handed_over_to_an_agent_and_back(open_page: Open, width: int) -> None:
    desk = open_page("/agent", viewport={"width": width, "height": 800}).sign_in("agent")
    question = f"How many days do I have to return item {width}?"
    customer = wait_in_queue(open_page, question)
    ticket = find_ticket(desk, question)
    expect(ticket.locator(".time")).to_have_text(re.compile(r"\d+:\d\d"))
    ticket.click()
    expect(desk.page.locator("#transcript .question")).to_contain_text(question)
    expect(desk.page.locator("#summary")).to_contain_text("asked for a person")
    desk.button("Take over").click()
    expect(customer.page.locator("#state")).to_have_text("Sam Agent is with you")
    desk.send("Item 7? <b>Ten</b> days.")
    expect(customer.page.locator(".by-agent .prose")).to_have_text("Item 7? <b>Ten</b> days.")
    customer.send("Thank you")
    expect(desk.page.locator("#transcript .question").nth(1)).to_contain_text("Thank you")
    assert customer.page.locator(".reply").count() == 2, "the assistant talked over the agent"
    desk.button("To the assistant").click()
    expect(customer.page.locator("#state")).to_have_text("Assistant")
    customer.ask("How many days do I have to return this item?")
    expect(desk.page.locator("#transcript .reply")).to_have_count(3)


def test_who_was_slower_is_told_and_sees_who_has_it(open_page: Open) -> None:
    question = "How many days do I have to return the slow item?"
    customer = wait_in_queue(open_page, question)
    first = open_page("/agent").sign_in("agent")
    second = open_page("/agent").sign_in("second")
    for desk in (first, second):
        find_ticket(desk, question).click()
        expect(desk.button("Take over")).to_be_visible()
    second.page.route("**/events", lambda route: route.abort())
    second.page.route(
        "**/claim",
        lambda route: (first.button("Take over").click(), customer.page.wait_for_timeout(1), route.continue_()),
    )
    second.button("Take over").click()
    expect(second.page.get_by_text("Somebody was faster")).to_be_visible()
    expect(second.page.locator("#not-mine")).to_have_text("Sam Agent has this conversation.")


def test_an_agent_closes_a_conversation_on_the_second_click(open_page: Open) -> None:
    question = "How many days do I have to return the last item?"
    customer = wait_in_queue(open_page, question)
    desk = open_page("/agent").sign_in("agent")
    find_ticket(desk, question).click()
    desk.button("Take over").click()
    desk.button("Close").click()
    desk.button("Close for good?").click()
    expect(customer.page.locator("#state")).to_have_text("Closed")
    expect(desk.page.locator("#state")).to_have_text("Closed")
    expect(desk.page.locator("#prompt")).to_be_hidden()


def test_an_agent_looks_a_passage_up_and_puts_it_into_the_reply(open_page: Open) -> None:
    question = "How many days do I have to return the item I want to ask about?"
    wait_in_queue(open_page, question)
    desk = open_page("/agent").sign_in("agent")
    find_ticket(desk, question).click()
    desk.button("Take over").click()
    desk.page.get_by_label("Search the knowledge base").fill("opening hours")
    desk.page.keyboard.press("Enter")
    desk.page.locator(".hit summary").first.click()
    desk.button("Put into the reply").first.click()
    assert "9 am to 6 pm" in desk.page.locator("#prompt").input_value()


def test_the_longest_waiting_is_taken_by_a_key(open_page: Open) -> None:
    question = "How many days do I have to return the item of the key?"
    wait_in_queue(open_page, question)
    desk = open_page("/agent").sign_in("agent")
    expect(find_ticket(desk, question)).to_be_visible()
    desk.page.locator("h1").click()
    desk.page.keyboard.press("n")
    expect(desk.page.locator("#prompt")).to_be_focused()


def test_a_customer_is_not_let_in(open_page: Open) -> None:
    customer = open_page()
    customer.button("Menu").click()
    customer.button("Make an account").click()
    customer.page.get_by_label("Name").fill("Eve")
    customer.page.get_by_label("E-mail").fill("eve@example.com")
    customer.page.get_by_label("Password").fill("correct horse battery")
    customer.page.keyboard.press("Enter")
    expect(customer.page.locator("#menu")).to_be_hidden()
    for path in ("/agent", "/admin"):
        desk = open_page(path)
        desk.page.get_by_label("E-mail").fill("eve@example.com")
        desk.page.get_by_label("Password").fill("correct horse battery")
        desk.page.keyboard.press("Enter")
        expect(desk.page.get_by_role("alert").filter(has_text="may not do this")).to_be_visible()
        expect(desk.page.locator("#inside")).to_be_hidden()
