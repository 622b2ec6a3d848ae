"""When requests are to be sent: fixed in advance, from a seed, whatever the server does.

Times are seconds from the start of the measurement. Knows no clock.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

from vivace.errors import ConfigError

ARRIVALS = ("poisson", "constant", "bursts")


@dataclass(frozen=True, slots=True)
class Load:
    """How requests are offered: by `rate` or at `times` (open loop), or by `concurrency` (closed loop)."""

    rate: float = 0.0
    """Requests a second."""
    arrivals: str = "poisson"
    burst: int = 8
    """Requests of a burst, under `bursts`; their rate is kept over all."""
    concurrency: int = 0
    think_ms: float = 0.0
    """Pause between an answer and the next request, in a closed loop and between a conversation's turns."""
    duration_s: float = 0.0
    requests: int = 0
    times: tuple[float, ...] = ()
    """Of a trace that is replayed."""
    connections: int = 0
    """At most so many at once; 0 is as many as it takes."""

    def __post_init__(self) -> None:
        ways = sum((bool(self.rate), bool(self.concurrency), bool(self.times)))
        if ways != 1:
            raise ConfigError("Say how to offer requests: one of --rate, --concurrency or --trace.")
        if self.rate and not (math.isfinite(self.rate) and 0 < self.rate <= 1e6):
            raise ConfigError(f"The rate is {self.rate:g}; it must be above 0, and at most a million a second.")
        if self.arrivals not in ARRIVALS:
            raise ConfigError(f"Arrivals are {self.arrivals!r}; they can be {', '.join(ARRIVALS)}.")
        if not self.times and not self.requests and not self.duration_s > 0:
            raise ConfigError("Say how long to measure: --duration or --requests.")

    @property
    def open(self) -> bool:
        return not self.concurrency

    def describe(self) -> str:
        if self.concurrency:
            pause = f", {self.think_ms:g} ms between" if self.think_ms else ""
            return f"closed loop, {self.concurrency} at once{pause}"
        if self.times:
            return f"open loop, {len(self.times)} requests of a trace"
        limit = f", at most {self.connections} connections" if self.connections else ""
        bursts = f" of {self.burst}" if self.arrivals == "bursts" else ""
        return f"open loop, {self.rate:g} requests/s, {self.arrivals}{bursts}{limit}"


def fix_times(load: Load, seed: int) -> list[float]:
    """Of an open loop: every moment, in order."""
    if load.times:
        times: Iterator[float] = iter(sorted(load.times))
    else:
        times = _GENERATORS[load.arrivals](load, random.Random(f"arrivals {seed}"))
    if load.duration_s > 0:
        times = takewhile(lambda moment: moment < load.duration_s, times)
    return list(islice(times, load.requests or None))


def _constant(load: Load, generator: random.Random) -> Iterator[float]:
    number = 0
    while True:
        yield number / load.rate
        number += 1


def _poisson(load: Load, generator: random.Random) -> Iterator[float]:
    moment = 0.0
    while True:
        moment += generator.expovariate(load.rate)
        yield moment


def _bursts(load: Load, generator: random.Random) -> Iterator[float]:
    """Bursts come as a Poisson process, all requests of one at the same moment."""
    moment = 0.0
    while True:
        moment += generator.expovariate(load.rate / load.burst)
        for _ in range(load.burst):
            yield moment


_GENERATORS = {"constant": _constant, "poisson": _poisson, "bursts": _bursts}
