"""Opinions, the data to train with that they become, the figures, and answers that know the customer."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.apps.support.people import INTENTS, Person, Running
from vivace.apps.support.dashboard import percentiles
from vivace.apps.support.personal import fill_name
from vivace.apps.support.store import orders
from vivace.evaluation.data import read_data

pytestmark = pytest.mark.anyio
QUESTION = "How many days do I have to return an item?"
ANSWER = "You can return any item within 30 days of delivery."


async def rate(person: Person, message: str, **opinion: str) -> None:
    await person.request("PUT", f"/api/messages/{message}/feedback", opinion)


async def test_an_opinion_is_kept_shown_changed_and_listed(shop: Running) -> None:
    admin, guest = await shop.staff("admin"), await shop.guest()
    conversation = await guest.start()
    answer = await guest.ask(conversation, QUESTION)
    await rate(guest, answer["id"], rating="down", reason="wrong", text="No.")
    await rate(guest, answer["id"], rating="up")
    shown = [message["feedback"] for message in (await guest.read(conversation))["messages"]]
    assert shown == [None, {"rating": "up", "reason": None, "text": None}]
    (listed,) = (await admin.get("/api/admin/feedback?rating=up"))["feedback"]
    assert (listed["question"], listed["answer"]) == (QUESTION, answer["text"])
    assert (await admin.get("/api/admin/feedback?rating=down"))["feedback"] == []
    question = (await guest.read(conversation))["messages"][0]["id"]
    await guest.request("PUT", f"/api/messages/{question}/feedback", {"rating": "up"}, 400)


async def test_what_people_liked_is_data_that_compress_and_eval_read(shop: Running, tmp_path: Path) -> None:
    admin, agent, guest = await shop.staff("admin"), await shop.staff("agent"), await shop.guest()
    shop.model.say(ANSWER)
    conversation = await guest.start()
    liked = await guest.ask(conversation, QUESTION)
    await rate(guest, liked["id"], rating="up")
    disliked = await guest.ask(conversation, f"{QUESTION} My number is +1 415 555 2671.")
    await rate(guest, disliked["id"], rating="down")
    version = (await guest.read(conversation))["conversation"]["version"]
    path = f"/api/agent/conversations/{conversation}"
    await agent.request("POST", f"{path}/claim", {"version": version})
    await agent.request("POST", f"{path}/messages", {"text": "It is 30 days.", "client_id": "1"}, 202)
    for kind, count in (("conversations", 2), ("intents", sum(len(examples) for _, examples in INTENTS.values()))):
        reply = await admin.send("GET", f"/api/admin/feedback/export?kind={kind}")
        (tmp_path / f"{kind}.jsonl").write_text(reply.text)
        data = read_data(tmp_path / f"{kind}.jsonl")
        assert (data.kind, len(data.records)) == (kind, count)
    assert "555" not in (tmp_path / "conversations.jsonl").read_text()


async def test_the_dashboard_counts_what_happened(shop: Running) -> None:
    admin, guest, other = await shop.staff("admin"), await shop.guest(), await shop.guest()
    shop.model.say(ANSWER)
    answer = await guest.ask(await guest.start(), QUESTION)
    await rate(guest, answer["id"], rating="up")
    await other.ask(await other.start(), "Quarks and vermilion xylophones?")
    figures = await admin.get("/api/admin/dashboard")
    assert (figures["conversations"], figures["answers"], figures["sources"]) == (2, 1, {"model": 1})
    assert (figures["deflection"], figures["handover_rate"], figures["waiting"]) == (0.5, 0.5, 1)
    assert figures["thumbs"] == {"up": 1, "down": 0, "reasons": {}}
    assert figures["answer_ms"]["n"] == 1
    assert figures["answer_ms"]["p50"] >= figures["first_token_ms"]["p50"] > 0
    assert [entry["question"] for entry in figures["unanswered"]] == ["Quarks and vermilion xylophones?"]
    assert {"wait", "classify", "retrieve", "answer", "check", "total"} <= figures["stages_ms"].keys()
    assert (figures["by_day"][0]["answers"], figures["by_day"][0]["handovers"]) == (1, 1)
    await admin.get("/api/admin/dashboard?days=0", 400)


def test_percentiles_are_values_at_their_rank() -> None:
    assert percentiles([]) == {"p50": None, "p90": None, "p99": None, "n": 0}
    assert percentiles(float(value) for value in range(1, 101)) == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "n": 100}
    assert percentiles([None, 3.0]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0, "n": 1}


# What the account allows


async def give_order(shop: Running, person: Person) -> None:
    values = {
        "id": "o1", "tenant": "shop", "account_id": person.id, "number": "FL-777", "status": "Shipped", "placed_at": 0.0,
        "items": ["1 × Heron lamp"], "total": "89.00 USD",
    }  # fmt: skip
    with shop.service.store.writing() as connection:
        connection.execute(sa.insert(orders).values(values))


@pytest.mark.parametrize(
    ("shop_allows", "customer_allows"), [(False, False), (True, False), (False, True), (True, True)]
)
async def test_name_and_orders_are_used_if_both_sides_allow_it(
    shop_allows: bool, customer_allows: bool, shop: Running
) -> None:
    ada = await shop.customer()
    await give_order(shop, ada)
    shop.change_settings(personal_replies=shop_allows)
    if customer_allows:
        await ada.request("PATCH", "/api/me", {"personal": True})
    hello = await ada.ask(await ada.start(), "hello there")
    told = await ada.ask(await ada.start(), "where is my order FL-777")
    await ada.ask(await ada.start(), "where is my order")
    asked = str(shop.model.asked)
    if shop_allows and customer_allows:
        assert hello["text"] == "Hello Ada!"
        assert "FL-777 of 1970-01-01: 1 × Heron lamp. Total 89.00 USD. Its status is: Shipped. [1]" in told["text"]
        assert "Shipped" in asked
    else:
        assert hello["text"] == "Hello!"
        assert ("FL-777" in told["text"], "Shipped" in told["text"]) == (True, False)
        assert "Shipped" not in asked
        assert "Ada" not in asked


async def test_another_customers_order_is_never_used(shop: Running) -> None:
    """Nor told apart from one that there is not."""
    ada, eve = await shop.customer(), await shop.customer("eve@example.com", "Eve")
    await give_order(shop, ada)
    shop.change_settings(personal_replies=True)
    await eve.request("PATCH", "/api/me", {"personal": True})
    told = [await eve.ask(await eve.start(), f"where is my order {number}") for number in ("FL-777", "FL-778")]
    assert "Shipped" not in str(shop.model.asked) + told[0]["text"]
    assert told[0]["text"] == told[1]["text"].replace("FL-778", "FL-777")
    assert "cannot see an order FL-777 in your account" in told[0]["text"]


def test_a_name_that_may_not_be_used_goes_with_its_comma() -> None:
    assert fill_name("Hello {name}!", "Ada") == "Hello Ada!"
    assert fill_name("Hello, {name}!", "") == "Hello!"
    assert fill_name("Hello {name}, welcome.", "") == "Hello, welcome."
    assert fill_name("您好，{name}。", "") == "您好。"
