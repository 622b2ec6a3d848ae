"""The engine under requests of all kinds that come, go and fail at random."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest

from tests.engine.answers import Answer, expected, expected_logprobs, gather, last_update, make_engine
from tests.fakes import EveryOther, FakeRunner, Oracle, PlantedError, make_request, reference_scores
from vivace.batch import Batch, RunnerLimits, Sampling, Want
from vivace.budget import NO_BUDGET, Budget, OnDeadline
from vivace.engine.cost import CostModel, StepCost
from vivace.engine.policy import POLICIES
from vivace.engine.request import FinishReason, Request
from vivace.engine.scheduler import SchedulerConfig
from vivace.errors import QueueFullError


def unfailing(request: Request) -> Request:
    """The same request, with a constraint that never fails."""
    if isinstance(request.constraint, EveryOther):
        return replace(request, constraint=EveryOther(request.constraint.arguments[0]))
    return request


class Storm:
    """Requests of all kinds that come, go, and fail at random, against the answers that each must give."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.limits = RunnerLimits(
            slots=self.rng.randrange(1, 7),
            blocks=self.rng.randrange(8, 25),
            max_batch_tokens=self.rng.randrange(1, 40),
            context_length=100,
            vocab_size=50,
        )
        self.runner = FakeRunner(self.limits, pass_ms=0.25, on_launch=self.meddle, on_pass=self.maybe_interrupt)
        config = SchedulerConfig(
            max_waiting=12,
            max_burst_steps=self.rng.choice((1, 8)),
            policy=self.rng.choice(list(POLICIES)),
            ageing_ms=self.rng.choice((1.0, 5000.0)),
            max_step_ms=self.rng.choice((0.3, 50.0)),
            max_proposed=self.rng.choice((0, 1, 4, 20)),
        )
        known = CostModel(StepCost(*(self.rng.choice((0.0, 0.01, 0.2)) for _ in range(4))))
        self.under_way: dict[str, Request] = {}
        oracle = Oracle(self.under_way, self.rng.choice((0.0, 0.2, 1.0)), seed, self.limits.vocab_size)
        self.engine = make_engine(self.runner, config, self.rng.choice((None, known)), oracle)
        self.answers: dict[str, Answer] = {}
        self.seen: Counter[str] = Counter()
        self.failures_in_a_row = 0

    def maybe_interrupt(self) -> None:
        if self.rng.random() < 0.1:
            self.engine.interrupt()

    def meddle(self, batch: Batch) -> None:
        self.seen["history"] += any(row.history for row in batch.rows)
        wants = {row.want for row in batch.rows}
        self.seen["proposals beside prompts"] += Want.VERIFY in wants and any(row.opens for row in batch.rows)
        self.seen["proposals beside others"] += wants == {Want.VERIFY, Want.SAMPLE}
        self.seen["masks beside others"] += len({row.mask is None for row in batch.rows}) == 2
        if self.rng.random() < 0.02:
            self.abort_one()
        if self.failures_in_a_row < 2 and self.rng.random() < 0.005:
            self.failures_in_a_row += 1
            raise PlantedError("bad luck")
        self.failures_in_a_row = 0

    def abort_one(self) -> None:
        if self.under_way:
            self.engine.abort(self.rng.choice(list(self.under_way)))

    def add_one(self, id: str) -> None:
        rng = self.rng
        prompt = [rng.randrange(2)] * rng.randrange(1, 50) + rng.choices(range(50), k=rng.randrange(1, 20))
        constraint = self.draw_constraint() if rng.random() < 0.1 else None
        sampling = Sampling(
            rng.choice((0.0, 1.0)),
            seed=rng.randrange(3),
            stop_token_ids=(7,) * rng.randrange(2),
            repetition_penalty=rng.choice((1.0, 1.0, 1.2)),
            presence_penalty=rng.choice((0.0, 0.0, 0.0, -0.5)),
            frequency_penalty=rng.choice((0.0, 0.0, 0.0, 0.5)),
            logit_bias=((5, 1.0),) * rng.randrange(2),
            min_tokens=0 if constraint else rng.randrange(4),
            logprobs=rng.choice((-1, -1, 0, 2)),
        )
        request = make_request(
            id,
            prompt,
            rng.randrange(1, 40),
            sampling,
            arrived=self.runner.clock(),
            cache_salt=rng.choice(("", "", "s")),
            score_prompt=rng.random() < 0.1,
            constraint=constraint,
            budget=self.draw_budget() if rng.random() < 0.4 else NO_BUDGET,
            priority=rng.choice((0, 5, 5, 9)),
            on_deadline=rng.choice(list(OnDeadline)),
            expected_tokens=rng.choice((0, 0, 5)),
        )
        try:
            self.engine.add(request)
        except QueueFullError:
            return
        self.under_way[id] = request

    def draw_budget(self) -> Budget:
        def limit(*choices: float) -> float:
            return self.rng.choice((math.inf, *choices))

        return Budget(limit(0.01, 2.0, 10.0), limit(0.1, 0.5), limit(0.01, 5.0, 20.0, 100.0))

    def draw_constraint(self) -> EveryOther:
        fail_at = self.rng.choice((None, None, self.rng.randrange(20)))
        return EveryOther(self.limits.vocab_size, fail_at, in_mask=self.rng.random() < 0.5)

    def step(self) -> None:
        event = self.engine.step()
        self.engine.check_integrity()
        gather(self.answers, event)
        for update in event:
            if update.finish_reason is not None:
                self.judge(self.under_way.pop(update.id), self.answers.pop(update.id))

    def judge(self, request: Request, answer: Answer) -> None:
        assert answer.reason is not None
        self.seen[answer.reason] += 1
        due = expected(unfailing(request), self.limits)
        if answer.reason in (FinishReason.STOP, FinishReason.LENGTH):
            assert answer.tokens == due
        else:
            assert answer.tokens == due[: len(answer.tokens)]
            ended = answer.reason in (FinishReason.ABORT, FinishReason.DEADLINE)
            assert ended or "PlantedError" in last_update(answer).error
            assert request.budget or answer.reason is not FinishReason.DEADLINE
        assert answer.logprobs == expected_logprobs(request, answer.tokens, self.limits.vocab_size)
        if request.score_prompt and answer.tokens:
            assert answer.scores == reference_scores(request.prompt)
        timeline = last_update(answer).timeline
        assert timeline is not None
        self.seen["logprobs"] += answer.logprobs is not None
        self.seen["constraint failures"] += "The constraint" in last_update(answer).error
        in_a_step = answer.reason not in (FinishReason.ABORT, FinishReason.DEADLINE)
        if in_a_step and "mask 0" not in last_update(answer).error:
            # those may end in the middle of a step, and before any
            assert timeline.total_ms == pytest.approx((self.runner.clock() - request.arrived) * 1000, abs=1e-6)

    def blow(self, steps: int) -> None:
        for index in range(steps):
            for _ in range(self.rng.choice((0, 0, 0, 1, 1, 4)) if index % 100 < 80 else 0):
                self.add_one(f"{index} {self.rng.random()}")
            if self.rng.random() < 0.05:
                self.abort_one()
            self.step()
        while self.engine.has_work:
            self.step()
        assert not self.under_way
        assert self.engine.stats().blocks_used == 0


def blow_storms(seeds: range, steps: int) -> None:
    """Also checks that the storms, taken together, went through everything they are meant to."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        storm = Storm(seed)
        storm.blow(steps)
        stats = storm.engine.stats()
        seen.update(storm.seen)
        seen.update(preemptions=stats.preemptions, cached=stats.cached_tokens, bursts=stats.passes - stats.steps)
        seen.update(accepted=stats.accepted, rejected=stats.proposed - stats.accepted)
    due = [*FinishReason, "preemptions", "cached", "bursts", "history", "masks beside others"]
    due += ["accepted", "rejected", "proposals beside prompts", "proposals beside others"]
    assert not [name for name in [*due, "constraint failures", "logprobs"] if not seen[name]]


def test_ten_thousand_random_steps_keep_every_promise() -> None:
    blow_storms(range(20), 500)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_random_steps_keep_every_promise() -> None:
    blow_storms(range(100, 150), 2000)
