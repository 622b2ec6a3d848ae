"""One request while the engine works on it: its tokens, what of them is computed, where, and how long it took.

There is no prefill phase and no decode phase: each step moves `computed` towards `len(tokens)`, and a step that
reaches the end adds tokens. So a sequence that lost its blocks simply has more to compute.

Knows nothing of other sequences, of the batch, or of how blocks are shared.
"""

from __future__ import annotations

import math
from dataclasses import replace
from enum import IntEnum

from vivace.batch import BLOCK_SIZE
from vivace.budget import Timeline
from vivace.engine.blocks import Parent
from vivace.engine.request import Request

NO_SLOT = -1
PATIENCE_S = 60.0
"""Who has no deadline is taken for one who wants a first token within this."""
_NEVER = 2**62


class Phase(IntEnum):
    """What a sequence's time is counted as."""

    QUEUE = 0
    PREFILL = 1
    DECODE = 2


class Sequence:
    """The mutable state of one request. The scheduler places it and the engine extends it; nobody else writes.

    Invariants: the keys and values of `tokens[:computed]` are in `blocks`; `pending` implies that all but the last
    token are.
    """

    __slots__ = (
        "arrival",
        "blocks",
        "cached_tokens",
        "computed",
        "deadline",
        "due",
        "end",
        "finished",
        "first_token_at",
        "id",
        "latest_start",
        "level",
        "limited",
        "mask",
        "parent",
        "pending",
        "phase",
        "preemptions",
        "prompt_length",
        "publish_at",
        "refused_at",
        "request",
        "sampling",
        "scores",
        "sent",
        "since",
        "slot",
        "spent",
        "stops",
        "tokens",
        "wants_logprobs",
        "work_s",
    )

    def __init__(self, request: Request, arrival: int, context_length: int) -> None:
        self.id = request.id
        self.request = request
        self.arrival = arrival
        """Order of arrival at the engine."""
        self.tokens = list(request.prompt)
        self.prompt_length = len(request.prompt)
        self.end = min(len(request.prompt) + request.max_tokens, context_length)
        """The length at which it finishes."""
        self.deadline = request.budget.deadline(request.arrived)
        self.limited = bool(request.budget)
        """It has a deadline."""
        self.due = min(self.deadline.first, self.deadline.total, request.arrived + PATIENCE_S)
        """When it should have begun to answer, by its deadline or by anyone's patience."""
        self.level = request.priority
        """Its priority; it rises with the time it waits and each time it gives way."""
        self.latest_start = math.inf
        """Taken up later than this, it would miss its deadline."""
        self.work_s = 0.0
        """By how much it delays those that start after it."""
        self.sampling = replace(request.sampling, prompt_length=len(request.prompt))
        self.wants_logprobs = request.sampling.logprobs >= 0
        self.stops = frozenset(request.sampling.stop_token_ids)
        self.mask: bytes | None = None
        """The tokens that its constraint allows next; None without a constraint."""
        self.first_token_at = math.inf
        """The instant of its first token."""
        self.finished = False
        self.preemptions = 0
        self.cached_tokens = 0
        """Prompt tokens found in the prefix cache when it was first admitted."""
        self.scores: list[float] | None = [] if request.score_prompt else None
        """Of the prompt tokens so far; None when nobody asked, or once they are reported."""

        self.slot = NO_SLOT
        self.computed = 0
        self.blocks: list[int] = []
        self.sent = 0
        """Blocks that the runner knows of."""
        self.pending = False
        """The only token to compute is the one that the runner sampled last in this slot."""
        self.parent: Parent | None = request.cache_salt
        """What the next block to publish continues; None when it cannot be found any more."""
        self.publish_at = BLOCK_SIZE
        """Publish the next block once this much is computed."""
        self.refused_at = -1
        """Blocks available when it was last too big to be admitted."""

        self.phase = Phase.QUEUE
        self.since = request.arrived + request.preprocess_ms / 1000
        self.spent = [0.0, 0.0, 0.0]
        """Seconds by phase, up to `since`."""

    def remaining(self) -> int:
        """Tokens still to come, as far as anyone knows."""
        expected = self.request.expected_tokens
        end = self.prompt_length + expected if expected else self.end
        return max(1, min(end, self.end) - len(self.tokens))

    def place(self, slot: int, shared: list[int], parent: Parent, fresh: list[int]) -> None:
        """Give it a slot and blocks: `shared` ones hold the head of its tokens already, `fresh` ones nothing."""
        if not self.preemptions:
            self.cached_tokens = len(shared) * BLOCK_SIZE
        self.slot = slot
        self.blocks = shared + fresh
        self.computed = len(shared) * BLOCK_SIZE
        self.parent = parent
        self.publish_at = self.computed + BLOCK_SIZE

    def displace(self) -> None:
        """Forget slot and blocks. The tokens stay, to be computed again; scores not yet reported start over."""
        self.slot = NO_SLOT
        self.blocks = []
        self.computed = self.sent = 0
        self.pending = False
        self.refused_at = -1
        if self.scores is not None:
            self.scores = []

    def stop_publishing(self) -> None:
        self.parent = None
        self.publish_at = _NEVER

    def enter(self, phase: Phase, now: float) -> None:
        """Count the time from `now` on as `phase`. It decodes once it has its first token."""
        if phase is Phase.DECODE:
            self.first_token_at = min(self.first_token_at, now)
        self.spent[self.phase] += now - self.since
        self.phase = phase
        self.since = now

    def timeline(self) -> Timeline:
        """The times up to the last `enter`. They add up to that instant less the request's arrival."""
        queue, prefill, decode = self.spent
        return Timeline(
            preprocess_ms=self.request.preprocess_ms,
            queue_ms=queue * 1000,
            prefill_ms=prefill * 1000,
            decode_ms=decode * 1000,
        )
