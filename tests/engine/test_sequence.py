from __future__ import annotations

import pytest

from vivace.batch import Sampling
from vivace.engine.request import Request
from vivace.engine.sequence import NO_SLOT, Phase, Sequence


def make(**changes: object) -> Sequence:
    fields: dict[str, object] = {
        "id": "a",
        "prompt": tuple(range(20)),
        "max_tokens": 10,
        "sampling": Sampling(),
        "arrived": 5.0,
        "preprocess_ms": 500.0,
    }
    return Sequence(Request(**(fields | changes)), 0, 64)  # type: ignore[arg-type]


def test_a_sequence_ends_at_max_tokens_or_with_the_context() -> None:
    assert make().end == 30
    assert make(max_tokens=1000).end == 64


def test_the_parts_of_the_timeline_add_up_from_the_arrival_on() -> None:
    sequence = make()
    sequence.enter(Phase.PREFILL, 6.0)
    sequence.enter(Phase.DECODE, 8.0)
    sequence.enter(Phase.DECODE, 12.0)
    timeline = sequence.timeline()
    assert (timeline.preprocess_ms, timeline.queue_ms, timeline.prefill_ms, timeline.decode_ms) == (
        500.0,
        500.0,
        2000.0,
        4000.0,
    )
    assert timeline.total_ms == (12.0 - 5.0) * 1000


def test_time_preempted_counts_as_queue() -> None:
    sequence = make(preprocess_ms=0.0)
    for phase, now in ((Phase.PREFILL, 6.0), (Phase.QUEUE, 7.0), (Phase.PREFILL, 10.0), (Phase.DECODE, 11.0)):
        sequence.enter(phase, now)
    assert (sequence.timeline().queue_ms, sequence.timeline().prefill_ms) == (4000.0, 2000.0)


def test_a_displaced_sequence_keeps_its_tokens_and_nothing_else() -> None:
    sequence = make(score_prompt=True)
    sequence.place(3, [], "", [7, 8])
    sequence.computed, sequence.sent, sequence.pending, sequence.scores = 20, 2, True, [-1.0]
    sequence.tokens.append(42)
    sequence.refused_at = 3
    sequence.displace()
    assert sequence.tokens == [*range(20), 42]
    assert (sequence.slot, sequence.blocks, sequence.computed, sequence.sent) == (NO_SLOT, [], 0, 0)
    assert not sequence.pending
    assert sequence.refused_at == -1
    assert sequence.scores == []


@pytest.mark.parametrize("shared", [0, 1])
def test_a_placed_sequence_begins_after_what_it_shares(shared: int) -> None:
    sequence = make()
    sequence.place(0, [4] * shared, 9, [5] * (2 - shared))
    assert sequence.computed == sequence.cached_tokens == 16 * shared
    assert sequence.publish_at == 16 * (shared + 1)
    assert len(sequence.blocks) == 2
