"""Links that set a new password once: made by an admin, as there is no mail to send them with.

The database holds a hash of each token, so that nobody can use what is read from it. Functions work inside a caller's
transaction. Knows no HTTP and hashes no password.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support import accounts, audit
from vivace.apps.support.accounts import Account
from vivace.apps.support.store import accounts as account_rows
from vivace.apps.support.store import password_resets
from vivace.errors import ConflictError, InvalidError

LIFETIME_S = 3600.0
TOKEN_BYTES = 32

_GONE = "This link was used already, or has expired. Ask for a new one."


@dataclass(frozen=True, slots=True)
class ResetLink:
    """`token` is told once, and kept nowhere."""

    token: str
    expires_at: float

    @property
    def path(self) -> str:
        """Behind the application's address. The token stands behind the `#`, which browsers send to no server."""
        return f"/reset#{self.token}"


def create(connection: Connection, account: Account, actor: str | None, now: float) -> ResetLink:
    """A link for the account; one made before is void. `actor` is the admin, None the command line. Raises
    `InvalidError` for an account that cannot sign in."""
    if account.email is None or account.disabled:
        raise InvalidError("Only an account that can sign in has a password. Enable it first, or let them sign up.")
    forget(connection, account.id)
    token, expires_at = secrets.token_urlsafe(TOKEN_BYTES), now + LIFETIME_S
    values = {"token_hash": _hash(token), "account_id": account.id, "created_at": now, "expires_at": expires_at}
    connection.execute(sa.insert(password_resets).values(values))
    audit.note(connection, account.tenant, actor, "password_reset.create", account.id, {}, now)
    return ResetLink(token, expires_at)


def check(connection: Connection, token: str, now: float) -> None:
    """Raises `ConflictError` for a token that would do nothing, before its password is hashed."""
    if connection.execute(sa.select(password_resets.c.account_id).where(_is_good(token, now))).first() is None:
        raise ConflictError(_GONE, code="reset_gone")


def use(connection: Connection, token: str, password_hash: str, now: float) -> Account:
    """Set the password, and end every session of the account. Once: of two at the same time one is refused. Raises
    `ConflictError`."""
    statement = sa.delete(password_resets).where(_is_good(token, now)).returning(password_resets.c.account_id)
    account_id = connection.execute(statement).scalar_one_or_none()
    found = sa.select(account_rows.c.tenant).where(account_rows.c.id == account_id, account_rows.c.disabled.is_(False))
    tenant = None if account_id is None else connection.execute(found).scalar_one_or_none()
    if account_id is None or tenant is None:
        raise ConflictError(_GONE, code="reset_gone")
    account = accounts.update(connection, tenant, account_id, password_hash=password_hash)
    accounts.end_sessions(connection, account.id, now)
    audit.note(connection, tenant, account.id, "password_reset.use", account.id, {}, now)
    return account


def forget(connection: Connection, account_id: str) -> None:
    """Links of an account that has another password now, or may not sign in any more."""
    connection.execute(sa.delete(password_resets).where(password_resets.c.account_id == account_id))


def forget_old(connection: Connection, now: float) -> None:
    connection.execute(sa.delete(password_resets).where(password_resets.c.expires_at < now))


def _is_good(token: str, now: float) -> sa.ColumnElement[bool]:
    return sa.and_(password_resets.c.token_hash == _hash(token), password_resets.c.expires_at > now)


def _hash(token: str) -> str:
    """Of 256 bits of chance, which need no slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()
