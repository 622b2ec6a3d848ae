"""When accepted requests will be done: the batch run forward in time, in closed form between the moments at which
one of them begins or ends to generate.

It follows what the scheduler does: prompts in the order of their deadlines, in chunks that share steps with all
streams, and every stream one token a step. Steps are taken as divisible, so a forecast is off by a step or so. Work
without a deadline is left out, since it sits out where it would be in the way. Pure functions: no clock, no state.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from vivace.budget import Deadline
from vivace.engine.cost import StepCost

MIN_CHUNK_TOKENS = 16.0


@dataclass(slots=True)
class Load:
    """What is left to do of one accepted request."""

    prompt: int
    """Tokens to compute before the first one comes; 0 once it has come."""
    answer: int
    """Tokens to generate, counted on; at least 1."""
    deadline: Deadline
    context: int = 0
    """Positions attended to by the next token."""
    truncates: bool = False
    """Its total deadline may end it."""

    @property
    def due(self) -> float:
        return min(self.deadline.first, self.deadline.total) if self.prompt else self.deadline.total


@dataclass(slots=True)
class Forecast:
    """Of one load, in milliseconds from now."""

    first_ms: float = 0.0
    done_ms: float = math.inf


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What the scheduler makes steps of."""

    max_step_ms: float
    max_batch_tokens: int


def forecast(loads: Sequence[Load], cost: StepCost, limits: StepLimits) -> list[Forecast]:
    """For each load, in the order given; time O(n log n)."""
    return _Run(loads, cost, limits).finish()


class _Run:
    """One forecast being made."""

    def __init__(self, loads: Sequence[Load], cost: StepCost, limits: StepLimits) -> None:
        self._loads = loads
        self._base_ms = cost.base_ms
        self._token_ms = max(cost.token_ms, 1e-9)
        self._found = [Forecast() for _ in loads]
        self._limits = limits
        context = sum(load.context + load.prompt for load in loads) / len(loads) if loads else 0.0
        self._stream_ms = cost.decode_ms(1, context) - cost.base_ms
        tightest_s = min((load.deadline.tpot_s for load in loads), default=math.inf)
        self._step_ms = min(limits.max_step_ms, 1000 * tightest_s)
        self._now_ms = 0.0
        self._steps = 0.0
        self._streams = [(float(load.answer), index) for index, load in enumerate(loads) if not load.prompt]
        heapq.heapify(self._streams)  # by the step with which they end

    def finish(self) -> list[Forecast]:
        waiting = sorted((load.due, index) for index, load in enumerate(self._loads) if load.prompt)
        left = float(sum(load.prompt for load in self._loads))
        for _, index in waiting:
            self._prefill(index, left)
            left -= self._loads[index].prompt
        while self._streams:
            self._advance(self._streams[0][0] - self._steps, self._base_ms)
        return self._found

    def _prefill(self, index: int, left: float) -> None:
        """`left` are all prompt tokens that wait, this one's included: they share its last step."""
        prompt = float(self._loads[index].prompt)
        while prompt > 0:
            spare_ms = self._step_ms - self._base_ms - len(self._streams) * self._stream_ms
            chunk = max(MIN_CHUNK_TOKENS, spare_ms / self._token_ms)
            if not self._streams and left <= prompt:
                chunk = prompt  # alone
            chunk = min(chunk, self._limits.max_batch_tokens, left)
            steps = prompt / chunk
            if self._streams:
                steps = min(steps, self._streams[0][0] - self._steps)
            self._advance(steps, self._base_ms + chunk * self._token_ms)
            prompt -= steps * chunk
            left -= steps * chunk
            if prompt < 1e-6:
                break
        self._found[index].first_ms = self._now_ms
        answer = self._loads[index].answer - 1
        if answer > 0:
            heapq.heappush(self._streams, (self._steps + answer, index))
        else:
            self._found[index].done_ms = self._now_ms

    def _advance(self, steps: float, besides_ms: float) -> None:
        """So many steps of all streams and of `besides_ms`; whoever ends with them is done."""
        self._now_ms += steps * (besides_ms + len(self._streams) * self._stream_ms)
        self._steps += steps
        while self._streams and self._streams[0][0] <= self._steps + 1e-9:
            _, index = heapq.heappop(self._streams)
            self._found[index].done_ms = self._now_ms
