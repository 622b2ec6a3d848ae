"""Conversations in the database: messages, and the events by which readers follow them.

Events of one conversation are numbered 1, 2, 3, … under the lock of its row, so whoever has read up to N misses
nothing that comes after. Functions work inside a caller's transaction. Knows no HTTP, and of hand-over only the one
condition under which a bot may speak.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from vivace.apps.support.store import accounts, conversations, events, feedback, make_id, messages
from vivace.errors import ConflictError, NotFoundError

MAX_LISTED = 50
MAX_EVENTS = 4000
"""A conversation that has so many takes no more from its customer."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row of `conversations`."""

    id: str
    tenant: str
    account_id: str
    state: str
    version: int
    reason: str | None
    agent_id: str | None
    language: str
    last_event: int
    negative_turns: int
    thumbs_down: int
    created_at: float
    updated_at: float
    waiting_since: float | None
    closed_at: float | None


@dataclass(frozen=True, slots=True)
class NewMessage:
    """What is posted. `text` is redacted already."""

    author: str
    text: str
    language: str
    author_id: str | None = None
    client_id: str | None = None
    reply_to: str | None = None
    due: bool = False
    redacted: Sequence[str] = ()
    source: str | None = None
    citations: Sequence[Mapping[str, Any]] = ()
    timeline: Mapping[str, float] | None = None
    first_token_ms: float | None = None
    total_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A row of `messages`, with the author's name and the customer's opinion."""

    id: str
    conversation_id: str
    event: int
    author: str
    author_id: str | None
    name: str | None
    text: str
    language: str
    client_id: str | None
    reply_to: str | None
    due: bool
    redacted: Sequence[str]
    intent: str | None
    sentiment: str | None
    source: str | None
    citations: Sequence[Mapping[str, Any]]
    timeline: Mapping[str, float] | None
    created_at: float
    rating: str | None = None
    feedback_reason: str | None = None
    feedback_text: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something kept that happened. `message` is there for the kind `message`."""

    id: int
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)
    message: Message | None = None


def _read_row(row: RowMapping) -> Conversation:
    return Conversation(**{name: row[name] for name in Conversation.__slots__})


def start(connection: Connection, tenant: str, account_id: str, language: str, now: float) -> Conversation:
    """A new conversation with the bot."""
    values = {
        "id": make_id(),
        "tenant": tenant,
        "account_id": account_id,
        "state": "bot",
        "language": language,
        "created_at": now,
        "updated_at": now,
    }
    row = connection.execute(sa.insert(conversations).values(values).returning(conversations)).mappings().one()
    return _read_row(row)


def find(connection: Connection, tenant: str, id: str, account_id: str | None = None) -> Conversation:
    """The conversation; of that account only, if one is given. Raises `NotFoundError`."""
    query = sa.select(conversations).where(conversations.c.id == id, conversations.c.tenant == tenant)
    if account_id is not None:
        query = query.where(conversations.c.account_id == account_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFoundError("There is no such conversation. List yours with GET /api/conversations.")
    return _read_row(row)


def find_by_id(connection: Connection, id: str) -> Conversation:
    """For the application's own work, which has no tenant. Raises `NotFoundError`."""
    row = connection.execute(sa.select(conversations).where(conversations.c.id == id)).mappings().one_or_none()
    if row is None:
        raise NotFoundError("There is no such conversation any more.")
    return _read_row(row)


def lock(connection: Connection, id: str) -> Conversation:
    """The conversation as it is, which stays so until the transaction ends. Raises `NotFoundError`."""
    statement = sa.update(conversations).where(conversations.c.id == id).values(version=conversations.c.version)
    row = connection.execute(statement.returning(conversations)).mappings().one_or_none()
    if row is None:
        raise NotFoundError("There is no such conversation any more.")
    return _read_row(row)


def list_own(connection: Connection, tenant: str, account_id: str) -> list[Conversation]:
    """The latest first."""
    query = (
        sa.select(conversations)
        .where(conversations.c.tenant == tenant, conversations.c.account_id == account_id)
        .order_by(conversations.c.updated_at.desc(), conversations.c.id)
        .limit(MAX_LISTED)
    )
    return [_read_row(row) for row in connection.execute(query).mappings()]


def append_event(
    connection: Connection, id: str, kind: str, now: float, data: Mapping[str, Any] = {}, message_id: str | None = None
) -> int:
    """Number and keep one event; locks the conversation."""
    statement = (
        sa.update(conversations)
        .where(conversations.c.id == id)
        .values(last_event=conversations.c.last_event + 1, updated_at=now)
    )
    number = connection.execute(statement.returning(conversations.c.last_event)).scalar_one()
    values = {
        "conversation_id": id,
        "id": number,
        "kind": kind,
        "message_id": message_id,
        "data": dict(data),
        "created_at": now,
    }
    connection.execute(sa.insert(events).values(values))
    return int(number)


def post(connection: Connection, tenant: str, id: str, new: NewMessage, now: float) -> str:
    """Keep a message and its event. Returns the message's id.

    The bot's go through `post_reply`, a person's through `post_from_customer` or `post_from_agent`.
    """
    message_id = make_id()
    number = append_event(connection, id, "message", now, message_id=message_id)
    values = {name: getattr(new, name) for name in NewMessage.__slots__}
    values |= {"redacted": list(new.redacted), "citations": [dict(citation) for citation in new.citations]}
    values |= {"id": message_id, "tenant": tenant, "conversation_id": id, "event": number, "created_at": now}
    connection.execute(sa.insert(messages).values(values))
    return message_id


def post_from_customer(
    connection: Connection, conversation: Conversation, new: NewMessage, now: float
) -> tuple[Message, bool]:
    """Keep what a customer said, and whether it was new: the same `client_id` again gives what is kept already.

    It is due an answer if the bot has the conversation. Raises `ConflictError` when that is closed.
    """
    current = lock(connection, conversation.id)
    kept = _find_by_client_id(connection, current.id, new.client_id)
    if kept is not None:
        return kept, False
    if current.state == "closed":
        raise ConflictError("This conversation is closed. Start a new one with POST /api/conversations.")
    if current.last_event >= MAX_EVENTS:
        raise ConflictError("This conversation has become too long. Start a new one with POST /api/conversations.")
    due = NewMessage(
        author="customer",
        text=new.text,
        language=new.language,
        author_id=current.account_id,
        client_id=new.client_id,
        due=current.state == "bot",
        redacted=new.redacted,
    )
    return get_message(connection, post(connection, current.tenant, current.id, due, now)), True


def post_from_agent(connection: Connection, tenant: str, id: str, new: NewMessage, now: float) -> tuple[Message, bool]:
    """Keep what an agent said. Raises `ConflictError` unless that agent has the conversation."""
    find(connection, tenant, id)
    current = lock(connection, id)
    kept = _find_by_client_id(connection, id, new.client_id)
    if kept is not None:
        return kept, False
    if current.state != "human" or current.agent_id != new.author_id:
        raise ConflictError("You do not have this conversation. Claim it first.")
    return get_message(connection, post(connection, tenant, id, new, now)), True


def post_reply(connection: Connection, id: str, version: int, new: NewMessage, now: float) -> Message | None:
    """Keep the bot's answer to `new.reply_to`, if the bot still has the conversation as it was at `version`.

    The compare-and-set that keeps a bot from talking over a person: in the transaction that posts, the row is changed
    only while its state is `bot` and its version the one that the answer was begun with. None: it is not, or the
    question was answered already.
    """
    statement = (
        sa.update(conversations)
        .where(conversations.c.id == id, conversations.c.state == "bot", conversations.c.version == version)
        .values(updated_at=now)
    )
    row = connection.execute(statement.returning(conversations.c.tenant)).one_or_none()
    if row is None or not _settle(connection, new.reply_to):
        return None
    return get_message(connection, post(connection, row.tenant, id, new, now))


def _settle(connection: Connection, question_id: str | None) -> bool:
    """Take the question from those that are due; whether it was still one of them."""
    statement = sa.update(messages).where(messages.c.id == question_id, messages.c.due).values(due=False)
    return connection.execute(statement.returning(messages.c.id)).one_or_none() is not None


def note_understanding(connection: Connection, question_id: str, intent: str | None, sentiment: str) -> None:
    """What was made of a question."""
    statement = sa.update(messages).where(messages.c.id == question_id)
    connection.execute(statement.values(intent=intent, sentiment=sentiment))


def note_unanswered(connection: Connection, question_id: str) -> None:
    """The bot had nothing to say to it."""
    connection.execute(sa.update(messages).where(messages.c.id == question_id).values(unanswered=True))


def count_negative(connection: Connection, id: str, negative: bool) -> int:
    """How many of the customer's last messages in a row were unhappy, this one included."""
    count = conversations.c.negative_turns + 1 if negative else sa.literal(0)
    statement = sa.update(conversations).where(conversations.c.id == id).values(negative_turns=count)
    return connection.execute(statement.returning(conversations.c.negative_turns)).scalar_one_or_none() or 0


_MESSAGES = (
    sa.select(
        messages,
        accounts.c.name.label("name"),
        feedback.c.rating.label("rating"),
        feedback.c.reason.label("feedback_reason"),
        feedback.c.text.label("feedback_text"),
    )
    .outerjoin(accounts, accounts.c.id == messages.c.author_id)
    .outerjoin(feedback, feedback.c.message_id == messages.c.id)
)


def _read_message(row: RowMapping) -> Message:
    return Message(**{name: row[name] for name in Message.__slots__})


def get_message(connection: Connection, id: str) -> Message:
    return _read_message(connection.execute(_MESSAGES.where(messages.c.id == id)).mappings().one())


def _find_by_client_id(connection: Connection, id: str, client_id: str | None) -> Message | None:
    query = _MESSAGES.where(messages.c.conversation_id == id, messages.c.client_id == client_id)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _read_message(row)


def list_messages(connection: Connection, id: str) -> list[Message]:
    """In their order."""
    query = _MESSAGES.where(messages.c.conversation_id == id).order_by(messages.c.event)
    return [_read_message(row) for row in connection.execute(query).mappings()]


def list_recent(connection: Connection, id: str, before: int, limit: int = 8) -> list[Message]:
    """The last messages before event number `before`, in their order."""
    query = _MESSAGES.where(messages.c.conversation_id == id, messages.c.event < before)
    rows = connection.execute(query.order_by(messages.c.event.desc()).limit(limit)).mappings().all()
    return [_read_message(row) for row in reversed(rows)]


def list_events(connection: Connection, id: str, after: int) -> list[Event]:
    """All later than number `after`, in their order."""
    query = sa.select(events).where(events.c.conversation_id == id, events.c.id > after).order_by(events.c.id)
    rows = connection.execute(query).mappings().all()
    ids = [row["message_id"] for row in rows if row["message_id"]]
    found = {}
    if ids:
        query = _MESSAGES.where(messages.c.conversation_id == id, messages.c.event > after)
        found = {row["id"]: _read_message(row) for row in connection.execute(query).mappings()}
    return [Event(row["id"], row["kind"], row["data"], found.get(row["message_id"])) for row in rows]


def list_due(connection: Connection, id: str | None = None) -> list[tuple[str, str]]:
    """Questions that the bot has to answer, as (conversation, message), in the order they were asked."""
    query = (
        sa.select(messages.c.conversation_id, messages.c.id)
        .where(messages.c.due)
        .order_by(messages.c.created_at, messages.c.event)
    )
    if id is not None:
        query = query.where(messages.c.conversation_id == id)
    return [(row.conversation_id, row.id) for row in connection.execute(query)]
