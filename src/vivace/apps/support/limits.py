"""Rate limits: a token bucket for each account or address, in memory alone.

Keys are never written anywhere, and old ones are forgotten. Knows no HTTP.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable

from vivace.apps.support.settings import Rate
from vivace.errors import RateLimitedError

MAX_KEYS = 100_000


class RateLimiter:
    """Lets each key do something `rate.burst` times at once, then `rate.per_minute` times a minute."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> tokens left, at that time

    def take(self, key: str) -> None:
        """Count one. Raises `RateLimitedError` when the key has none left."""
        now = self._clock()
        left, since = self._buckets.pop(key, (float(self._rate.burst), now))
        left = min(self._rate.burst, left + (now - since) * self._rate.per_minute / 60)
        allowed = left >= 1
        self._buckets[key] = (left - 1 if allowed else left, now)
        if len(self._buckets) > MAX_KEYS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = (1 - left) * 60 / self._rate.per_minute if self._rate.per_minute else math.inf
            raise RateLimitedError("That was too often. Wait a little, and try again.", min(wait_s, 3600.0))


def name_address(address: str) -> str:
    """The key of an address: IPv6 by its /64, which one household has whole."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def find_address(peer: str, forwarded: str, trusted: tuple[str, ...]) -> str:
    """Whose request it is: the peer, or what trusted proxies say, from the right up to the first that is not one."""
    found = peer
    for hop in reversed([part.strip() for part in forwarded.split(",") if part.strip()][-16:]):
        if found not in trusted:
            break
        found = hop
    return found
