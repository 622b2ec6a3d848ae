"""The sample shop put into the database: articles, intents, people and orders. What is there already stays."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support import accounts, intent_store, knowledge, shops
from vivace.apps.support.accounts import Passwords
from vivace.apps.support.intent_store import IntentRule
from vivace.apps.support.sample import NO_INTENT, Sample, SampleOrder, load_sample
from vivace.apps.support.settings import LocalText, ShopSettings
from vivace.apps.support.store import Store, make_id, orders

SHOP = ShopSettings(
    name="Fern & Lantern",
    greeting=LocalText(
        "Hello, this is Fern & Lantern's assistant. What can I do for you?",
        "您好，我是 Fern & Lantern 的智能助手。请问有什么可以帮您？",
    ),
)
ACTIONS = {
    "talk_to_person": "handover",
    "order_status": "orders",
    "refund_status": "orders",
    "greeting": "reply",
    "thanks_or_goodbye": "reply",
}
"""Of intents that are not simply answered."""
REPLIES = {
    "greeting": {
        "en": "Hello, {name}. What can I do for you?",
        "zh": "您好，{name}。请问有什么可以帮您？",
    },
    "thanks_or_goodbye": {
        "en": "You are welcome, {name}. What else can I do for you?",
        "zh": "不客气，{name}。还有什么可以帮您的吗？",
    },
}


def fill(store: Store, tenant: str, passwords: Passwords) -> Iterator[str]:
    """Lines that say what was put in."""
    if store.read(knowledge.list_page, tenant, None, None):
        yield "The knowledge base has articles already, so the sample shop was not put in."
        return
    sample, password, now = load_sample(), secrets.token_urlsafe(9), time.time()
    store.write(shops.save, tenant, SHOP, now)
    for article in sample.articles:
        store.write(knowledge.create, tenant, article.title, "markdown", article.markdown, None, now)
    rules = _make_rules(sample, now)
    for rule in rules:
        store.write(intent_store.save_rule, tenant, rule, None)
    store.write(_add_people, tenant, sample, passwords.hash(password), now)
    yield f"Put in {SHOP.name}: {len(sample.articles)} articles, {len(rules)} intents, {len(sample.orders)} orders."
    yield f"Its people, all with the password {password} (shown this once):"
    yield from (f"  {user.role:9} {user.email}" for user in sample.users)


def _make_rules(sample: Sample, now: float) -> list[IntentRule]:
    texts = defaultdict(list)
    for example in sample.examples:
        texts[example.label or NO_INTENT].append(example.text)
    return [
        IntentRule(label, ACTIONS.get(label, "answer"), REPLIES.get(label, {}), examples, now)
        for label, examples in texts.items()
    ]


def _add_people(connection: Connection, tenant: str, sample: Sample, password_hash: str, now: float) -> None:
    ids = {}
    for user in sample.users:
        known = accounts.find_by_email(connection, tenant, user.email)
        account = known[0] if known else accounts.create(
            connection, tenant, user.role, user.name, user.language, now, user.email, password_hash
        )  # fmt: skip
        ids[user.email] = account.id
    for order in sample.orders:
        connection.execute(sa.insert(orders).values(_describe(order, tenant, ids[order.email])))


def _describe(order: SampleOrder, tenant: str, account_id: str) -> dict[str, object]:
    total = sum(item.quantity * Decimal(item.price_usd) for item in order.items)
    return {
        "id": make_id(),
        "tenant": tenant,
        "account_id": account_id,
        "number": order.number,
        "status": order.state,
        "placed_at": datetime.fromisoformat(order.placed).replace(tzinfo=UTC).timestamp(),
        "items": [f"{item.quantity} × {item.name}" for item in order.items],
        "total": f"{total} USD",
    }
