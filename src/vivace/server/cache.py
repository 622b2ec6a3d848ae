"""The response cache: what deterministic requests were answered, by a digest of what was asked.

Least recently used answers go first when there is no room; none outlives its time. An entry is bytes, so the bound
is exact but for a fixed allowance an entry. Knows neither requests nor what the bytes mean, and is for one thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

ENTRY_BYTES = 512
"""What an entry takes beside its value: the key, two places in ordered dictionaries, and the objects themselves."""


@dataclass(frozen=True, slots=True)
class CacheStats:
    entries: int
    held_bytes: int
    evicted: int
    """Entries that gave way to others."""
    expired: int
    """Entries that reached the end of their time."""


class _Entry(NamedTuple):
    value: bytes
    stored: float


class ResponseCache:
    """Values by key, never more than `capacity_bytes` of them, none older than `ttl_s` seconds.

    `clock` gives monotonic seconds. Every operation takes a constant time but for the entries it drops.
    """

    def __init__(self, capacity_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity_bytes = capacity_bytes
        self.ttl_s = ttl_s
        self._clock = clock
        self._used: OrderedDict[bytes, _Entry] = OrderedDict()  # least recently used first
        self._stored: OrderedDict[bytes, None] = OrderedDict()  # the same keys, oldest first
        self._bytes = self._evicted = self._expired = 0

    def get(self, key: bytes, max_age_s: float | None = None) -> bytes | None:
        """The value, unless there is none, or it is `max_age_s` old or older."""
        self._drop_expired()
        entry = self._used.get(key)
        if entry is None or (max_age_s is not None and self._clock() - entry.stored >= max_age_s):
            return None
        self._used.move_to_end(key)
        return entry.value

    def put(self, key: bytes, value: bytes) -> bool:
        """Keep a value, in place of any that the key had; False, and nothing kept, if it alone is too large."""
        self._drop_expired()
        if key in self._used:
            self._drop(key)
        size = len(value) + ENTRY_BYTES
        if size > self.capacity_bytes:
            return False
        while self._bytes + size > self.capacity_bytes:
            self._drop(next(iter(self._used)))
            self._evicted += 1
        self._used[key] = _Entry(value, self._clock())
        self._stored[key] = None
        self._bytes += size
        return True

    def stats(self) -> CacheStats:
        self._drop_expired()
        return CacheStats(len(self._used), self._bytes, self._evicted, self._expired)

    def _drop_expired(self) -> None:
        due = self._clock() - self.ttl_s
        while self._stored and self._used[oldest := next(iter(self._stored))].stored <= due:
            self._drop(oldest)
            self._expired += 1

    def _drop(self, key: bytes) -> None:
        self._bytes -= len(self._used.pop(key).value) + ENTRY_BYTES
        del self._stored[key]
