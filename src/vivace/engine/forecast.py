"""When accepted requests will be done: the batch run forward in time, in closed form between the moments at which
one of them begins or ends to generate.

It follows what the scheduler does: prompts in the order of their deadlines, in chunks that share steps with all
streams, and every stream one token a step. Where several models share the machine, each that has work makes a step in
turn; together they are a round. Rounds are taken as divisible, so a forecast is off by one or so. Work without a
deadline sits out where it would be in the way, but for one stream, and for the step that is under way. Pure functions:
no clock, no state.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vivace.budget import Deadline
from vivace.engine.cost import StepCost
from vivace.engine.pacing import MIN_CHUNK_TOKENS, SAFETY, prompt_room_ms


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
    model: int = 0
    """Which of the costs is its own."""
    paced_until: float = math.inf
    """Of a stream, the instant of its last token if every token took the time that one may: what it was quicker so far,
    the rest may be slower."""

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


@dataclass(frozen=True, slots=True)
class Besides:
    """Work without a deadline that is under way."""

    models: frozenset[int] = frozenset()
    """Which of them have any."""
    step_ms: float = 0.0
    """Of the step that has just begun."""


NOTHING = Besides()


def forecast(
    loads: Sequence[Load],
    costs: Sequence[StepCost],
    limits: StepLimits,
    besides: Besides = NOTHING,
    margin: float = 1.0,
) -> list[Forecast]:
    """For each load, in the order given; time O(n log n). `costs` has one for each model.

    Steps may take `margin` times as long as told here, and those that a stream's time per token limits are planned so
    much shorter: the scheduler knows what they take by then.
    """
    return _Run(loads, costs, limits, besides, margin).finish()


def advance(loads: Sequence[Load], found: Sequence[Forecast], now: float, ms: float) -> list[Load]:
    """What will be left of loads with such forecasts, made now, after a time. Of a prompt under way then, all is
    counted."""
    left = []
    for load, told in zip(loads, found, strict=True):
        if told.done_ms <= ms:
            continue
        if told.first_ms > ms:
            left.append(load)
            continue
        share = (told.done_ms - ms) / (told.done_ms - told.first_ms)
        answer = max(1, math.ceil(load.answer * share))
        context = load.context + load.answer - answer + load.prompt
        until = load.paced_until
        if load.prompt:
            until = now + told.first_ms / 1000 + load.deadline.tpot_s * (load.answer - 1)
        left.append(replace(load, prompt=0, answer=answer, context=context, paced_until=until))
    return left


def delay(load: Load, ms: float) -> Load:
    """The same, asked for so much later."""
    deadline = load.deadline
    seconds = ms / 1000
    return replace(load, deadline=Deadline(deadline.first + seconds, deadline.total + seconds, deadline.tpot_s))


class _Run:
    """One forecast being made."""

    def __init__(
        self,
        loads: Sequence[Load],
        costs: Sequence[StepCost],
        limits: StepLimits,
        besides: Besides,
        margin: float,
    ) -> None:
        self._loads = loads
        self._pace_share = 1000 * SAFETY / margin
        """Of a time per token in seconds, the longest step in milliseconds."""
        self._costs = costs
        self._found = [Forecast() for _ in loads]
        self._limits = limits
        context = sum(load.context + load.prompt for load in loads) / len(loads) if loads else 0.0
        self._stream_ms = [cost.stream_ms(context) for cost in costs]
        self._pace_ms = math.inf
        """The longest that streams let a step become; of those that have ended too."""
        self._now_ms = besides.step_ms
        self._rounds = 0.0
        self._streams: list[tuple[float, int]] = []  # a heap, by the round with which they end
        self._streaming = [0] * len(costs)
        self._round_ms = 0.0
        """What a round of all streams takes."""
        for model in besides.models:
            self._count_stream(model, 1)
        for index, load in enumerate(loads):
            if not load.prompt:
                self._begin_stream(index, load.answer)

    def finish(self) -> list[Forecast]:
        waiting = sorted((load.due, index) for index, load in enumerate(self._loads) if load.prompt)
        left = float(sum(load.prompt for load in self._loads))
        for _, index in waiting:
            self._prefill(index, left)
            left -= self._loads[index].prompt
        while self._streams:
            self._advance(self._streams[0][0] - self._rounds, 0.0)
        return self._found

    def _prefill(self, index: int, left: float) -> None:
        """`left` are all prompt tokens that wait, this one's included: they share its last step."""
        load = self._loads[index]
        cost = self._costs[load.model]
        token_ms = max(cost.token_ms, 1e-9)
        prompt = float(load.prompt)
        while prompt > 1e-6:
            base_ms = 0.0 if self._streaming[load.model] else cost.base_ms
            room_ms = prompt_room_ms(self._round_ms + base_ms, self._pace_ms, self._limits.max_step_ms)
            chunk = max(MIN_CHUNK_TOKENS if self._pace_ms == math.inf else 1, room_ms / token_ms)
            if not any(self._streaming) and left <= prompt:
                chunk = prompt  # alone
            chunk = min(chunk, self._limits.max_batch_tokens, left)
            rounds = prompt / chunk
            if self._streams:
                rounds = min(rounds, self._streams[0][0] - self._rounds)
            self._advance(rounds, base_ms + chunk * token_ms)
            prompt -= rounds * chunk
            left -= rounds * chunk
        self._found[index].first_ms = self._now_ms
        if load.answer > 1:
            self._begin_stream(index, load.answer - 1)
        else:
            self._found[index].done_ms = self._now_ms

    def _begin_stream(self, index: int, tokens: int) -> None:
        heapq.heappush(self._streams, (self._rounds + tokens, index))
        self._pace_ms = min(self._pace_ms, self._pace_share * self._loads[index].deadline.tpot_s)
        self._count_stream(self._loads[index].model, 1)

    def _count_stream(self, model: int, change: int) -> None:
        self._streaming[model] += change
        self._round_ms = sum(
            cost.base_ms + streams * stream_ms
            for cost, streams, stream_ms in zip(self._costs, self._streaming, self._stream_ms, strict=True)
            if streams
        )

    def _advance(self, rounds: float, besides_ms: float) -> None:
        """So many rounds of all streams and of `besides_ms`; whoever ends with them is done."""
        self._now_ms += rounds * (besides_ms + self._round_ms)
        self._rounds += rounds
        while self._streams and self._streams[0][0] <= self._rounds + 1e-9:
            _, index = heapq.heappop(self._streams)
            self._count_stream(self._loads[index].model, -1)
            self._found[index].done_ms = self._now_ms
