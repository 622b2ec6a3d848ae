"""Which sequences the next step computes, how many tokens of each, and who gives way when blocks run out.

Sequences are taken up by urgency and priority, and within a priority in the policy's order (`waiting`, `policy`). When
blocks run out, the running one that is last in that order is preempted: so the first one always advances, since
everything it does not hold itself can be taken from others, and `add` refuses what the whole pool could not hold. Once
it finishes another is first; and as everyone who waits or gives way rises in priority, nobody starves.

With a cost model, a step takes no longer than the running streams' deadlines allow: prompts are cut into chunks that
fit, and streams that have more time, or no deadline, sit out.

Knows block numbers, slots, lengths and instants. It knows no clock, no runner, and not what a token means.
"""

from __future__ import annotations

import heapq
import math
from collections import abc
from dataclasses import dataclass

from vivace.batch import BLOCK_SIZE, Batch, Row, RunnerLimits
from vivace.engine.blocks import BlockPool, Parent
from vivace.engine.cost import CostModel, StepCost
from vivace.engine.pacing import MIN_CHUNK_TOKENS, added_work_s, expiry, latest_start, pace_ms, prompt_room_ms
from vivace.engine.policy import POLICIES
from vivace.engine.proposer import Ask
from vivace.engine.request import PRIORITIES
from vivace.engine.rows import chunk_row, decode_row, verify_row
from vivace.engine.sequence import NO_SLOT, Phase, Sequence
from vivace.engine.speculation import Speculation, Speculator
from vivace.engine.waiting import WaitingQueue
from vivace.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The scheduler's policy. Raises `ConfigError` when a value is out of its range."""

    max_waiting: int = 4096
    """Requests that may wait; more are refused."""
    max_burst_steps: int = 32
    """Most passes of the model in one step when nothing waits; 1 turns bursts off."""
    burst_ms: float = 1.0
    """A burst begins no further pass after this time: the longest a new request waits for it, less one pass."""
    policy: str = "edf"
    """The order within a priority: one of `policy.POLICIES`."""
    ageing_ms: float = 5000.0
    """Whoever waits for this long rises by one priority."""
    max_step_ms: float = 50.0
    """The longest that a prompt may make a step, by the cost model, while others are under way; beside streams that
    take long themselves, half as long again as they do."""
    max_proposed: int = 0
    """Most tokens that are proposed for one sequence and step, to be verified together; 0 turns speculation off."""

    def __post_init__(self) -> None:
        if self.max_waiting < 1:
            raise ConfigError(f"max_waiting is {self.max_waiting}; it must be at least 1.")
        if self.max_burst_steps < 1:
            raise ConfigError(f"max_burst_steps is {self.max_burst_steps}; it must be at least 1 (no bursts).")
        if self.max_proposed < 0:
            raise ConfigError(f"max_proposed is {self.max_proposed}; it must be 0 (no speculation) or more.")
        if not self.burst_ms >= 0:
            raise ConfigError(f"burst_ms is {self.burst_ms}; it must be 0 or more.")
        if self.policy not in POLICIES:
            raise ConfigError(f"policy is {self.policy!r}; it must be one of {', '.join(POLICIES)}.")
        for name in ("ageing_ms", "max_step_ms"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0.")


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch, and whose rows it holds, in the same order."""

    batch: Batch
    sequences: list[Sequence]
    speculation: Speculation | None = None
    """What it proposes, and what its time is to be counted as; None without a speculator."""
    began: float = 0.0
    """The instant at which planning began."""


class Scheduler:
    """Owns every sequence's place: its position in the queue, its slot, and its blocks."""

    def __init__(
        self,
        limits: RunnerLimits,
        config: SchedulerConfig,
        cost: CostModel | None = None,
        speculator: Speculator | None = None,
    ) -> None:
        self._limits = limits
        self._config = config
        self._cost = cost
        self._speculator = speculator
        self._key = POLICIES[config.policy]
        self.pool = BlockPool(limits.blocks)
        # A running sequence must always be able to get one token into a step.
        self._slots = list(range(min(limits.slots, limits.max_batch_tokens)))[::-1]
        self.waiting = WaitingQueue(self._key, config.ageing_ms / 1000)
        self.running: dict[str, Sequence] = {}
        self._limited = 0  # of the running ones
        self._expiries: list[tuple[float, int, Sequence]] = []  # a heap; an instant may be too early, never too late
        self.preemptions = 0
        self.cached_tokens = 0

    def add(self, sequence: Sequence, now: float) -> None:
        """Queue a sequence that arrived after all others."""
        assert blocks_for(sequence.end - 1) <= self.pool.total
        self._queue(sequence, now)
        if sequence.limited:
            heapq.heappush(self._expiries, (self._expiry(sequence), sequence.arrival, sequence))

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free what it holds."""
        if self._speculator is not None:
            self._speculator.forget(sequence.id)
        if sequence.slot == NO_SLOT:
            self.waiting.remove(sequence)
        else:
            del self.running[sequence.id]
            self._vacate(sequence)

    def take_expired(self, now: float) -> abc.Iterator[Sequence]:
        """Those with nothing left to gain. The caller removes each before it asks for the next."""
        while self._expiries and self._expiries[0][0] <= now:
            _, arrival, sequence = heapq.heappop(self._expiries)
            if sequence.finished:
                continue
            instant = self._expiry(sequence)
            if instant <= now:
                yield sequence
            else:
                heapq.heappush(self._expiries, (instant, arrival, sequence))

    def schedule(self, now: float) -> Plan | None:
        """Plan a step that begins at the instant `now`; None when there is nothing to compute."""
        sequences, halfway = self._secure_decoding(now)
        limit_ms = self._find_limit_ms(now)
        sat_out = False
        if (level := self._resting_level(halfway, now)) > PRIORITIES[0]:
            sequences, sat_out = _rest(sequences, level)
        if limit_ms < math.inf:
            sequences, left_out = self._sit_out(sequences, limit_ms, now)
            sat_out = sat_out or left_out
        decoding = len(sequences)
        alone = not halfway and not sat_out and not len(self.waiting)
        chunks: list[Row] = []
        self._add_chunks(sequences, chunks, halfway, limit_ms, level, now)
        speculation = self._speculate(sequences[:decoding], chunks, limit_ms)
        limits = [1] * decoding
        if alone and self._config.max_burst_steps > 1 and not (speculation and speculation.proposals):
            limits = self._plan_burst(sequences)
        if speculation is None or not speculation.proposals:
            rows = [decode_row(sequence, limit) for sequence, limit in zip(sequences, limits, strict=False)]
        else:
            proposed = speculation.proposals
            rows = [
                verify_row(sequence, proposed[place][1].tokens) if place in proposed else decode_row(sequence, 1)
                for place, sequence in enumerate(sequences[:decoding])
            ]
        rows += chunks
        if not rows:
            return None
        steps = max(limits, default=1)
        return Plan(Batch(rows, steps, self._config.burst_ms if steps > 1 else 0.0), sequences, speculation, now)

    def _add_chunks(
        self,
        sequences: list[Sequence],
        rows: list[Row],
        halfway: list[Sequence],
        limit_ms: float,
        level: int,
        now: float,
    ) -> None:
        """Fill a step of streams up with prompts, as far as the runner has room and the streams have time.

        Beside prompts for which streams sit out, those without a deadline below the same level wait too.
        """
        budget = self._limits.max_batch_tokens - len(sequences)
        if budget <= 0 or not (halfway or len(self.waiting)):
            return
        spare_ms = self._spare_ms(sequences, halfway, limit_ms)
        least = MIN_CHUNK_TOKENS if limit_ms == math.inf else 1
        while budget > 0 and (sequence := self._next_prompt(halfway, level if rows else PRIORITIES[0], now)):
            room = budget
            if spare_ms < math.inf:
                assert self._cost is not None
                fits = self._cost.cost.tokens_within(spare_ms, sequence.computed)
                room = min(budget, max(fits, 1 if rows else least))
            row = chunk_row(sequence, room)
            budget -= len(row.tokens)
            sequences.append(sequence)
            rows.append(row)
            if spare_ms < math.inf:
                assert self._cost is not None
                spare_ms -= len(row.tokens) * self._cost.cost.token_ms + self._cost.cost.sequence_ms
                if spare_ms <= 0:
                    return

    def _speculate(self, decoding: list[Sequence], chunks: list[Row], limit_ms: float) -> Speculation | None:
        """What to verify in a step of these streams and chunks: in the room that prompts leave, in the time that the
        streams have, and in blocks that nobody needs now. Nobody gives way for it, and whose next token depends on the
        one before it goes without."""
        speculator = self._speculator
        if speculator is None:
            return None
        chunk_tokens = sum(len(row.tokens) for row in chunks)
        asks: dict[int, Ask] = {}
        room = self._limits.max_batch_tokens - len(decoding) - chunk_tokens
        spare_ms = math.inf
        if limit_ms < math.inf and room > 0:
            assert self._cost is not None
            context = sum(sequence.computed for sequence in decoding)
            spare_ms = limit_ms - self._cost.cost.step_ms(len(decoding) + chunk_tokens, len(decoding), context)
            room = min(room, self._cost.cost.tokens_within(spare_ms, context // max(1, len(decoding))))
        if decoding and room > 0 and (places := speculator.choose(len(decoding), chunk_tokens)):
            spare = self.pool.available - len(decoding)
            depth = speculator.find_depth(len(decoding), spare_ms)
            for place in places:
                sequence = decoding[place]
                held = len(sequence.blocks) * BLOCK_SIZE - sequence.computed - 1
                limit = min(depth, sequence.end - len(sequence.tokens) - 1)
                limit = min(limit, held + max(0, spare) * BLOCK_SIZE)
                if limit > 0 and sequence.mask is None:
                    asks[place] = Ask(sequence.id, sequence.tokens, limit, sequence.sampling)
                    spare -= max(0, blocks_for(limit - held))
        speculation = speculator.plan(len(decoding), asks, chunk_tokens, room)
        for place, (_, proposal) in speculation.proposals.items():
            sequence = decoding[place]
            lacking = blocks_for(sequence.computed + 1 + len(proposal.tokens)) - len(sequence.blocks)
            if lacking > 0:
                fresh = self.pool.allocate(lacking)
                assert fresh is not None, "blocks were promised that there are not"
                sequence.blocks += fresh
        return speculation

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

        The second are in reverse of the order in which to go on with them.
        """
        decoding: list[Sequence] = []
        halfway: list[Sequence] = []
        before = self.preemptions
        for sequence in tuple(self.running.values()):
            if sequence.slot == NO_SLOT:
                continue  # preempted, just now, for another
            if not sequence.pending:
                self._age(sequence, now)
                halfway.append(sequence)
            elif sequence.computed < len(sequence.blocks) * BLOCK_SIZE or self._extend(sequence, now):
                decoding.append(sequence)
        if self.preemptions > before:
            decoding = [sequence for sequence in decoding if sequence.slot != NO_SLOT]
            halfway = [sequence for sequence in halfway if sequence.slot != NO_SLOT]
        halfway.sort(key=lambda sequence: (*self._haste(sequence, now), *self._rank(sequence)), reverse=True)
        return decoding, halfway

    def _age(self, sequence: Sequence, now: float) -> None:
        """Let a prompt that was begun rise as if it still waited: else those that do would all get before it."""
        periods = int(1000 * (now - sequence.request.arrived) / self._config.ageing_ms)
        sequence.level = max(sequence.level, min(sequence.request.priority + periods, PRIORITIES[-1]))

    def _resting_level(self, halfway: list[Sequence], now: float) -> int:
        """The priority below which streams without a deadline sit out for prompts with one.

        That is the prompts' own; and above all others when they have no time left for another step.
        """
        if self._cost is None:
            return PRIORITIES[0]
        prompts = [sequence for sequence in halfway if sequence.limited]
        then = now + self._cost.last_step_ms / 1000
        if any(s.latest_start <= then for s in prompts) or (self._slots and self.waiting.pressed(then)):
            return PRIORITIES[-1] + 1
        first = self.waiting.first(now) if self._slots else None
        if first is not None and first.limited:
            prompts.append(first)
        return max((sequence.level for sequence in prompts), default=PRIORITIES[0])

    def _extend(self, sequence: Sequence, now: float) -> bool:
        """Get one more block, from the last in line if need be; False when that is the sequence itself."""
        while (fresh := self.pool.allocate(1)) is None:
            last = max(self.running.values(), key=self._rank)
            self._preempt(last, now)
            if last is sequence:
                return False
        sequence.blocks += fresh
        return True

    def _rank(self, sequence: Sequence) -> tuple[int, float, int]:
        """The order in which running sequences get what there is."""
        return -sequence.level, self._key(sequence), sequence.arrival

    def _find_limit_ms(self, now: float) -> float:
        """The longest step that leaves every running stream its pace; infinite if no deadline or no cost is known."""
        if not self._limited or self._cost is None:
            return math.inf
        return min((pace_ms(s, now) for s in self.running.values() if s.limited and s.pending), default=math.inf)

    def _sit_out(self, sequences: list[Sequence], limit_ms: float, now: float) -> tuple[list[Sequence], bool]:
        """As many streams as fit into the time, and whether that leaves some out.

        Those with a deadline come first, and of them those with the least time. One
        without goes along in every step, so that they advance too.
        """
        assert self._cost is not None
        cost = self._cost.cost
        spare_ms = limit_ms - cost.base_ms
        costs_ms = [cost.stream_ms(sequence.computed) for sequence in sequences]
        if sum(costs_ms) <= spare_ms:
            return sequences, False
        paces_ms = [pace_ms(sequence, now) for sequence in sequences]
        order = sorted(range(len(sequences)), key=lambda i: (paces_ms[i], self._rank(sequences[i])))
        order.sort(key=lambda i: not sequences[i].limited)
        chosen: list[Sequence] = []
        unlimited = 0
        for index in order:
            sequence = sequences[index]
            first = not chosen or (not sequence.limited and not unlimited)
            if costs_ms[index] <= spare_ms or first:
                chosen.append(sequence)
                spare_ms -= costs_ms[index]
                unlimited += not sequence.limited
        return chosen, len(chosen) < len(sequences)

    def _spare_ms(self, sequences: list[Sequence], halfway: list[Sequence], limit_ms: float) -> float:
        """The time for prompts in a step of these streams; infinite if nobody has to wait for it."""
        alone = not sequences and len(halfway) + len(self.waiting) == 1
        if self._cost is None or alone:
            return math.inf
        cost = self._cost.cost
        context = sum(sequence.computed for sequence in sequences)
        streams_ms = cost.step_ms(len(sequences), len(sequences), context)
        return prompt_room_ms(streams_ms, limit_ms, self._config.max_step_ms)

    def _next_prompt(self, halfway: list[Sequence], level: int, now: float) -> Sequence | None:
        """Whose tokens to compute next: one of those half-way, the last of the list first, or one that waits. Nobody
        without a deadline below a level."""
        first = self.waiting.first(now) if self._slots else None
        if first is not None and _rests(first, level):
            first = None
        going = None if not halfway or _rests(halfway[-1], level) else halfway[-1]
        if first is not None and (going is None or self._goes_before(first, going, now)):
            admitted = self._admit(first, now)
            if admitted is not None:
                return admitted
        return None if going is None else halfway.pop()

    def _haste(self, sequence: Sequence, now: float) -> tuple[bool, bool]:
        """The smaller, the sooner to go on with a prompt that was begun, whatever its priority: it may not be late."""
        return not sequence.limited, sequence.latest_start > now

    def _goes_before(self, sequence: Sequence, other: Sequence, now: float) -> bool:
        """Whether to begin with the first that waits, rather than go on with the first that was begun."""
        if self.waiting.pressed(now):
            return not other.limited or sequence.due < other.due
        if other.limited and (not sequence.limited or other.latest_start <= now):
            return False
        return self._rank(sequence) < self._rank(other)

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

    def _admit(self, sequence: Sequence, now: float) -> Sequence | None:
        """Give a waiting sequence a slot, and blocks for all its tokens, if there are enough."""
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
        self.waiting.remove(sequence)
        self.running[sequence.id] = sequence
        self._limited += sequence.limited
        self.cached_tokens += len(shared) * BLOCK_SIZE
        sequence.place(self._slots.pop(), shared, parent, fresh)
        sequence.enter(Phase.DECODE if len(sequence.tokens) > sequence.prompt_length else Phase.PREFILL, now)
        return sequence

    def _preempt(self, sequence: Sequence, now: float) -> None:
        """Send a running sequence back to the queue; it keeps its tokens, and rises in priority."""
        del self.running[sequence.id]
        self._vacate(sequence)
        sequence.preemptions += 1
        sequence.level = min(sequence.level + 1, PRIORITIES[-1])
        sequence.enter(Phase.QUEUE, now)
        self._queue(sequence, now)
        self.preemptions += 1

    def _queue(self, sequence: Sequence, now: float) -> None:
        if sequence.limited:
            sequence.latest_start = latest_start(sequence, *self._known())
            sequence.work_s = added_work_s(sequence, self._known()[0])
        self.waiting.add(sequence, now)

    def _expiry(self, sequence: Sequence) -> float:
        return expiry(sequence, *self._known())

    def _known(self) -> tuple[StepCost | None, float]:
        """What steps cost, and what the last ones took on the average, in milliseconds."""
        return (None, 0.0) if self._cost is None else (self._cost.cost, self._cost.last_step_ms)

    def _vacate(self, sequence: Sequence) -> None:
        self._limited -= sequence.limited
        self._slots.append(sequence.slot)
        self.pool.release(sequence.blocks)
        sequence.displace()

    def check_integrity(self) -> None:
        """Raise AssertionError unless queues, slots and blocks agree with one another."""
        running, waiting = list(self.running.values()), list(self.waiting)
        assert self._limited == sum(sequence.limited for sequence in running)
        expiring = {sequence.id for _, _, sequence in self._expiries}
        assert expiring >= {s.id for s in running + waiting if s.limited}, "a deadline is not watched"
        self.waiting.check_integrity()
        slots = sorted(self._slots + [sequence.slot for sequence in running])
        assert slots == list(range(min(self._limits.slots, self._limits.max_batch_tokens))), "a slot is lost or shared"
        for sequence in running:
            assert sequence.sent <= len(sequence.blocks)
            assert sequence.computed < len(sequence.tokens) < sequence.end
            assert not sequence.pending or sequence.computed == len(sequence.tokens) - 1
            assert blocks_for(sequence.computed) <= len(sequence.blocks), "computed tokens without a block"
        assert all(s.slot == NO_SLOT and not s.blocks and not s.computed for s in waiting)
        self.pool.check_integrity([sequence.blocks for sequence in running])


def _rest(sequences: list[Sequence], level: int) -> tuple[list[Sequence], bool]:
    """All but those without a deadline below a priority, of which one stays, and whether that leaves some out."""
    resting = [sequence for sequence in sequences if _rests(sequence, level)]
    if len(resting) < 2:
        return sequences, False
    first = min(resting, key=lambda sequence: (-sequence.level, sequence.computed - sequence.end))
    out = {sequence.id for sequence in resting if sequence is not first}
    return [sequence for sequence in sequences if sequence.id not in out], True


def _rests(sequence: Sequence, level: int) -> bool:
    return not sequence.limited and sequence.level < level


def blocks_for(tokens: int) -> int:
    """Blocks that hold this many tokens."""
    return -(-tokens // BLOCK_SIZE)
