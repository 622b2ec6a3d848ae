"""Who has a conversation: the bot, nobody yet, a person, or nobody any more.

    bot ──▶ waiting_human ──▶ human ──▶ closed
     ▲            │              │
     └────────────┴──────────────┘        (and from each to closed)

Every change is one compare-and-set on the version, in one transaction with the event that tells of it, the webhooks'
outbox and the audit; a question that the bot has not answered by then is no longer the bot's. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support.audit import note
from vivace.apps.support.conversations import Conversation, NewMessage, append_event, find, lock, post
from vivace.apps.support.settings import LocalText
from vivace.apps.support.store import accounts, conversations, messages
from vivace.apps.support.webhooks import enqueue
from vivace.errors import ConflictError

ALLOWED: Mapping[str, frozenset[str]] = {
    "bot": frozenset({"waiting_human", "closed"}),
    "waiting_human": frozenset({"human", "bot", "closed"}),
    "human": frozenset({"waiting_human", "bot", "closed"}),
    "closed": frozenset(),
}
"""From each state, where to."""

NOTICES: Mapping[str, LocalText] = {
    "waiting_human": LocalText(
        "I am passing you on to a person. They will see what you wrote.",
        "我正在为您转接人工客服，他们能看到您写的内容。",
    ),
    "timeout": LocalText(
        "Nobody is free at the moment. I am the assistant again; you can ask for a person later.",
        "目前没有空闲的客服。现在由智能助手继续为您服务，您可以稍后再要求人工服务。",
    ),
    "closed": LocalText("This conversation is closed.", "本次对话已结束。"),
}
"""What the customer is told, by the new state or by the reason."""


def change(
    connection: Connection,
    conversation: Conversation,
    to: str,
    reason: str,
    now: float,
    actor: str | None = None,
    agent_id: str | None = None,
) -> Conversation:
    """The conversation in its new state, if it is still as it was read. Raises `ConflictError` otherwise.

    `actor` is the account that did it, None the application; `agent_id` who has it from now on.
    """
    if to not in ALLOWED[conversation.state]:
        raise ConflictError(f"A conversation that is {conversation.state} cannot become {to}. Read it again.")
    row = connection.execute(_compare_and_set(conversation, to, reason, now, agent_id)).mappings().one_or_none()
    if row is None:
        raise ConflictError("The conversation changed since it was read. Read it again.")
    changed = Conversation(**{name: row[name] for name in Conversation.__slots__})
    connection.execute(
        sa.update(messages).where(messages.c.conversation_id == changed.id, messages.c.due).values(due=False)
    )
    agent = name_agent(connection, agent_id)
    told = {
        "state": to,
        "version": changed.version,
        "reason": reason,
        "agent": None if agent is None else {"name": agent},
    }
    append_event(connection, changed.id, "state", now, told)
    _tell_customer(connection, changed, to, reason, now)
    happened = {"state": to, "from": conversation.state, "version": changed.version, "reason": reason}
    enqueue(connection, changed.tenant, {"conversation_id": changed.id} | happened, now)
    note(connection, changed.tenant, actor, f"conversation.{to}", changed.id, happened, now)
    return lock(connection, changed.id)


def _compare_and_set(
    conversation: Conversation, to: str, reason: str, now: float, agent_id: str | None
) -> sa.sql.dml.ReturningUpdate[Any]:
    columns = conversations.c
    values = {
        "state": to,
        "version": columns.version + 1,
        "reason": reason,
        "agent_id": agent_id if to in ("human", "closed") else None,
        "updated_at": now,
        "waiting_since": now if to == "waiting_human" else None,
        "closed_at": now if to == "closed" else None,
        "negative_turns": 0,
        "thumbs_down": 0,
    }
    unchanged = (columns.id == conversation.id, columns.version == conversation.version)
    return sa.update(conversations).where(*unchanged).values(values).returning(conversations)


def name_agent(connection: Connection, agent_id: str | None) -> str | None:
    """By which customers know the agent; None for nobody."""
    if agent_id is None:
        return None
    return connection.execute(sa.select(accounts.c.name).where(accounts.c.id == agent_id)).scalar_one_or_none()


def _tell_customer(connection: Connection, conversation: Conversation, to: str, reason: str, now: float) -> None:
    notice = NOTICES.get(reason) or NOTICES.get(to)
    if notice is not None:
        text = notice.choose(conversation.language)
        post(connection, conversation.tenant, conversation.id, NewMessage("system", text, conversation.language), now)


def call_person(connection: Connection, id: str, version: int, reason: str, now: float) -> Conversation | None:
    """Put the conversation into the queue, if the bot has it as it was at `version`. None if not."""
    current = lock(connection, id)
    if current.state != "bot" or current.version != version:
        return None
    return change(connection, current, "waiting_human", reason, now)


def ask_for_person(connection: Connection, tenant: str, id: str, account_id: str, now: float) -> Conversation:
    """The customer wants a person; who has one, or waits for one already, stays there. Raises `ConflictError`."""
    find(connection, tenant, id, account_id)
    current = lock(connection, id)
    if current.state in ("waiting_human", "human"):
        return current
    return change(connection, current, "waiting_human", "asked", now, actor=account_id)


def claim(connection: Connection, tenant: str, id: str, agent_id: str, version: int, now: float) -> Conversation:
    """An agent takes the conversation, out of the queue or from the bot. Raises `ConflictError` when it has changed."""
    find(connection, tenant, id)
    current = lock(connection, id)
    if current.version != version:
        raise ConflictError("Somebody was faster: the conversation changed since you read it. Read it again.")
    if current.state == "bot":
        current = change(connection, current, "waiting_human", "agent", now, actor=agent_id)
    return change(connection, current, "human", "claimed", now, actor=agent_id, agent_id=agent_id)


def release(connection: Connection, tenant: str, id: str, agent_id: str, to: str, now: float) -> Conversation:
    """The agent who has it gives it back to the queue or to the bot. Raises `ConflictError`."""
    current = _held_by(connection, tenant, id, agent_id)
    return change(connection, current, to, "released", now, actor=agent_id)


def close(connection: Connection, tenant: str, id: str, actor: str, now: float, *, as_agent: bool) -> Conversation:
    """End it, by its customer or by an agent; closed stays closed. Raises `ConflictError` when another agent has it."""
    current = find(connection, tenant, id, None if as_agent else actor)
    current = lock(connection, current.id)
    if current.state == "closed":
        return current
    if as_agent and current.state == "human":
        current = _held_by(connection, tenant, id, actor)
    return change(connection, current, "closed", "closed", now, actor=actor, agent_id=current.agent_id)


def _held_by(connection: Connection, tenant: str, id: str, agent_id: str) -> Conversation:
    find(connection, tenant, id)
    current = lock(connection, id)
    if current.state != "human" or current.agent_id != agent_id:
        raise ConflictError("You do not have this conversation. Claim it first.")
    return current


def give_up_waiting(connection: Connection, tenant: str, before: float, now: float) -> list[str]:
    """Give those who wait since `before` or longer back to the bot. Returns their conversations."""
    query = sa.select(conversations.c.id).where(
        conversations.c.tenant == tenant,
        conversations.c.state == "waiting_human",
        conversations.c.waiting_since <= before,
    )
    given_up = []
    for id in connection.execute(query).scalars().all():
        current = lock(connection, id)
        if current.state == "waiting_human" and (current.waiting_since or now) <= before:
            change(connection, current, "bot", "timeout", now)
            given_up.append(id)
    return given_up


def find_queue_position(connection: Connection, conversation: Conversation) -> int | None:
    """1 for who is next; None for who does not wait."""
    if conversation.state != "waiting_human":
        return None
    ahead = sa.select(sa.func.count()).where(
        conversations.c.tenant == conversation.tenant,
        conversations.c.state == "waiting_human",
        conversations.c.waiting_since < conversation.waiting_since,
    )
    return int(connection.execute(ahead).scalar_one()) + 1
