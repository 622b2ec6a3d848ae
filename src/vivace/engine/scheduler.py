"""Which sequences the next step computes, how many tokens of each, and who gives way when blocks run out.

Sequences are served in the order of their arrival: every running sequence is older than every waiting one, the
oldest waiting one is admitted first, and when blocks run out the youngest running one is preempted. So the oldest
sequence always advances: everything it does not hold itself can be taken from younger ones, and `add` refuses what
the whole pool could not hold. Once it finishes the next one is the oldest, and so nobody starves.

Knows block numbers, slots and lengths. It knows no clock, no runner, and not what a token means.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from vivace.batch import BLOCK_SIZE, Batch, Row, RunnerLimits, Want
from vivace.engine.blocks import BlockPool, Parent
from vivace.engine.sequence import NO_SLOT, Phase, Sequence
from vivace.errors import ConfigError

_SAMPLE = Want.SAMPLE  # an enumeration is slow to look its members up, and this is every token's path


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The scheduler's policy. Raises `ConfigError` when a value is out of its range."""

    max_waiting: int = 4096
    """Requests that may wait; more are refused."""
    max_burst_steps: int = 32
    """Most passes of the model in one step when nothing waits; 1 turns bursts off."""
    burst_ms: float = 1.0
    """A burst begins no further pass after this time: the longest a new request waits for it, less one pass."""

    def __post_init__(self) -> None:
        if self.max_waiting < 1:
            raise ConfigError(f"max_waiting is {self.max_waiting}; it must be at least 1.")
        if self.max_burst_steps < 1:
            raise ConfigError(f"max_burst_steps is {self.max_burst_steps}; it must be at least 1 (no bursts).")
        if not self.burst_ms >= 0:
            raise ConfigError(f"burst_ms is {self.burst_ms}; it must be 0 or more.")


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch, and whose rows it holds, in the same order."""

    batch: Batch
    sequences: list[Sequence]


class Scheduler:
    """Owns every sequence's place: its position in the queue, its slot, and its blocks."""

    def __init__(self, limits: RunnerLimits, config: SchedulerConfig) -> None:
        self._limits = limits
        self._config = config
        self.pool = BlockPool(limits.blocks)
        # A running sequence must always be able to get one token into a step.
        self._slots = list(range(min(limits.slots, limits.max_batch_tokens)))[::-1]
        self.waiting: OrderedDict[str, Sequence] = OrderedDict()
        self.running: dict[str, Sequence] = {}
        self.preemptions = 0
        self.cached_tokens = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that is younger than all others."""
        assert blocks_for(sequence.end - 1) <= self.pool.total
        self.waiting[sequence.id] = sequence

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free what it holds."""
        if sequence.slot == NO_SLOT:
            del self.waiting[sequence.id]
        else:
            del self.running[sequence.id]
            self._vacate(sequence)

    def schedule(self, now: float) -> Plan | None:
        """Plan a step that begins at the instant `now`; None when there is nothing to compute."""
        sequences, halfway = self._secure_decoding(now)
        limits = [1] * len(sequences)
        if not halfway and not self.waiting and self._config.max_burst_steps > 1:
            limits = self._plan_burst(sequences)
        rows = [_decode_row(sequence, limit) for sequence, limit in zip(sequences, limits, strict=True)]
        budget = self._limits.max_batch_tokens - len(rows)
        while budget > 0:
            sequence = halfway.pop() if halfway else self._admit(now)
            if sequence is None:
                break
            row = _chunk_row(sequence, budget)
            budget -= len(row.tokens)
            sequences.append(sequence)
            rows.append(row)
        if not rows:
            return None
        steps = max(limits, default=1)
        return Plan(Batch(rows, steps, self._config.burst_ms if steps > 1 else 0.0), sequences)

    def publish(self, sequence: Sequence) -> None:
        """Share the sequence's blocks that are computed to their end, with those who begin with the same tokens."""
        while sequence.computed >= sequence.publish_at:
            assert sequence.parent is not None
            first = sequence.publish_at - BLOCK_SIZE
            tokens = sequence.tokens[first : sequence.publish_at]
            parent = self.pool.publish(sequence.blocks[first // BLOCK_SIZE], sequence.parent, tokens)
            if parent is None:
                sequence.stop_publishing()
                return
            sequence.parent = parent
            sequence.publish_at += BLOCK_SIZE

    def _secure_decoding(self, now: float) -> tuple[list[Sequence], list[Sequence]]:
        """The sequences that need one token computed, each with a block for it, and those with more to compute.

        The first are in the order of arrival, the second in reverse.
        """
        decoding: list[Sequence] = []
        halfway: list[Sequence] = []
        for sequence in tuple(self.running.values()):
            if sequence.slot == NO_SLOT:
                continue  # preempted, just now, for an older one
            if not sequence.pending:
                halfway.append(sequence)
            elif sequence.computed < len(sequence.blocks) * BLOCK_SIZE or self._extend(sequence, now):
                decoding.append(sequence)
        halfway.reverse()
        return decoding, halfway

    def _extend(self, sequence: Sequence, now: float) -> bool:
        """Get one more block, from the youngest if need be; False when the youngest is the sequence itself."""
        while (fresh := self.pool.allocate(1)) is None:
            youngest = next(reversed(self.running.values()))
            self._preempt(youngest, now)
            if youngest is sequence:
                return False
        sequence.blocks += fresh
        return True

    def _plan_burst(self, sequences: list[Sequence]) -> list[int]:
        """How many tokens each may add in one step. Room is taken only while everyone's next block stays available.

        A token whose choice is constrained needs the one before it, so nobody bursts beside it.
        """
        if any(sequence.mask is not None for sequence in sequences):
            return [1] * len(sequences)
        spare = self.pool.available - len(sequences)
        limits = []
        for sequence in sequences:
            limit = min(self._config.max_burst_steps, sequence.end - len(sequence.tokens))
            lacking = blocks_for(sequence.computed + limit) - len(sequence.blocks)
            if lacking > 0 and spare > 0:
                fresh = self.pool.allocate(min(lacking, spare))
                assert fresh is not None
                spare -= len(fresh)
                sequence.blocks += fresh
            limits.append(min(limit, len(sequence.blocks) * BLOCK_SIZE - sequence.computed))
        return limits

    def _admit(self, now: float) -> Sequence | None:
        """Give the oldest waiting sequence a slot, and blocks for all its tokens, if there are enough."""
        if not self.waiting or not self._slots:
            return None
        sequence = next(iter(self.waiting.values()))
        if self.pool.available <= sequence.refused_at:
            return None
        shared: list[int] = []
        parent: Parent = sequence.request.cache_salt
        if sequence.scores is None:
            shared, parent = self.pool.match(sequence.tokens, sequence.request.cache_salt)
        lacking = blocks_for(len(sequence.tokens)) - len(shared)
        # Without room for the running ones to grow, the newcomer would soon be preempted. A block for every second one
        # saves about two thirds of the preemptions and lengthens an overloaded run by a hundredth.
        headroom = len(self.running) // 2
        fresh = self.pool.allocate(lacking) if lacking + headroom <= self.pool.available else None
        if fresh is None:
            self.pool.release(shared)
            sequence.refused_at = self.pool.available
            return None
        del self.waiting[sequence.id]
        self.running[sequence.id] = sequence
        self.cached_tokens += len(shared) * BLOCK_SIZE
        sequence.place(self._slots.pop(), shared, parent, fresh)
        sequence.enter(Phase.DECODE if len(sequence.tokens) > sequence.prompt_length else Phase.PREFILL, now)
        return sequence

    def _preempt(self, sequence: Sequence, now: float) -> None:
        """Send the youngest running sequence back to the head of the queue; it keeps its tokens."""
        del self.running[sequence.id]
        self._vacate(sequence)
        sequence.preemptions += 1
        sequence.enter(Phase.QUEUE, now)
        self.waiting[sequence.id] = sequence
        self.waiting.move_to_end(sequence.id, last=False)
        self.preemptions += 1

    def _vacate(self, sequence: Sequence) -> None:
        self._slots.append(sequence.slot)
        self.pool.release(sequence.blocks)
        sequence.displace()

    def check_integrity(self) -> None:
        """Raise AssertionError unless queues, slots and blocks agree with one another."""
        running, waiting = list(self.running.values()), list(self.waiting.values())
        arrivals = [sequence.arrival for sequence in running + waiting]
        assert arrivals == sorted(arrivals), "a younger sequence overtook an older one"
        slots = sorted(self._slots + [sequence.slot for sequence in running])
        assert slots == list(range(min(self._limits.slots, self._limits.max_batch_tokens))), "a slot is lost or shared"
        for sequence in running:
            assert sequence.sent <= len(sequence.blocks)
            assert sequence.computed < len(sequence.tokens) < sequence.end
            assert not sequence.pending or sequence.computed == len(sequence.tokens) - 1
            assert blocks_for(sequence.computed) <= len(sequence.blocks), "computed tokens without a block"
        assert all(s.slot == NO_SLOT and not s.blocks and not s.computed for s in waiting)
        self.pool.check_integrity([sequence.blocks for sequence in running])


def blocks_for(tokens: int) -> int:
    """Blocks that hold this many tokens."""
    return -(-tokens // BLOCK_SIZE)


def _decode_row(sequence: Sequence, limit: int) -> Row:
    blocks = () if sequence.sent == len(sequence.blocks) else _unsent_blocks(sequence)
    if sequence.mask is None:
        return Row(sequence.slot, sequence.computed, (), blocks, _SAMPLE, limit)
    return Row(sequence.slot, sequence.computed, (), blocks, _SAMPLE, limit, mask=sequence.mask)


def _chunk_row(sequence: Sequence, budget: int) -> Row:
    """Up to `budget` tokens of what a sequence has to compute; the last token of a scored prompt comes by itself."""
    first, end, want = sequence.computed, len(sequence.tokens), Want.SAMPLE
    scored = sequence.prompt_length - 1
    if sequence.scores is not None and first < scored:
        end, want = scored, Want.SCORE
    if first + budget < end:
        end = first + budget
        want = want if want is Want.SCORE else Want.NOTHING
    opens = None if sequence.sent else sequence.sampling
    return Row(
        sequence.slot,
        first,
        sequence.tokens[first:end],
        opens=opens,
        blocks=_unsent_blocks(sequence),
        want=want,
        targets=sequence.tokens[first + 1 : end + 1] if want is Want.SCORE else (),
        history=sequence.tokens[:first] if opens is not None and opens.reads_history else (),
        mask=sequence.mask if want is Want.SAMPLE else None,
    )


def _unsent_blocks(sequence: Sequence) -> list[int]:
    sent, sequence.sent = sequence.sent, len(sequence.blocks)
    return sequence.blocks[sent:]
