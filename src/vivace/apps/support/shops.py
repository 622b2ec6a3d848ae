"""A shop's settings in the database. Functions work inside a caller's transaction."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vivace.apps.support.settings import ShopSettings
from vivace.apps.support.store import shop_settings


def load(connection: Connection, tenant: str) -> ShopSettings:
    """As an admin left them; the defaults where nobody has."""
    query = sa.select(shop_settings.c.settings).where(shop_settings.c.tenant == tenant)
    found = connection.execute(query).scalar_one_or_none()
    return ShopSettings() if found is None else msgspec.convert(found, ShopSettings)


def save(connection: Connection, tenant: str, settings: ShopSettings, now: float) -> None:
    values = {"settings": msgspec.to_builtins(settings), "updated_at": now}
    changed = connection.execute(sa.update(shop_settings).where(shop_settings.c.tenant == tenant).values(values))
    if changed.rowcount == 0:
        connection.execute(sa.insert(shop_settings).values(values | {"tenant": tenant}))
