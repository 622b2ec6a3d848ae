"""How long the next step may take so that running streams keep their deadlines: pure arithmetic.

Knows one sequence at a time, and no clock.
"""

from __future__ import annotations

import math

from vivace.batch import BLOCK_SIZE
from vivace.budget import OnDeadline
from vivace.engine.cost import StepCost
from vivace.engine.sequence import NO_SLOT, Sequence

SAFETY = 0.9
"""Of the time there is, that much is planned with."""
WORK_SAFETY = 1.5
"""Waiting work is taken up while there is this many times what it should take."""
FLUSH_S = 0.002
"""From an answer's last token to its last byte."""
CATCH_UP_TOKENS = 8
"""A stream that is behind its time per token is to have made up for it after so many tokens."""
PROMPT_SHARE = 0.5
"""Of what a step's streams take, prompts may add at least that much: else a crowd of streams would let none in."""
MIN_CHUNK_TOKENS = 16
"""A prompt gets this many tokens into a step, whatever it costs, unless a stream's deadline says otherwise."""


def pace_ms(sequence: Sequence, now: float) -> float:
    """The longest that each of a stream's next steps may take on the average.

    An answer that may be cut has no need to end in time: its total paces nobody.
    """
    deadline = sequence.deadline
    pace_s = deadline.tpot_s - _behind_s(sequence, now) / min(CATCH_UP_TOKENS, sequence.remaining())
    if not _truncates(sequence):
        pace_s = min(pace_s, (deadline.total - now) / sequence.remaining())
    return 1000 * SAFETY * max(0.0, pace_s)


def prompt_room_ms(streams_ms: float, pace_limit_ms: float, max_step_ms: float) -> float:
    """The time for prompts in a step whose streams take `streams_ms`, and which may take `pace_limit_ms` by their
    deadlines; not above 0 if there is none."""
    return min(pace_limit_ms - streams_ms, max(max_step_ms - streams_ms, PROMPT_SHARE * streams_ms))


def latest_start(sequence: Sequence, cost: StepCost | None, step_ms: float) -> float:
    """The instant after which a sequence that waits would miss its deadline, by what it should take."""
    deadline = sequence.deadline
    if cost is None or not sequence.limited:
        return min(deadline.first, deadline.total)
    prompt_s = WORK_SAFETY * cost.prompt_ms(len(sequence.tokens)) / 1000
    tokens = 1 if _truncates(sequence) else sequence.remaining()
    answer_s = WORK_SAFETY * tokens * step_ms / 1000
    first = deadline.first if len(sequence.tokens) == sequence.prompt_length else math.inf
    return min(first - prompt_s, deadline.total - prompt_s - answer_s)


def added_work_s(sequence: Sequence, cost: StepCost | None) -> float:
    """What the steps of a sequence that waits take longer, all together, than without it."""
    if cost is None:
        return 0.0
    length, left = len(sequence.tokens), sequence.remaining()
    answer_ms = left * cost.stream_ms(length + left / 2)
    return (cost.prompt_ms(length) - cost.base_ms + answer_ms) / 1000


def expiry(sequence: Sequence, cost: StepCost | None, step_ms: float) -> float:
    """The instant from which there is no point in computing a sequence any further."""
    deadline = sequence.deadline
    total = deadline.total
    if _truncates(sequence):
        total -= FLUSH_S + 2 * step_ms / 1000
    if len(sequence.tokens) > sequence.prompt_length:
        return total
    first = min(deadline.first, total)
    waits = sequence.slot == NO_SLOT
    if not waits or cost is None:
        return first
    return first - cost.prompt_ms(min(BLOCK_SIZE, len(sequence.tokens))) / 1000


def _behind_s(sequence: Sequence, now: float) -> float:
    """How much later the last token was than a time per token with some to spare has it; 0 if it was not."""
    told = len(sequence.tokens) - sequence.prompt_length - 1
    if sequence.deadline.tpot_s == math.inf or told <= 0:
        return 0.0
    return max(0.0, now - sequence.first_token_at - SAFETY * sequence.deadline.tpot_s * told)


def _truncates(sequence: Sequence) -> bool:
    return sequence.request.on_deadline is OnDeadline.TRUNCATE
