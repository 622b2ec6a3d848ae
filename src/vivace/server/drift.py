"""Whether answers are still as fast as was certified: each limit's misses, counted over the latest answers.

A limit `ttft_p99=30ms` allows one answer in a hundred to be later. Among the latest answers more may be, by chance; it
has *drifted* when they are so many that chance does not explain it, and holds again once no more are late than it
allows. Knows limits and times; no certificate and no request's text.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

WINDOW = 1000
"""The latest answers that count."""
LEAST = 100
"""Fewer say nothing."""
SIGMAS = 4.0
"""Misses beyond what is allowed, in standard deviations of their number, that chance does not explain: it is looked at
after every answer."""

_logger = logging.getLogger("vivace.drift")


@dataclass(frozen=True, slots=True)
class CertifiedLimit:
    """What a share of all answers was measured to keep."""

    name: str
    """As a budget has it, such as `ttft_p99`."""
    metric: Literal["ttft", "tpot", "total"]
    quantile: float
    ms: float


@dataclass(frozen=True, slots=True)
class LimitState:
    limit: CertifiedLimit
    answers: int
    """That are counted."""
    missed_share: float
    drifted: bool


class DriftWatch:
    """Watches all limits. Says so once in the log when one drifts, and once when it holds again."""

    def __init__(self, limits: Sequence[CertifiedLimit], window: int = WINDOW) -> None:
        self._counts = [_Count(limit, deque(maxlen=window)) for limit in limits]

    def observe(self, ttft_ms: float, tpot_ms: float | None, total_ms: float) -> None:
        """An answer was told to its end. One token has no time per further token."""
        times = {"ttft": ttft_ms, "tpot": tpot_ms, "total": total_ms}
        for count in self._counts:
            time_ms = times[count.limit.metric]
            if time_ms is not None:
                count.add(time_ms > count.limit.ms)

    def observe_expired(self) -> None:
        """A deadline ended a request without an answer: it kept nothing."""
        self.observe(math.inf, math.inf, math.inf)

    def states(self) -> list[LimitState]:
        """Of every limit, in the order given."""
        return [
            LimitState(count.limit, len(count.missed), count.misses / max(1, len(count.missed)), count.drifted)
            for count in self._counts
        ]

    def describe(self) -> str:
        """The limits that have drifted, by name; empty if none has."""
        return ", ".join(state.limit.name for state in self.states() if state.drifted)


@dataclass(slots=True)
class _Count:
    limit: CertifiedLimit
    missed: deque[bool]
    misses: int = 0
    drifted: bool = False

    def add(self, late: bool) -> None:
        if len(self.missed) == self.missed.maxlen:
            self.misses -= self.missed[0]
        self.missed.append(late)
        self.misses += late
        n, allowed = len(self.missed), 1 - self.limit.quantile
        bound = n * allowed + SIGMAS * math.sqrt(n * allowed * self.limit.quantile)
        if not self.drifted and n >= LEAST and self.misses > bound:
            self.drifted = True
            self._say("drifted from the certificate", logging.WARNING)
        elif self.drifted and self.misses <= n * allowed:
            self.drifted = False
            self._say("holds the certificate again", logging.WARNING)

    def _say(self, event: str, level: int) -> None:
        fields = {
            "limit": self.limit.name,
            "limit_ms": self.limit.ms,
            "missed_share": round(self.misses / len(self.missed), 4),
            "allowed_share": round(1 - self.limit.quantile, 4),
            "answers": len(self.missed),
        }
        _logger.log(level, event, extra={"fields": fields})
