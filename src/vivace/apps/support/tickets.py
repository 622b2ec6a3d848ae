"""Conversations as agents see them: the queue, their own, the rest. Functions work inside a caller's transaction."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support.conversations import Conversation
from vivace.apps.support.store import accounts, conversations, messages
from vivace.apps.support.views import show_conversation
from vivace.errors import NotFoundError

MAX_QUEUE = 200
PAGE = 50


def _select(tenant: str) -> sa.Select[Any]:
    """Conversations with customer, agent, and what the customer said last."""
    customer, agent, said = accounts.alias("customer"), accounts.alias("agent"), messages.alias("said")
    last = (
        sa.select(sa.func.max(said.c.event))
        .where(said.c.conversation_id == conversations.c.id, said.c.author == "customer")
        .correlate(conversations)
        .scalar_subquery()
    )
    columns = (
        conversations,
        customer.c.name.label("customer_name"),
        customer.c.role.label("customer_role"),
        customer.c.language.label("customer_language"),
        agent.c.name.label("agent_name"),
        messages.c.text.label("last_text"),
        messages.c.sentiment.label("sentiment"),
        messages.c.intent.label("intent"),
    )
    is_last = sa.and_(messages.c.conversation_id == conversations.c.id, messages.c.event == last)
    return (
        sa.select(*columns)
        .join(customer, customer.c.id == conversations.c.account_id)
        .outerjoin(agent, agent.c.id == conversations.c.agent_id)
        .outerjoin(messages, is_last)
        .where(conversations.c.tenant == tenant)
    )


def _show(row: sa.RowMapping, agent_id: str, position: int | None = None) -> dict[str, Any]:
    conversation = Conversation(**{name: row[name] for name in Conversation.__slots__})
    customer = {
        "id": row["account_id"],
        "name": row["customer_name"],
        "role": row["customer_role"],
        "language": row["customer_language"],
    }
    return show_conversation(conversation, row["agent_name"], position) | {
        "customer": customer,
        "waiting_since": conversation.waiting_since,
        "last_text": row["last_text"],
        "sentiment": row["sentiment"],
        "intent": row["intent"],
        "mine": row["agent_id"] == agent_id,
    }


def load_queue(connection: Connection, tenant: str, agent_id: str) -> dict[str, Any]:
    """Who waits, the longest first, and whom this agent has."""
    waiting = _select(tenant).where(conversations.c.state == "waiting_human")
    waiting = waiting.order_by(conversations.c.waiting_since, conversations.c.id).limit(MAX_QUEUE)
    mine = _select(tenant).where(conversations.c.state == "human", conversations.c.agent_id == agent_id)
    mine = mine.order_by(conversations.c.updated_at.desc()).limit(MAX_QUEUE)
    rows = connection.execute(waiting).mappings().all()
    return {
        "waiting": [_show(row, agent_id, position) for position, row in enumerate(rows, 1)],
        "mine": [_show(row, agent_id) for row in connection.execute(mine).mappings()],
    }


def list_page(
    connection: Connection, tenant: str, agent_id: str, state: str | None, before: float | None
) -> list[dict[str, Any]]:
    """The latest first."""
    query = _select(tenant).order_by(conversations.c.updated_at.desc(), conversations.c.id).limit(PAGE)
    if state is not None:
        query = query.where(conversations.c.state == state)
    if before is not None:
        query = query.where(conversations.c.updated_at < before)
    return [_show(row, agent_id) for row in connection.execute(query).mappings()]


def get(connection: Connection, tenant: str, id: str, agent_id: str) -> dict[str, Any]:
    """Raises `NotFoundError`."""
    row = connection.execute(_select(tenant).where(conversations.c.id == id)).mappings().one_or_none()
    if row is None:
        raise NotFoundError("There is no such conversation.")
    return _show(row, agent_id)
