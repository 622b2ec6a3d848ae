"""Webhooks in the database: who is told of changes of state, and the outbox of what is still to be told.

An entry of the outbox is written in the transaction of the change itself. `delivery` sends it. Functions work inside
a caller's transaction; none sees a message's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support.store import deliveries, make_id, webhooks
from vivace.errors import ConflictError, InvalidError, NotFoundError

MAX_WEBHOOKS = 10
"""Of one tenant."""
MAX_PENDING = 1000
"""Of one webhook; beyond, what happens is not told it."""
RETRY_AFTER_S = (5.0, 25.0, 120.0, 600.0, 3600.0)
"""After the first failure, the second, and so on; then it has failed for good."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One body on its way to one address."""

    id: str
    webhook_id: str
    url: str
    attempts: int
    body: Mapping[str, Any]


def check_url(url: str) -> str:
    """Raises `InvalidError` unless it is one to POST to. Where it leads is looked at before each delivery."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username or parts.password or len(url) > 500 or not url.isascii() or not url.isprintable():
        raise InvalidError("This is no address for a webhook. Write https://HOST/PATH, without name or password in it.")
    return url


def add(connection: Connection, tenant: str, id: str, url: str, now: float) -> dict[str, Any]:
    """Raises `InvalidError`, or `ConflictError` when there are too many."""
    count = sa.select(sa.func.count()).where(webhooks.c.tenant == tenant)
    if connection.execute(count).scalar_one() >= MAX_WEBHOOKS:
        raise ConflictError(f"There are {MAX_WEBHOOKS} webhooks, and can be no more. Delete one.")
    values = {"id": id, "tenant": tenant, "url": check_url(url), "active": True, "created_at": now}
    connection.execute(sa.insert(webhooks).values(values))
    return {"id": id, "url": url, "active": True, "created_at": now, "pending": 0, "failed": 0}


def list_all(connection: Connection, tenant: str) -> list[dict[str, Any]]:
    """With how many deliveries are pending and have failed."""
    count = sa.func.count
    query = (
        sa.select(
            webhooks,
            count(sa.case((deliveries.c.status == "pending", 1))).label("pending"),
            count(sa.case((deliveries.c.status == "failed", 1))).label("failed"),
        )
        .outerjoin(deliveries, deliveries.c.webhook_id == webhooks.c.id)
        .where(webhooks.c.tenant == tenant)
        .group_by(webhooks.c.id)
        .order_by(webhooks.c.created_at)
    )
    names = ("id", "url", "active", "created_at", "pending", "failed")
    return [{name: row[name] for name in names} for row in connection.execute(query).mappings()]


def switch(connection: Connection, tenant: str, id: str, active: bool) -> dict[str, Any]:
    """Raises `NotFoundError`."""
    statement = sa.update(webhooks).where(webhooks.c.id == id, webhooks.c.tenant == tenant).values(active=active)
    if connection.execute(statement).rowcount == 0:
        raise NotFoundError("There is no such webhook.")
    return next(found for found in list_all(connection, tenant) if found["id"] == id)


def remove(connection: Connection, tenant: str, id: str) -> None:
    """With all that it was still to be told. Raises `NotFoundError`."""
    statement = sa.delete(webhooks).where(webhooks.c.id == id, webhooks.c.tenant == tenant)
    if connection.execute(statement).rowcount == 0:
        raise NotFoundError("There is no such webhook.")


def enqueue(connection: Connection, tenant: str, happened: Mapping[str, Any], now: float) -> None:
    """Note for every active webhook of the tenant that a conversation changed its state."""
    pending = sa.select(sa.func.count()).where(
        deliveries.c.webhook_id == webhooks.c.id, deliveries.c.status == "pending"
    )
    query = sa.select(webhooks.c.id).where(webhooks.c.tenant == tenant, webhooks.c.active)
    for webhook_id in connection.execute(query.where(pending.scalar_subquery() < MAX_PENDING)).scalars().all():
        id = make_id()
        body = {"id": id, "event": "conversation.state", "tenant": tenant, "at": now} | dict(happened)
        values = {"id": id, "tenant": tenant, "webhook_id": webhook_id, "status": "pending", "body": body}
        connection.execute(sa.insert(deliveries).values(values | {"created_at": now, "next_at": now}))


def take_due(connection: Connection, now: float, lease_s: float, limit: int) -> list[Delivery]:
    """What is to be sent now. It comes again after `lease_s` unless its end is noted by then: the process may die."""
    query = (
        sa.select(deliveries, webhooks.c.url)
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
        .where(deliveries.c.status == "pending", deliveries.c.next_at <= now, webhooks.c.active)
        .order_by(deliveries.c.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True, of=deliveries)
    )
    rows = connection.execute(query).mappings().all()
    ids = [row["id"] for row in rows]
    connection.execute(sa.update(deliveries).where(deliveries.c.id.in_(ids)).values(next_at=now + lease_s))
    return [Delivery(**{name: row[name] for name in Delivery.__slots__}) for row in rows]


def note_end(connection: Connection, delivery: Delivery, error: str | None, now: float) -> None:
    """Delivered, or when to try again, or given up."""
    attempts = delivery.attempts + 1
    if error is None:
        values: dict[str, Any] = {"status": "done", "error": None}
    elif attempts > len(RETRY_AFTER_S):
        values = {"status": "failed", "error": error[:200]}
    else:
        values = {"next_at": now + RETRY_AFTER_S[attempts - 1], "error": error[:200]}
    statement = sa.update(deliveries).where(deliveries.c.id == delivery.id)
    connection.execute(statement.values(values | {"attempts": attempts}))


def list_deliveries(connection: Connection, tenant: str) -> list[dict[str, Any]]:
    """The last hundred, the latest first."""
    query = (
        sa.select(deliveries).where(deliveries.c.tenant == tenant).order_by(deliveries.c.created_at.desc()).limit(100)
    )
    names = ("id", "webhook_id", "status", "attempts", "created_at", "next_at", "error")
    return [{name: row[name] for name in names} for row in connection.execute(query).mappings()]


def forget_old(connection: Connection, before: float) -> None:
    """Delete what is over and older."""
    over = deliveries.c.status.in_(("done", "failed"))
    connection.execute(sa.delete(deliveries).where(over, deliveries.c.created_at < before))
