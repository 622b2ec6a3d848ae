"""How long steps may take, when work must begin, and when there is no point in it any more."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_request
from vivace.budget import NO_BUDGET, Budget, OnDeadline
from vivace.engine.cost import StepCost
from vivace.engine.pacing import (
    CATCH_UP_TOKENS,
    FLUSH_S,
    SAFETY,
    WORK_SAFETY,
    expiry,
    latest_start,
    pace_ms,
    prompt_room_ms,
)
from vivace.engine.sequence import Sequence

COST = StepCost(base_ms=2.0, token_ms=0.1, sequence_ms=0.4, context_ms=0.0)
NOW = 1000.0


def make(
    budget: Budget,
    prompt: int = 100,
    max_tokens: int = 50,
    told: int = 0,
    *,
    truncates: bool = False,
    running: int = -1,
) -> Sequence:
    on_deadline = OnDeadline.TRUNCATE if truncates else OnDeadline.FAIL
    request = make_request("a", [1] * 100, max_tokens, budget=budget, on_deadline=on_deadline)
    sequence = Sequence(request, 0, 4096)
    sequence.tokens += [2] * told
    sequence.slot = running
    return sequence


def test_a_stream_is_paced_by_its_time_per_token() -> None:
    assert pace_ms(make(Budget(tpot_ms=5.0)), NOW) == pytest.approx(5.0 * SAFETY)


def test_prompts_get_what_streams_leave_of_a_step_and_a_share_beside_a_crowd() -> None:
    assert prompt_room_ms(20.0, math.inf, 50.0) == 30.0
    assert prompt_room_ms(20.0, 25.0, 50.0) == 5.0
    assert prompt_room_ms(200.0, math.inf, 50.0) == 100.0
    assert prompt_room_ms(200.0, 210.0, 50.0) == 10.0
    assert prompt_room_ms(30.0, 25.0, 50.0) < 0


def test_a_stream_with_a_total_is_paced_by_what_is_left_of_it_for_what_is_left_to_say() -> None:
    assert pace_ms(make(Budget(total_ms=500.0)), NOW) == pytest.approx(10.0 * SAFETY)
    assert pace_ms(make(Budget(total_ms=500.0), told=25), NOW + 0.25) == pytest.approx(10.0 * SAFETY)
    assert pace_ms(make(Budget(total_ms=500.0, tpot_ms=3.0)), NOW) == pytest.approx(3.0 * SAFETY)


def test_a_stream_that_is_behind_its_time_per_token_makes_up_for_it_in_some_steps() -> None:
    stream = make(Budget(tpot_ms=5.0), told=11)
    stream.first_token_at = NOW
    assert pace_ms(stream, NOW + 0.040) == pytest.approx(5.0 * SAFETY)  # in time
    assert pace_ms(stream, NOW + 0.053) == pytest.approx((5.0 - 8.0 / CATCH_UP_TOKENS) * SAFETY)
    assert pace_ms(stream, NOW + 1.0) == 0.0
    ending = make(Budget(tpot_ms=5.0), told=48)
    ending.first_token_at = NOW
    assert pace_ms(ending, NOW + 47 * 0.005 * SAFETY + 0.002) == pytest.approx((5.0 - 2.0 / 2) * SAFETY)


def test_an_answer_that_goes_on_past_what_was_expected_has_one_token_to_come() -> None:
    request = make_request("a", [1], 50, budget=Budget(total_ms=100.0), expected_tokens=5)
    sequence = Sequence(request, 0, 4096)
    sequence.tokens += [2] * 10
    assert pace_ms(sequence, NOW) == pytest.approx(100.0 * SAFETY)


def test_an_answer_that_may_be_cut_hurries_nobody_with_its_length() -> None:
    """Its total is a limit and no promise: paced by it, one long answer would hold up everyone beside it."""
    assert pace_ms(make(Budget(total_ms=100.0), max_tokens=4000, truncates=True), NOW) == math.inf
    assert pace_ms(make(Budget(total_ms=100.0, tpot_ms=5.0), truncates=True), NOW) == pytest.approx(5.0 * SAFETY)


@given(st.floats(1, 1e6), st.floats(0, 1e4), st.integers(0, 49))
def test_no_pace_is_negative(total_ms: float, late_s: float, told: int) -> None:
    assert pace_ms(make(Budget(total_ms=total_ms), told=told), NOW + late_s) >= 0


def test_without_a_cost_model_or_a_deadline_work_is_taken_up_by_its_turn() -> None:
    assert latest_start(make(Budget(ttft_ms=50.0)), None, 0.0) == pytest.approx(NOW + 0.050)
    assert latest_start(make(NO_BUDGET), COST, 1.0) == math.inf


def test_work_must_begin_early_enough_for_its_prompt_and_its_answer() -> None:
    prompt_s = WORK_SAFETY * (2.0 + 10.0 + 0.4) / 1000
    assert latest_start(make(Budget(ttft_ms=50.0)), COST, 4.0) == pytest.approx(NOW + 0.050 - prompt_s)
    answer_s = WORK_SAFETY * 50 * 4.0 / 1000
    assert latest_start(make(Budget(total_ms=900.0)), COST, 4.0) == pytest.approx(NOW + 0.900 - prompt_s - answer_s)


def test_an_answer_that_may_be_cut_need_not_begin_in_time_for_all_of_it() -> None:
    """Else whoever asks for a long answer, to be cut, would pass everyone in the queue."""
    start = latest_start(make(Budget(total_ms=300.0), max_tokens=4000, truncates=True), COST, 4.0)
    assert NOW + 0.2 < start < NOW + 0.300


def test_whoever_has_told_its_first_token_has_only_the_total_to_keep() -> None:
    assert latest_start(make(Budget(ttft_ms=50.0), told=1), COST, 4.0) == math.inf
    assert latest_start(make(Budget(ttft_ms=1.0, total_ms=900.0), told=1), COST, 0.0) > NOW + 0.8


def test_there_is_no_point_in_what_misses_its_first_token() -> None:
    assert expiry(make(Budget(ttft_ms=50.0), running=0), COST, 4.0) == pytest.approx(NOW + 0.050)
    assert expiry(make(Budget(ttft_ms=50.0)), None, 0.0) == pytest.approx(NOW + 0.050)


def test_who_waits_is_given_up_once_not_even_a_piece_of_its_prompt_would_be_computed_in_time() -> None:
    assert expiry(make(Budget(ttft_ms=50.0)), COST, 4.0) == pytest.approx(NOW + 0.050 - (2.0 + 1.6 + 0.4) / 1000)


def test_a_late_first_token_that_came_all_the_same_does_not_end_the_answer() -> None:
    assert expiry(make(Budget(ttft_ms=1.0, total_ms=500.0), told=1, running=0), COST, 4.0) == pytest.approx(NOW + 0.5)
    assert expiry(make(Budget(ttft_ms=1.0), told=1, running=0), COST, 4.0) == math.inf


def test_an_answer_that_is_to_be_cut_ends_early_enough_to_be_told() -> None:
    cut = expiry(make(Budget(total_ms=500.0), told=3, truncates=True, running=0), COST, 4.0)
    assert cut == pytest.approx(NOW + 0.5 - FLUSH_S - 0.008)
