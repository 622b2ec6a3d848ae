"""The application from end to end, over HTTP."""

from __future__ import annotations

import asyncio

import pytest

from tests.apps.support.people import Running

pytestmark = pytest.mark.anyio


async def test_a_guest_asks_and_is_answered_from_the_knowledge_base_with_citations(shop: Running) -> None:
    shop.model.say("You can return any item within 30 days of delivery.")
    guest = await shop.guest()
    conversation = await guest.start()
    answer = await guest.ask(conversation, "How many days do I have to return an item?")
    assert answer["text"] == "You can return any item within 30 days of delivery. [1]"
    assert answer["source"] == "model"
    assert answer["citations"][0]["title"] == "Returns"
    assert answer["timeline"]["answer"] > 0
    parts = sum(value for name, value in answer["timeline"].items() if name != "total")
    assert answer["timeline"]["total"] == pytest.approx(parts)


async def test_an_answer_that_its_passages_do_not_bear_is_replaced_by_the_passage(shop: Running) -> None:
    shop.model.say("You can return any item within 90 days of delivery.")
    guest = await shop.guest()
    answer = await guest.ask(await guest.start(), "How many days do I have to return an item?")
    assert answer["source"] == "passage"
    assert "30 days" in answer["text"]
    assert "90" not in answer["text"]


async def test_asking_for_a_person_puts_the_customer_into_the_queue(shop: Running) -> None:
    guest = await shop.guest()
    conversation = await guest.start()
    state = await guest.ask(conversation, "I want to talk to a person")
    assert (state["state"], state["reason"]) == ("waiting_human", "asked")
    assert (await guest.read(conversation))["conversation"]["queue_position"] == 1


async def test_health_says_whether_model_server_and_store_are_there(shop: Running) -> None:
    guest = await shop.guest()
    assert await guest.get("/health") == {"status": "ok", "model_server": True, "store": True}
    shop.model.status = 500
    assert (await guest.get("/health", 503))["model_server"] is False


async def test_neighbouring_sentences_from_one_passage_bear_its_number_once(shop: Running) -> None:
    shop.model.say("Standard shipping costs 4 dollars and takes 3 days. Express shipping costs 12 dollars.")
    guest = await shop.guest()
    answer = await guest.ask(await guest.start(), "How much does express shipping cost?")
    assert answer["text"].endswith("takes 3 days. Express shipping costs 12 dollars. [1]")


@pytest.mark.parametrize("draft", ["You can return any item within 30 days of delivery.", "I do not know."])
async def test_a_true_answer_to_another_question_and_none_at_all_are_replaced_by_the_passage(
    shop: Running, draft: str
) -> None:
    shop.model.say(draft)
    guest = await shop.guest()
    answer = await guest.ask(await guest.start(), "How much does express shipping cost?")
    assert answer["source"] == "passage"
    assert "12 dollars" in answer["text"]
    assert [citation["title"] for citation in answer["citations"]] == ["Shipping"]


async def test_without_the_model_server_the_passage_answers(shop: Running) -> None:
    guest = await shop.guest()
    conversation = await guest.start()
    shop.model.status = 429
    answer = await guest.ask(conversation, "How many days do I have to return an item?")
    assert (answer["source"], "30 days" in answer["text"]) == ("passage", True)
    shop.model.status, shop.model.breaks = 200, True
    shop.model.say("You can return any item within 30 days of delivery.")
    answer = await guest.ask(conversation, "How many days to return an item, please?")
    assert answer["source"] == "passage"


async def test_a_question_in_chinese_is_answered_in_chinese(shop: Running) -> None:
    guest = await shop.guest()
    answer = await guest.ask(await guest.start(), "收到商品后几天内可以退货？")
    assert "30天内退货" in answer["text"]
    assert answer["language"] == "zh"


async def test_many_conversations_at_once_are_all_answered_in_their_order(shop: Running) -> None:
    shop.model.say("You can return any item within 30 days of delivery.")

    async def talk() -> list[str]:
        guest = await shop.guest()
        conversation = await guest.start()
        for number in range(3):
            await guest.say(conversation, f"How many days do I have to return item {number}?")
        await guest.ask(conversation, "How many days do I have to return an item?")
        messages = (await guest.read(conversation))["messages"]
        asked = [message["id"] for message in messages if message["author"] == "customer"]
        assert [message["reply_to"] for message in messages if message["author"] == "bot"] == asked
        return asked

    assert len({id for ids in await asyncio.gather(*(talk() for _ in range(8))) for id in ids}) == 32
