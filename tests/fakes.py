"""A runner without a model, and a clock without time, for tests of everything above the runner contract.

`FakeRunner` keeps tokens where a real runner keeps keys and values. The next token is a function of the history that
it reads back from the blocks, so a wrong block table, a block shared by mistake, or a position left out gives wrong
text, and `reference_tokens` says what is right. It holds the engine to the contract: whatever breaks it, such as a
history other than what is in the blocks, raises AssertionError.
"""

from __future__ import annotations

import random
from array import array
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

from vivace.batch import BLOCK_SIZE, Batch, Logprobs, Row, RunnerLimits, Sampling, StepResult, Want
from vivace.budget import NO_BUDGET, Budget, OnDeadline
from vivace.engine.constraint import Constraint
from vivace.engine.proposer import Ask, Proposal
from vivace.engine.request import DEFAULT_PRIORITY, Request

LIMITS = RunnerLimits(slots=8, blocks=64, max_batch_tokens=64, context_length=512, vocab_size=101)

_EMPTY = -1


class FakeClock:
    """Monotonic seconds that pass only when told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def next_token(history: Sequence[int], sampling: Sampling, vocab_size: int, mask: bytes | None = None) -> int:
    """What the fake model says after `history`: of its tokens alone when greedy, else of the seed as well.

    A bias makes it say something else. Penalties, bans and masks make it take the next higher id that is neither
    banned nor masked; penalised tokens come last.
    """
    key = (sampling.seed * 1_000_003 + len(history)) % 2**32 if sampling.temperature > 0 else 0
    token: int = crc32(array("q", history).tobytes(), key + len(sampling.logit_bias)) % vocab_size
    generated = history[sampling.prompt_length :]
    banned = sampling.stop_token_ids if len(generated) < sampling.min_tokens else ()
    if not (mask or banned or sampling.reads_history):
        return token
    penalised = set(history if sampling.repetition_penalty != 1 else generated if sampling.reads_history else ())
    circle: list[int] = [*range(token, vocab_size), *range(token)]
    allowed = [t for t in circle if t not in banned and (mask is None or mask[t // 8] >> t % 8 & 1)]
    unpenalised = [t for t in allowed if t not in penalised]
    return (unpenalised or allowed)[0]


def report_logprobs(history: Sequence[int], token: int, sampling: Sampling, vocab_size: int) -> Logprobs:
    """Of `token` and of the first ids, which are this model's likeliest."""
    likeliest = [(t, score(history, t)) for t in range(min(sampling.logprobs, vocab_size))]
    return Logprobs(score(history, token), likeliest)


class EveryOther:
    """A constraint that takes turns: even tokens, then odd ones, then any, and so on.

    It fails when it is told of the token numbered `fail_at`, from 0, or asked for a mask after that many if `in_mask`.
    """

    def __init__(self, vocab_size: int, fail_at: int | None = None, *, in_mask: bool = False) -> None:
        self.arguments = (vocab_size, fail_at, in_mask)
        self.accepted: list[int] = []

    def again(self) -> EveryOther:
        """One like it, that was told nothing yet."""
        vocab_size, fail_at, in_mask = self.arguments
        return EveryOther(vocab_size, fail_at, in_mask=in_mask)

    def mask(self) -> bytes:
        vocab_size, fail_at, in_mask = self.arguments
        if in_mask and len(self.accepted) == fail_at:
            raise PlantedError(f"planted in mask {fail_at}")
        turn = len(self.accepted) % 3
        bits = sum(1 << token for token in range(vocab_size) if turn == 2 or token % 2 == turn)
        return bits.to_bytes(-(-vocab_size // 8), "little")

    def accept(self, token: int) -> None:
        _, fail_at, in_mask = self.arguments
        if not in_mask and len(self.accepted) == fail_at:
            raise PlantedError(f"planted in token {fail_at}")
        assert self.mask()[token // 8] >> token % 8 & 1, "a token that was not allowed"
        self.accepted.append(token)


def score(history: Sequence[int], target: int) -> float:
    """The fake log-probability of `target` after `history`."""
    return -(crc32(array("q", [*history, target]).tobytes()) % 10_000) / 1000


def reference_tokens(
    prompt: Sequence[int],
    sampling: Sampling,
    n: int,
    vocab_size: int = LIMITS.vocab_size,
    constraint: Constraint | None = None,
) -> list[int]:
    """What a request answers: `n` tokens, or fewer with a stop token as the last."""
    sampling = replace(sampling, prompt_length=len(prompt))
    history = list(prompt)
    while len(history) < len(prompt) + n:
        history.append(next_token(history, sampling, vocab_size, constraint.mask() if constraint else None))
        if history[-1] in sampling.stop_token_ids:
            break
        if constraint is not None:
            constraint.accept(history[-1])
    return history[len(prompt) :]


def reference_logprobs(
    prompt: Sequence[int], tokens: Sequence[int], sampling: Sampling, vocab_size: int = LIMITS.vocab_size
) -> list[Logprobs]:
    """Of an answer's tokens."""
    return [
        report_logprobs([*prompt, *tokens[:index]], token, sampling, vocab_size) for index, token in enumerate(tokens)
    ]


def reference_scores(prompt: Sequence[int]) -> list[float]:
    """The log-probabilities of every prompt token but the first."""
    return [score(prompt[:i], prompt[i]) for i in range(1, len(prompt))]


def make_request(
    id: str = "a",
    prompt: Sequence[int] = (1, 2, 3),
    max_tokens: int = 8,
    sampling: Sampling | None = None,
    *,
    arrived: float = 1000.0,
    preprocess_ms: float = 0.0,
    cache_salt: str = "",
    score_prompt: bool = False,
    constraint: Constraint | None = None,
    budget: Budget = NO_BUDGET,
    priority: int = DEFAULT_PRIORITY,
    on_deadline: OnDeadline = OnDeadline.FAIL,
    expected_tokens: int = 0,
) -> Request:
    """A greedy request, where nothing else is said."""
    return Request(
        id,
        tuple(prompt),
        max_tokens,
        sampling or Sampling(),
        arrived,
        preprocess_ms,
        cache_salt,
        score_prompt,
        constraint,
        budget=budget,
        priority=priority,
        on_deadline=on_deadline,
        expected_tokens=expected_tokens,
    )


class Oracle:
    """Proposes what the fake model will say, with every token wrong at some rate. `requests` holds those under way."""

    def __init__(self, requests: Mapping[str, Request], wrong: float, seed: int, vocab_size: int) -> None:
        self.requests = requests
        self.wrong = wrong
        self.rng = random.Random(seed)
        self.vocab_size = vocab_size

    computes = False

    def propose(self, asks: Sequence[Ask]) -> list[Proposal | None]:
        return [self._foretell(ask) for ask in asks]

    def forget(self, id: str) -> None:
        """Nothing is remembered."""

    def _foretell(self, ask: Ask) -> Proposal | None:
        request = self.requests[ask.id]
        assert request.constraint is None, "asked about a constrained sequence"
        assert list(ask.tokens[: len(request.prompt)]) == list(request.prompt), "tokens of another sequence"
        assert ask.limit >= 1
        told = ask.tokens[len(request.prompt) :]
        rest = reference_tokens(request.prompt, request.sampling, len(told) + ask.limit, self.vocab_size)[len(told) :]
        count = self.rng.randrange(ask.limit + 1)
        proposed = [
            self.rng.randrange(self.vocab_size) if self.rng.random() < self.wrong else token for token in rest[:count]
        ]
        return Proposal(proposed, self.rng.randrange(3)) if proposed else None


class PlantedError(Exception):
    """What a `FakeRunner` or an `EveryOther` raises where it was told to fail."""


@dataclass
class _Slot:
    sampling: Sampling
    table: list[int] = field(default_factory=list)
    history: list[int] = field(default_factory=list)
    """The tokens whose keys and values it may count on."""
    sampled: int | None = None
    logprobs: list[Logprobs] = field(default_factory=list)
    """Of the tokens sampled in the pass under way."""


class FakeRunner:
    """Computes batches exactly as the contract says, on `pass_ms` of `clock` for each pass of the model.

    Launches numbered in `fail_at`, from 0, raise `PlantedError`. `on_launch` is called with each batch and
    `on_pass` after each pass, so a test can act in the middle of a step. With `goes_back`, rows may begin before what
    their slot has computed, as a draft's do; an engine's never do but by what it proposed.
    """

    def __init__(
        self,
        limits: RunnerLimits = LIMITS,
        *,
        clock: FakeClock | None = None,
        pass_ms: float = 0.0,
        fail_at: Collection[int] = (),
        on_launch: Callable[[Batch], None] | None = None,
        on_pass: Callable[[], None] | None = None,
        goes_back: bool = False,
    ) -> None:
        self.limits = limits
        self.clock = clock or FakeClock()
        self.pass_ms = pass_ms
        self.fail_at = fail_at
        self.on_launch = on_launch
        self.on_pass = on_pass
        self.goes_back = goes_back
        self.launches = 0
        self.computed_tokens = 0
        self.interrupts = 0
        self.closed = False
        self._interrupted = False
        self._slots: dict[int, _Slot] = {}
        self._cells = [_EMPTY] * (limits.blocks * BLOCK_SIZE)
        self._under_way: deque[StepResult] = deque()

    def launch(self, batch: Batch) -> StepResult:
        assert not self.closed, "launch after close"
        self.launches += 1
        self._interrupted = False
        if self.on_launch is not None:
            self.on_launch(batch)
        if self.launches - 1 in self.fail_at:
            raise PlantedError(f"planted in launch {self.launches - 1}")
        self._check_batch(batch)
        result = self._burst(batch) if batch.max_steps > 1 else self._pass(batch)
        self._under_way.append(result)
        return result

    def collect(self, handle: object) -> StepResult:
        assert self._under_way, "collect without a launch"
        assert handle is self._under_way[0], "collected out of order"
        return self._under_way.popleft()

    def interrupt(self) -> None:
        self.interrupts += 1
        self._interrupted = True

    def close(self) -> None:
        self.closed = True

    def _check_batch(self, batch: Batch) -> None:
        slots = [row.slot for row in batch.rows]
        assert slots, "an empty batch"
        assert len(set(slots)) == len(slots), "two rows for one slot"
        assert all(0 <= slot < self.limits.slots for slot in slots), "a slot out of range"
        tokens = sum(len(row.tokens) or 1 for row in batch.rows)
        assert tokens <= self.limits.max_batch_tokens, "more tokens than the runner has room for"
        assert batch.max_steps >= 1
        if batch.max_steps > 1:
            assert all(row.want is Want.SAMPLE for row in batch.rows), "a burst row that does not sample"
            assert all(row.mask is None for row in batch.rows), "a row with a mask in a burst"
        masked = [row for row in batch.rows if row.mask is not None]
        assert all(row.want is Want.SAMPLE for row in masked), "a mask where nothing is sampled"
        assert all(len(row.mask or b"") == -(-self.limits.vocab_size // 8) for row in masked), "a mask of another size"
        assert all(1 <= row.limit <= batch.max_steps for row in batch.rows), "a limit that no burst can reach"

    def _tick(self) -> None:
        self.clock.advance(self.pass_ms / 1000)
        if self.on_pass is not None:
            self.on_pass()

    def _pass(self, batch: Batch) -> StepResult:
        written: dict[int, int] = {}
        tokens: list[list[int]] = []
        scores: dict[int, Sequence[float]] = {}
        logprobs: dict[int, Sequence[Logprobs]] = {}
        hidden: dict[int, memoryview[float]] = {}
        for index, row in enumerate(batch.rows):
            slot = self._compute(row, written)
            new: list[int] = []
            if row.want is Want.SAMPLE:
                new = [self._sample(slot, row.mask)]
            elif row.want is Want.VERIFY:
                new = self._verify(slot, row)
            elif row.want is Want.SCORE:
                assert len(row.targets) == len(row.tokens), "a SCORE row with too few or too many targets"
                scores[index] = [score(slot.history[: row.position + i + 1], t) for i, t in enumerate(row.targets)]
            elif row.want is Want.HIDDEN:
                hidden[index] = _hidden_states(row)
            tokens.append(new)
            if slot.logprobs:
                logprobs[index] = slot.logprobs
        self._tick()
        return StepResult(tokens, 1, scores, logprobs, hidden)

    def _burst(self, batch: Batch) -> StepResult:
        began = self.clock()
        tokens: list[list[int]] = [[] for _ in batch.rows]
        logprobs: dict[int, list[Logprobs]] = {}
        steps = 0
        going = list(range(len(batch.rows)))
        while going and steps < batch.max_steps and not (steps and self._gives_up(began, batch.burst_ms)):
            written: dict[int, int] = {}
            for index in going:
                row = batch.rows[index]
                if steps:
                    position = len(self._slots[row.slot].history)
                    row = Row(row.slot, position, want=Want.SAMPLE, limit=row.limit - steps)
                slot = self._compute(row, written)
                tokens[index].append(self._sample(slot))
                logprobs.setdefault(index, []).extend(slot.logprobs)
            steps += 1
            self._tick()
            going = [index for index in going if not self._is_done(batch.rows[index], tokens[index])]
        return StepResult(tokens, steps, logprobs={index: some for index, some in logprobs.items() if some})

    def _gives_up(self, began: float, burst_ms: float) -> bool:
        return self._interrupted or (self.clock() - began) * 1000 >= burst_ms

    def _is_done(self, row: Row, tokens: list[int]) -> bool:
        return len(tokens) == row.limit or tokens[-1] in self._slots[row.slot].sampling.stop_token_ids

    def _compute(self, row: Row, written: dict[int, int]) -> _Slot:
        """Check a row against its slot and the blocks, and write its tokens to them."""
        slot = self._open(row)
        self._check_row(row, slot)
        slot.table.extend(row.blocks)
        tokens = list(row.tokens) if row.tokens else [_given(slot.sampled)]
        assert all(0 <= token < self.limits.vocab_size for token in tokens), "a token outside the vocabulary"
        if row.tokens and slot.sampled is not None and not self.goes_back:
            assert row.want is Want.VERIFY, "the slot's own token was sent back to it"
            assert row.tokens[0] == slot.sampled, "a proposal that does not begin with the pending token"
        last = row.position + len(tokens) + row.limit - 2
        assert last < len(slot.table) * BLOCK_SIZE, "no room in the block table"
        assert last < self.limits.context_length, "beyond the context"
        self._check_history(row, slot)
        for position, token in enumerate(tokens, row.position):
            block = slot.table[position // BLOCK_SIZE]
            assert written.setdefault(block, row.slot) == row.slot, f"block {block} is written by two slots"
            self._cells[block * BLOCK_SIZE + position % BLOCK_SIZE] = token
        slot.history += tokens
        slot.sampled = None
        slot.logprobs = []
        self.computed_tokens += len(tokens)
        return slot

    def _open(self, row: Row) -> _Slot:
        if row.opens is not None:
            self._slots[row.slot] = slot = _Slot(row.opens)
            slot.history = self._read(list(row.blocks), row.position)
            assert _EMPTY not in slot.history, "a prefix that nobody computed"
            told = slot.history if row.opens.reads_history else []
            assert list(row.history) == told, "a history other than what is in the blocks, or one that nobody reads"
            return slot
        assert not row.history, "a history for a slot that has one"
        slot_or_none = self._slots.get(row.slot)
        assert slot_or_none is not None, "a slot used before it was opened"
        return slot_or_none

    def _check_row(self, row: Row, slot: _Slot) -> None:
        if self.goes_back:
            del slot.history[row.position :]
        assert row.position == len(slot.history), f"position {row.position} where {len(slot.history)} was due"
        assert all(0 <= block < self.limits.blocks for block in row.blocks), "a block out of range"
        table = [*slot.table, *row.blocks]
        assert len(set(table)) == len(table), "a block twice in one table"

    def _check_history(self, row: Row, slot: _Slot) -> None:
        held = self._read(slot.table, row.position)
        for position, (found, due) in enumerate(zip(held, slot.history, strict=True)):
            assert found == due, f"block {slot.table[position // BLOCK_SIZE]} was overwritten under slot {row.slot}"

    def _read(self, table: list[int], length: int) -> list[int]:
        assert length <= len(table) * BLOCK_SIZE, "a history longer than its block table"
        cells = self._cells
        history: list[int] = []
        for block in table:
            history += cells[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]
        return history[:length]

    def _sample(self, slot: _Slot, mask: bytes | None = None) -> int:
        return self._choose(slot, self._read(slot.table, len(slot.history)), mask)

    def _choose(self, slot: _Slot, history: list[int], mask: bytes | None = None) -> int:
        slot.sampled = token = next_token(history, slot.sampling, self.limits.vocab_size, mask)
        if slot.sampling.logprobs >= 0:
            slot.logprobs.append(report_logprobs(history, token, slot.sampling, self.limits.vocab_size))
        return token

    def _verify(self, slot: _Slot, row: Row) -> list[int]:
        kept: list[int] = []
        for count in range(1, len(row.tokens) + 1):
            kept.append(self._choose(slot, slot.history[: row.position + count]))
            if count < len(row.tokens) and row.tokens[count] != kept[-1]:
                break
        del slot.history[row.position + len(kept) :]
        return kept


def _hidden_states(row: Row) -> memoryview[float]:
    """Of each token: its position and itself, as float32 [tokens, 2]."""
    values = array("f", (value for pair in enumerate(row.tokens, row.position) for value in pair))
    return memoryview(values).cast("B").cast("f", (len(row.tokens), 2))


def _given(token: int | None) -> int:
    assert token is not None, "no token to compute: none was sent, and the slot has sampled none"
    return token
