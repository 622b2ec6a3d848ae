"""A proposer that is a model: a small one runs ahead, and the large one verifies what it says.

Speculative decoding (Leviathan et al. 2023; Chen et al. 2023), with the draft on a runner of its own. A step of it is
one call: a burst whose first pass computes what came since the last time, and whose others go on from there. It draws
with the request's own sampling, so with the same random number at each position as the large model will: where the two
have like distributions they draw the same token, at any temperature.

What was refused is undone by going back: the next row of a slot begins at the first position that came out otherwise.

Knows the runner contract, tokens and slots. Knows neither when speculation pays nor what the other model is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vivace.batch import BLOCK_SIZE, Batch, Row, Runner, Sampling, Want
from vivace.engine.proposer import Ask, Proposal

MOST_READ = 512
"""Tokens that it reads in one go, over all sequences: prompts come in pieces, since others wait meanwhile."""
MOST_BEHIND = 32
"""A sequence with more tokens to read than this gets no proposal yet: first it is only read."""


class DraftProposer:
    """Proposes what a second runner's model says. The runner is the caller's to close, and nobody else's to use.

    A sequence takes a slot and blocks there when it is first asked about, and keeps them until it ends. One that finds
    none left, or is at the end of the draft's context, gets no proposals.
    """

    computes = True

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._limits = limits = runner.limits
        self._most_read = min(MOST_READ, limits.max_batch_tokens)
        self._slots = list(range(limits.slots))[::-1]
        self._blocks = list(range(limits.blocks))[::-1]
        self._readings: dict[str, _Reading] = {}

    def propose(self, asks: Sequence[Ask]) -> list[Proposal | None]:
        known = {place: reading for place, ask in enumerate(asks) if (reading := self._find(ask)) is not None}
        for place, reading in known.items():
            reading.go_back(asks[place].tokens)
        behind = [place for place, reading in known.items() if reading.count_unread(asks[place]) > MOST_BEHIND]
        self._read([(asks[place], known.pop(place)) for place in behind])
        proposals: list[Proposal | None] = [None] * len(asks)
        ready = self._choose_ready(asks, known)
        for place, tokens in zip(ready, self._run_ahead([(asks[i], known[i]) for i in ready]), strict=True):
            proposals[place] = Proposal(tokens, 0)
        return proposals

    def forget(self, id: str) -> None:
        reading = self._readings.pop(id, None)
        if reading is not None:
            self._slots.append(reading.slot)
            self._blocks += reading.blocks

    def _find(self, ask: Ask) -> _Reading | None:
        reading = self._readings.get(ask.id)
        if reading is None:
            if not self._slots:
                return None
            reading = self._readings[ask.id] = _Reading(self._slots.pop(), _for_draft(ask.sampling))
        room = min(self._limits.context_length, (len(reading.blocks) + len(self._blocks)) * BLOCK_SIZE)
        if len(ask.tokens) + 1 > room:
            return None
        while len(reading.blocks) * BLOCK_SIZE < min(room, len(ask.tokens) + ask.limit):
            reading.blocks.append(self._blocks.pop())
        return reading

    def _choose_ready(self, asks: Sequence[Ask], known: Mapping[int, _Reading]) -> list[int]:
        """As many as the runner has room for, by their places."""
        left, ready = self._limits.max_batch_tokens, []
        for place, reading in known.items():
            left -= reading.count_unread(asks[place])
            if left >= 0:
                ready.append(place)
        return ready

    def _read(self, behind: Sequence[tuple[Ask, _Reading]]) -> None:
        """All but the last token of each, as far as the room reaches."""
        left, rows = self._most_read, []
        for ask, reading in behind:
            tokens = ask.tokens[reading.computed : -1][:left]
            if tokens:
                rows.append(reading.make_row(tokens))
                reading.settle(len(tokens))
                left -= len(tokens)
        if rows:
            self._runner.collect(self._runner.launch(Batch(rows)))

    def _run_ahead(self, ready: Sequence[tuple[Ask, _Reading]]) -> Sequence[Sequence[int]]:
        """What the draft says next of each: its limit, or less where it ends the answer."""
        rows = []
        for ask, reading in ready:
            room = min(self._limits.context_length, len(reading.blocks) * BLOCK_SIZE) - len(ask.tokens)
            rows.append(reading.make_row(ask.tokens[reading.computed :], Want.SAMPLE, min(ask.limit, room)))
        if not rows:
            return []
        batch = Batch(rows, max(row.limit for row in rows), math.inf)
        made = self._runner.collect(self._runner.launch(batch)).tokens
        for (_, reading), row, tokens in zip(ready, rows, made, strict=True):
            reading.settle(len(row.tokens), tokens[:-1])
        return made


class _Reading:
    """What the draft has computed of one sequence."""

    __slots__ = ("blocks", "computed", "guessed", "sampling", "sent", "slot")

    def __init__(self, slot: int, sampling: Sampling) -> None:
        self.slot = slot
        self.sampling: Sampling | None = sampling
        """Until the slot is opened."""
        self.blocks: list[int] = []
        self.sent = 0
        """Blocks that the runner knows of."""
        self.computed = 0
        """Positions whose keys and values are right, as far as anyone knows."""
        self.guessed: Sequence[int] = ()
        """The tokens at the last of them, which it proposed itself."""

    def go_back(self, tokens: Sequence[int]) -> None:
        """Forget what was guessed, from the first token on that came out otherwise, and the last one in any case."""
        first = self.computed - len(self.guessed)
        right = 0
        for guess, token in zip(self.guessed, tokens[first : len(tokens) - 1], strict=False):
            if guess != token:
                break
            right += 1
        self.computed, self.guessed = first + right, ()

    def count_unread(self, ask: Ask) -> int:
        """At least 1: the last token tells the next."""
        return len(ask.tokens) - self.computed

    def make_row(self, tokens: Sequence[int], want: Want = Want.NOTHING, limit: int = 1) -> Row:
        blocks, self.sent = self.blocks[self.sent :], len(self.blocks)
        opens, self.sampling = self.sampling, None
        return Row(self.slot, self.computed, tokens, blocks, want, limit, opens=opens)

    def settle(self, read: int, guessed: Sequence[int] = ()) -> None:
        self.computed += read + len(guessed)
        self.guessed = guessed


def _for_draft(sampling: Sampling) -> Sampling:
    """Without what looks at all tokens before, and reports nothing: a proposal need not be right."""
    return replace(sampling, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0, logprobs=-1)
