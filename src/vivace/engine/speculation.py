"""How many proposed tokens a step verifies, so that expected tokens per millisecond are most.

A step over n sequences gives n tokens; one that verifies m proposed tokens beside gives n and as many as are right,
and takes longer. Both are measured: how often proposals are right, by their strength and by sequence, and how long
steps take without proposals (bursts included: they are what speculation competes with) and with them, by tokens
computed. Proposed tokens are taken in the order of their chance to be right, as many as make the rate of tokens best.

What it can lose is bounded by an account in milliseconds: `LOSS_SHARE` of all step time is paid in, what a verified
step took beyond the worth of its tokens is taken out, what it gained is paid in up to a limit. Nothing is proposed
while the account is empty; what is not expected to pay is tried only when the account can bear it to be all wrong.

Where proposals are computed, by a draft model, their time is in that of the steps that verify them: how many to ask for
is settled before, and all that come are verified.

Pure policy: times are passed in. Knows no runner, no blocks, and not where proposals come from.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vivace.engine.proposer import Ask, Proposal, Proposer
from vivace.errors import ConfigError

MAX_PROPOSED = {"lookup": 11, "off": 0}
"""By what a user calls it. With the token that comes anyway, 11 make 12 rows: some times what kernels take at once."""
MAX_DRAFTED = 7
"""Of a draft model."""
LOSS_SHARE = 0.015
"""Of all step time that may be lost to proposals that were wrong."""
_MARGIN = 1.03
"""How much better than without proposals the expected rate must be."""
_PROBE_EVERY = 16
"""Where nothing could pay even if all were right, proposals are asked for only at every so manieth step."""
_PROBE_SEQUENCES = 4
"""And for this many sequences."""
_PAUSE_MS = 3.0
_PAUSE_MS_PER_SEQUENCE = 0.5
"""After the proposer was asked in vain, it is not asked again for this long: asking costs some 50 microseconds, which
matter where a step takes one millisecond."""
_LONGER_EVERY = 16
"""Of the times that a draft is asked, one is for a token more than seems best, so that its time becomes known."""
_RECONSIDER_EVERY = 32
"""Predictions are made anew after this many steps."""
_MEMORY = 48
"""Measurements that a mean is over, about."""
_FORGET_AFTER = 4096
"""Steps after which a time that was not measured again counts no more."""
_MIN_CHUNK = 16
"""Prompt tokens in a step from which on its time tells what one token more costs."""
_SEQUENCE_PRIOR = 3.0
"""A new sequence counts as if the rate of all had been seen on this many of its tokens."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What differs by whether proposals are found or computed."""

    reserve_steps: int
    """The account holds at most the time of this many steps."""
    begins_full: bool
    plain_first: int
    """Steps without proposals before the first with them."""
    plain_every: int
    """After this many steps in a row with proposals comes one without, so that its time stays known."""


_FOUND = Terms(reserve_steps=8, begins_full=False, plain_first=1, plain_every=64)
_COMPUTED = Terms(reserve_steps=64, begins_full=True, plain_first=8, plain_every=16)
"""A draft must read a prompt before it can propose anything, and what it gains has to pay for the next prompt. It is a
choice between two ways to compute the same, so both are looked at more often."""


class Mean:
    """A mean of times that forgets. One odd value moves it little, but one far below tells that those before were odd:
    nothing is computed faster than it can be."""

    __slots__ = ("at", "count", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0
        self.at = 0

    def add(self, value: float, at: int) -> None:
        if value < self.value / 2:
            self.count = 0
        self.count = min(self.count + 1, _MEMORY)
        self.at = at
        if self.count > 2:
            value = min(value, 2 * self.value)
        self.value += (value - self.value) / self.count


class Rate:
    """How often something was right, forgetting."""

    __slots__ = ("keep", "right", "tried")

    def __init__(self, keep: float, right: float = 0.0, tried: float = 0.0) -> None:
        self.keep = keep
        self.right = right
        self.tried = tried

    def add(self, right: int, tried: int) -> None:
        self.right = self.right * self.keep + right
        self.tried = self.tried * self.keep + tried


@dataclass(frozen=True, slots=True)
class Speculation:
    """What one step proposes beside its other work."""

    sequences: int
    """That decode in it."""
    chunk_tokens: int = 0
    """Prompt tokens in it."""
    proposals: Mapping[int, tuple[str, Proposal]] = field(default_factory=dict)
    """By the decoding sequence's place in the step: its id, and what it is to verify."""
    computed: bool = False
    """A proposer that computes was asked, whatever came of it."""

    @property
    def proposed(self) -> int:
        return sum(len(proposal.tokens) for _, proposal in self.proposals.values())


class StepTimes:
    """Milliseconds of steps, measured: of a pass without proposals by its sequences, with them by its tokens."""

    def __init__(self) -> None:
        self._plain: dict[int, Mean] = {}
        self._verifying: dict[int, Mean] = {}
        self._measured: list[int] = []
        """Keys of `_verifying`, ascending."""
        self._chunk_token = Mean()
        self._now = 0

    def add_plain(self, sequences: int, ms: float) -> None:
        self._now += 1
        self._plain.setdefault(size_class(sequences), Mean()).add(ms, self._now)

    def add_verifying(self, tokens: int, ms: float) -> None:
        self._now += 1
        key = size_class(tokens)
        mean = self._verifying.get(key)
        if mean is None:
            mean = self._verifying[key] = Mean()
            insort(self._measured, key)
        elif self._now - mean.at > _FORGET_AFTER:
            mean.count = 0
        mean.add(ms, self._now)

    def add_chunk(self, tokens: int, ms: float) -> None:
        """Of a step whose tokens were prompts' for the most part."""
        if tokens >= _MIN_CHUNK:
            self._chunk_token.add(ms / tokens, self._now)

    def plain(self, sequences: int, least: int = 1) -> float | None:
        """Of a pass that gives each sequence one token; None if that was not measured so many times."""
        mean = self._plain.get(size_class(sequences))
        return None if mean is None or mean.count < least else mean.value

    def chunk_token(self, plain: float, sequences: int) -> float:
        """Of one token more in a step that computes many."""
        return self._chunk_token.value if self._chunk_token.count else plain / sequences

    def verifying(self, sequences: int, plain: float, tokens: int) -> float:
        """Of a step over so many tokens, some of them proposed: measured, or drawn from what was."""
        below, below_ms, slope = sequences, plain, 0.0
        first = bisect_right(self._measured, size_class(sequences))
        for key in self._measured[first:]:
            mean = self._verifying[key]
            if self._now - mean.at > _FORGET_AFTER:
                continue
            if key > tokens:
                return below_ms + (mean.value - below_ms) * (tokens - below) / (key - below)
            if key > sequences:
                slope = max(0.0, mean.value - plain) / (key - sequences)
                below, below_ms = key, mean.value
        if not slope:
            slope = self._chunk_token.value if self._chunk_token.count else plain / sequences / 2
        return below_ms + slope * (tokens - below)


def find_max_proposed(speculate: str, *, draft: bool) -> int:
    """Most tokens to propose for one sequence and step, by a user's choice. Raises `ConfigError` for what there is not,
    and for a draft beside another way to speculate."""
    if speculate not in MAX_PROPOSED:
        raise ConfigError(f"speculate is {speculate!r}; it must be one of {', '.join(MAX_PROPOSED)}.")
    if draft and speculate != "off":
        raise ConfigError(f"A draft speculates already. Leave speculate={speculate} out, or the draft.")
    return MAX_DRAFTED if draft else MAX_PROPOSED[speculate]


class Speculator:
    """Decides for each step what it verifies, and learns from what came of it. One step is under way at a time."""

    def __init__(self, proposer: Proposer, max_proposed: int) -> None:
        self._proposer = proposer
        self.max_proposed = max_proposed
        """Most tokens for one sequence and step."""
        self.times = StepTimes()
        self._account_ms = 0.0
        self._terms = _COMPUTED if proposer.computes else _FOUND
        self._is_opened = not self._terms.begins_full
        """Whether the account has had what it begins with."""
        self._steps = 0
        self._predicted: dict[tuple[int, int], float] = {}
        self._hopes: dict[int, bool] = {}
        self._since_plain = 0
        self._pause_ms = 0.0
        self._by_strength: dict[int, Rate] = {}
        self._by_sequence: dict[str, Rate] = {}

    def choose(self, sequences: int, chunk_tokens: int = 0) -> Sequence[int]:
        """Which of so many decoding sequences, by their places, to ask the proposer about: most often all or none.

        A proposer that computes is not asked beside prompts: their steps are long already.
        """
        self._steps += 1
        if chunk_tokens and self._proposer.computes:
            return ()
        if self._steps % _RECONSIDER_EVERY == 0:
            self._predicted.clear()
            self._hopes.clear()
        plain = self.times.plain(sequences, self._terms.plain_first)
        if plain is None or self._account_ms <= 0 or self._pause_ms > 0:
            return ()
        if self._since_plain >= self._terms.plain_every:
            return ()
        hope = self._hopes.get(sequences)
        if hope is None:
            hope = self._hopes[sequences] = self._could_pay(sequences, plain)
        if hope:
            return range(sequences)
        if self._steps % _PROBE_EVERY:
            return ()
        first = self._steps // _PROBE_EVERY * _PROBE_SEQUENCES
        return sorted({(first + i) % sequences for i in range(_PROBE_SEQUENCES)})

    def find_depth(self, sequences: int, spare_ms: float = math.inf) -> int:
        """How many tokens to ask for, of each of the sequences chosen, in a step that may take so much longer."""
        plain = self.times.plain(sequences)
        if not self._proposer.computes or plain is None:
            return self.max_proposed
        chance = self._chance("", 0)
        best, most, expected = 0, _MARGIN * sequences / plain, float(sequences)
        for depth in range(1, self.max_proposed + 1):
            ms = self._predict(sequences, plain, depth * sequences)
            if ms - plain > spare_ms:
                return best
            expected += sequences * chance**depth
            if expected / ms > most:
                best, most = depth, expected / ms
        if best:
            longer = spare_ms == math.inf and self._steps % _LONGER_EVERY == 0
            return min(best + longer, self.max_proposed)
        tried = 1 + self._steps % self.max_proposed
        affordable = self._account_ms >= self._predict(sequences, plain, tried * sequences) - plain
        return tried if affordable and spare_ms == math.inf else 0

    def plan(self, sequences: int, asks: Mapping[int, Ask], chunk_tokens: int, room: int) -> Speculation:
        """What the step proposes, at most `room` tokens. `asks` are by the sequences' places."""
        plain = self.times.plain(sequences)
        if not asks or room < 1 or plain is None:
            return Speculation(sequences, chunk_tokens)
        computed = self._proposer.computes
        if not computed:
            self._pause_ms = _PAUSE_MS + _PAUSE_MS_PER_SEQUENCE * len(asks)
        found = zip(asks, self._proposer.propose(list(asks.values())), strict=True)
        offers = {place: proposal for place, proposal in found if proposal is not None and proposal.tokens}
        if not offers:
            return Speculation(sequences, chunk_tokens, computed=computed)
        chances = self._order(asks, offers)[:room]
        if computed:
            taken = len(chances)
        elif chunk_tokens:
            taken = self._count_beside_chunks(sequences, plain, chances)
        else:
            taken = self._count_alone(sequences, plain, chances)
        counts: dict[int, int] = {}
        for _, place in chances[:taken]:
            counts[place] = counts.get(place, 0) + 1
        proposals = {
            place: (asks[place].id, Proposal(offers[place].tokens[:count], offers[place].strength))
            for place, count in counts.items()
        }
        return Speculation(sequences, chunk_tokens, proposals, computed)

    def observe(self, made: Speculation, tokens: Sequence[Sequence[int]], passes: int, ms: float) -> None:
        """Learn from a step: the tokens that each of its rows gave, decoding sequences first, and the time it took."""
        sequences = made.sequences
        proposed = made.proposed
        if made.chunk_tokens:
            self.times.add_chunk(sequences + made.chunk_tokens + proposed, ms)
        elif proposed:
            self.times.add_verifying(sequences + proposed, ms)
        elif sequences and ms > 0 and not made.computed:
            self.times.add_plain(sequences, ms / passes)
        self._since_plain = self._since_plain + 1 if proposed else 0
        right = sum(self._learn(id, proposal, len(tokens[at]) - 1) for at, (id, proposal) in made.proposals.items())
        self._pause_ms = 0.0 if right else self._pause_ms - ms
        self._settle(made, proposed, right, ms)

    def forget(self, id: str) -> None:
        """The sequence has ended."""
        self._by_sequence.pop(id, None)
        self._proposer.forget(id)

    def _predict(self, sequences: int, plain: float, proposed: int) -> float:
        """Milliseconds of a step without prompts that verifies so many tokens."""
        key = sequences, proposed
        ms = self._predicted.get(key)
        if ms is None:
            ms = self._predicted[key] = self.times.verifying(sequences, plain, sequences + proposed)
        return ms

    def _could_pay(self, sequences: int, plain: float) -> bool:
        """Whether anything would pay here if every proposed token were right."""
        for count in (1, sequences, sequences * self.max_proposed):
            if (sequences + count) * plain > _MARGIN * sequences * self._predict(sequences, plain, count):
                return True
        return False

    def _order(self, asks: Mapping[int, Ask], offers: Mapping[int, Proposal]) -> list[tuple[float, int]]:
        """The chance of every proposed token to be kept, and whose it is; the likeliest first."""
        chances = []
        for place, proposal in offers.items():
            each = self._chance(asks[place].id, proposal.strength)
            chance = 1.0
            for _ in proposal.tokens:
                chance *= each
                chances.append((chance, place))
        chances.sort(key=lambda pair: -pair[0])
        return chances

    def _chance(self, id: str, strength: int) -> float:
        """That a proposed token is right if those before it are."""
        overall = self._by_strength.get(strength)
        rate = 0.6 if overall is None else overall.right / overall.tried
        own = self._by_sequence.get(id)
        if own is not None:
            rate = (own.right + _SEQUENCE_PRIOR * rate) / (own.tried + _SEQUENCE_PRIOR)
        return min(rate, 0.99)

    def _count_alone(self, sequences: int, plain: float, chances: Sequence[tuple[float, int]]) -> int:
        """How many of the likeliest tokens a step without prompts verifies."""
        best, most = 0, sequences / plain * _MARGIN
        expected = float(sequences)
        for count, (chance, _) in enumerate(chances, 1):
            expected += chance
            if count < len(chances) and size_class(sequences + count) != sequences + count:
                continue
            rate = expected / self._predict(sequences, plain, count)
            if rate > most:
                best, most = count, rate
        if best:
            return best
        return 1 if self._account_ms >= self._predict(sequences, plain, 1) - plain else 0

    def _count_beside_chunks(self, sequences: int, plain: float, chances: Sequence[tuple[float, int]]) -> int:
        """Beside prompts a token costs what it costs to compute, and saves what it would cost later."""
        least = _MARGIN * self.times.chunk_token(plain, sequences) * sequences / plain
        return sum(chance > least for chance, _ in chances)

    def _learn(self, id: str, proposal: Proposal, right: int) -> int:
        """Of each token up to the first wrong one it is known whether it was right."""
        right = max(0, right)
        tried = min(right + 1, len(proposal.tokens))
        overall = self._by_strength.get(proposal.strength)
        if overall is None:
            overall = self._by_strength[proposal.strength] = Rate(0.98, 1.2, 2.0)
        overall.add(right, tried)
        own = self._by_sequence.get(id)
        if own is None:
            own = self._by_sequence[id] = Rate(0.8)
        own.add(right, tried)
        return right

    def _settle(self, made: Speculation, proposed: int, right: int, ms: float) -> None:
        sequences = made.sequences
        plain = self.times.plain(sequences)
        if plain is None:
            return
        if not self._is_opened and self.times.plain(sequences, self._terms.plain_first) is not None:
            self._is_opened, self._account_ms = True, self._terms.reserve_steps * plain
        cost = 0.0
        if proposed and made.chunk_tokens:
            cost = proposed * self.times.chunk_token(plain, sequences)
        elif proposed:
            # Not what was predicted: whoever picks the best of some predictions picks those that err to the good.
            cost = min(ms, 2 * self._predict(sequences, plain, proposed)) - plain
        elif made.computed:
            cost = ms - plain
        gained = right * plain / sequences - cost + LOSS_SHARE * ms
        self._account_ms = min(self._account_ms + gained, self._terms.reserve_steps * plain)


def size_class(size: int) -> int:
    """Sizes that count as one: each up to 8, then four to a doubling, by the least of them."""
    if size <= 8:
        return size
    step = 1 << (size.bit_length() - 3)
    return size // step * step
