"""What is asked of a variant: limits on times, memory and loss, and which of those that keep them is best.

    ttft_p99=30ms tpot_p99=2ms total_p95=1.5s memory=500MB loss=2%

parted by spaces, commas or semicolons. Times are percentiles over requests, as a client sees them; memory is the
server's largest resident set; loss is how much perplexity rises against the original in f32, as a share.

Pure arithmetic on values by name: knows no model, no machine and no clock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from vivace.budget import Budget
from vivace.errors import ConfigError

Prefer = Literal["loss", "speed"]

TIMES = ("ttft", "tpot", "total")
PERCENTILES = ("p50", "p95", "p99")
LATENCIES = tuple(f"{time}_{percentile}" for time in TIMES for percentile in PERCENTILES)
"""Names of limits on times, in milliseconds."""
MEMORY, LOSS = "memory", "loss"
NAMES = (*LATENCIES, MEMORY, LOSS)

LOSS_STEP = 0.0005
"""Losses nearer to each other than this are taken for the same: what is measured on some hundred documents is not
nearer to the truth."""

MAX_CHARACTERS = 4096
_TIME_UNITS = {"ms": 1.0, "s": 1e3, "us": 1e-3, "": 1.0}
_SIZE_UNITS = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_SHARE_UNITS = {"%": 0.01, "": 1.0}
_EXAMPLE = "ttft_p99=30ms tpot_p99=2ms memory=500MB loss=2%"

Values = Mapping[str, float]
"""What was predicted or measured, by the names of limits: milliseconds, bytes, a share. What is unknown is left out."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One limit."""

    name: str
    """Of `NAMES`."""
    limit: float
    """Milliseconds, bytes, or a share, as the name has it."""

    def __str__(self) -> str:
        return f"{self.name}={format_value(self.name, self.limit)}"

    def find_ratio(self, value: float) -> float:
        """The value over the limit: above 1 is missed. A loss of no more than nothing is none."""
        if self.limit == 0:
            return 0.0 if value <= 0 else math.inf
        return max(0.0, value) / self.limit


@dataclass(frozen=True, slots=True)
class Objective:
    """Limits, and what to prefer among variants that keep them."""

    constraints: tuple[Constraint, ...]
    prefer: Prefer = "loss"
    """`loss`: the least loss. `speed`: the fastest."""

    def __str__(self) -> str:
        return " ".join(map(str, self.constraints))

    def limit(self, name: str) -> float:
        """Infinity where nothing is asked."""
        return next((one.limit for one in self.constraints if one.name == name), math.inf)

    @property
    def latencies(self) -> tuple[Constraint, ...]:
        return tuple(one for one in self.constraints if one.name in LATENCIES)

    @property
    def budget(self) -> Budget:
        """The limits on times as a server's budget of every request: of each time that of p99, or else of p95. A limit
        on medians is none on single requests."""
        limits = {f"{time}_ms": self.limit(f"{time}_p99") for time in TIMES}
        for time in TIMES:
            if limits[f"{time}_ms"] == math.inf:
                limits[f"{time}_ms"] = self.limit(f"{time}_p95")
        return Budget(**limits)

    def leave_room(self, share: float) -> Objective:
        """The same with only so much of every limit on a time."""
        return replace(
            self,
            constraints=tuple(
                replace(one, limit=share * one.limit) if one.name in LATENCIES else one for one in self.constraints
            ),
        )

    def find_missed(self, values: Values) -> tuple[Constraint, ...]:
        """The limits that are not kept, the worst first. What is unknown counts as missed, and as worst."""
        missed = [one for one in self.constraints if _find_ratio(one, values) > 1]
        return tuple(sorted(missed, key=lambda one: _find_ratio(one, values), reverse=True))

    def find_excess(self, values: Values) -> float:
        """The largest value over its limit; 1 and less where all are kept, 0 where nothing is asked."""
        return max((_find_ratio(one, values) for one in self.constraints), default=0.0)

    def find_time(self, values: Values) -> float:
        """How slow: the geometric mean of the times that are limited over their limits; of no limits, of the medians
        of all times, in milliseconds."""
        times = [(values[one.name], one.limit) for one in self.latencies if one.name in values]
        times = times or [(values[name], 1.0) for name in ("ttft_p50", "tpot_p50", "total_p50") if name in values]
        if not times:
            return math.inf
        return math.exp(sum(math.log(max(value, 1e-9) / limit) for value, limit in times) / len(times))

    def rank(self, values: Values) -> tuple[float, ...]:
        """A key by which the best comes first: those that keep all limits, then by what is preferred; of those that
        do not, the nearest."""
        excess = self.find_excess(values)
        loss = round(max(0.0, values.get(LOSS, 0.0)) / LOSS_STEP) if math.isfinite(values.get(LOSS, 0.0)) else math.inf
        order = (float(loss), self.find_time(values))
        if excess > 1:
            return (1.0, excess, *order)
        return (0.0, *(order if self.prefer == "loss" else reversed(order)))


def _find_ratio(constraint: Constraint, values: Values) -> float:
    return constraint.find_ratio(values[constraint.name]) if constraint.name in values else math.inf


def parse_objective(text: str, prefer: Prefer = "loss") -> Objective:
    """Raises `ConfigError` that names the part that cannot be read, and how to write it."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"The budget has {len(text)} characters; it may have {MAX_CHARACTERS}.")
    found: dict[str, Constraint] = {}
    for part in filter(None, re.split(r"[,;\s]+", text)):
        constraint = _parse_part(part[:80])
        if constraint.name in found:
            raise ConfigError(f"{constraint.name} is limited twice; give one limit.")
        found[constraint.name] = constraint
    if not found:
        raise ConfigError(f"The budget is empty. Write one such as {_EXAMPLE}.")
    return Objective(tuple(found.values()), prefer)


def _parse_part(part: str) -> Constraint:
    match = re.fullmatch(r"([A-Za-z_0-9.]+)(?:=|:|<=?)([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)([A-Za-z%]*)", part)
    if match is None:
        raise ConfigError(f"{part!r} is no limit. Write a budget such as {_EXAMPLE}.")
    name, number, unit = match[1], match[2], match[3]
    if name in TIMES:
        asked = ", ".join(f"{name}_{percentile}" for percentile in PERCENTILES)
        raise ConfigError(f"{part!r} does not say of how many requests. Write one of {asked}.")
    if name not in NAMES:
        raise ConfigError(f"There is no limit {name!r}; there are {', '.join(NAMES)}.")
    units = _find_units(name)
    if unit.lower() not in units:
        known = ", ".join(repr(known) for known in units if known)
        raise ConfigError(f"{part!r} has the unit {unit!r}; {name} takes one of {known}.")
    limit = float(number) * units[unit.lower()]
    least_is_possible = name == LOSS
    if not math.isfinite(limit) or (limit <= 0 and not least_is_possible):
        raise ConfigError(f"{part!r} can be kept by nothing; give a limit above 0.")
    return Constraint(name, limit)


def _find_units(name: str) -> Mapping[str, float]:
    return _SHARE_UNITS if name == LOSS else _SIZE_UNITS if name == MEMORY else _TIME_UNITS


def format_value(name: str, value: float) -> str:
    """A value by its name, with its unit, as a budget has it."""
    if not math.isfinite(value):
        return "unknown" if math.isnan(value) else "no limit"
    if name == LOSS:
        return f"{100 * value:.4g}%"
    if name == MEMORY:
        return f"{value / 1e6:.4g}MB"
    return f"{value:.4g}ms"
