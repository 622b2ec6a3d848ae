"""`vivace support init`: the tables, a first admin, and the sample shop. What is there already is left as it is."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from sqlalchemy.engine import Connection

from vivace.apps.support import accounts, audit
from vivace.apps.support.accounts import Passwords, check_password, clean_email
from vivace.apps.support.sessions import load_key
from vivace.apps.support.settings import SupportConfig
from vivace.apps.support.store import Store, open_store


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
