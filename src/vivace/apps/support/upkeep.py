"""What the application does by itself now and then: queues that time out, questions that stayed due, data kept long
enough.

Each look is one function, so that tests need no clock to pass. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy.engine import Connection

from vivace.apps.support import handover, password_resets, privacy, sessions, shops, webhooks
from vivace.apps.support.service import Service
from vivace.apps.support.settings import ShopSettings

QUEUE_EVERY_S = 2.0
DUE_EVERY_S = 10.0
RETENTION_EVERY_S = 3600.0
DELIVERIES_KEPT_S = 30 * 86400.0

_logger = logging.getLogger("vivace.support.upkeep")


async def look_at_queues(service: Service) -> int:
    """Give those back to the bot who have waited too long. Returns how many."""
    count = 0
    for tenant in service.config.tenants:
        for conversation_id in await service.write(_give_up_waiting, tenant, service.clock()):
            service.tell_change(tenant, conversation_id, bot_stops=False)
            count += 1
    return count


def _give_up_waiting(connection: Connection, tenant: str, now: float) -> list[str]:
    timeout_s = shops.load(connection, tenant).queue_timeout_s
    return handover.give_up_waiting(connection, tenant, now - timeout_s, now)


async def look_at_retention(service: Service) -> int:
    """Delete what was kept long enough. Returns how many conversations."""
    count = 0
    for tenant in service.config.tenants:
        settings: ShopSettings = await service.read(shops.load, tenant)
        deleted = await service.write(privacy.delete_old, tenant, settings.retention_days, service.clock())
        for conversation_id in deleted:
            service.tell_change(tenant, conversation_id, bot_stops=True)
        count += len(deleted)
    await service.write(sessions.forget_old, service.clock())
    await service.write(password_resets.forget_old, service.clock())
    await service.write(webhooks.forget_old, service.clock() - DELIVERIES_KEPT_S)
    if count:
        await service.workers.run(service.store.shrink)
    return count


async def run(service: Service) -> None:
    """All of it, until cancelled."""
    looks: tuple[tuple[float, Callable[[], Awaitable[object]]], ...] = (
        (QUEUE_EVERY_S, lambda: look_at_queues(service)),
        (DUE_EVERY_S, service.answering.resume),
        (RETENTION_EVERY_S, lambda: look_at_retention(service)),
    )
    await asyncio.gather(*(_repeat(every_s, look) for every_s, look in looks))


async def _repeat(every_s: float, look: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await look()
        except Exception:
            _logger.exception("a look at what is due failed; trying again")
        await asyncio.sleep(every_s)
