"""A runner that computes nothing: each pass moves a virtual clock on by what it would take.

Knows how long passes take and when answers end. It does not know what a token is: prompts are made of one token,
answers of another. Nor does it know what the rest of a server costs (HTTP, templates, tokenizer).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from vivace.batch import Batch, RunnerLimits, Sampling, StepResult, Want
from vivace.engine.cost import StepCost, count_work
from vivace.errors import ConfigError

PROMPT_TOKEN, ANSWER_TOKEN, STOP_TOKEN = range(3)


@dataclass(frozen=True, slots=True)
class Machine:
    """What serves, and how fast. Raises `ConfigError` when a value is out of its range."""

    cost: StepCost
    """Of a pass, in truth. The engine's model begins with it, and learns from what it sees."""
    pass_ms: Callable[[int, int, int], float] | None = None
    """Of tokens, sequences and context: what a pass takes in truth, where that is not linear. `cost` is then only what
    the engine's model begins with."""
    noise: float = 0.0
    """Sigma of the log-normal factor on every pass, of median 1."""
    stalls_per_s: float = 0.0
    """How often, while it computes, something else takes the machine."""
    stall_ms: float = 0.0
    slots: int = 1024
    blocks: int = 65_536
    max_batch_tokens: int = 2048
    context_length: int = 8192

    def __post_init__(self) -> None:
        if not min(self.noise, self.stalls_per_s, self.stall_ms) >= 0:
            raise ConfigError("A machine's noise and stalls are 0 or more.")
        if not self.cost.base_ms + self.cost.token_ms > 0:
            raise ConfigError("A machine whose steps take no time has no capacity to find. Give base_ms or token_ms.")

    def find_pass_ms(self, tokens: int, sequences: int, context: int) -> float:
        """Of one pass, without noise."""
        find = self.pass_ms or self.cost.step_ms
        return find(tokens, sequences, context)

    def limits(self) -> RunnerLimits:
        return RunnerLimits(self.slots, self.blocks, self.max_batch_tokens, self.context_length, vocab_size=3)


class VirtualClock:
    """Seconds; only those who hold it move it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def end_answer_at(tokens: int) -> Sampling:
    """How a request tells `VirtualRunner` after how many tokens its answer ends: as its seed."""
    return Sampling(seed=tokens, stop_token_ids=(STOP_TOKEN,))


class VirtualRunner:
    """Keeps a runner's side of the contract. A burst ends once `next_arrival` is past, as a request interrupts it."""

    def __init__(self, machine: Machine, clock: VirtualClock, seed: int) -> None:
        self.limits = machine.limits()
        self.busy_s = 0.0
        self.next_arrival = math.inf
        self._machine = machine
        self._clock = clock
        self._noise = random.Random(f"noise {seed}")
        self._stalls = random.Random(f"stalls {seed}")
        self._next_stall = self._draw_stall()
        self._ends = [0] * self.limits.slots
        """By slot: the position of the sequence's stop token."""

    def launch(self, batch: Batch) -> StepResult:
        for row in batch.rows:
            if row.opens is not None:
                self._ends[row.slot] = row.opens.prompt_length + row.opens.seed - 1
        tokens, sequences, context = count_work(batch.rows)
        pass_ms = self._machine.find_pass_ms(tokens, sequences, context)
        if batch.max_steps == 1:
            self._spend(pass_ms)
            return StepResult(
                [
                    self._sample(row.slot, row.position + (len(row.tokens) or 1)) if row.want is Want.SAMPLE else ()
                    for row in batch.rows
                ]
            )
        return self._burst(batch, pass_ms)

    def collect(self, handle: object) -> StepResult:
        assert isinstance(handle, StepResult)
        return handle

    def interrupt(self) -> None:
        """Arrivals interrupt; see `next_arrival`."""

    def close(self) -> None:
        """Nothing is held."""

    def _burst(self, batch: Batch, pass_ms: float) -> StepResult:
        rows = batch.rows
        ends = [min(row.limit, self._ends[row.slot] - row.position) for row in rows]
        leaving = sorted(range(len(rows)), key=ends.__getitem__, reverse=True)
        until = self._clock.now + batch.burst_ms / 1000
        passes, going = 0, len(rows)
        context = sum(row.position for row in rows)
        while going and passes < batch.max_steps:
            now = self._clock.now
            if passes and (now >= until or now >= self.next_arrival):
                break
            self._spend(self._machine.find_pass_ms(going, going, context))
            passes += 1
            context += going
            while leaving and ends[leaving[-1]] <= passes:
                last = leaving.pop()
                going -= 1
                context -= rows[last].position + passes
        return StepResult(
            [self._answer(row.slot, row.position + 1, min(passes, end)) for row, end in zip(rows, ends, strict=True)],
            passes,
        )

    def _sample(self, slot: int, position: int) -> tuple[int, ...]:
        return _STOP if position >= self._ends[slot] else _GO_ON

    def _answer(self, slot: int, position: int, tokens: int) -> list[int]:
        last = position + tokens - 1
        return [ANSWER_TOKEN] * (tokens - 1) + list(self._sample(slot, last))

    def _spend(self, pass_ms: float) -> None:
        machine = self._machine
        seconds = pass_ms / 1000
        if machine.noise:
            seconds *= self._noise.lognormvariate(0.0, machine.noise)
        self.busy_s += seconds
        while self.busy_s >= self._next_stall:
            self.busy_s += machine.stall_ms / 1000
            seconds += machine.stall_ms / 1000
            self._next_stall = self.busy_s + self._draw_stall()
        self._clock.now += seconds

    def _draw_stall(self) -> float:
        rate = self._machine.stalls_per_s
        return self._stalls.expovariate(rate) if rate else math.inf


_STOP, _GO_ON = (STOP_TOKEN,), (ANSWER_TOKEN,)
