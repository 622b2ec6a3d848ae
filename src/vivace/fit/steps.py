"""What steps of a variant cost on this machine: passes of every size that the workload leads to, timed, and a model.

The engine's own model (`engine.cost`) follows the steps that are being made; this one is to be right about loads that
nobody offers yet. So it is fitted to single passes from one sequence to many, with little context and with much, by
least squares of the *relative* error: a pass of 0.2 ms counts as much as one of 20.

Knows runners and rows; no HTTP and no scheduler.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivace.batch import BLOCK_SIZE, Batch, Row, Runner, RunnerLimits, Sampling, Want
from vivace.engine.cost import StepCost, count_work

ROUNDS = 9
"""Times that each kind of pass is made; the lower quartile counts: whatever else the machine did only adds."""
LIMIT_S = 10.0
STEADY = 0.08
"""A model that misses more than this in the mean was fitted to a machine that did not hold still."""
ATTEMPTS = 3
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BURST = 8
"""Passes of a step that only decodes: a server with nobody waiting makes many in one call."""
LONGEST_MS = 60_000.0
SPREAD = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Prompts of so many times the workload's median length."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the model is to be right about, in tokens."""

    prompt: int
    answer: int
    sequences: int = 64
    """At most so many at once."""

    def contexts(self) -> list[int]:
        """Of a sequence that has just begun to answer, is half through, and is about to end."""
        return sorted({max(1, self.prompt + self.answer * part // 2) for part in range(3)})

    def prompts(self) -> list[int]:
        return sorted({max(1, round(self.prompt * factor)) for factor in SPREAD})


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The model, and how far from it single passes were."""

    cost: StepCost
    noise: float
    """Sigma of the log-normal factor between a pass and the model's prediction for it."""
    error: float
    """Mean of |predicted - measured| / measured over the kinds of passes, by their lower quartiles."""
    passes: int


def measure_steps(
    runner: Runner,
    lengths: Lengths,
    clock: Callable[[], float] = time.perf_counter,
    *,
    limit_s: float = LIMIT_S,
    rounds: int = ROUNDS,
) -> StepTimes:
    """Time passes of all kinds, in turn, until each was made `rounds` times or the time is up. All of it again, up to
    three times in all, while the machine does not hold still; the steadiest attempt counts.

    It takes slots and blocks from 0 on, and leaves them as they are: a slot forgets what it held when it is opened.
    """
    found: list[StepTimes] = []
    while len(found) < ATTEMPTS and not any(one.error <= STEADY for one in found):
        found.append(_measure_once(runner, lengths, clock, limit_s, rounds))
    return min(found, key=lambda one: one.error)


def _measure_once(
    runner: Runner, lengths: Lengths, clock: Callable[[], float], limit_s: float, rounds: int
) -> StepTimes:
    trials = list(_trials(runner, lengths))
    times: list[list[float]] = [[] for _ in trials]
    began = clock()
    for number in range(rounds + 1):
        for batch, found in zip(trials, times, strict=True):
            start = clock()
            result = runner.collect(runner.launch(batch))
            if number:  # the first of each kind touches its memory for the first time
                found.append(1000 * (clock() - start) / result.steps)
        if number and clock() - began > limit_s:
            break
    return fit_steps([_count_pass(batch) for batch in trials], times)


def _count_pass(batch: Batch) -> tuple[int, int, int]:
    """Of a burst, the average pass."""
    tokens, sequences, context = count_work(batch.rows)
    return tokens, sequences, context + sequences * (batch.max_steps - 1) // 2


def fit_steps(work: list[tuple[int, int, int]], times_ms: list[list[float]]) -> StepTimes:
    """The model nearest to the lower quartile of each kind of pass; `work` is as `count_work` has it."""
    features = np.array([(1.0, *kind) for kind in work])
    usual = np.array([np.quantile(found, 0.25) for found in times_ms])
    cost = StepCost(*solve_relative(features, usual))
    predicted = np.array([cost.step_ms(*kind) for kind in work])
    residuals = np.concatenate(
        [np.log(np.array(found) / guess) for found, guess in zip(times_ms, predicted, strict=True)]
    )
    # Half of the distance between the 16th and the 84th percentile: a stall is no noise of the usual kind.
    low, high = np.quantile(residuals, [0.16, 0.84])
    error = float(np.mean(np.abs(predicted - usual) / usual))
    return StepTimes(cost, float(high - low) / 2, error, len(residuals))


def solve_relative(features: NDArray[np.float64], values: NDArray[np.float64]) -> list[float]:
    """Coefficients of at least 0 that make the squares of the relative errors least (Lawson & Hanson, 1974, 23).

    Leaves out what comes out negative, the worst first, as the engine's own model does.
    """
    scaled = features / values[:, None]
    free = list(range(features.shape[1]))
    found = np.zeros(features.shape[1])
    while free:
        solution = np.linalg.lstsq(scaled[:, free], np.ones(len(values)), rcond=None)[0]
        if solution.min() >= 0:
            found[free] = solution
            break
        del free[int(solution.argmin())]
    return [float(value) for value in found]


def _trials(runner: Runner, lengths: Lengths) -> Iterator[Batch]:
    """For each length of context: some sequences' prompts at once, and the same sequences going on. And long prompts.

    Ordered so that a pass that goes on follows those that opened its sequences.
    """
    limits = runner.limits
    longest = limits.context_length - BURST - 1
    most = min(lengths.sequences, limits.slots, limits.max_batch_tokens)
    generator = random.Random(0)
    for context in sorted({min(context, longest) for context in lengths.contexts()}):
        blocks = -(-(context + BURST) // BLOCK_SIZE)
        for sequences in [count for count in SEQUENCES if count <= most and count * blocks <= limits.blocks]:
            yield from _open(range(sequences), context, blocks, generator, limits)
            rows = [Row(slot, context, (), (), Want.SAMPLE, BURST) for slot in range(sequences)]
            yield Batch(rows, max_steps=BURST, burst_ms=LONGEST_MS)
    for length in sorted({min(length, longest, BLOCK_SIZE * limits.blocks) for length in lengths.prompts()}):
        yield from _open(range(1), length, -(-length // BLOCK_SIZE), generator, limits)


def _open(slots: range, length: int, blocks: int, generator: random.Random, limits: RunnerLimits) -> Iterator[Batch]:
    """Prompts of that length, as many whole ones in a pass as it has room for; a longer one in chunks."""
    chunk = min(length, limits.max_batch_tokens)
    together = max(1, limits.max_batch_tokens // length)
    for first in range(0, len(slots), together):
        for start in range(0, length, chunk):
            count = min(chunk, length - start)
            want = Want.SAMPLE if start + count == length else Want.NOTHING
            yield Batch(
                [
                    Row(
                        slot,
                        start,
                        generator.choices(range(limits.vocab_size), k=count),
                        range(slot * blocks, (slot + 1) * blocks) if start == 0 else (),
                        want,
                        opens=Sampling() if start == 0 else None,
                    )
                    for slot in slots[first : first + together]
                ]
            )
