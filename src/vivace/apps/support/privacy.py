"""What belongs to a person: given out, deleted on demand, and deleted when it has been kept long enough.

Functions work inside a caller's transaction. After deletions `Store.shrink` empties SQLite's log of changes.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support import audit
from vivace.apps.support.accounts import Account
from vivace.apps.support.conversations import list_messages
from vivace.apps.support.personal import list_orders
from vivace.apps.support.store import accounts, conversations, deliveries, sessions
from vivace.apps.support.views import show_account, show_message

DAY_S = 86400.0


def export(connection: Connection, account: Account, now: float) -> dict[str, Any]:
    """All that is kept about the account, but for secrets (the password's hash)."""
    own = sa.select(conversations).where(conversations.c.account_id == account.id).order_by(conversations.c.created_at)
    begun = sa.select(sessions).where(sessions.c.account_id == account.id).order_by(sessions.c.created_at)
    audit.note(connection, account.tenant, account.id, "account.export", account.id, {}, now)
    session_names = ("created_at", "rotated_at", "expires_at", "revoked_at")
    names = ("id", "state", "reason", "language", "created_at", "updated_at", "closed_at")
    return {
        "exported_at": now,
        "account": show_account(account) | {"created_at": account.created_at},
        "sessions": [{name: row[name] for name in session_names} for row in connection.execute(begun).mappings()],
        "orders": list_orders(connection, account.id),
        "conversations": [
            {name: row[name] for name in names}
            | {"messages": [_show_whole(message) for message in list_messages(connection, row["id"])]}
            for row in connection.execute(own).mappings().all()
        ],
    }


def _show_whole(message: Any) -> dict[str, Any]:
    return show_message(message) | {"intent": message.intent, "sentiment": message.sentiment}


def delete_account(connection: Connection, account: Account, now: float) -> list[str]:
    """Delete the account with its sessions, orders, conversations and all in them. Returns the conversations.

    What stays: the audit's entries, which hold ids and no words; an agent's messages to customers, without the name.
    """
    own = sa.select(conversations.c.id).where(conversations.c.account_id == account.id)
    ids = list(connection.execute(own).scalars())
    connection.execute(sa.delete(accounts).where(accounts.c.id == account.id))
    detail = {"conversations": len(ids), "role": account.role}
    audit.note(connection, account.tenant, account.id, "account.delete", account.id, detail, now)
    return ids


def delete_old(connection: Connection, tenant: str, retention_days: int, now: float) -> list[str]:
    """Delete conversations that nobody touched for so long (0: none), and guests without any. Returns the
    conversations."""
    if retention_days == 0:
        return []
    before = now - retention_days * DAY_S
    old = sa.delete(conversations).where(conversations.c.tenant == tenant, conversations.c.updated_at < before)
    ids = list(connection.execute(old.returning(conversations.c.id)).scalars())
    has_any = sa.exists().where(conversations.c.account_id == accounts.c.id)
    idle = sa.delete(accounts).where(
        accounts.c.tenant == tenant, accounts.c.role == "guest", accounts.c.created_at < before, ~has_any
    )
    guests = connection.execute(idle).rowcount
    over = deliveries.c.status != "pending"
    connection.execute(
        sa.delete(deliveries).where(deliveries.c.tenant == tenant, over, deliveries.c.created_at < before)
    )
    if ids or guests:
        detail = {"conversations": len(ids), "guests": guests, "days": retention_days}
        audit.note(connection, tenant, None, "retention.delete", None, detail, now)
    return ids
