"""What customers thought of answers, and conversations as data to train with.

Functions work inside a caller's transaction; all texts in it were redacted before they were kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support import conversations as kept
from vivace.apps.support.conversations import Message
from vivace.apps.support.store import conversations, feedback, intents, messages
from vivace.errors import InvalidError, NotFoundError

PAGE = 100
MAX_EXPORTED = 100_000


def give(
    connection: Connection,
    tenant: str,
    account_id: str,
    message_id: str,
    rating: str,
    reason: str | None,
    text: str | None,
    now: float,
) -> tuple[Message, int]:
    """Keep the customer's opinion of an answer, in the place of an earlier one.

    Returns the message, and how many of the conversation's answers are rated down since it was last handed over.
    Raises `NotFoundError`, or `InvalidError` for what is no answer.
    """
    query = (
        sa.select(messages.c.author, messages.c.conversation_id)
        .join(conversations, conversations.c.id == messages.c.conversation_id)
        .where(messages.c.id == message_id, messages.c.tenant == tenant, conversations.c.account_id == account_id)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFoundError("There is no such message.")
    if row.author not in ("bot", "agent"):
        raise InvalidError("Only answers of the assistant or of a person can be rated.")
    kept.lock(connection, row.conversation_id)
    before = connection.execute(sa.select(feedback.c.rating).where(feedback.c.message_id == message_id)).scalar()
    values = {"rating": rating, "reason": reason, "text": text, "created_at": now}
    if before is None:
        values |= {"message_id": message_id, "tenant": tenant, "conversation_id": row.conversation_id}
        connection.execute(sa.insert(feedback).values(values))
    else:
        connection.execute(sa.update(feedback).where(feedback.c.message_id == message_id).values(values))
    told = {"message_id": message_id, "feedback": {"rating": rating, "reason": reason, "text": text}}
    kept.append_event(connection, row.conversation_id, "feedback", now, told)
    more = (rating == "down") - (before == "down")
    down = _count_down(connection, row.conversation_id, more)
    return kept.get_message(connection, message_id), down


def _count_down(connection: Connection, id: str, more: int) -> int:
    statement = sa.update(conversations).where(conversations.c.id == id)
    count = sa.case((conversations.c.thumbs_down + more < 0, 0), else_=conversations.c.thumbs_down + more)
    return int(
        connection.execute(statement.values(thumbs_down=count).returning(conversations.c.thumbs_down)).scalar_one()
    )


def list_page(connection: Connection, tenant: str, rating: str | None, before: float | None) -> list[dict[str, Any]]:
    """The latest first, with question and answer."""
    answer, asked = messages.alias("answer"), messages.alias("asked")
    query = (
        sa.select(feedback, answer.c.text.label("answer"), asked.c.text.label("question"))
        .join(answer, answer.c.id == feedback.c.message_id)
        .outerjoin(asked, asked.c.id == answer.c.reply_to)
        .where(feedback.c.tenant == tenant)
        .order_by(feedback.c.created_at.desc())
        .limit(PAGE)
    )
    if rating is not None:
        query = query.where(feedback.c.rating == rating)
    if before is not None:
        query = query.where(feedback.c.created_at < before)
    names = ("message_id", "conversation_id", "rating", "reason", "text", "question", "answer", "created_at")
    return [{name: row[name] for name in names} for row in connection.execute(query).mappings()]


def export_conversations(connection: Connection, tenant: str, system: str) -> Iterator[str]:
    """JSON lines `{"messages": [...], "source"}` as `vivace compress` and `vivace eval` read them: answers that
    customers rated up, and what agents answered unless it was rated down; each with the question before it."""
    down = sa.select(feedback.c.message_id).where(feedback.c.tenant == tenant, feedback.c.rating == "down")
    up = sa.select(feedback.c.message_id).where(feedback.c.tenant == tenant, feedback.c.rating == "up")
    good = sa.or_(messages.c.id.in_(up), sa.and_(messages.c.author == "agent", messages.c.id.not_in(down)))
    query = (
        sa.select(messages.c.id, messages.c.conversation_id, messages.c.event, messages.c.author, messages.c.text)
        .where(messages.c.tenant == tenant, messages.c.author.in_(("bot", "agent")), good)
        .order_by(messages.c.created_at)
        .limit(MAX_EXPORTED)
    )
    for row in connection.execute(query).mappings().all():
        question = _find_question(connection, row)
        if question is not None:
            turns = [("system", system)] if system else []
            turns += [("user", question), ("assistant", row["text"])]
            record = {"messages": [{"role": role, "content": text} for role, text in turns], "source": row["author"]}
            yield json.dumps(record, ensure_ascii=False) + "\n"


def _find_question(connection: Connection, answer: sa.RowMapping) -> str | None:
    """What the customer said last before the answer."""
    query = sa.select(messages.c.text).where(
        messages.c.conversation_id == answer["conversation_id"],
        messages.c.author == "customer",
        messages.c.event < answer["event"],
    )
    found = connection.execute(query.order_by(messages.c.event.desc()).limit(1)).scalar_one_or_none()
    return found if found and found.strip() else None


def export_intents(connection: Connection, tenant: str) -> Iterator[str]:
    """JSON lines `{"text", "label"}`: the operator's examples."""
    query = sa.select(intents.c.label, intents.c.examples).where(intents.c.tenant == tenant).order_by(intents.c.label)
    for row in connection.execute(query).all():
        for text in row.examples:
            yield json.dumps({"text": text, "label": row.label}, ensure_ascii=False) + "\n"
