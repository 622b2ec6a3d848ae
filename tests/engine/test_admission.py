"""Admission in a world in which everything takes as long as the cost model says."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.answers import make_engine
from tests.fakes import FakeClock, FakeRunner, make_request
from vivace.batch import Batch, RunnerLimits
from vivace.budget import NO_BUDGET, Budget, OnDeadline, Timeline
from vivace.engine.admission import MARGIN_GROWTH, MARGIN_START, Admission, AdmissionConfig
from vivace.engine.cost import CostModel, StepCost, count_work
from vivace.engine.engine import Engine
from vivace.engine.forecast import StepLimits
from vivace.engine.lengths import ENOUGH
from vivace.engine.request import FinishReason, Request, Update
from vivace.engine.scheduler import SchedulerConfig
from vivace.errors import ConfigError, OverloadedError, UnreachableBudgetError

COST = StepCost(base_ms=1.0, token_ms=0.05, sequence_ms=0.2, context_ms=0.0)
COSTS = (COST,)
STEPS = StepLimits(50.0, 256)
NOW = 1000.0


def make(config: AdmissionConfig | None = None) -> Admission:
    return Admission(config or AdmissionConfig(), STEPS)


def ask(
    id: str, total_ms: float = math.inf, ttft_ms: float = math.inf, *, prompt: int = 20, max_tokens: int = 20,
    tpot_ms: float = math.inf, at: float = NOW, truncates: bool = False,
) -> Request:  # fmt: skip
    return make_request(
        id, [1] * prompt, max_tokens, arrived=at, budget=Budget(ttft_ms, tpot_ms, total_ms),
        on_deadline=OnDeadline.TRUNCATE if truncates else OnDeadline.FAIL,
    )  # fmt: skip


def end(admission: Admission, id: str, tokens: int, reason: FinishReason, now: float) -> None:
    admission.observe(Update(id, [1] * tokens, reason, Timeline()), now)


def fill(admission: Admission, total_ms: float = 1000.0, count: int = 200) -> int:
    """Accept as many as are; how many that is."""
    for index in range(count):
        try:
            admission.admit(ask(f"fill {index}", total_ms), COSTS, NOW)
        except OverloadedError:
            return index
    return count


def test_the_first_is_accepted_and_its_length_is_counted_on() -> None:
    accepted = make().admit(ask("a", 1000.0), COSTS, NOW)
    assert accepted.expected_tokens == 20


def test_more_than_the_machine_can_do_in_time_is_refused() -> None:
    admission = make()
    accepted = fill(admission, 200.0)
    assert 5 < accepted < 200
    assert admission.stats(NOW).refused_late == 1
    assert admission.stats(NOW).under_way == accepted


def test_who_would_make_others_late_is_refused_though_it_would_be_in_time_itself() -> None:
    admission = make()
    fill(admission, 200.0)
    with pytest.raises(OverloadedError):
        admission.admit(ask("long", 10_000.0, prompt=3000), COSTS, NOW)


def test_whoever_has_no_deadline_is_refused_by_bounds_only() -> None:
    admission = make()
    fill(admission, 200.0)
    assert admission.admit(ask("patient"), COSTS, NOW).expected_tokens == 20


def test_without_a_cost_model_or_by_choice_no_forecast_refuses() -> None:
    admission = make()
    for index in range(100):
        admission.admit(ask(f"{index}", 10.0), (), NOW)
    admission = make(AdmissionConfig(by_forecast=False))
    assert fill(admission, 10.0, count=100) == 100


@pytest.mark.parametrize(
    ("budget", "least"),
    [(Budget(total_ms=150), 0.85), (Budget(ttft_ms=40), 1.0), (Budget(ttft_ms=100, tpot_ms=6), 0.9)],
    ids=str,
)
def test_whoever_comes_back_when_told_to_is_accepted(budget: Budget, least: float) -> None:
    """The accepted ones go on meanwhile, and nobody else comes. `least` is the share that is; forecasts are off by
    steps, so some that come back at the very moment are told to wait a little longer."""
    outcomes = [outcome for seed in range(30) if (outcome := come_back(World(random.Random(seed)), budget)) is not None]
    assert len(outcomes) > 20
    assert sum(outcomes) >= least * len(outcomes)


def come_back(world: World, budget: Budget) -> bool | None:
    """Whether the first one refused is accepted when it comes again; None if nobody is refused."""
    for index in range(60):
        asked = replace(world.draw(f"{index}"), budget=budget)
        try:
            world.add(asked)
        except OverloadedError as error:
            until = world.clock() + error.retry_after_ms / 1000
            while world.clock() < until and world.engine.has_work:
                world.step()
            world.clock.now = max(world.clock.now, until)
            try:
                world.add(replace(asked, id="again", arrived=world.clock()))
            except OverloadedError:
                return False
            return True
    return None


def test_a_crowd_whose_time_per_token_the_scheduler_keeps_is_accepted() -> None:
    """Prompts then get what time the streams leave, which is long, but nobody asked for less."""
    world = World(random.Random(3))
    for index in range(60):
        world.add(replace(world.draw(f"{index}"), budget=Budget(tpot_ms=6)))
    while world.engine.has_work:
        world.step()
    assert (world.accepted, world.late) == (60, 0)


def test_a_stream_that_was_quick_so_far_has_time_for_a_prompt_near_its_end() -> None:
    admission = make()
    admission.admit(ask("quick", tpot_ms=4.0), COSTS, NOW)
    admission.observe(Update("quick", [1] * 19), NOW)
    at = NOW + 18 * 0.0015
    assert admission.admit(ask("prompt", 1000.0, prompt=200, at=at), COSTS, at)


class TimedRunner(FakeRunner):
    """Takes as long for each pass as the cost says."""

    def launch(self, batch: Batch) -> object:  # type: ignore[override]
        before = self.clock()
        handle = super().launch(batch)
        passes = handle.steps
        self.clock.now = before + passes * COST.step_ms(*count_work(batch.rows)) / 1000
        return handle


class World:
    """An engine behind admission, on a clock that only the runner moves."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.clock = FakeClock()
        limits = RunnerLimits(slots=64, blocks=4096, max_batch_tokens=256, context_length=2048, vocab_size=101)
        runner = TimedRunner(limits, clock=self.clock)
        self.engine: Engine = make_engine(runner, SchedulerConfig(max_burst_steps=1), CostModel(COST))
        self.admission = make()
        self.under_way: dict[str, Request] = {}
        self.late = self.accepted = self.refused = 0

    def draw(self, id: str) -> Request:
        prompt, tokens = self.rng.randrange(5, 120), self.rng.randrange(1, 30)
        prompts = self.rng.choices(range(101), k=prompt)
        return make_request(id, prompts, tokens, arrived=self.clock())

    def add(self, request: Request) -> None:
        accepted = self.admission.admit(request, self.engine.stats().costs, self.clock())
        self.accepted += 1
        self.engine.add(accepted)
        self.under_way[request.id] = accepted

    def step(self) -> None:
        for update in self.engine.step():
            self.admission.observe(update, self.clock())
            if update.finish_reason is not None:
                request = self.under_way.pop(update.id)
                assert update.timeline is not None
                kept = update.finish_reason is not FinishReason.DEADLINE
                kept = kept and request.budget.kept_by(update.timeline, request.max_tokens)
                self.late += not kept


@pytest.mark.parametrize("load", [0.5, 1.5, 4.0])
@pytest.mark.parametrize(
    ("budget", "most_late"),
    [
        (Budget(total_ms=150), 0.01),
        (Budget(ttft_ms=60), 0.01),
        (Budget(ttft_ms=60, tpot_ms=10), 0.01),
        (Budget(ttft_ms=80, total_ms=300), 0.035),
    ],
    ids=str,
)
def test_what_is_accepted_is_kept_at_any_load(budget: Budget, most_late: float, load: float) -> None:
    """`most_late` is the share that may be late. It is more where a first token and a total are limited at once: totals
    pace the steps that prompts get their chunks in, which forecasts do not see, so the margin has to learn it."""
    rng = random.Random(7)
    world = World(rng)
    each_s = 0.0085 / load  # some 60 tokens of prompt, and 15 passes shared with others
    next_s, index = world.clock(), 0
    while index < 1500:
        while next_s <= world.clock():
            request = replace(world.draw(f"{index}"), budget=budget, arrived=next_s)
            next_s += rng.expovariate(1 / each_s)
            index += 1
            try:
                world.add(request)
            except OverloadedError:
                world.refused += 1
        if world.engine.has_work:
            world.step()
        else:
            world.clock.now = next_s
    while world.engine.has_work:
        world.step()
    assert world.late <= most_late * world.accepted
    assert world.accepted > 300
    assert (world.refused > 0.4 * index) if load == 4.0 else True
    assert world.admission.stats(world.clock()).under_way == 0


def test_the_ledger_is_empty_after_every_kind_of_end() -> None:
    admission = make()
    for index, reason in enumerate(FinishReason):
        admission.admit(ask(f"{index}", 5000.0), COSTS, NOW)
        admission.observe(Update(f"{index}", [1, 2]), NOW)
        end(admission, f"{index}", 1, reason, NOW + 0.1)
    admission.admit(ask("forgotten", 5000.0), COSTS, NOW)
    admission.forget("forgotten")
    admission.forget("forgotten")
    end(admission, "never heard of", 3, FinishReason.STOP, NOW)
    admission.admit(ask("probe", 0.1), COSTS, NOW)
    admission.forget("probe")
    with pytest.raises(UnreachableBudgetError):
        admission.admit(ask("refused", 0.1), COSTS, NOW)
    assert admission.stats(NOW).under_way == 0
    assert admission._tokens == 0


@given(st.lists(st.tuples(st.sampled_from(["admit", "observe", "end", "forget"]), st.integers(0, 5)), max_size=80))
def test_the_tokens_in_the_ledger_are_those_of_whoever_is_in_it(steps: list[tuple[str, int]]) -> None:
    admission = make(AdmissionConfig(by_forecast=False))
    for what, number in steps:
        id = f"{number}"
        if what == "admit" and id not in admission._accepted:
            admission.admit(ask(id, 1000.0 if number % 2 else math.inf), COSTS, NOW)
        elif what == "observe":
            admission.observe(Update(id, [1] * number), NOW)
        elif what == "end":
            end(admission, id, number, FinishReason.STOP, NOW)
        else:
            admission.forget(id)
        left = sum(entry.load.prompt + entry.load.answer for entry in admission._accepted.values())
        assert admission._tokens == left


def test_what_waits_is_bounded_by_tokens() -> None:
    admission = make(AdmissionConfig(max_waiting_tokens=100))
    admission.admit(ask("a", prompt=500), COSTS, NOW)  # the first always may
    with pytest.raises(OverloadedError, match="tokens wait"):
        admission.admit(ask("b"), COSTS, NOW)
    assert admission.stats(NOW).refused_full == 1
    admission.forget("a")
    admission.admit(ask("b"), COSTS, NOW)


def test_what_waits_is_bounded_by_the_time_it_takes() -> None:
    admission = make(AdmissionConfig(max_wait_ms=100.0))
    admission.admit(ask("a", max_tokens=4000), COSTS, NOW)
    with pytest.raises(OverloadedError, match="already takes another 5 s"):
        admission.admit(ask("b"), COSTS, NOW)


def test_after_idle_one_is_tried_now_and_then_though_forecasts_speak_against_it() -> None:
    admission = make()
    for second in range(3):
        now = NOW + second * 1.01
        admission.admit(ask(f"{second}", 5.0, at=now), COSTS, now)
        admission.forget(f"{second}")
        with pytest.raises(UnreachableBudgetError, match="Allow more time"):
            admission.admit(ask("again", 5.0, at=now), COSTS, now + 0.5)


def test_the_margin_grows_with_misses_and_falls_with_narrow_successes() -> None:
    admission = make()
    admission.admit(ask("late", 100.0), COSTS, NOW)
    end(admission, "late", 20, FinishReason.LENGTH, NOW + 0.2)
    assert admission.stats(NOW).margin == pytest.approx(MARGIN_START + MARGIN_GROWTH)
    for index in range(20):
        admission.admit(ask(f"{index}", 40.0), COSTS, NOW)
        end(admission, f"{index}", 20, FinishReason.LENGTH, NOW + 0.03)
    assert MARGIN_START < admission.stats(NOW).margin < MARGIN_START + MARGIN_GROWTH
    for index in range(100):
        admission.admit(ask(f"ample {index}", 60_000.0), COSTS, NOW)
        end(admission, f"ample {index}", 20, FinishReason.LENGTH, NOW + 0.03)
    assert admission.stats(NOW).margin > MARGIN_START  # those say nothing


def test_work_without_a_deadline_stands_for_a_step_and_a_stream() -> None:
    admission = make()
    admission.admit(ask("prompt alone", ttft_ms=30.0), COSTS, NOW)
    admission.forget("prompt alone")
    admission.admit(ask("idle"), COSTS, NOW)
    admission.admit(ask("a probe", ttft_ms=30.0), COSTS, NOW)
    with pytest.raises(OverloadedError):  # a step of 50 ms may have just begun
        admission.admit(ask("b", ttft_ms=30.0), COSTS, NOW)
    admission.admit(ask("c", ttft_ms=100.0), COSTS, NOW)


def test_beside_work_without_a_deadline_forecasts_are_tried_too() -> None:
    """Else one bad second would shut out everyone with a deadline for as long as there is work."""
    admission = make()
    admission.admit(ask("idle"), COSTS, NOW)
    for second in range(3):
        now = NOW + second * 1.01
        admission.admit(ask("tight", ttft_ms=30.0, at=now), COSTS, now)
        end(admission, "tight", 20, FinishReason.LENGTH, now + 0.02)


def test_a_time_per_token_that_was_missed_makes_the_margin_grow() -> None:
    admission = make()
    admission.admit(ask("a", tpot_ms=5.0), COSTS, NOW)
    admission.observe(Update("a", [1]), NOW + 0.01)
    end(admission, "a", 19, FinishReason.LENGTH, NOW + 0.01 + 19 * 0.0051)
    assert admission.stats(NOW).margin == pytest.approx(MARGIN_START + MARGIN_GROWTH)


def test_an_end_that_leaves_no_time_for_the_way_to_the_client_is_a_miss() -> None:
    admission = make()
    admission.admit(ask("a", 1000.0), COSTS, NOW)
    end(admission, "a", 20, FinishReason.LENGTH, NOW + 0.995)
    assert admission.stats(NOW).margin == pytest.approx(MARGIN_START + MARGIN_GROWTH)


def test_the_margin_stays_in_its_range() -> None:
    admission = make()
    for second in range(200):
        at = NOW + 3.0 * second
        admission.admit(ask(f"{second}", 1000.0, at=at), COSTS, at)
        end(admission, f"{second}", 20, FinishReason.DEADLINE, at + 2.0)
    assert admission.stats(NOW).margin == 3.0


def test_a_moment_that_made_everyone_late_is_one_lesson() -> None:
    """Else a crowd would make admission refuse for thousands of requests after it."""
    admission = make()
    crowd = [f"{index}" for index in range(20)]
    for id in crowd:
        admission.admit(ask(id, 10_000.0), COSTS, NOW)
    for index, id in enumerate(crowd):
        end(admission, id, 20, FinishReason.DEADLINE, NOW + 10 + index / 100)
    assert admission.stats(NOW).margin == pytest.approx(MARGIN_START + MARGIN_GROWTH)


def test_an_answer_that_was_cut_as_asked_is_no_miss() -> None:
    """Forecasts promise it a first token alone; else every long one would make admission more timid."""
    admission = make()
    for index in range(50):
        admission.admit(ask(f"{index}", 100.0, max_tokens=1000, truncates=True), COSTS, NOW)
        end(admission, f"{index}", 60, FinishReason.DEADLINE, NOW + 0.0995)
    assert admission.stats(NOW).margin <= MARGIN_START


def test_one_accepted_against_the_forecast_that_is_late_is_no_surprise() -> None:
    """Else a client that asks for the impossible once a second would drive everyone else away."""
    admission = make()
    for second in range(100):
        now = NOW + second * 1.01
        admission.admit(ask("a", 5.0, at=now), COSTS, now)
        end(admission, "a", 1, FinishReason.DEADLINE, now + 0.006)
    assert admission.stats(NOW).margin <= MARGIN_START


def test_one_accepted_against_the_forecast_that_is_in_time_shows_that_forecasts_are_too_dark() -> None:
    admission = make()
    for second in range(2):
        now = NOW + second * 1.01
        admission.admit(ask("a", 5.0, at=now), COSTS, now)
        end(admission, "a", 1, FinishReason.STOP, now + 0.001)
    assert admission.stats(NOW).margin == pytest.approx(MARGIN_START - 2 * MARGIN_GROWTH)


@pytest.mark.parametrize("reason", [FinishReason.ABORT, FinishReason.ERROR])
def test_who_went_away_or_failed_says_nothing_of_forecasts(reason: FinishReason) -> None:
    admission = make()
    admission.admit(ask("a", 100.0), COSTS, NOW)
    end(admission, "a", 1, reason, NOW + 5.0)
    assert admission.stats(NOW).margin == MARGIN_START


def test_an_answer_that_may_be_cut_needs_time_for_its_first_token_only() -> None:
    admission = make()
    admission._last_probe = NOW
    with pytest.raises(UnreachableBudgetError):
        admission.admit(ask("whole", 100.0, max_tokens=1000), COSTS, NOW)
    admission.admit(ask("cut", 100.0, max_tokens=1000, truncates=True), COSTS, NOW)


def test_answers_shorter_than_their_limit_let_more_in() -> None:
    admission = make()
    for index in range(ENOUGH):
        admission.admit(ask(f"{index}", max_tokens=500), COSTS, NOW)
        end(admission, f"{index}", 5, FinishReason.STOP, NOW)
    assert admission.stats(NOW).expected_tokens == 5
    assert admission.admit(ask("a", 200.0, max_tokens=500), COSTS, NOW).expected_tokens == 5


def test_before_it_is_read_a_request_without_hope_is_refused() -> None:
    admission = make()
    fill(admission, 200.0, count=2)
    admission.screen(100, Budget(total_ms=60_000.0), NOW, COSTS, NOW)
    admission.screen(100, NO_BUDGET, NOW, COSTS, NOW)
    for _ in range(100):
        admission.learn_size(50, 100)
    with pytest.raises(OverloadedError):
        admission.screen(100_000, Budget(total_ms=200.0), NOW, COSTS, NOW)
    assert admission.stats(NOW).refused_unread == 1


def test_an_idle_machine_reads_whatever_comes() -> None:
    make().screen(10**9, Budget(total_ms=1.0), NOW, COSTS, NOW)


def test_bounds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_waiting_tokens"):
        AdmissionConfig(max_waiting_tokens=0)
    with pytest.raises(ConfigError, match="max_wait_ms"):
        AdmissionConfig(max_wait_ms=math.nan)
