"""Budgets, deadlines and timelines: pure arithmetic on times, no clock and no I/O.

A *budget* limits a request's times. A *deadline* is a budget made absolute for one request. A *timeline* is what
one request's times turned out to be. All instants are seconds of one monotonic clock; all durations say `_ms`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from vivace.errors import ConfigError

_UNITS = {"ms": 1.0, "s": 1000.0, "": 1.0}
_NAMES = {"ttft": "ttft_ms", "tpot": "tpot_ms", "total": "total_ms", "e2e": "total_ms"}


@dataclass(frozen=True, slots=True)
class Budget:
    """The most a request may take, in milliseconds; infinity where nothing is asked."""

    ttft_ms: float = math.inf
    """From the request's first byte to its first token."""
    tpot_ms: float = math.inf
    """A token after the first, on the average of the answer."""
    total_ms: float = math.inf
    """From the request's first byte to the answer's last."""

    def __bool__(self) -> bool:
        return min(self.ttft_ms, self.tpot_ms, self.total_ms) < math.inf

    def __str__(self) -> str:
        return ", ".join(f"{name[:-3]} {value:g} ms" for name, value in self.as_dict().items())

    def as_dict(self) -> dict[str, float]:
        """What is limited, and to what."""
        found = {"ttft_ms": self.ttft_ms, "tpot_ms": self.tpot_ms, "total_ms": self.total_ms}
        return {name: value for name, value in found.items() if value < math.inf}

    def tighten(self, other: Budget) -> Budget:
        """The tighter of the two in each part."""
        return Budget(
            min(self.ttft_ms, other.ttft_ms), min(self.tpot_ms, other.tpot_ms), min(self.total_ms, other.total_ms)
        )

    def deadline(self, arrived: float) -> Deadline:
        """This budget for a request whose first byte came at the instant `arrived`."""
        return Deadline(arrived + self.ttft_ms / 1000, arrived + self.total_ms / 1000, self.tpot_ms / 1000)

    def find_missed(self, first_ms: float, decode_ms: float, total_ms: float, tokens: int) -> str:
        """The first part that an answer of so many tokens missed: ttft, tpot, total; nothing if it kept all. One token
        has no time per further token."""
        if first_ms > self.ttft_ms:
            return "ttft"
        if tokens > 1 and decode_ms / (tokens - 1) > self.tpot_ms:
            return "tpot"
        return "total" if total_ms > self.total_ms else ""

    def kept_by(self, timeline: Timeline, tokens: int) -> bool:
        """Whether an answer of so many tokens kept it."""
        first_ms = timeline.preprocess_ms + timeline.queue_ms + timeline.prefill_ms
        return not self.find_missed(first_ms, timeline.decode_ms, timeline.total_ms, tokens)


NO_BUDGET = Budget()


@dataclass(frozen=True, slots=True)
class Deadline:
    """A budget made absolute for one request: instants in seconds, infinity where nothing is asked."""

    first: float = math.inf
    """Of the first token."""
    total: float = math.inf
    """Of the last byte."""
    tpot_s: float = math.inf
    """Between tokens, on the average."""


class OnDeadline(StrEnum):
    """What becomes of an answer whose total deadline comes before its end."""

    FAIL = "fail"
    TRUNCATE = "truncate"


def parse_budget(text: str) -> Budget:
    """`ttft=200ms tpot=20ms total=2s`, parted by spaces, commas or semicolons. Raises `ConfigError`."""
    found: dict[str, float] = {}
    for part in filter(None, re.split(r"[,;\s]+", text)):
        match = re.fullmatch(r"(ttft|tpot|total|e2e)(?:_ms)?[=:<]([0-9.]+)(ms|s)?", part)
        try:
            value = float(match[2]) * _UNITS[match[3] or ""] if match else 0.0
        except ValueError:
            value = 0.0
        if not match or not 0 < value < math.inf or _NAMES[match[1]] in found:
            raise ConfigError(f"{part[:50]!r} is no limit. Write a budget such as ttft=200ms,tpot=20ms,total=2s.")
        found[_NAMES[match[1]]] = value
    if not found:
        raise ConfigError("The budget is empty. Write one such as ttft=200ms,tpot=20ms,total=2s.")
    return Budget(**found)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Where one request's response time went, in milliseconds.

    T_response = T_preprocess + T_queue + T_compute + T_flush, and T_compute = prefill + decode. Time a request
    spends preempted counts as queue.
    """

    preprocess_ms: float = 0.0
    """Chat template and tokenizer."""
    queue_ms: float = 0.0
    """Admitted, but nothing of it in any step."""
    prefill_ms: float = 0.0
    """From its first step to its first token."""
    decode_ms: float = 0.0
    """From its first token to its last."""
    flush_ms: float = 0.0
    """From its last token to the last byte handed to the reader."""

    @property
    def total_ms(self) -> float:
        return self.preprocess_ms + self.queue_ms + self.prefill_ms + self.decode_ms + self.flush_ms

    def as_dict(self) -> dict[str, float]:
        """Every part, rounded to a microsecond, and their exact sum, ready for JSON."""
        parts_us = {name: round(1000 * getattr(self, name)) for name in self.__slots__}
        return {name: value / 1000 for name, value in (parts_us | {"total_ms": sum(parts_us.values())}).items()}
