"""An order that a question names is told from the account, or said not to be seen; nobody guesses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.apps.support.people import Running
from tests.apps.support.test_feedback import give_order
from vivace.apps.support.index import Hit
from vivace.apps.support.order_numbers import MAX_NUMBERS, NOT_SEEN, find_order_numbers, match_order
from vivace.apps.support.personal import OrderFact, Personal

HIT = Hit(-1, "", 0, "Your order", "", "Your order FL-20417.", 1.0, 0)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Where is my order 48213?", ["48213"]),
        ("order number: FL-20417 please", ["FL-20417"]),
        ("order no. 48213 and order #48214", ["48213", "48214"]),
        ("my order number is 48213", ["48213"]),
        ("我的订单48213到哪里了", ["48213"]),
        ("订单号是FL-20417", ["FL-20417"]),
        ("I ordered 20 plates in 2024", []),
        ("can I pay 15000 dollars by transfer", []),
        ("do you still have the order form of 12.11.2026?", []),
    ],
)
def test_numbers_of_orders_are_told_from_other_numbers(text: str, numbers: list[str]) -> None:
    assert find_order_numbers(text, about_orders=False) == numbers


def test_in_a_question_about_orders_a_long_number_is_one() -> None:
    assert find_order_numbers("has 48213 left yet?", about_orders=True) == ["48213"]
    assert find_order_numbers("where is FL-20417", about_orders=True) == ["FL-20417"]
    assert find_order_numbers("I paid $48213 and 10000.50 for 20 lamps", about_orders=True) == []


def test_letters_may_be_left_out_and_nothing_else() -> None:
    own = Personal(orders=(OrderFact("FL-20417", HIT),))
    assert [bool(match_order(own, number)) for number in ("FL-20417", "fl20417", "20417")] == [True] * 3
    assert [bool(match_order(own, number)) for number in ("XY-20417", "2041", "420417")] == [False] * 3


@given(st.text(), st.booleans())
def test_any_text_has_few_numbers_that_stand_in_it(text: str, about_orders: bool) -> None:
    found = find_order_numbers(text, about_orders=about_orders)
    assert len(found) <= MAX_NUMBERS
    assert all(number in text for number in found)


def test_both_languages_say_each_reason() -> None:
    assert all("{number}" in words for text in NOT_SEEN.values() for words in (text.en, text.zh))


@pytest.mark.anyio
async def test_a_guest_is_asked_to_sign_in_and_no_model_is(shop: Running) -> None:
    shop.change_settings(personal_replies=True)
    guest = await shop.guest()
    told = await guest.ask(await guest.start(), "Where is my order 48213?")
    assert "cannot see an order 48213, as you are not signed in" in told["text"]
    assert told["source"] == "fixed"
    told = await guest.ask(await guest.start(), "我的订单48213在哪里")
    assert "看不到订单 48213" in told["text"]
    assert shop.model.asked == []


@pytest.mark.anyio
async def test_in_another_question_the_number_of_an_order_is_no_word_to_look_for(shop: Running) -> None:
    """And the order that the account has does not take the answer's place."""
    ada = await shop.customer()
    await give_order(shop, ada)
    shop.change_settings(personal_replies=True)
    await ada.request("PATCH", "/api/me", {"personal": True})
    told = await ada.ask(await ada.start(), "can I return this item of order FL-777, my money refunded")
    assert told["text"].startswith("You can return any item within 30 days")
