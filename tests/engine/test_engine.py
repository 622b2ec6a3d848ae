from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.answers import (
    answer_all,
    drain,
    expected,
    expected_logprobs,
    last_update,
    make_engine,
)
from tests.fakes import (
    LIMITS,
    EveryOther,
    FakeClock,
    FakeRunner,
    Oracle,
    PlantedError,
    make_request,
    reference_scores,
    reference_tokens,
)
from vivace.batch import Batch, Logprobs, RunnerLimits, Sampling, StepResult
from vivace.engine.engine import Engine
from vivace.engine.request import FinishReason, Request, Update
from vivace.engine.scheduler import SchedulerConfig
from vivace.errors import ConfigError, ContextLengthError, EngineError, QueueFullError, RequestError

NO_BURSTS = SchedulerConfig(max_burst_steps=1)


def mixed_requests(count: int) -> list[Request]:
    rng = random.Random(count)
    system = [rng.randrange(101) for _ in range(40)]
    return [
        make_request(
            str(i),
            system[: rng.choice((0, 20, 40))] + [rng.randrange(101) for _ in range(rng.randrange(1, 60))],
            rng.randrange(1, 40),
            Sampling(
                temperature=i % 2,
                seed=i,
                stop_token_ids=(7, 9) if i % 3 else (),
                repetition_penalty=1.5 if i % 4 == 1 else 1.0,
                frequency_penalty=0.5 if i % 9 == 2 else 0.0,
                logit_bias=((3, 1.0),) if i % 11 == 3 else (),
                min_tokens=0 if i % 6 == 2 else i % 5,
                logprobs=i % 4 if i % 3 == 1 else -1,
            ),
            cache_salt="s" if i % 5 == 0 else "",
            score_prompt=i % 7 == 0,
            constraint=EveryOther(LIMITS.vocab_size) if i % 6 == 2 else None,
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("changes", "config"),
    [
        pytest.param({}, None, id="room enough"),
        pytest.param({"max_batch_tokens": 9}, None, id="small chunks"),
        pytest.param({"blocks": 9}, None, id="few blocks"),
        pytest.param({"slots": 1}, None, id="one slot"),
        pytest.param({"slots": 64, "blocks": 40, "max_batch_tokens": 70}, NO_BURSTS, id="no bursts"),
    ],
)
def test_a_request_answers_in_a_crowd_what_it_answers_alone(
    changes: dict[str, int], config: SchedulerConfig | None
) -> None:
    limits = replace(LIMITS, **changes)
    requests = mixed_requests(60)
    answers = answer_all(requests, FakeRunner(limits), config)
    for request in requests:
        answer = answers[request.id]
        assert answer.tokens == expected(request)
        assert answer.scores == (reference_scores(request.prompt) if request.score_prompt else None)
        assert answer.logprobs == expected_logprobs(request, answer.tokens)
        stopped = answer.tokens[-1] in request.sampling.stop_token_ids
        assert answer.reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)


def test_the_crowd_above_does_preempt_and_share() -> None:
    engine = make_engine(FakeRunner(replace(LIMITS, blocks=9)))
    for request in mixed_requests(60):
        engine.add(request)
    drain(engine)
    assert engine.stats().preemptions > 0
    assert engine.stats().cached_tokens > 0
    assert engine.stats().blocks_used == 0


def test_a_stop_token_is_the_last_one_reported() -> None:
    free = reference_tokens([1, 2, 3], Sampling(), 20)
    answer = answer_all([make_request(max_tokens=20, sampling=Sampling(stop_token_ids=(free[5],)))], FakeRunner())["a"]
    assert answer.tokens == free[: free.index(free[5]) + 1]
    assert answer.reason is FinishReason.STOP


def test_an_answer_ends_with_max_tokens() -> None:
    answer = answer_all([make_request(max_tokens=1)], FakeRunner())["a"]
    assert answer.tokens == reference_tokens([1, 2, 3], Sampling(), 1)
    assert answer.reason is FinishReason.LENGTH


def test_an_answer_ends_with_the_context() -> None:
    answer = answer_all([make_request(max_tokens=500)], FakeRunner(replace(LIMITS, context_length=40)))["a"]
    assert len(answer.tokens) == 37
    assert answer.reason is FinishReason.LENGTH


def test_the_last_update_tells_how_much_of_the_prompt_was_cached() -> None:
    engine = make_engine(FakeRunner())
    for id, cached in (("a", 0), ("b", 32)):
        engine.add(make_request(id, range(40)))
        assert last_update(drain(engine)[id]).cached_tokens == cached


def test_requests_under_way_have_ids_of_their_own() -> None:
    engine = make_engine(FakeRunner())
    engine.add(make_request("a"))
    with pytest.raises(RequestError, match="'a' is under way"):
        engine.add(make_request("a"))
    drain(engine)
    engine.add(make_request("a"))


def test_a_full_queue_refuses_and_recovers() -> None:
    engine = make_engine(FakeRunner(), SchedulerConfig(max_waiting=2))
    engine.add(make_request("a"))
    engine.add(make_request("b"))
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        engine.add(make_request("c"))
    engine.step()
    engine.add(make_request("c"))
    assert set(drain(engine)) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (make_request(prompt=()), RequestError, "at least one"),
        (make_request(max_tokens=0), RequestError, "max_tokens is 0"),
        (make_request(prompt=(1, 101)), RequestError, "0 to 100"),
        (make_request(prompt=(-1,)), RequestError, "0 to 100"),
        (make_request(prompt=[1] * 512), ContextLengthError, "512 tokens"),
        (make_request(sampling=Sampling(stop_token_ids=(1, 101))), RequestError, "stop_token_ids .* 0 to 100"),
        (make_request(sampling=Sampling(logit_bias=((-1, 1.0),))), RequestError, "logit_bias .* 0 to 100"),
        (
            make_request(sampling=Sampling(min_tokens=1), constraint=EveryOther(101)),
            RequestError,
            "min_tokens and a constraint",
        ),
        (make_request(prompt=[1] * 60, max_tokens=30), ContextLengthError, "room for 80"),
    ],
)
def test_what_can_never_be_answered_is_refused(request_: Request, error: type[Exception], message: str) -> None:
    engine = make_engine(FakeRunner(replace(LIMITS, blocks=5)))
    with pytest.raises(error, match=message):
        engine.add(request_)
    assert not engine.has_work


def test_what_just_fits_the_pool_is_answered() -> None:
    request = make_request(prompt=[1] * 60, max_tokens=21)
    assert len(answer_all([request], FakeRunner(replace(LIMITS, blocks=5)))["a"].tokens) == 21


def test_a_runner_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="blocks is 0"):
        Engine(FakeRunner(replace(LIMITS, blocks=0)))


def test_an_abort_is_reported_by_the_next_step_wherever_the_request_is() -> None:
    engine = make_engine(FakeRunner(replace(LIMITS, slots=2, max_batch_tokens=16)), NO_BURSTS)
    for id in ("running", "half way", "waiting"):
        engine.add(make_request(id, range(30) if id == "half way" else (1, 2), 50))
    engine.step()
    for id in ("running", "half way", "waiting"):
        assert engine.abort(id)
        engine.check_integrity()
    event = engine.step()
    assert [(update.id, update.finish_reason) for update in event] == [
        ("running", FinishReason.ABORT),
        ("half way", FinishReason.ABORT),
        ("waiting", FinishReason.ABORT),
    ]
    assert not engine.has_work
    assert engine.stats().blocks_used == 0


def test_aborting_what_is_not_under_way_does_nothing() -> None:
    engine = make_engine(FakeRunner())
    assert not engine.abort("nobody")
    assert engine.step() == []


def test_a_request_aborted_while_its_step_runs_gets_nothing_more() -> None:
    runner = FakeRunner()
    engine = make_engine(runner)

    def abort(batch: Batch) -> None:
        engine.abort("a")

    runner.on_launch = abort
    engine.add(make_request("a"))
    engine.add(make_request("b"))
    answers = drain(engine)
    assert (answers["a"].reason, answers["a"].tokens) == (FinishReason.ABORT, [])
    assert answers["b"].tokens == expected(make_request("b"))


def test_everything_can_be_aborted_at_once() -> None:
    engine = make_engine(FakeRunner())
    for request in mixed_requests(20):
        engine.add(request)
    engine.step()
    engine.abort_all()
    assert sum(update.finish_reason is FinishReason.ABORT for update in engine.step()) == 20
    assert not engine.has_work


def record_batches(runner: FakeRunner) -> list[Batch]:
    batches: list[Batch] = []
    runner.on_launch = batches.append
    return batches


def test_streams_alone_take_few_calls_of_the_runner() -> None:
    runner = FakeRunner()
    batches = record_batches(runner)
    engine = make_engine(runner, SchedulerConfig(max_burst_steps=8))
    engine.add(make_request("a", max_tokens=33))
    engine.add(make_request("b", max_tokens=33))
    drain(engine)
    assert [batch.max_steps for batch in batches] == [1, 8, 8, 8, 8]
    assert (engine.stats().steps, engine.stats().passes, engine.stats().tokens) == (5, 33, 66)


def test_a_burst_ends_early_for_who_stops_and_goes_on_for_others() -> None:
    stop = reference_tokens([1, 2, 3], Sampling(), 20)[4]
    requests = [
        make_request("a", max_tokens=20, sampling=Sampling(stop_token_ids=(stop,))),
        make_request("b", (4, 5), max_tokens=20),
    ]
    answers = answer_all(requests, FakeRunner())
    assert answers["a"].reason is FinishReason.STOP
    assert all(answers[request.id].tokens == expected(request) for request in requests)


def test_an_interrupted_burst_loses_nothing() -> None:
    runner = FakeRunner()
    engine = make_engine(runner)
    runner.on_pass = engine.interrupt
    engine.add(make_request("a", max_tokens=20))
    answer = drain(engine)["a"]
    assert answer.tokens == expected(make_request("a", max_tokens=20))
    assert answer.updates == 20


def test_a_burst_is_given_up_after_its_time() -> None:
    runner = FakeRunner(pass_ms=0.4)
    engine = make_engine(runner, SchedulerConfig(burst_ms=1.0))
    engine.add(make_request("a", max_tokens=10))
    assert [len(engine.step()[0].tokens) for _ in range(4)] == [1, 3, 3, 3]


class OverrunningRunner(FakeRunner):
    """Goes on past stop tokens, as a runner may that does not look at them."""

    def launch(self, batch: Batch) -> StepResult:
        rows = [replace(row, opens=replace(row.opens, stop_token_ids=()) if row.opens else None) for row in batch.rows]
        return super().launch(replace(batch, rows=rows))


def test_tokens_after_a_stop_token_are_dropped() -> None:
    stop = reference_tokens([1, 2, 3], Sampling(), 20)[4]
    request = make_request(max_tokens=20, sampling=Sampling(stop_token_ids=(stop,)))
    answer = answer_all([request], OverrunningRunner())["a"]
    assert answer.tokens == expected(request)
    assert answer.reason is FinishReason.STOP


@pytest.mark.parametrize("config", [None, NO_BURSTS])
def test_log_probabilities_come_with_their_tokens_and_end_with_them(config: SchedulerConfig | None) -> None:
    stop = reference_tokens([1, 2, 3], Sampling(), 20)[4]
    request = make_request(max_tokens=20, sampling=Sampling(stop_token_ids=(stop,), logprobs=3))
    answer = answer_all([request], OverrunningRunner(), config)["a"]
    assert answer.tokens == expected(request)
    assert answer.logprobs == expected_logprobs(request, answer.tokens)


def test_min_tokens_holds_stop_tokens_back() -> None:
    stop = reference_tokens([1, 2, 3], Sampling(), 20)[4]
    request = make_request(max_tokens=20, sampling=Sampling(stop_token_ids=(stop,), min_tokens=8))
    answer = answer_all([request], FakeRunner())["a"]
    assert len(answer.tokens) > 8
    assert stop not in answer.tokens[:8]
    assert answer.tokens == expected(request)


def test_a_constraint_chooses_among_tokens_and_is_told_of_all_but_thelast_update() -> None:
    constraint = EveryOther(101)
    answer = answer_all([make_request(constraint=constraint), make_request("b", max_tokens=30)], FakeRunner())["a"]
    assert [token % 2 for token in answer.tokens[0::3]] == [0, 0, 0]
    assert [token % 2 for token in answer.tokens[1::3]] == [1, 1, 1]
    assert constraint.accepted == answer.tokens[:-1]
    assert answer.tokens == expected(make_request(constraint=EveryOther(101)))


def test_a_constraint_is_told_nothing_twice_though_its_sequence_is_computed_again() -> None:
    constraint = EveryOther(101)
    requests = [make_request("a", range(30), 20), make_request("b", range(50, 80), 20, constraint=constraint)]
    engine = make_engine(FakeRunner(replace(LIMITS, blocks=4)))
    for request in requests:
        engine.add(request)
    answer = drain(engine)["b"]
    assert engine.stats().preemptions > 0
    assert constraint.accepted == answer.tokens[:-1]


@pytest.mark.parametrize(
    ("fail_at", "in_mask", "message"),
    [(0, True, "planted in mask 0"), (2, True, "planted in mask 2"), (3, False, "planted in token 3")],
)
def test_a_constraint_that_fails_ends_its_own_request_only(fail_at: int, in_mask: bool, message: str) -> None:
    requests = [
        make_request("a", max_tokens=20),
        make_request("b", max_tokens=20, constraint=EveryOther(101, fail_at, in_mask=in_mask)),
    ]
    answers = answer_all(requests, FakeRunner())
    assert answers["a"].tokens == expected(requests[0])
    assert answers["b"].reason is FinishReason.ERROR
    assert f"constraint of this request failed (PlantedError: {message})" in last_update(answers["b"]).error
    told = max(0, fail_at - in_mask)
    assert answers["b"].tokens == expected(make_request(max_tokens=20, constraint=EveryOther(101)))[:told]


@pytest.mark.parametrize("mask", [bytes(13), bytes(12), b"\xff" * 13])
def test_a_mask_that_is_none_ends_its_request(mask: bytes) -> None:
    class Broken(EveryOther):
        def mask(self) -> bytes:
            return mask

    answer = answer_all([make_request(constraint=Broken(101))], FakeRunner())["a"]
    assert answer.reason is FinishReason.ERROR
    assert "ValueError" in last_update(answer).error


def test_a_failed_step_ends_only_the_requests_in_it() -> None:
    engine = make_engine(FakeRunner(replace(LIMITS, slots=2), fail_at=(1,)), NO_BURSTS)
    requests = [make_request(id, max_tokens=4) for id in "abcd"]
    for request in requests:
        engine.add(request)
    answers = drain(engine)
    for id in "ab":
        assert answers[id].reason is FinishReason.ERROR
        assert "PlantedError: planted in launch 1" in last_update(answers[id]).error
    for request in requests[2:]:
        assert answers[request.id].tokens == expected(request)
    assert engine.stats().failed_steps == 1
    assert engine.stats().blocks_used == 0


def test_what_a_failed_step_wrote_is_never_shared() -> None:
    engine = make_engine(FakeRunner(fail_at=(0,)))
    engine.add(make_request("a", range(40)))
    drain(engine)
    engine.add(make_request("b", range(40)))
    answer = drain(engine)["b"]
    assert last_update(answer).cached_tokens == 0
    assert answer.tokens == expected(make_request("b", range(40)))


def test_a_runner_that_fails_three_times_in_a_row_is_given_up() -> None:
    engine = make_engine(FakeRunner(replace(LIMITS, slots=1), fail_at=(0, 1, 3, 4, 5)))
    for i in range(9):
        engine.add(make_request(str(i), max_tokens=1))
    for _ in range(5):
        engine.step()
    with pytest.raises(EngineError, match="last 3 steps all failed") as raised:
        engine.step()
    assert isinstance(raised.value.__cause__, PlantedError)
    engine.check_integrity()


class AlteredRunner(FakeRunner):
    """Gives its results after `change` was done to them."""

    change: Callable[[StepResult], StepResult]

    def collect(self, handle: object) -> StepResult:
        return self.change(super().collect(handle))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: replace(result, tokens=[]), "0 of 1 rows"),
        (lambda result: replace(result, tokens=[[]]), "0 tokens where 1"),
        (lambda result: replace(result, tokens=[[1, 2]]), "2 tokens where 1"),
    ],
)
def test_a_result_that_breaks_the_contract_is_an_error(
    change: Callable[[StepResult], StepResult], message: str
) -> None:
    runner = AlteredRunner()
    runner.change = change
    answer = answer_all([make_request()], runner)["a"]
    assert answer.reason is FinishReason.ERROR
    assert message in last_update(answer).error


def test_missing_scores_are_an_error() -> None:
    runner = AlteredRunner()
    runner.change = lambda result: replace(result, scores={})
    answer = answer_all([make_request(score_prompt=True)], runner)["a"]
    assert answer.reason is FinishReason.ERROR
    assert "no scores" in last_update(answer).error


def test_log_probabilities_that_nobody_asked_for_are_dropped() -> None:
    runner = AlteredRunner()
    runner.change = lambda result: replace(result, logprobs={0: [Logprobs(-1.0)] * len(result.tokens[0])})
    answer = answer_all([make_request()], runner)["a"]
    assert (answer.reason, answer.logprobs) == (FinishReason.LENGTH, None)


@pytest.mark.parametrize("logprobs", [{}, {0: []}, {0: [Logprobs(-1.0)] * 2}])
def test_missing_log_probabilities_are_an_error(logprobs: dict[int, list[Logprobs]]) -> None:
    runner = AlteredRunner()
    runner.change = lambda result: replace(result, logprobs=logprobs)
    answer = answer_all([make_request(sampling=Sampling(logprobs=0))], runner)["a"]
    assert answer.reason is FinishReason.ERROR
    assert "no log-probability" in last_update(answer).error


def test_scores_come_with_the_first_token_and_survive_preemption() -> None:
    limits = replace(LIMITS, blocks=5, max_batch_tokens=16)
    requests = [
        make_request("a", range(30), 40),
        make_request("b", range(30, 60), 40, score_prompt=True),
        make_request("c", (5,), 3, score_prompt=True),
    ]
    engine = make_engine(FakeRunner(limits))
    for request in requests:
        engine.add(request)
    answers = drain(engine)
    assert engine.stats().preemptions > 0
    assert answers["b"].scores == reference_scores(requests[1].prompt)
    assert answers["c"].scores == []
    assert all(answers[request.id].tokens == expected(request) for request in requests)


def test_the_timeline_tells_queue_prefill_and_decode_apart() -> None:
    clock = FakeClock(1000.0)
    engine = make_engine(FakeRunner(replace(LIMITS, max_batch_tokens=16), clock=clock, pass_ms=10.0), NO_BURSTS)
    clock.advance(0.5)
    engine.add(make_request("a", range(30), 4, arrived=1000.0, preprocess_ms=100.0))
    clock.advance(0.5)
    timeline = last_update(drain(engine)["a"]).timeline
    assert timeline is not None
    assert timeline.preprocess_ms == 100.0
    assert timeline.queue_ms == pytest.approx(900.0)
    assert timeline.prefill_ms == pytest.approx(20.0)
    assert timeline.decode_ms == pytest.approx(30.0)


def test_every_timeline_adds_up_to_the_last_token_less_the_arrival() -> None:
    clock = FakeClock()
    engine = make_engine(FakeRunner(replace(LIMITS, blocks=9), clock=clock, pass_ms=1.25))
    for request in mixed_requests(40):
        engine.add(request)
    ends: dict[str, tuple[float, Update]] = {}
    while engine.has_work:
        ends |= {update.id: (clock(), update) for update in engine.step() if update.finish_reason}
    assert engine.stats().preemptions > 0
    for instant, update in ends.values():
        assert update.timeline is not None
        assert update.timeline.total_ms == pytest.approx((instant - 1000.0) * 1000, abs=1e-6)
        assert min(update.timeline.queue_ms, update.timeline.prefill_ms, update.timeline.decode_ms) >= 0


def test_stats_count_what_is_held_and_done() -> None:
    engine = make_engine(FakeRunner(replace(LIMITS, slots=1)), NO_BURSTS)
    engine.add(make_request("a", range(20), 4))
    engine.add(make_request("b", range(20), 4))
    engine.step()
    stats = engine.stats()
    assert (stats.waiting, stats.running, stats.requests, stats.steps, stats.tokens) == (1, 1, 2, 1, 1)
    assert (stats.blocks_used, stats.blocks_cached, stats.blocks_free) == (2, 0, 62)
    drain(engine)
    stats = engine.stats()
    assert (stats.waiting, stats.running, stats.steps, stats.passes, stats.tokens) == (0, 0, 8, 8, 8)
    assert (stats.blocks_used, stats.blocks_cached, stats.cached_tokens) == (0, 1, 16)


@given(
    seed=st.integers(0, 2**32),
    wrong=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    blocks=st.integers(4, 20),
    slots=st.integers(1, 5),
    room=st.integers(1, 40),
    most=st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_any_proposer_leaves_every_answer_as_it_was(
    seed: int, wrong: float, blocks: int, slots: int, room: int, most: int
) -> None:
    rng = random.Random(seed)
    limits = RunnerLimits(slots, blocks, room, context_length=64, vocab_size=11)
    requests = {}
    for index in range(8):
        sampling = Sampling(
            rng.choice((0.0, 1.0)),
            seed=index,
            stop_token_ids=(3,) * rng.randrange(2),
            min_tokens=rng.randrange(6),
            repetition_penalty=rng.choice((1.0, 1.3)),
            frequency_penalty=rng.choice((0.0, 0.4)),
            logprobs=rng.choice((-1, 1)),
        )
        constraint = EveryOther(11) if rng.random() < 0.1 else None
        sampling = replace(sampling, min_tokens=0) if constraint else sampling
        prompt = rng.choices(range(11), k=rng.randrange(1, 30))
        requests[f"{index}"] = make_request(
            f"{index}", prompt, rng.randrange(1, 34), sampling, score_prompt=rng.random() < 0.2, constraint=constraint
        )
    runner = FakeRunner(limits, pass_ms=1.0)
    engine = make_engine(runner, SchedulerConfig(max_proposed=most), proposer=Oracle(requests, wrong, seed, 11))
    for request in requests.values():
        engine.add(request)
    answers = drain(engine)
    for id, request in requests.items():
        assert answers[id].tokens == expected(replace(request), limits)
        assert answers[id].logprobs == expected_logprobs(request, answers[id].tokens, 11)
        assert answers[id].scores == (reference_scores(request.prompt) if request.score_prompt else None)
    assert engine.stats().blocks_used == 0


def test_proposals_that_are_right_save_steps_and_are_counted() -> None:
    request = make_request("a", max_tokens=400)
    runner = FakeRunner(pass_ms=1.0)
    config = SchedulerConfig(max_burst_steps=1, max_proposed=7)
    engine = make_engine(runner, config, proposer=Oracle({"a": request}, 0.0, 1, LIMITS.vocab_size))
    engine.add(request)
    assert drain(engine)["a"].tokens == expected(request)
    stats = engine.stats()
    assert stats.steps < 200
    assert 0 < stats.accepted == stats.proposed
    assert stats.steps + stats.accepted == 400


def test_only_accepted_tokens_are_shared_with_others() -> None:
    """The fake runner checks every block that it is given for another's prefix against what is in it."""
    first = make_request("a", range(20), max_tokens=100)
    requests = {"a": first}
    runner = FakeRunner(pass_ms=1.0)
    oracle = Oracle(requests, 0.4, 2, LIMITS.vocab_size)
    engine = make_engine(runner, SchedulerConfig(max_proposed=7), proposer=oracle)
    engine.add(first)
    answer = drain(engine)["a"].tokens
    assert engine.stats().accepted
    requests["b"] = make_request("b", [*range(20), *answer], max_tokens=20)
    engine.add(requests["b"])
    assert drain(engine)["b"].tokens == expected(requests["b"])
    assert engine.stats().cached_tokens == 112
