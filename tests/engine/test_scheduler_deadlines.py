"""Who is in a step, and how long it may take, when there are deadlines."""

from __future__ import annotations

import math

import pytest

from tests.engine.answers import Answer, gather, make_engine
from tests.fakes import FakeClock, FakeRunner, make_request
from vivace.batch import Batch, RunnerLimits
from vivace.budget import NO_BUDGET, Budget, OnDeadline
from vivace.engine.cost import CostModel, StepCost, count_work
from vivace.engine.request import FinishReason
from vivace.engine.scheduler import SchedulerConfig

COST = StepCost(base_ms=1.0, token_ms=0.1, sequence_ms=0.4, context_ms=0.0)


class Bench:
    """An engine on a virtual clock, whose steps take what they cost."""

    def __init__(self, slots: int = 8, **config: float) -> None:
        self.clock = FakeClock()
        limits = RunnerLimits(slots, 4096, 256, 2048, 101)
        self.runner = FakeRunner(limits, clock=self.clock, on_launch=self._spend)
        settings = SchedulerConfig(max_burst_steps=1, **config)  # type: ignore[arg-type]
        self.engine = make_engine(self.runner, settings, CostModel(COST))
        self.answers: dict[str, Answer] = {}
        self.steps_ms: list[float] = []

    def _spend(self, batch: Batch) -> None:
        self.steps_ms.append(COST.step_ms(*count_work(batch.rows)))
        self.clock.advance(self.steps_ms[-1] / 1000)

    def add(
        self, id: str, budget: Budget = NO_BUDGET, *, prompt: int = 10, max_tokens: int = 20, priority: int = 5,
        truncates: bool = False,
    ) -> None:  # fmt: skip
        on_deadline = OnDeadline.TRUNCATE if truncates else OnDeadline.FAIL
        tokens = [(len(self.answers) * 7 + i) % 101 for i in range(prompt)]
        self.engine.add(
            make_request(
                id, tokens, max_tokens, arrived=self.clock(), budget=budget, priority=priority, on_deadline=on_deadline
            )
        )
        self.answers[id] = Answer()

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            gather(self.answers, self.engine.step())
            self.engine.check_integrity()

    def finish(self) -> list[str]:
        """Ids in the order in which they end."""
        ended = [id for id, answer in self.answers.items() if answer.last]
        while self.engine.has_work:
            self.step()
            ended += [id for id, answer in self.answers.items() if answer.last and id not in ended]
        return ended


def test_within_a_priority_the_earliest_deadline_goes_first_and_the_priority_before_it() -> None:
    bench = Bench(slots=1)
    bench.add("none")
    bench.add("late", Budget(total_ms=9000))
    bench.add("early", Budget(total_ms=8000))
    bench.add("urgent", priority=9)
    bench.add("idle", Budget(total_ms=7000), priority=0)
    assert bench.finish() == ["urgent", "early", "late", "none", "idle"]


def test_who_must_begin_now_begins_before_any_priority() -> None:
    bench = Bench(slots=1)
    bench.add("first", priority=9)
    bench.step()
    bench.add("second", priority=9, max_tokens=300)
    bench.add("low", Budget(total_ms=48), max_tokens=10, priority=0)
    assert bench.finish() == ["first", "low", "second"]
    assert bench.answers["low"].reason is FinishReason.LENGTH


@pytest.mark.parametrize("tpot_ms", [3.0, 5.0, 10.0])
def test_prompts_come_in_chunks_that_leave_streams_their_time_per_token(tpot_ms: float) -> None:
    bench = Bench()
    bench.add("stream", Budget(tpot_ms=tpot_ms), max_tokens=100)
    bench.step(3)
    bench.steps_ms.clear()
    bench.add("prompt", prompt=800, max_tokens=2)
    while not bench.answers["prompt"].tokens:
        bench.step()
    assert max(bench.steps_ms) <= tpot_ms
    assert len(bench.steps_ms) < 800 / 5
    bench.finish()
    timeline = bench.answers["stream"].last
    assert timeline is not None
    assert timeline.timeline is not None
    assert timeline.timeline.decode_ms / 99 <= tpot_ms


def test_streams_without_a_deadline_sit_out_but_never_all_of_them() -> None:
    bench = Bench()
    for index in range(6):
        bench.add(f"{index}", max_tokens=400)
    bench.step(3)
    bench.add("paced", Budget(tpot_ms=3.0), max_tokens=50)
    bench.step(4)
    before = {id: len(answer.tokens) for id, answer in bench.answers.items()}
    bench.step(20)
    gained = {id: len(answer.tokens) - before[id] for id, answer in bench.answers.items()}
    assert gained.pop("paced") == 20
    assert max(gained.values()) == 20
    assert min(gained.values()) == 0


def test_a_prompt_with_a_deadline_and_a_higher_priority_does_not_wait_for_streams_without() -> None:
    bench = Bench(max_step_ms=6.0)
    for index in range(7):
        bench.add(f"{index}", max_tokens=400, priority=4)
    bench.step(10)
    bench.steps_ms.clear()
    bench.add("high", Budget(ttft_ms=5000), prompt=90, priority=9)
    while not bench.answers["high"].tokens:
        bench.step()
    alone_ms = 1.0 + 90 * 0.1 + 0.4
    assert sum(bench.steps_ms) <= alone_ms + 3 * (1.0 + 0.5)  # each step, and one stream in it, besides


def test_a_prompt_without_a_deadline_does_not_lengthen_the_steps_of_one_with_a_higher_priority() -> None:
    bench = Bench(max_step_ms=50.0)
    bench.add("low", prompt=600, priority=4)
    bench.step()
    bench.add("high", Budget(ttft_ms=5000), prompt=90, priority=9)
    bench.add("another", prompt=90, priority=4)
    bench.steps_ms.clear()
    bench.step()
    assert bench.answers["high"].tokens
    assert bench.steps_ms == [pytest.approx(1.0 + 90 * 0.1 + 0.4)]


def test_a_prompt_that_has_to_wait_for_one_of_higher_priority_is_not_begun() -> None:
    """Its time counts as queue, and the blocks stay free."""
    bench = Bench(max_step_ms=50.0)
    bench.add("high", Budget(ttft_ms=5000), prompt=90, priority=9)
    bench.add("low", prompt=90, priority=4)
    bench.step()
    assert bench.answers["high"].tokens
    assert (bench.engine.stats().running, bench.engine.stats().waiting) == (1, 1)


def test_a_prompt_that_was_begun_rises_with_those_that_still_wait() -> None:
    """Else a crowd that has waited for a period would get before it, one after the other."""
    bench = Bench(max_step_ms=4.0, ageing_ms=50.0)
    for index in range(30):
        bench.add(f"{index}", prompt=50, max_tokens=4)
    ended = bench.finish()
    assert max(abs(place - int(id)) for place, id in enumerate(ended)) <= 3


def test_streams_of_the_same_priority_go_on_beside_a_prompt_that_has_time() -> None:
    bench = Bench()
    for index in range(4):
        bench.add(f"{index}", max_tokens=400)
    bench.step(5)
    before = {id: len(answer.tokens) for id, answer in bench.answers.items()}
    bench.add("later", Budget(ttft_ms=60_000), prompt=600)
    bench.step(2)
    assert all(len(bench.answers[id].tokens) - told == 2 for id, told in before.items())


def test_of_streams_with_deadlines_those_with_more_time_sit_out() -> None:
    bench = Bench()
    for index in range(6):
        bench.add(f"{index}", Budget(ttft_ms=100, total_ms=60_000), max_tokens=400)
    bench.step(3)
    bench.add("tight", Budget(ttft_ms=5000, tpot_ms=3.0), max_tokens=50)
    bench.step(4)
    before = len(bench.answers["tight"].tokens)
    bench.step(20)
    assert len(bench.answers["tight"].tokens) - before == 20


def test_an_answer_that_will_be_cut_slows_nobody() -> None:
    bench = Bench()
    for index in range(5):
        bench.add(f"{index}", max_tokens=400)
    bench.add("cut", Budget(total_ms=200), max_tokens=1500, truncates=True)
    bench.step(30)
    assert min(len(answer.tokens) for answer in bench.answers.values()) >= 25


def test_what_is_late_is_dropped_before_it_is_computed() -> None:
    bench = Bench(slots=1)
    bench.add("long", max_tokens=200)
    bench.step()
    bench.add("late", Budget(ttft_ms=30), prompt=500)
    computed = bench.runner.computed_tokens
    while not bench.answers["late"].last:
        bench.step()
    assert bench.answers["late"].reason is FinishReason.DEADLINE
    assert bench.answers["late"].tokens == []
    assert bench.runner.computed_tokens - computed < 50  # the stream's own


@pytest.mark.parametrize("truncates", [True, False])
def test_a_total_that_comes_in_the_middle_ends_the_answer_in_time(truncates: bool) -> None:
    bench = Bench()
    bench.add("a", Budget(total_ms=60), max_tokens=1000, truncates=truncates)
    bench.finish()
    answer = bench.answers["a"]
    assert answer.reason is FinishReason.DEADLINE
    assert answer.last is not None
    assert answer.last.timeline is not None
    assert 20 < len(answer.tokens) < 60
    assert answer.last.timeline.total_ms <= (60 if truncates else 60 + 2 * max(bench.steps_ms))
    assert bench.engine.stats().expired == 1
    assert not math.isnan(bench.engine.stats().cost_error)
