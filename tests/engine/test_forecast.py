"""Forecasts, against the same batch run forward step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.budget import Deadline
from vivace.engine.cost import StepCost
from vivace.engine.forecast import Besides, Forecast, Load, StepLimits, advance, delay, forecast
from vivace.engine.pacing import MIN_CHUNK_TOKENS, SAFETY, prompt_room_ms

COST = StepCost(base_ms=1.0, token_ms=0.02, sequence_ms=0.05, context_ms=0.0)
LIMITS = StepLimits(max_step_ms=10.0, max_batch_tokens=256)


@dataclass
class Left:
    prompt: int
    answer: int


def simulate(loads: list[Load], cost: StepCost, limits: StepLimits) -> list[Forecast]:
    """Whole steps of whole tokens: all streams, and prompts in the order of their deadlines into what room there is."""
    left = [Left(load.prompt, load.answer) for load in loads]
    order = sorted((load.due, index) for index, load in enumerate(loads) if load.prompt)
    found = [Forecast() for _ in loads]
    now_ms = 0.0
    while any(item.answer for item in left):
        streams = [index for index, item in enumerate(left) if item.answer and not item.prompt]
        step_ms = cost.base_ms + len(streams) * (cost.token_ms + cost.sequence_ms)
        pace_ms = min((1000 * SAFETY * loads[index].deadline.tpot_s for index in streams), default=math.inf)
        least = MIN_CHUNK_TOKENS if pace_ms == math.inf else 1
        room = max(least, int(prompt_room_ms(step_ms, pace_ms, limits.max_step_ms) / cost.token_ms))
        waiting = [index for _, index in order if left[index].prompt]
        if not streams and len(waiting) == 1:
            room = left[waiting[0]].prompt
        room = min(room, limits.max_batch_tokens)
        begun = []
        for index in waiting:
            chunk = min(room, left[index].prompt)
            left[index].prompt -= chunk
            room -= chunk
            step_ms += chunk * cost.token_ms
            begun += [index] if chunk and not left[index].prompt else []
        now_ms += step_ms
        for index in streams + begun:
            left[index].answer -= 1
            if index in begun:
                found[index].first_ms = now_ms
            if not left[index].answer:
                found[index].done_ms = now_ms
    return found


def make(prompt: int, answer: int, due: float = math.inf, tpot_s: float = math.inf) -> Load:
    return Load(prompt, answer, Deadline(due, math.inf, tpot_s))


loads = st.builds(
    make, st.integers(0, 600), st.integers(1, 60), st.sampled_from([1.0, 2.0, 3.0, math.inf]), st.just(math.inf)
)
paced = st.builds(
    make, st.integers(0, 600), st.integers(1, 60), st.just(math.inf), st.sampled_from([0.004, 0.006, 0.02])
)


@settings(deadline=None, max_examples=200)
@given(st.lists(loads, min_size=1, max_size=12) | st.lists(paced, min_size=1, max_size=12))
def test_a_forecast_is_right_within_a_step_for_each_prompt(given_loads: list[Load]) -> None:
    due = simulate(given_loads, COST, LIMITS)
    found = forecast(given_loads, [COST], LIMITS)
    prompts = sum(load.prompt > 0 for load in given_loads)
    for told, right in zip(found, due, strict=True):
        slack_ms = LIMITS.max_step_ms * (1 + prompts / 2) + 0.1 * right.done_ms
        assert abs(told.first_ms - right.first_ms) <= slack_ms
        assert abs(told.done_ms - right.done_ms) <= slack_ms


def test_work_without_a_deadline_adds_the_step_under_way_and_one_stream() -> None:
    load = make(100, 11)
    alone = forecast([load], [COST], LIMITS)[0]
    beside = forecast([load], [COST], LIMITS, Besides(frozenset({0}), 7.0))[0]
    each_ms = COST.token_ms + COST.sequence_ms
    assert beside.first_ms == pytest.approx(7.0 + alone.first_ms + each_ms, abs=each_ms)
    assert beside.done_ms - beside.first_ms == pytest.approx(alone.done_ms - alone.first_ms + 10 * each_ms)


def test_nothing_to_do_takes_no_time() -> None:
    assert forecast([], [COST], LIMITS) == []


def test_one_stream_takes_a_step_a_token() -> None:
    (told,) = forecast([make(0, 30)], [COST], LIMITS)
    assert told.done_ms == pytest.approx(30 * COST.decode_ms(1, 0))


def test_a_prompt_alone_is_computed_at_once() -> None:
    (told,) = forecast([make(200, 1)], [COST], LIMITS)
    assert told.first_ms == told.done_ms == pytest.approx(1.0 + 200 * 0.02)


def test_prompts_come_in_the_order_of_their_deadlines() -> None:
    late, early, none = forecast([make(200, 5, due=9.0), make(200, 5, due=3.0), make(200, 5)], [COST], LIMITS)
    assert early.first_ms <= late.first_ms <= none.first_ms


def test_streams_hold_prompts_to_their_pace() -> None:
    stream = make(0, 1000, tpot_s=0.003)
    free, paced = (forecast([other, make(500, 1)], [COST], LIMITS)[1] for other in (make(0, 1000), stream))
    assert paced.first_ms > free.first_ms


@settings(deadline=None)
@given(st.lists(loads, min_size=1, max_size=10), loads)
def test_more_work_never_makes_anyone_earlier(given_loads: list[Load], more: Load) -> None:
    """But for a prompt that had the machine to itself: that took one step, and chunks share their steps."""
    before = forecast(given_loads, [COST], LIMITS)
    after = forecast([*given_loads, more], [COST], LIMITS)[:-1]
    for one, other in zip(before, after, strict=True):
        assert other.first_ms >= one.first_ms - LIMITS.max_step_ms
        assert other.done_ms >= one.done_ms - LIMITS.max_step_ms


@settings(deadline=None)
@given(st.lists(loads, min_size=1, max_size=10))
def test_a_machine_twice_as_slow_takes_no_less_time(given_loads: list[Load]) -> None:
    slow = StepCost(2 * COST.base_ms, 2 * COST.token_ms, 2 * COST.sequence_ms, 0.0)
    for one, other in zip(forecast(given_loads, [COST], LIMITS), forecast(given_loads, [slow], LIMITS), strict=True):
        assert other.done_ms >= one.done_ms - 1e-6
        assert other.first_ms >= one.first_ms - 1e-6


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 40), st.integers(0, 1)), min_size=1, max_size=8))
def test_two_models_take_turns_and_every_answer_ends(drawn: list[tuple[int, int, int]]) -> None:
    given_loads = [replace(make(prompt, answer), model=model) for prompt, answer, model in drawn]
    found = forecast(given_loads, [COST, COST], LIMITS)
    for load, told in zip(given_loads, found, strict=True):
        assert told.first_ms <= told.done_ms < math.inf
        assert told.done_ms >= (load.answer - 1) * COST.base_ms - 1e-6


@given(st.lists(loads, min_size=1, max_size=8), st.floats(0, 1000))
def test_what_is_left_after_a_time_is_no_more_than_there_was(given_loads: list[Load], ms: float) -> None:
    found = forecast(given_loads, [COST], LIMITS)
    left = advance(given_loads, found, 0.0, ms)
    assert len(left) == sum(told.done_ms > ms for told in found)
    assert sum(load.prompt for load in left) <= sum(load.prompt for load in given_loads)
    assert sum(load.answer for load in left) <= sum(load.answer for load in given_loads)
    assert all(load.answer >= 1 for load in left)


def test_what_is_asked_for_later_is_due_later() -> None:
    later = delay(make(5, 5, due=3.0, tpot_s=0.1), 500.0)
    assert (later.deadline.first, later.deadline.total, later.deadline.tpot_s) == (3.5, math.inf, 0.1)
