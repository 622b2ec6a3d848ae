"""`vivace support init`: the tables, a first admin, and the sample shop; what is there already is left as it is. And
`vivace support reset-password`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from sqlalchemy.engine import Connection

from vivace.apps.support import accounts, audit, password_resets
from vivace.apps.support.accounts import Passwords, check_password, clean_email
from vivace.apps.support.password_resets import ResetLink
from vivace.apps.support.sessions import load_key
from vivace.apps.support.settings import SupportConfig
from vivace.apps.support.store import Store, open_store
from vivace.errors import NotFoundError


def initialize(config: SupportConfig, *, sample: bool, email: str, password: str | None) -> Iterator[str]:
    """Lines that say what was done. Raises `ConfigError`, or `InvalidError` for address or password."""
    load_key(config.directory)
    store = open_store(config.database_url)
    try:
        tenant = config.tenants[0]
        yield from _make_admin(store, tenant, clean_email(email), password, Passwords(config.password_cost))
        if sample:
            from vivace.apps.support import sample_shop

            yield from sample_shop.fill(store, tenant, Passwords(config.password_cost))
    finally:
        store.close()


def make_reset_link(config: SupportConfig, email: str) -> ResetLink:
    """For the account of that address in the first shop. Raises `ConfigError`, `NotFoundError`, `InvalidError`."""
    store = open_store(config.database_url)
    try:
        return store.write(_make_reset_link, config.tenants[0], clean_email(email))
    finally:
        store.close()


def _make_reset_link(connection: Connection, tenant: str, email: str) -> ResetLink:
    found = accounts.find_by_email(connection, tenant, email)
    if found is None:
        raise NotFoundError(f"The shop {tenant!r} has no account with {email} that may sign in. See the admin page.")
    return password_resets.create(connection, found[0], None, time.time())


def _make_admin(store: Store, tenant: str, email: str, password: str | None, passwords: Passwords) -> Iterator[str]:
    if store.read(accounts.find_by_email, tenant, email) is not None:
        yield f"{email} has an account already, which was left as it is."
        return
    chosen = password or secrets.token_urlsafe(12)
    check_password(chosen)
    store.write(_create_admin, tenant, email, passwords.hash(chosen))
    yield f"Made the admin {email}" + ("." if password else f" with the password {chosen} (shown this once).")


def _create_admin(connection: Connection, tenant: str, email: str, password_hash: str) -> None:
    now = time.time()
    made = accounts.create(connection, tenant, "admin", "Admin", "en", now, email, password_hash)
    audit.note(connection, tenant, None, "account.create", made.id, {"role": "admin"}, now)
