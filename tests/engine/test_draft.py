"""A draft model's proposals: lossless whatever it says, at any temperature, and with no trace of what was refused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.answers import drain, expected, make_engine
from tests.fakes import LIMITS, FakeRunner, next_token, reference_tokens
from vivace.batch import BLOCK_SIZE, Batch, RunnerLimits, Sampling
from vivace.engine.draft import MOST_BEHIND, MOST_READ, DraftProposer
from vivace.engine.proposer import Ask
from vivace.engine.request import Request
from vivace.engine.scheduler import SchedulerConfig

WIDE = RunnerLimits(slots=8, blocks=256, max_batch_tokens=1024, context_length=2048, vocab_size=101)


class HalfRight(FakeRunner):
    """A draft whose tokens are those of the model at most positions, and others at the rest."""

    def _choose(self, slot: Any, history: list[int], mask: bytes | None = None) -> int:
        token = super()._choose(slot, history, mask)
        if len(history) % 5 == 3:
            slot.sampled = token = (token + 1) % self.limits.vocab_size
        return token


def make_draft(limits: RunnerLimits = WIDE, kind: type[FakeRunner] = FakeRunner) -> tuple[DraftProposer, FakeRunner]:
    runner = kind(limits, goes_back=True)
    return DraftProposer(runner), runner


def propose(draft: DraftProposer, tokens: Sequence[int], limit: int = 4, sampling: Sampling | None = None) -> list[int]:
    [proposal] = draft.propose([Ask("a", tokens, limit, sampling or Sampling())])
    return [] if proposal is None else list(proposal.tokens)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, seed=7)])
def test_it_proposes_what_its_model_says_with_the_requests_own_sampling(sampling: Sampling) -> None:
    draft, _ = make_draft()
    assert propose(draft, [1, 2, 3], 6, sampling) == reference_tokens([1, 2, 3], sampling, 6)


def test_what_was_refused_is_computed_again_and_what_was_right_is_not() -> None:
    draft, runner = make_draft()
    first = propose(draft, [1, 2, 3])
    assert runner.computed_tokens == 3 + 3
    all_right = [1, 2, 3, *first, 50]
    assert propose(draft, all_right) == reference_tokens(all_right, Sampling(), 4)
    assert runner.computed_tokens == 6 + 2 + 3
    refused = [*all_right, 99, 98]
    assert propose(draft, refused, 2) == reference_tokens(refused, Sampling(), 2)
    assert runner.computed_tokens == 11 + 2 + 1


@given(st.data())
def test_any_growth_of_a_sequence_gives_what_a_fresh_draft_would_say(data: st.DataObject) -> None:
    draft, _ = make_draft()
    tokens = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=40))
    for _ in range(6):
        found = propose(draft, tokens)
        assert found == (reference_tokens(tokens, Sampling(), 4) if found else [])
        kept = data.draw(st.integers(0, len(found)))
        tokens = tokens + found[:kept] + data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=40))


def test_a_long_prompt_is_read_in_pieces_before_anything_is_proposed() -> None:
    batches: list[Batch] = []
    runner = FakeRunner(WIDE, goes_back=True, on_launch=batches.append)
    draft, prompt = DraftProposer(runner), [i % 101 for i in range(MOST_READ + 100)]
    assert [bool(propose(draft, prompt)) for _ in range(3)] == [False, False, True]
    assert [sum(len(row.tokens) for row in batch.rows) for batch in batches] == [MOST_READ, 99, 1]


def test_who_is_far_behind_does_not_hold_up_the_others() -> None:
    draft, _ = make_draft()
    long, short = Ask("long", [1] * (MOST_BEHIND + 1), 2), Ask("short", [5, 6], 2)
    [none, some] = draft.propose([long, short])
    assert none is None
    assert some is not None
    assert list(some.tokens) == reference_tokens([5, 6], Sampling(), 2)


def test_without_a_slot_blocks_or_context_there_is_no_proposal_and_those_that_end_make_room() -> None:
    draft, _ = make_draft(replace(WIDE, slots=1))
    assert propose(draft, [1])
    assert draft.propose([Ask("b", [1], 2)]) == [None]
    draft.forget("a")
    draft.forget("never asked about")
    [proposal] = draft.propose([Ask("b", [1], 2)])
    assert proposal is not None
    draft, _ = make_draft(replace(WIDE, blocks=1))
    assert len(propose(draft, [1] * (BLOCK_SIZE - 2), 8)) == 2
    assert propose(draft, [1] * BLOCK_SIZE) == []
    draft, _ = make_draft(replace(WIDE, context_length=20))
    assert len(propose(draft, [1] * 17, 8)) == 3
    assert propose(draft, [1] * 20) == []


def test_an_answer_that_the_draft_ends_is_proposed_to_its_end() -> None:
    stop = next_token([1, 2, 3], Sampling(), 101)
    draft, _ = make_draft()
    assert propose(draft, [1, 2, 3], 4, Sampling(stop_token_ids=(stop,))) == [stop]


def test_penalties_and_reports_are_left_to_the_model() -> None:
    draft, _ = make_draft()
    sampling = Sampling(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5, logprobs=3)
    assert propose(draft, [1, 2, 3], 3, sampling) == reference_tokens([1, 2, 3], Sampling(), 3)


def make_requests(count: int) -> list[Request]:
    rng = random.Random(3)
    samplings = (Sampling(), Sampling(temperature=0.9, seed=4), Sampling(repetition_penalty=1.2))
    return [
        Request(f"{i}", tuple(rng.choices(range(101), k=rng.randrange(1, 60))), 40, samplings[i % 3], 0.0)
        for i in range(count)
    ]


@pytest.mark.parametrize("kind", [FakeRunner, HalfRight])
def test_answers_are_the_same_as_without_a_draft(kind: type[FakeRunner]) -> None:
    draft, _ = make_draft(kind=kind)
    engine = make_engine(FakeRunner(pass_ms=10.0), SchedulerConfig(max_proposed=5), proposer=draft)
    requests = make_requests(30)
    for request in requests:
        engine.add(request)
    answers = drain(engine)
    assert {id: answer.tokens for id, answer in answers.items()} == {r.id: expected(r) for r in requests}
    stats = engine.stats()
    assert stats.proposed > 100
    assert stats.accepted / stats.proposed > (0.5 if kind is FakeRunner else 0.2)
    assert draft.propose([Ask(f"again {i}", [1], 1) for i in range(WIDE.slots)]).count(None) == 0


def test_an_engine_that_died_leaves_the_draft_free_for_the_next() -> None:
    draft, _ = make_draft(LIMITS)
    engine = make_engine(FakeRunner(pass_ms=10.0), SchedulerConfig(max_proposed=5), proposer=draft)
    for request in make_requests(LIMITS.slots):
        engine.add(request)
    while not engine.stats().proposed:
        engine.step()
    engine.end_all("planted")
    assert draft.propose([Ask(f"new {i}", [1], 1) for i in range(LIMITS.slots)]).count(None) == 0
