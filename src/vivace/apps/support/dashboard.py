"""The shop's figures over the last days: how fast, how often the bot was enough, what people thought.

Functions work inside a caller's transaction; nothing is counted in advance. Percentiles are the values at their rank
in all answers of the time, at most `MAX_ANSWERS` of them, the latest.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support.store import conversations, events, feedback, messages

MAX_ANSWERS = 50_000
MAX_UNANSWERED = 20
DAY_S = 86400.0


def measure(connection: Connection, tenant: str, days: int, now: float) -> dict[str, Any]:
    """All figures, as the API tells them."""
    since = now - days * DAY_S
    said = _count_messages(connection, tenant, since)
    answers = _load_answers(connection, tenant, since)
    states = _load_states(connection, tenant, since)
    opinions = _load_opinions(connection, tenant, since)
    handovers = [state for state in states if state["data"]["state"] == "waiting_human" and _is_call(state["data"])]
    asked = _load_asked(connection, tenant, since)
    taken = {state["conversation_id"] for state in handovers}
    rate = len(taken & set(asked)) / len(asked) if asked else None
    return {
        "days": days,
        "conversations": _count_conversations(connection, tenant, since),
        "messages": said,
        "answers": len(answers),
        "first_token_ms": percentiles(answer["first_token_ms"] for answer in answers),
        "answer_ms": percentiles(answer["total_ms"] for answer in answers),
        "stages_ms": _measure_stages(answers),
        "sources": dict(Counter(answer["source"] for answer in answers)),
        "handovers": dict(Counter(state["data"]["reason"] for state in handovers)),
        "handover_rate": rate,
        "deflection": None if rate is None else 1 - rate,
        "thumbs": _count_thumbs(opinions),
        "unanswered": _list_unanswered(connection, tenant, since),
        "intents": _count_by(connection, tenant, since, messages.c.intent),
        "languages": _count_by(connection, tenant, since, messages.c.language),
        "by_day": _count_by_day(connection, tenant, since, answers, handovers, opinions),
        "waiting": _count_waiting(connection, tenant),
        "queue_wait_ms": percentiles(_measure_waits(states)),
    }


def percentiles(values: Iterable[float | None]) -> dict[str, float | int | None]:
    """By nearest rank; null of nothing."""
    ordered = sorted(value for value in values if value is not None)
    n = len(ordered)
    found: dict[str, float | int | None] = {
        f"p{q}": ordered[math.ceil(q / 100 * n) - 1] if n else None for q in (50, 90, 99)
    }
    return found | {"n": n}


def _is_call(data: Mapping[str, Any]) -> bool:
    """Whether a conversation came into the queue by the bot or the customer, and not back from an agent."""
    return bool(data["reason"] != "released")


def _count_messages(connection: Connection, tenant: str, since: float) -> int:
    query = sa.select(sa.func.count()).where(messages.c.tenant == tenant, messages.c.created_at >= since)
    return int(connection.execute(query).scalar_one())


def _count_conversations(connection: Connection, tenant: str, since: float) -> int:
    query = sa.select(sa.func.count()).where(conversations.c.tenant == tenant, conversations.c.created_at >= since)
    return int(connection.execute(query).scalar_one())


def _load_answers(connection: Connection, tenant: str, since: float) -> Sequence[Mapping[str, Any]]:
    columns = ("source", "first_token_ms", "total_ms", "timeline", "created_at")
    query = (
        sa.select(*(messages.c[name] for name in columns))
        .where(messages.c.tenant == tenant, messages.c.author == "bot", messages.c.created_at >= since)
        .order_by(messages.c.created_at.desc())
        .limit(MAX_ANSWERS)
    )
    return connection.execute(query).mappings().all()  # type: ignore[return-value]


def _load_states(connection: Connection, tenant: str, since: float) -> Sequence[Mapping[str, Any]]:
    query = (
        sa.select(events.c.conversation_id, events.c.data, events.c.created_at)
        .join(conversations, conversations.c.id == events.c.conversation_id)
        .where(conversations.c.tenant == tenant, events.c.kind == "state", events.c.created_at >= since)
        .order_by(events.c.created_at, events.c.id)
    )
    return connection.execute(query).mappings().all()  # type: ignore[return-value]


def _load_opinions(connection: Connection, tenant: str, since: float) -> Sequence[Mapping[str, Any]]:
    query = sa.select(feedback.c.rating, feedback.c.reason, feedback.c.created_at)
    found = connection.execute(query.where(feedback.c.tenant == tenant, feedback.c.created_at >= since))
    return found.mappings().all()  # type: ignore[return-value]


def _load_asked(connection: Connection, tenant: str, since: float) -> list[str]:
    """Conversations in which a customer said something."""
    query = sa.select(messages.c.conversation_id).where(
        messages.c.tenant == tenant, messages.c.author == "customer", messages.c.created_at >= since
    )
    return list(connection.execute(query.distinct()).scalars())


def _measure_stages(answers: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    stages: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for stage, value in (answer["timeline"] or {}).items():
            stages[stage].append(value)
    return {stage: {name: percentiles(values)[name] for name in ("p50", "p99")} for stage, values in stages.items()}


def _count_thumbs(opinions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = Counter(opinion["rating"] for opinion in opinions)
    reasons = Counter(opinion["reason"] for opinion in opinions if opinion["reason"] and opinion["rating"] == "down")
    return {"up": counts["up"], "down": counts["down"], "reasons": dict(reasons)}


def _list_unanswered(connection: Connection, tenant: str, since: float) -> list[dict[str, Any]]:
    """Questions that the bot had nothing to say to, or whose answer was disliked; the most frequent first."""
    asked, answer = messages.alias("asked"), messages.alias("answer")
    disliked = (
        sa.select(answer.c.reply_to)
        .join(feedback, feedback.c.message_id == answer.c.id)
        .where(answer.c.tenant == tenant, feedback.c.rating == "down", answer.c.reply_to.is_not(None))
    )
    query = (
        sa.select(asked.c.text, asked.c.created_at)
        .where(
            asked.c.tenant == tenant,
            asked.c.created_at >= since,
            asked.c.author == "customer",
            sa.or_(asked.c.unanswered, asked.c.id.in_(disliked)),
        )
        .order_by(asked.c.created_at.desc())
        .limit(MAX_ANSWERS)
    )
    groups: dict[str, dict[str, Any]] = {}
    for row in connection.execute(query):
        key = " ".join("".join(c if c.isalnum() else " " for c in row.text.lower()).split())
        group = groups.setdefault(key, {"question": row.text[:300], "count": 0, "last_at": row.created_at})
        group["count"] += 1
    return sorted(groups.values(), key=lambda group: (-group["count"], -group["last_at"]))[:MAX_UNANSWERED]


def _count_by(connection: Connection, tenant: str, since: float, column: sa.Column[Any]) -> dict[str, int]:
    query = (
        sa.select(column, sa.func.count())
        .where(messages.c.tenant == tenant, messages.c.author == "customer", messages.c.created_at >= since)
        .group_by(column)
    )
    return {key or "unknown": count for key, count in connection.execute(query)}


def _count_by_day(
    connection: Connection,
    tenant: str,
    since: float,
    answers: Sequence[Mapping[str, Any]],
    handovers: Sequence[Mapping[str, Any]],
    opinions: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Days of UTC, the earliest first, without those on which nothing happened."""
    started = sa.select(conversations.c.created_at)
    started = started.where(conversations.c.tenant == tenant, conversations.c.created_at >= since)
    counts = {
        "conversations": connection.execute(started).scalars().all(),
        "answers": [answer["created_at"] for answer in answers],
        "handovers": [state["created_at"] for state in handovers],
        "up": [opinion["created_at"] for opinion in opinions if opinion["rating"] == "up"],
        "down": [opinion["created_at"] for opinion in opinions if opinion["rating"] == "down"],
    }
    by_name = {name: Counter(map(_name_day, times)) for name, times in counts.items()}
    days = sorted({day for counter in by_name.values() for day in counter})
    return [{"day": day} | {name: counter[day] for name, counter in by_name.items()} for day in days]


def _name_day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def _count_waiting(connection: Connection, tenant: str) -> int:
    query = sa.select(sa.func.count()).where(conversations.c.tenant == tenant, conversations.c.state == "waiting_human")
    return int(connection.execute(query).scalar_one())


def _measure_waits(states: Sequence[Mapping[str, Any]]) -> list[float]:
    """How long customers were in the queue, whoever or whatever ended it; ms."""
    waits, since = [], {}
    for state in states:
        id = state["conversation_id"]
        if state["data"]["state"] == "waiting_human":
            since[id] = state["created_at"]
        elif id in since:
            waits.append(1000 * (state["created_at"] - since.pop(id)))
    return waits
