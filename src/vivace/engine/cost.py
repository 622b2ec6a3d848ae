"""What a step costs: a linear model of its time, fitted online from the steps that were made.

    ms = base + token * tokens + sequence * sequences + context * context

`tokens` are those computed, `sequences` those that choose a token (and so need the head), `context` the earlier
positions that all of the tokens attend to together. Least squares with an exponential memory; coefficients are never
negative. What the recent steps cannot tell apart stays as it was known before.

Knows no scheduler, no model and no clock. It does not know either that a step of very many tokens may be cheaper a
token than one of few: its memory is short, so it is right about the steps that are being made.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from statistics import median

from vivace.batch import BLOCK_SIZE, Batch, Row, Runner, Sampling, Want

MEMORY_STEPS = 200
"""After this many steps, one counts for a third (1 / e) of a new one."""
REFIT_STEPS = 16
OUTLIER = 4.0
"""A step that took more than this many times what was predicted counts as that: something else had the machine."""
CALIBRATION_MS = 300.0
CALIBRATION_ROUNDS = 7

_SCALES = (1.0, 32.0, 8.0, 4096.0)
"""Of the features, so that one of each weighs alike."""
_PRIOR = 0.02
"""Weight of what was known before, in steps a feature."""


@dataclass(frozen=True, slots=True)
class StepCost:
    """Coefficients of a step's time, in milliseconds."""

    base_ms: float
    token_ms: float
    sequence_ms: float
    context_ms: float

    def step_ms(self, tokens: int, sequences: int, context: int) -> float:
        """The predicted time of one pass."""
        return self.base_ms + self.token_ms * tokens + self.sequence_ms * sequences + self.context_ms * context

    def decode_ms(self, sequences: float, context: float) -> float:
        """Of a pass in which every sequence computes one token and chooses the next; `context` is of each of them."""
        return self.base_ms + sequences * self.stream_ms(context)

    def stream_ms(self, context: float) -> float:
        """What one more sequence adds to such a pass."""
        return self.token_ms + self.sequence_ms + self.context_ms * context

    def prompt_ms(self, tokens: int) -> float:
        """Of a prompt by itself, in one pass."""
        return self.base_ms + self.token_ms * tokens + self.sequence_ms + self.context_ms * tokens * tokens / 2

    def tokens_within(self, limit_ms: float, position: int) -> int:
        """How many tokens of a prompt, from `position` on, fit into a time besides what the step costs anyway."""
        each_ms = self.token_ms + self.context_ms * position
        if limit_ms <= 0:
            return 0
        return int(limit_ms / each_ms) if each_ms > 0 else 2**30


class CostModel:
    """Learns a `StepCost`. One thread calls it."""

    def __init__(self, known: StepCost) -> None:
        self.cost = known
        self.error = 0.0
        """Mean of |predicted - measured| / measured over the recent steps."""
        self.last_step_ms = known.base_ms
        """Of a pass, on the average of the recent ones."""
        self._normal = [[0.0] * 4 for _ in range(4)]
        self._moments = [0.0] * 4
        self._since_fit = 0

    def observe(self, tokens: int, sequences: int, context: int, measured_ms: float) -> None:
        """One pass of the model, or the average one of a burst."""
        predicted_ms = self.cost.step_ms(tokens, sequences, context)
        if measured_ms > 0:
            self.error += (abs(predicted_ms - measured_ms) / measured_ms - self.error) / 32
        self.last_step_ms += (measured_ms - self.last_step_ms) / 16
        target = min(measured_ms, OUTLIER * predicted_ms) if predicted_ms > 0 else measured_ms
        self._add((1.0, tokens / _SCALES[1], sequences / _SCALES[2], context / _SCALES[3]), target)
        self._since_fit += 1
        if self._since_fit >= REFIT_STEPS:
            self._since_fit = 0
            self._fit()

    def _add(self, features: tuple[float, float, float, float], target: float) -> None:
        keep = 1 - 1 / MEMORY_STEPS
        for i, feature in enumerate(features):
            row = self._normal[i]
            for j, other in enumerate(features):
                row[j] = keep * row[j] + feature * other
            self._moments[i] = keep * self._moments[i] + feature * target

    def _fit(self) -> None:
        known = [value * scale for value, scale in zip(astuple(self.cost), _SCALES, strict=True)]
        self.cost = StepCost(*(value / scale for value, scale in zip(self._solve(known), _SCALES, strict=True)))

    def _solve(self, known: list[float]) -> list[float]:
        """Least squares with every coefficient at least 0: what comes out negative is left out, the worst first."""
        free = [0, 1, 2, 3]
        while free:
            matrix = [[self._normal[i][j] + (_PRIOR if i == j else 0.0) for j in free] for i in free]
            right = [self._moments[i] + _PRIOR * known[i] for i in free]
            solution = _eliminate(matrix, right)
            worst = min(range(len(free)), key=solution.__getitem__)
            if solution[worst] >= 0:
                found = [0.0] * 4
                for place, value in zip(free, solution, strict=True):
                    found[place] = value
                return found
            del free[worst]
        return known


def _eliminate(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a symmetric positive definite system (Gauss; its pivots are positive without a search)."""
    size = len(right)
    for pivot in range(size):
        for row in range(pivot + 1, size):
            factor = matrix[row][pivot] / matrix[pivot][pivot]
            for column in range(pivot, size):
                matrix[row][column] -= factor * matrix[pivot][column]
            right[row] -= factor * right[pivot]
    solution = [0.0] * size
    for row in reversed(range(size)):
        rest = sum(matrix[row][column] * solution[column] for column in range(row + 1, size))
        solution[row] = (right[row] - rest) / matrix[row][row]
    return solution


def calibrate(runner: Runner, clock: Callable[[], float], limit_ms: float = CALIBRATION_MS) -> CostModel:
    """A model of this runner's steps, from some of each kind, made now, before anybody is served.

    It takes slots and blocks from 0 on, and leaves them as they are: a slot forgets what it held when it is opened.
    """
    trials = list(_trials(runner))
    measured_ms: list[list[float]] = [[] for _ in trials]
    began = clock()
    for batch in trials:  # the first of each kind touches its memory for the first time
        runner.collect(runner.launch(batch))
    while len(measured_ms[-1]) < CALIBRATION_ROUNDS:
        for batch, times in zip(trials, measured_ms, strict=True):
            start = clock()
            runner.collect(runner.launch(batch))
            times.append(1000 * (clock() - start))
        if 1000 * (clock() - began) > limit_ms:
            break
    model = CostModel(StepCost(0.0, 0.0, 0.0, 0.0))
    for _ in range(REFIT_STEPS):  # each fit is pulled to what was known before
        for batch, times in zip(trials, measured_ms, strict=True):
            model.observe(*count_work(batch.rows), median(times))
    model.error = 0.0
    return model


def _trials(runner: Runner) -> Iterator[Batch]:
    """Steps of every kind: some sequences' prompts, the same sequences going on, and a prompt alone."""
    limits = runner.limits
    length = max(1, min(BLOCK_SIZE - 4, limits.context_length - 2, limits.max_batch_tokens))
    most = max(1, min(limits.slots, limits.blocks, limits.max_batch_tokens // length))
    generator = random.Random(0)
    for sequences in sorted({1, min(4, most), min(16, most)}):
        yield Batch([_open(slot, length, generator, limits.vocab_size) for slot in range(sequences)])
        yield Batch([Row(slot, length, (), (), Want.SAMPLE, 1) for slot in range(sequences)])
    for tokens in (64, 128):
        room = min(tokens, limits.max_batch_tokens, limits.context_length - 1, limits.blocks * BLOCK_SIZE)
        yield Batch([_open(0, room, generator, limits.vocab_size)])


def _open(slot: int, length: int, generator: random.Random, vocab_size: int) -> Row:
    """A prompt; the blocks of short ones do not overlap, and a long one comes alone."""
    blocks = range(slot, slot + -(-length // BLOCK_SIZE))
    tokens = generator.choices(range(vocab_size), k=length)
    return Row(slot, 0, tokens, blocks, Want.SAMPLE, opens=Sampling())


def count_work(rows: Sequence[Row]) -> tuple[int, int, int]:
    """Tokens, sequences that choose, and positions attended to, of one pass over these rows."""
    tokens = sequences = context = 0
    for row in rows:
        length = len(row.tokens) or 1
        tokens += length
        context += length * (row.position + length // 2)
        sequences += length if row.want is Want.VERIFY or row.want is Want.SCORE else row.want is Want.SAMPLE
    return tokens, sequences, context
