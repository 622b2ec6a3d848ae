"""What a customer's account may add to an answer: name, orders, past answers; as passages, like any other.

Nothing of it is looked up unless the shop and the customer both allow it. Functions work inside a caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support.accounts import Account
from vivace.apps.support.index import Hit
from vivace.apps.support.settings import ShopSettings
from vivace.apps.support.store import conversations, feedback, messages, orders
from vivace.apps.support.words import content_words

MAX_ORDERS = 3
MAX_PAST = 50
MIN_SHARED_WORDS = 2


ORDER_ID, PAST_ID = -1, -1000
"""Passage ids of what is in no index: orders count down from the first, the past answer has the second."""


@dataclass(frozen=True, slots=True)
class OrderFact:
    """An order as a passage."""

    number: str
    hit: Hit


@dataclass(frozen=True, slots=True)
class Personal:
    """What may be used of one account. `name` is empty where it may not. `access` is `open` where orders may be used,
    else who keeps them shut: the `shop`, as nobody is signed in (`guest`), or the `customer`."""

    name: str = ""
    orders: Sequence[OrderFact] = ()
    past: Sequence[Hit] = ()
    access: str = "open"


def gather(
    connection: Connection,
    account: Account,
    settings: ShopSettings,
    conversation_id: str,
    question: str,
    language: str,
) -> Personal:
    """Nothing unless both sides allow it. Orders are told in the question's `language`."""
    if not (settings.personal_replies and account.personal):
        shut = "shop" if not settings.personal_replies else "guest" if account.role == "guest" else "customer"
        return Personal(access=shut)
    own = list_orders(connection, account.id)
    found = [_describe_order(place, order, language) for place, order in enumerate(own)]
    return Personal(account.name, found, _find_past_answers(connection, account.id, conversation_id, question))


def list_orders(connection: Connection, account_id: str) -> list[dict[str, Any]]:
    """The latest first."""
    query = sa.select(orders).where(orders.c.account_id == account_id).order_by(orders.c.placed_at.desc())
    names = ("number", "status", "placed_at", "items", "total")
    return [{name: row[name] for name in names} for row in connection.execute(query.limit(20)).mappings()]


def is_order(hit: Hit) -> bool:
    """Whether it tells of an order, and stands in no article."""
    return PAST_ID < hit.passage_id <= ORDER_ID


def fill_name(text: str, name: str) -> str:
    """`{name}` in the shop's own words; where it may not be used, it goes with the comma or space around it."""
    if name:
        return text.replace("{name}", name)
    for around in (", {name}", "，{name}", " {name}", "{name}，", "{name}, ", "{name}"):
        text = text.replace(around, "")
    return text


def _describe_order(place: int, order: dict[str, Any], language: str) -> OrderFact:
    day = datetime.fromtimestamp(order["placed_at"], UTC).date().isoformat()
    number, items, total, status = order["number"], ", ".join(order["items"]), order["total"], order["status"]
    if language == "zh":
        title, text = f"您的订单 {number}", f"您的订单 {number}（{day}）：{items}。合计 {total}。状态：{status}。"
    else:
        title = f"Your order {number}"
        text = f"Your order {number} of {day}: {items}. Total {total}. Its status is: {status}."
    return OrderFact(number, _as_hit(ORDER_ID - place, title, text))


def _find_past_answers(connection: Connection, account_id: str, conversation_id: str, question: str) -> list[Hit]:
    """The answer to the most similar question of an earlier conversation, unless the customer disliked it."""
    answer, asked = messages.alias("answer"), messages.alias("asked")
    query = (
        sa.select(answer.c.id, answer.c.text, asked.c.text.label("question"))
        .join(asked, asked.c.id == answer.c.reply_to)
        .join(conversations, conversations.c.id == answer.c.conversation_id)
        .outerjoin(feedback, feedback.c.message_id == answer.c.id)
        .where(
            conversations.c.account_id == account_id,
            conversations.c.id != conversation_id,
            answer.c.source.in_(("model", "passage")),
            sa.or_(feedback.c.rating.is_(None), feedback.c.rating == "up"),
        )
        .order_by(answer.c.created_at.desc())
        .limit(MAX_PAST)
    )
    words = set(content_words(question))
    ranked = [(len(words & set(content_words(row.question))), row) for row in connection.execute(query)]
    shared, best = max(ranked, key=lambda pair: pair[0], default=(0, None))
    if best is None or shared < MIN_SHARED_WORDS:
        return []
    return [_as_hit(PAST_ID, "An earlier answer to you", best.text)]


def _as_hit(id: int, title: str, text: str) -> Hit:
    return Hit(passage_id=id, article_id="", version=0, title=title, heading="", text=text, score=1.0, rank=0)
