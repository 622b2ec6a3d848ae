"""What a step costs, learned from steps whose cost is known."""

from __future__ import annotations

import random
from dataclasses import astuple, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import LIMITS, FakeClock, FakeRunner
from vivace.batch import Batch, Row, Sampling, Want
from vivace.engine.cost import CostModel, StepCost, calibrate, count_work

TRUE = StepCost(base_ms=2.0, token_ms=0.05, sequence_ms=0.1, context_ms=0.0004)
NOTHING = StepCost(0.0, 0.0, 0.0, 0.0)

Work = tuple[int, int, int]


def draw_work(rng: random.Random) -> Work:
    """Tokens, sequences and context of a step that a server would make."""
    sequences = rng.randrange(1, 33)
    chunk = rng.choice((0, 0, rng.randrange(1, 129)))
    context = sum(rng.randrange(1, 400) for _ in range(sequences)) + chunk * chunk // 2
    return sequences + chunk, sequences, context


def learn(model: CostModel, true: StepCost, steps: int, noise: float = 0.0, seed: int = 1) -> random.Random:
    rng = random.Random(seed)
    for _ in range(steps):
        work = draw_work(rng)
        model.observe(*work, true.step_ms(*work) * rng.uniform(1 - noise, 1 + noise))
    return rng


def worst_error(model: CostModel, true: StepCost, rng: random.Random) -> float:
    works = [draw_work(rng) for _ in range(100)]
    return max(abs(model.cost.step_ms(*work) / true.step_ms(*work) - 1) for work in works)


@pytest.mark.parametrize("known", [NOTHING, TRUE, StepCost(30.0, 1.0, 2.0, 0.01), StepCost(0.01, 0.001, 0.0, 0.0)])
def test_coefficients_are_found_from_noisy_steps_whatever_was_believed_before(known: StepCost) -> None:
    model = CostModel(known)
    rng = learn(model, TRUE, 2000, noise=0.05)
    assert worst_error(model, TRUE, rng) < 0.05
    for found, true in zip(astuple(model.cost), astuple(TRUE), strict=True):
        assert found == pytest.approx(true, rel=0.3)


def test_the_error_says_how_far_off_predictions_are() -> None:
    model = CostModel(TRUE)
    learn(model, TRUE, 300)
    assert model.error < 0.01
    model = CostModel(TRUE)
    learn(model, TRUE, 300, noise=0.2)
    assert 0.05 < model.error < 0.2  # the mean of a uniform error of up to a fifth is a tenth


def test_a_machine_that_becomes_slower_is_followed() -> None:
    model = CostModel(TRUE)
    learn(model, TRUE, 500)
    slow = StepCost(*(3 * value for value in astuple(TRUE)))
    rng = learn(model, slow, 1000, seed=2)
    assert worst_error(model, slow, rng) < 0.05


def test_a_step_in_which_something_else_had_the_machine_changes_little() -> None:
    model = CostModel(TRUE)
    rng = learn(model, TRUE, 500)
    work = draw_work(rng)
    model.observe(*work, 1000 * TRUE.step_ms(*work))
    learn(model, TRUE, 15)  # until it is fitted again
    assert worst_error(model, TRUE, rng) < 0.5
    rng = learn(model, TRUE, 1000)
    assert worst_error(model, TRUE, rng) < 0.05


def test_what_steps_cannot_tell_apart_stays_as_it_was_known() -> None:
    model = CostModel(TRUE)
    for _ in range(1000):
        model.observe(4, 4, 400, TRUE.step_ms(4, 4, 400))
    assert model.cost.step_ms(4, 4, 400) == pytest.approx(TRUE.step_ms(4, 4, 400), rel=1e-3)
    assert model.cost.step_ms(132, 5, 9000) == pytest.approx(TRUE.step_ms(132, 5, 9000), rel=0.1)


measured_ms = st.just(0.0) | st.floats(1e-6, 1e6)  # a clock tells no times shorter than a nanosecond
steps = st.tuples(st.integers(0, 4096), st.integers(0, 1024), st.integers(0, 10**7), measured_ms)


@settings(deadline=None)
@given(st.lists(steps, max_size=80))
def test_no_steps_at_all_make_a_coefficient_negative_or_infinite(observed: list[tuple[int, int, int, float]]) -> None:
    model = CostModel(NOTHING)
    for step in observed:
        model.observe(*step)
        assert all(0 <= value < 1e9 for value in astuple(model.cost))
        assert 0 <= model.last_step_ms < 1e9
        assert model.error >= 0


def test_the_parts_of_a_cost_agree_with_the_whole() -> None:
    assert TRUE.decode_ms(3, 100) == pytest.approx(TRUE.step_ms(3, 3, 300))
    assert TRUE.prompt_ms(40) == pytest.approx(TRUE.step_ms(40, 1, 800))
    assert TRUE.tokens_within(0.0, 0) == TRUE.tokens_within(-1.0, 0) == 0
    assert NOTHING.tokens_within(1.0, 5) >= 10**6


@given(st.floats(0.01, 1e3), st.integers(0, 10**5))
def test_the_tokens_that_fit_into_a_time_do_and_no_more_would(limit_ms: float, position: int) -> None:
    each_ms = TRUE.token_ms + TRUE.context_ms * position
    tokens = TRUE.tokens_within(limit_ms, position)
    assert tokens * each_ms <= limit_ms + 1e-9
    assert (tokens + 1) * each_ms > limit_ms - 1e-9


def test_work_is_counted_by_what_rows_ask_for() -> None:
    rows = [
        Row(0, 100, want=Want.SAMPLE),
        Row(1, 0, range(10), want=Want.NOTHING),
        Row(2, 16, range(4), want=Want.SAMPLE),
        Row(3, 0, range(8), want=Want.SCORE, targets=range(8)),
        Row(4, 50, range(3), want=Want.VERIFY),
    ]
    context = 100 + 10 * 5 + 4 * 18 + 8 * 4 + 3 * 51
    assert count_work(rows) == (26, 1 + 0 + 1 + 8 + 3, context)


class TimedRunner(FakeRunner):
    """Takes as long for each pass as `TRUE` says."""

    def launch(self, batch: Batch) -> object:  # type: ignore[override]
        self.clock.advance(TRUE.step_ms(*count_work(batch.rows)) / 1000)
        return super().launch(batch)


@pytest.mark.parametrize(
    "limits",
    [
        replace(LIMITS, max_batch_tokens=256),
        LIMITS,
        replace(LIMITS, slots=1),
        replace(LIMITS, blocks=1),
        replace(LIMITS, max_batch_tokens=1),
        replace(LIMITS, context_length=2),
        replace(LIMITS, context_length=3),
        replace(LIMITS, slots=64, max_batch_tokens=1024),
    ],
)
def test_calibration_keeps_to_the_runners_contract_and_knows_a_decoding_step_afterwards(limits: object) -> None:
    assert isinstance(limits, type(LIMITS))
    clock = FakeClock()
    model = calibrate(TimedRunner(limits, clock=clock), clock, limit_ms=1000.0)
    assert model.cost.decode_ms(1, 12) == pytest.approx(TRUE.decode_ms(1, 12), rel=0.1)
    assert model.error == 0.0


def test_calibration_tells_prompts_from_streams() -> None:
    clock = FakeClock()
    model = calibrate(TimedRunner(replace(LIMITS, slots=16, max_batch_tokens=256), clock=clock), clock, 1000.0)
    assert model.cost.prompt_ms(100) == pytest.approx(TRUE.prompt_ms(100), rel=0.1)
    assert model.cost.decode_ms(16, 12) == pytest.approx(TRUE.decode_ms(16, 12), rel=0.1)


def test_calibration_makes_every_kind_of_step_twice_on_a_slow_machine_and_no_more() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock=clock, pass_ms=500.0)
    calibrate(runner, clock)
    kinds = runner.launches // 2
    assert (runner.launches, kinds) == (2 * kinds, 8)


def test_a_runner_serves_as_before_once_it_is_calibrated() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock=clock, pass_ms=1.0)
    calibrate(runner, clock)
    opened = Row(0, 0, (1, 2, 3), (0,), Want.SAMPLE, opens=Sampling())
    assert len(runner.collect(runner.launch(Batch([opened]))).tokens[0]) == 1
