"""Accounts: guests, customers, agents and admins, with their passwords as argon2id hashes.

Hashing takes tens of milliseconds on purpose, so it stands apart from the functions that work inside a transaction.
Knows neither tokens nor HTTP.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy.engine import Connection, RowMapping

from vivace.apps.support.settings import PasswordCost
from vivace.apps.support.store import accounts, make_id, sessions
from vivace.errors import ConflictError, InvalidError, NotFoundError

ROLES = ("guest", "customer", "agent", "admin")
PASSWORD_LENGTH = (10, 256)
PAGE = 100

_EMAIL = re.compile(r"[^@\s<>\"'\\,;:()\[\]]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")


@dataclass(frozen=True, slots=True)
class Account:
    """A row of `accounts`, without the password."""

    id: str
    tenant: str
    role: str
    email: str | None
    name: str
    language: str
    personal: bool
    disabled: bool
    created_at: float


class Passwords:
    """Hashes and compares. Thread-safe; a call takes as long as `cost` says, so it belongs on a worker thread."""

    def __init__(self, cost: PasswordCost) -> None:
        self._hasher = PasswordHasher(cost.passes, cost.memory_kib, cost.lanes)
        self._nobody = self._hasher.hash("of no account")

    def hash(self, password: str) -> str:
        return self._hasher.hash(_normalise(password))

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Takes the same time for an account that there is not (`None`)."""
        try:
            return self._hasher.verify(password_hash or self._nobody, _normalise(password)) and bool(password_hash)
        except (VerificationError, InvalidHashError):
            return False

    def is_outdated(self, password_hash: str) -> bool:
        """Whether it was made at another cost, and should be made again."""
        return self._hasher.check_needs_rehash(password_hash)


def _normalise(password: str) -> str:
    return unicodedata.normalize("NFKC", password)


def check_password(password: str) -> None:
    """Raises `InvalidError`."""
    least, most = PASSWORD_LENGTH
    if not least <= len(password) <= most:
        raise InvalidError(f"A password has {least} to {most} characters. Choose another.")


def clean_email(email: str) -> str:
    """In lower case. Raises `InvalidError` for what is no address."""
    email = unicodedata.normalize("NFC", email.strip()).lower()
    if len(email) > 254 or not _EMAIL.fullmatch(email):
        raise InvalidError("This is no e-mail address. Write it as name@example.com.")
    return email


def clean_name(name: str) -> str:
    """One line, without control or formatting characters. Raises `InvalidError` when nothing is left."""
    kept = "".join(" " if character.isspace() else character for character in unicodedata.normalize("NFC", name))
    kept = " ".join("".join(character for character in kept if unicodedata.category(character)[0] != "C").split())
    if not 1 <= len(kept) <= 80:
        raise InvalidError("A name has 1 to 80 characters.")
    return kept


def _read_row(row: RowMapping) -> Account:
    return Account(**{name: row[name] for name in Account.__slots__})


def create(
    connection: Connection,
    tenant: str,
    role: str,
    name: str,
    language: str,
    now: float,
    email: str | None = None,
    password_hash: str | None = None,
) -> Account:
    """Raises `ConflictError` when the address has an account."""
    values = {
        "id": make_id(),
        "tenant": tenant,
        "role": role,
        "name": name,
        "language": language,
        "email": email,
        "password_hash": password_hash,
        "created_at": now,
    }
    try:
        row = connection.execute(sa.insert(accounts).values(values).returning(accounts)).mappings().one()
    except sa.exc.IntegrityError as error:
        raise _email_taken() from error
    return _read_row(row)


def _email_taken() -> ConflictError:
    return ConflictError("This e-mail address has an account. Sign in, or take another.", code="email_taken")


def upgrade_guest(connection: Connection, account: Account, name: str, email: str, password_hash: str) -> Account:
    """The guest becomes a customer and keeps what was said. Raises `ConflictError`."""
    statement = sa.update(accounts).where(accounts.c.id == account.id, accounts.c.role == "guest")
    statement = statement.values(role="customer", name=name, email=email, password_hash=password_hash)
    try:
        row = connection.execute(statement.returning(accounts)).mappings().one_or_none()
    except sa.exc.IntegrityError as error:
        raise _email_taken() from error
    if row is None:
        raise ConflictError("This session has an account already. Sign out first.")
    return _read_row(row)


def find(connection: Connection, tenant: str, id: str) -> Account:
    """Raises `NotFoundError`."""
    query = sa.select(accounts).where(accounts.c.id == id, accounts.c.tenant == tenant)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFoundError("There is no such account.")
    return _read_row(row)


def find_by_email(connection: Connection, tenant: str, email: str) -> tuple[Account, str | None] | None:
    """The account, if it may sign in, and its password's hash."""
    query = sa.select(accounts).where(
        accounts.c.tenant == tenant, accounts.c.email == email, accounts.c.disabled.is_(False)
    )
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else (_read_row(row), row["password_hash"])


def get_password_hash(connection: Connection, id: str) -> str | None:
    return connection.execute(sa.select(accounts.c.password_hash).where(accounts.c.id == id)).scalar_one_or_none()


def update(connection: Connection, tenant: str, id: str, **values: object) -> Account:
    """Change what is named. Raises `NotFoundError`."""
    statement = sa.update(accounts).where(accounts.c.id == id, accounts.c.tenant == tenant).values(values)
    row = connection.execute(statement.returning(accounts)).mappings().one_or_none()
    if row is None:
        raise NotFoundError("There is no such account.")
    return _read_row(row)


def list_page(connection: Connection, tenant: str, role: str | None, before: float | None) -> list[Account]:
    """The latest made first."""
    query = sa.select(accounts).where(accounts.c.tenant == tenant).order_by(accounts.c.created_at.desc()).limit(PAGE)
    if role is not None:
        query = query.where(accounts.c.role == role)
    if before is not None:
        query = query.where(accounts.c.created_at < before)
    return [_read_row(row) for row in connection.execute(query).mappings()]


def end_sessions(connection: Connection, account_id: str, now: float, *, but: str | None = None) -> None:
    """Revoke all sessions of the account, but for one if that is named."""
    statement = sa.update(sessions).where(sessions.c.account_id == account_id, sessions.c.revoked_at.is_(None))
    if but is not None:
        statement = statement.where(sessions.c.id != but)
    connection.execute(statement.values(revoked_at=now))
