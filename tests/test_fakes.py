"""The fake runner is a judge, so what it condemns is tested too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.fakes import LIMITS, FakeRunner, next_token, reference_logprobs, reference_scores, reference_tokens
from vivace.batch import Batch, Row, Sampling, StepResult, Want

PROMPT = list(range(1, 21))
PENALISED = Sampling(repetition_penalty=1.5, prompt_length=20)
FOUND = Row(1, 16, PROMPT[16:], (0, 2), Want.SAMPLE, opens=PENALISED, history=PROMPT[:16])
OPEN = Row(0, 0, PROMPT, blocks=(0, 1), want=Want.SAMPLE, opens=Sampling())


def run(runner: FakeRunner, *rows: Row, max_steps: int = 1, burst_ms: float = 1.0) -> StepResult:
    return runner.collect(runner.launch(Batch(rows, max_steps, burst_ms)))


def opened() -> FakeRunner:
    runner = FakeRunner()
    run(runner, OPEN)
    return runner


def tokens_of(results: Sequence[StepResult]) -> list[int]:
    return [token for result in results for token in result.tokens[0]]


def test_prompt_chunks_decode_rows_and_bursts_give_the_reference() -> None:
    runner = FakeRunner()
    run(runner, replace(OPEN, tokens=PROMPT[:7], want=Want.NOTHING))
    results = [run(runner, Row(0, 7, PROMPT[7:], want=Want.SAMPLE)), run(runner, Row(0, 20, want=Want.SAMPLE))]
    results.append(run(runner, Row(0, 21, want=Want.SAMPLE, limit=4), max_steps=8))
    assert tokens_of(results) == reference_tokens(PROMPT, Sampling(), 6)


def test_another_seed_gives_other_text_unless_greedy() -> None:
    greedy = [reference_tokens(PROMPT, Sampling(seed=seed), 8) for seed in (1, 2)]
    warm = [reference_tokens(PROMPT, Sampling(1.0, seed=seed), 8) for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    assert warm[0] != warm[1]


def test_a_wrong_block_table_gives_wrong_text() -> None:
    runner = opened()
    run(runner, replace(OPEN, slot=1, tokens=PROMPT[::-1], blocks=(2, 3)))
    stolen = run(runner, Row(2, 16, PROMPT[16:], blocks=(2, 4), want=Want.SAMPLE, opens=Sampling()))
    shared = run(runner, Row(3, 16, PROMPT[16:], blocks=(0, 5), want=Want.SAMPLE, opens=Sampling()))
    assert tokens_of([shared]) == reference_tokens(PROMPT, Sampling(), 1)
    assert tokens_of([stolen]) != reference_tokens(PROMPT, Sampling(), 1)


def test_scores_and_hidden_states_are_by_token() -> None:
    runner = FakeRunner()
    row = replace(OPEN, tokens=PROMPT[:-1], want=Want.SCORE, targets=PROMPT[1:])
    assert run(runner, row).scores == {0: reference_scores(PROMPT)}
    hidden = run(runner, replace(OPEN, want=Want.HIDDEN)).hidden[0]
    assert hidden.shape == (20, 2)


@pytest.mark.parametrize("right", range(4))
def test_verify_keeps_the_right_proposals_and_adds_one(right: int) -> None:
    runner = FakeRunner()
    first, *following = reference_tokens(PROMPT, Sampling(), 6)
    run(runner, OPEN)
    proposed = [*following[:right], *[(token + 1) % 101 for token in following[right:3]]]
    assert run(runner, Row(0, 20, [first, *proposed], want=Want.VERIFY)).tokens == [following[: right + 1]]
    again = run(runner, Row(0, 21 + right, want=Want.SAMPLE))
    assert again.tokens == [[following[right + 1]]]


def test_a_burst_ends_with_stop_tokens_limits_time_and_interrupts() -> None:
    answer = reference_tokens(PROMPT, Sampling(), 6)
    runner = FakeRunner(pass_ms=0.4)
    run(runner, replace(OPEN, opens=Sampling(stop_token_ids=(answer[2],))))
    assert run(runner, Row(0, 20, want=Want.SAMPLE, limit=8), max_steps=8).tokens == [answer[1:3]]
    run(runner, OPEN)
    assert run(runner, Row(0, 20, want=Want.SAMPLE, limit=8), max_steps=8).tokens == [answer[1:4]]
    runner.on_pass = runner.interrupt
    assert run(runner, Row(0, 23, want=Want.SAMPLE, limit=8), max_steps=8).tokens == [answer[4:5]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (replace(OPEN, slot=1, opens=None), "before it was opened"),
        (replace(OPEN, slot=8), "slot out of range"),
        (replace(OPEN, slot=1, tokens=[]), "no token to compute"),
        (replace(OPEN, slot=1, tokens=[101]), "vocabulary"),
        (replace(OPEN, slot=1, tokens=[1] * 65), "room for"),
        (replace(OPEN, slot=1, blocks=(2,)), "no room in the block table"),
        (replace(OPEN, slot=1, blocks=(2, 2)), "twice"),
        (replace(OPEN, slot=1, blocks=(2, 64)), "out of range"),
        (replace(OPEN, slot=1, blocks=(2, 3), position=8), "nobody computed"),
        (replace(OPEN, slot=1, want=Want.SCORE, blocks=(2, 3)), "targets"),
        (Row(0, 19, want=Want.SAMPLE), "position 19 where 20"),
        (Row(0, 20, [1], want=Want.SAMPLE), "sent back"),
        (Row(0, 20, want=Want.SAMPLE, limit=2), "limit"),
        (replace(FOUND, history=()), "a history other"),
        (replace(FOUND, history=PROMPT[:15]), "a history other"),
        (replace(FOUND, history=[*PROMPT[:15], 1]), "a history other"),
        (replace(FOUND, opens=Sampling()), "a history other"),
        (Row(0, 20, want=Want.SAMPLE, history=PROMPT), "has one"),
        (Row(0, 20, want=Want.NOTHING, mask=b"\xff" * 13), "nothing is sampled"),
        (Row(0, 20, want=Want.SAMPLE, mask=b"\xff" * 12), "another size"),
    ],
)
def test_what_breaks_the_contract_is_condemned(row: Row, message: str) -> None:
    runner = opened()
    with pytest.raises(AssertionError, match=message):
        run(runner, row)


def test_a_block_overwritten_under_a_slot_is_noticed() -> None:
    runner = opened()
    run(runner, replace(OPEN, slot=1, tokens=PROMPT[::-1]))
    with pytest.raises(AssertionError, match="block 0 was overwritten under slot 0"):
        run(runner, Row(0, 20, want=Want.SAMPLE))


def test_a_block_written_by_two_slots_at_once_is_noticed() -> None:
    with pytest.raises(AssertionError, match="written by two slots"):
        run(FakeRunner(), OPEN, replace(OPEN, slot=1))


def test_a_burst_has_only_rows_that_sample() -> None:
    with pytest.raises(AssertionError, match="does not sample"):
        run(FakeRunner(), replace(OPEN, want=Want.NOTHING), max_steps=2)


def test_a_mask_never_bursts() -> None:
    runner = opened()
    with pytest.raises(AssertionError, match="mask in a burst"):
        run(runner, Row(0, 20, want=Want.SAMPLE, mask=b"\xff" * 13), max_steps=2)


def test_penalties_bans_and_masks_choose_otherwise() -> None:
    free = next_token(PROMPT, Sampling(), 101)
    assert next_token(PROMPT, Sampling(stop_token_ids=(free,), min_tokens=1, prompt_length=20), 101) == free + 1
    assert len(set(reference_tokens(PROMPT, Sampling(presence_penalty=1.0), 10, 10))) == 10
    assert next_token(PROMPT, Sampling(repetition_penalty=1.1, prompt_length=20), 21) in (0, 20)
    assert next_token(PROMPT, Sampling(), 8, b"\x04") == 2
    assert next_token(PROMPT, Sampling(logit_bias=((1, 1.0),)), 101) != free


def test_what_a_penalised_slot_says_is_the_reference_after_a_prefix_and_in_a_burst() -> None:
    runner = opened()
    results = [run(runner, FOUND), run(runner, Row(1, 20, want=Want.SAMPLE, limit=8), max_steps=8)]
    assert tokens_of(results) == reference_tokens(PROMPT, PENALISED, 9)


def test_log_probabilities_are_of_the_tokens_chosen() -> None:
    runner = FakeRunner()
    chatty = Sampling(logprobs=2)
    results = [
        run(runner, replace(OPEN, opens=chatty)),
        run(runner, Row(0, 20, want=Want.SAMPLE, limit=4), max_steps=8),
    ]
    told = [logprobs for result in results for logprobs in result.logprobs[0]]
    assert told == reference_logprobs(PROMPT, tokens_of(results), chatty)
    assert run(runner, OPEN).logprobs == {}


def test_two_rows_for_one_slot_are_condemned() -> None:
    with pytest.raises(AssertionError, match="two rows"):
        run(FakeRunner(), OPEN, OPEN)


def test_the_context_is_never_exceeded() -> None:
    runner = FakeRunner(replace(LIMITS, context_length=20))
    run(runner, replace(OPEN, tokens=PROMPT[:19]))
    run(runner, Row(0, 19, want=Want.SAMPLE))
    with pytest.raises(AssertionError, match="beyond the context"):
        run(runner, Row(0, 20, want=Want.SAMPLE))


def test_the_next_token_depends_on_the_whole_history() -> None:
    tokens = {next_token([first, 1, 1, 1], Sampling(), 10_000) for first in range(50)}
    assert len(tokens) > 45
