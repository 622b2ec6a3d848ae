"""Who did what to which thing: ids, states and figures, and never a message's text.

Entries are written in the transaction of what they tell of. Functions work inside a caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support.store import audit

PAGE = 100


def note(
    connection: Connection,
    tenant: str,
    actor: str | None,
    action: str,
    subject: str | None,
    detail: Mapping[str, object],
    now: float,
) -> None:
    """`actor` is an account's id, None the application itself; `detail` has no words that a customer wrote."""
    values = {
        "tenant": tenant,
        "at": now,
        "actor": actor,
        "action": action,
        "subject": subject,
        "detail": dict(detail),
    }
    connection.execute(sa.insert(audit).values(values))


def list_entries(connection: Connection, tenant: str, before: int | None) -> list[dict[str, Any]]:
    """The latest first, a page at a time."""
    query = sa.select(audit).where(audit.c.tenant == tenant).order_by(audit.c.id.desc()).limit(PAGE)
    if before is not None:
        query = query.where(audit.c.id < before)
    names = ("id", "at", "actor", "action", "subject", "detail")
    return [{name: row[name] for name in names} for row in connection.execute(query).mappings()]
