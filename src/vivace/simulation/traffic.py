"""What is asked of a server, and when: requests from a seed, in an open loop or a closed one.

With one seed, request n is the same at every rate, and its moment scales with the rate: two runs can be paired request
by request. Knows no server. In an open loop clients never come back after a refusal; none ever gives up.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vivace.budget import NO_BUDGET, Budget, OnDeadline
from vivace.engine.request import DEFAULT_PRIORITY, PRIORITIES
from vivace.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Tokens:
    """A log-normal distribution of lengths, rounded; always the median if `sigma` is 0."""

    median: float
    sigma: float = 0.0
    most: int = 1_000_000

    def __post_init__(self) -> None:
        if not 1 <= self.median <= self.most or not self.sigma >= 0:
            raise ConfigError(
                f"A median of {self.median:g} tokens, sigma {self.sigma:g} and at most {self.most} do not go together. "
                "The median is at least 1 and at most `most`; sigma is 0 or more."
            )

    def draw(self, generator: random.Random) -> int:
        """One length, at least 1."""
        factor = math.exp(generator.gauss(0.0, self.sigma)) if self.sigma else 1.0
        return min(self.most, max(1, round(self.median * factor)))


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests of one kind. Raises `ConfigError` when a value is out of its range."""

    prompt: Tokens
    answer: Tokens
    """`max_tokens`."""
    budget: Budget = NO_BUDGET
    share: float = 1.0
    """Of all requests, in proportion to the other kinds' shares."""
    ends_early: float = 0.0
    """The share of answers that end by themselves, after a uniform part of `max_tokens`."""
    priority: int = DEFAULT_PRIORITY
    on_deadline: OnDeadline = OnDeadline.FAIL

    def __post_init__(self) -> None:
        if not 0 < self.share < math.inf or not 0 <= self.ends_early <= 1 or self.priority not in PRIORITIES:
            raise ConfigError(
                f"A share of {self.share:g}, {self.ends_early:g} of answers ending early and priority {self.priority} "
                "do not go together. The share is above 0, the second from 0 to 1, the priority from 0 to 9."
            )


@dataclass(frozen=True, slots=True)
class Traffic:
    """A load: open, by `rate` or `times`, or closed, by `concurrency`. Raises `ConfigError` when a value is out of its
    range."""

    kinds: tuple[Kind, ...]
    rate: float = 0.0
    """Requests a second, as a Poisson process; or give `times`."""
    requests: int = 0
    """How many; with `times`, as many as these."""
    times: tuple[float, ...] = ()
    """Seconds from the start, in order."""
    seed: int = 0
    concurrency: int = 0
    """Closed loop: so many clients, each of which asks again once it was answered, or after a refusal when it was told
    to, until `requests` were made."""
    pause_ms: float = 0.0
    """Closed loop: from an answer's end to the client's next request."""
    lengths: tuple[tuple[int, int], ...] = ()
    """Prompt and answer tokens request by request, again from the first after the last, whatever the kinds say."""

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ConfigError("The traffic has no kind of request; give one at least.")
        given = (bool(self.times), 0 < self.rate < math.inf and self.requests > 0, bool(self.concurrency))
        if sum(given) != 1:
            raise ConfigError(
                "Say when requests come: one of a rate above 0 and a number of requests, their times, or a concurrency."
            )
        if self.concurrency and not (self.concurrency > 0 and self.requests > 0 and self.pause_ms >= 0):
            raise ConfigError(
                "A closed loop has a concurrency and a number of requests above 0, and no negative pause."
            )
        if not all(min(pair) >= 1 for pair in self.lengths):
            raise ConfigError("Prompts and answers have at least one token each.")
        if self.times and (
            list(self.times) != sorted(self.times) or not 0 <= self.times[0] <= self.times[-1] < math.inf
        ):
            raise ConfigError("The times of requests are not in order from 0 on. Sort them.")

    def arrivals(self) -> Iterator[Arrival]:
        """Every request, in the order in which they come. In a closed loop their moments are not known: all are 0."""
        moments = iter(self.times) if self.times else self._poisson() if self.rate else iter([0.0] * self.requests)
        generator = random.Random(f"requests {self.seed}")
        shares = [kind.share for kind in self.kinds]
        for number, moment in enumerate(moments):
            (index,) = generator.choices(range(len(shares)), shares)
            kind = self.kinds[index]
            prompt, answer = kind.prompt.draw(generator), kind.answer.draw(generator)
            if self.lengths:
                prompt, answer = self.lengths[number % len(self.lengths)]
            ends_at = generator.randint(1, answer)
            early = generator.random() < kind.ends_early
            yield Arrival(moment, index, prompt, answer, ends_at if early else answer + 1)

    def _poisson(self) -> Iterator[float]:
        generator = random.Random(f"moments {self.seed}")
        moment = 0.0
        for _ in range(self.requests):
            moment += generator.expovariate(1.0) / self.rate
            yield moment


class Arrival(NamedTuple):
    """One request."""

    at: float
    """Seconds from the start."""
    kind: int
    """Its place in `Traffic.kinds`."""
    prompt: int
    """Tokens."""
    answer: int
    """At most so many tokens."""
    ends_at: int
    """The model ends the answer by itself with this many tokens, if that is no more than `answer`."""
