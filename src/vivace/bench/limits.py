"""A latency budget as a benchmark takes it, and whether requests kept it. Pure arithmetic."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from vivace.bench.observation import Observation
from vivace.bench.stats import share_interval
from vivace.errors import ConfigError

_UNITS = {"ms": 1.0, "s": 1000.0, "": 1.0}
_NAMES = {"ttft": "ttft_ms", "tpot": "tpot_ms", "total": "total_ms", "e2e": "total_ms"}


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a request may take, in milliseconds; infinity where nothing is asked."""

    ttft_ms: float = math.inf
    tpot_ms: float = math.inf
    total_ms: float = math.inf

    def __bool__(self) -> bool:
        return min(self.ttft_ms, self.tpot_ms, self.total_ms) < math.inf

    def __str__(self) -> str:
        return ", ".join(f"{name[:-3]} {value:g} ms" for name, value in self.as_dict().items())

    def as_dict(self) -> dict[str, float]:
        found = {"ttft_ms": self.ttft_ms, "tpot_ms": self.tpot_ms, "total_ms": self.total_ms}
        return {name: value for name, value in found.items() if value < math.inf}

    def kept_by(self, seen: Observation) -> bool:
        """Errors and refusals keep nothing. A limit on what a request has not (TPOT of one token) is kept.

        Raises nothing when tokens are unknown: then a limit on TPOT is taken as missed, for it is not shown.
        """
        if not seen.ok or seen.e2e_ms is None or seen.e2e_ms > self.total_ms:
            return False
        if self.ttft_ms < math.inf and (seen.ttft_ms is None or seen.ttft_ms > self.ttft_ms):
            return False
        if self.tpot_ms == math.inf or (seen.tokens is not None and seen.tokens < 2):
            return True
        return seen.tpot_ms is not None and seen.tpot_ms <= self.tpot_ms


NO_LIMITS = Limits()


def parse_budget(text: str) -> Limits:
    """`ttft=200ms,tpot=20ms,total=2s`. Raises `ConfigError`."""
    found: dict[str, float] = {}
    for part in filter(None, re.split(r"[,\s]+", text)):
        match = re.fullmatch(r"(ttft|tpot|total|e2e)(?:_ms)?[=:<]([0-9.]+)(ms|s)?", part)
        try:
            value = float(match[2]) * _UNITS[match[3] or ""] if match else 0.0
        except ValueError:
            value = 0.0
        if not match or not 0 < value < math.inf or _NAMES[match[1]] in found:
            raise ConfigError(f"{part!r} is no limit. Write a budget such as ttft=200ms,tpot=20ms,total=2s.")
        found[_NAMES[match[1]]] = value
    if not found:
        raise ConfigError("The budget is empty. Write one such as ttft=200ms,tpot=20ms,total=2s.")
    return Limits(**found)


@dataclass(frozen=True, slots=True)
class Attainment:
    """How many of all offered requests kept the budget."""

    kept: int
    offered: int
    needed: float
    """The share that is to keep it."""

    @property
    def share(self) -> float:
        return self.kept / self.offered if self.offered else 0.0

    @property
    def missed(self) -> bool:
        return self.share < self.needed

    @property
    def verdict(self) -> str:
        """`kept`, `missed`, or `at risk`: kept in the sample, which is too small to say so of the server."""
        if self.missed:
            return "missed"
        return "kept" if share_interval(self.kept, self.offered)[0] >= 1 - 2 * (1 - self.needed) else "at risk"

    def as_dict(self) -> dict[str, object]:
        interval = list(share_interval(self.kept, self.offered))
        return {
            "kept": self.kept,
            "offered": self.offered,
            "attainment": self.share,
            "interval_95": interval,
            "needed": self.needed,
            "verdict": self.verdict,
        }


def attain(limits: Limits, observations: list[Observation], needed: float) -> Attainment:
    """Count over all that were offered."""
    return Attainment(sum(limits.kept_by(seen) for seen in observations), len(observations), needed)
