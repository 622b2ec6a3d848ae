from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from vivace.budget import Budget, OnDeadline
from vivace.engine.admission import AdmissionConfig
from vivace.engine.cost import StepCost
from vivace.engine.scheduler import SchedulerConfig
from vivace.errors import ConfigError, ContextLengthError
from vivace.simulation.machine import Machine
from vivace.simulation.outcome import Ending
from vivace.simulation.simulate import Scenario, find_capacity, simulate
from vivace.simulation.traffic import Kind, Tokens, Traffic

MACHINE = Machine(StepCost(7.0, 1.3, 0.6, 0.0003), noise=0.05)
"""Saturated by about six requests a second of the lengths below."""
PROMPT, ANSWER = Tokens(64), Tokens(32)
TIGHT = Kind(PROMPT, ANSWER, Budget(total_ms=1000))
LOOSE = Kind(PROMPT, ANSWER, Budget(total_ms=4000))
MIXED = (TIGHT, LOOSE)
OPEN = AdmissionConfig(by_forecast=False)


def load(*kinds: Kind, rate: float, requests: int = 400, machine: Machine = MACHINE, seed: int = 0) -> Scenario:
    return Scenario(machine, Traffic(kinds, rate, requests, seed=seed))


def test_one_seed_gives_one_result_and_another_seed_another() -> None:
    noisy = replace(MACHINE, noise=0.3, stalls_per_s=0.2, stall_ms=100)
    first = simulate(load(*MIXED, rate=10, machine=noisy))
    assert simulate(load(*MIXED, rate=10, machine=noisy)) == first
    assert simulate(load(*MIXED, rate=10, machine=noisy, seed=1)) != first


def test_the_result_does_not_depend_on_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = simulate(load(*MIXED, rate=10, requests=100))
    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: pytest.fail("a real clock was read"))
    assert simulate(load(*MIXED, rate=10, requests=100)) == expected


def test_below_capacity_everybody_is_kept() -> None:
    result = simulate(load(LOOSE, rate=2))
    assert result.counts[Ending.KEPT] == len(result.outcomes) == 400
    assert result.admission.accepted == 400


def test_earliest_deadline_first_keeps_more_than_first_come_under_mixed_deadlines() -> None:
    def kept(policy: str, rate: float) -> int:
        scenario = replace(load(*MIXED, rate=rate), scheduler=SchedulerConfig(policy=policy), admission=OPEN)
        return simulate(scenario).counts[Ending.KEPT]

    assert kept("edf", 2.5) >= kept("fifo", 2.5)
    assert kept("edf", 4) > 1.01 * kept("fifo", 4)


@pytest.mark.parametrize("kinds", [(TIGHT,), (LOOSE,), MIXED], ids=["tight", "loose", "mixed"])
def test_at_four_times_the_capacity_admission_learns_to_keep_whom_it_accepts_and_the_goodput(
    kinds: tuple[Kind, ...],
) -> None:
    best = max(simulate(load(*kinds, rate=rate)).goodput for rate in (4.5, 6.0))
    overloaded = simulate(load(*kinds, rate=24, requests=1600))
    assert overloaded.attainment >= 0.96
    assert overloaded.between(10.0, math.inf).attainment >= 0.99
    assert overloaded.goodput >= 0.9 * best
    refused = [outcome for outcome in overloaded.outcomes if outcome.ending is Ending.REFUSED]
    assert all(0 < outcome.retry_after_ms < 60_000 for outcome in refused)


def test_without_admission_an_overload_leaves_next_to_nothing_in_time() -> None:
    overload = replace(load(TIGHT, rate=24), admission=OPEN)
    assert simulate(overload).goodput < 0.3 * simulate(load(TIGHT, rate=24)).goodput


def test_work_without_a_deadline_takes_nothing_from_accepted_deadlines_and_gets_done() -> None:
    idle = Kind(PROMPT, ANSWER, priority=2)
    result = simulate(load(replace(LOOSE, budget=Budget(total_ms=2000)), idle, rate=8, requests=800))
    assert result.of_kind(0).attainment >= 0.99
    assert result.of_kind(1).counts[Ending.KEPT] == len(result.of_kind(1).outcomes)


def test_priority_spends_slack_and_no_accepted_deadline() -> None:
    budget = Budget(total_ms=2000)
    high, low = Kind(PROMPT, ANSWER, budget, 0.3, priority=9), Kind(PROMPT, ANSWER, budget, 0.7, priority=1)
    result = simulate(load(high, low, rate=8, requests=1200))
    assert result.of_kind(0).attainment >= 0.99
    assert result.of_kind(1).attainment >= 0.99
    assert result.of_kind(0).percentile("first_ms", 0.5) < result.of_kind(1).percentile("first_ms", 0.5)


def test_low_priority_is_not_starved_by_a_crowd_of_high_priority() -> None:
    high, low = Kind(PROMPT, ANSWER, share=0.95, priority=9), Kind(PROMPT, ANSWER, share=0.05, priority=0)
    machine = replace(MACHINE, slots=4)
    impatient = SchedulerConfig(ageing_ms=500)
    result = simulate(replace(load(high, low, rate=12, machine=machine), scheduler=impatient))
    latest_high = max(outcome.arrived + outcome.total_ms / 1000 for outcome in result.of_kind(0).outcomes)
    ended = [outcome.arrived + outcome.total_ms / 1000 for outcome in result.of_kind(1).outcomes]
    assert min(ended) < 0.5 * latest_high
    assert sum(moment < latest_high for moment in ended) >= 0.9 * len(ended)


def test_noise_and_stalls_are_learned_from() -> None:
    noisy = replace(MACHINE, noise=0.2, stalls_per_s=0.1, stall_ms=150)
    result = simulate(load(replace(LOOSE, budget=Budget(total_ms=2000)), rate=10, requests=2000, machine=noisy))
    assert result.attainment >= 0.98
    assert 1.0 < result.admission.margin < 3.0


def test_time_adds_up_on_an_exact_machine() -> None:
    machine = Machine(StepCost(10.0, 1.0, 0.0, 0.0))
    quiet = Scenario(machine, Traffic((Kind(Tokens(16), Tokens(4)),), times=(0.0, 5.0)))
    result = simulate(replace(quiet, scheduler=SchedulerConfig(max_burst_steps=1)))
    assert [outcome.first_ms for outcome in result.outcomes] == pytest.approx([26.0, 26.0])
    assert [outcome.total_ms for outcome in result.outcomes] == pytest.approx([59.0, 59.0])
    assert [outcome.tpot_ms for outcome in result.outcomes] == pytest.approx([11.0, 11.0])
    assert result.busy_s == pytest.approx(0.118)
    assert result.duration_s == pytest.approx(5.059)
    assert result.utilisation == pytest.approx(0.118 / 5.059)


def test_bursts_take_the_time_of_their_passes_and_end_when_somebody_comes() -> None:
    machine = Machine(StepCost(0.0, 0.1, 0.0, 0.0))
    traffic = Traffic((Kind(Tokens(1), Tokens(20)),), times=(0.0, 0.00055))
    result = simulate(Scenario(machine, traffic))
    assert result.outcomes[1].first_ms == pytest.approx(0.05 + 0.2)  # joins with the next pass, of two tokens
    assert result.busy_s == pytest.approx(40 * 0.1e-3)
    assert result.engine.steps < result.engine.passes


def test_answers_that_end_early_are_as_long_as_the_seed_says() -> None:
    traffic = Traffic((replace(LOOSE, ends_early=0.5),), 2.0, 200)
    result = simulate(Scenario(MACHINE, traffic))
    expected = [min(arrival.answer, arrival.ends_at) for arrival in traffic.arrivals()]
    assert [outcome.tokens for outcome in result.outcomes] == expected
    assert 0.4 < sum(tokens < 32 for tokens in expected) / 200 < 0.6


def test_preempted_answers_end_where_they_would_have() -> None:
    machine = replace(MACHINE, blocks=24)
    result = simulate(load(Kind(Tokens(30), Tokens(64)), rate=50, requests=40, machine=machine))
    assert result.engine.preemptions > 0
    assert {outcome.tokens for outcome in result.outcomes} == {64}


def test_deadlines_truncate_or_expire_as_asked_and_no_outcome_is_lost() -> None:
    cut = replace(TIGHT, on_deadline=OnDeadline.TRUNCATE)
    counts = simulate(replace(load(cut, TIGHT, rate=12), admission=OPEN)).counts
    assert counts[Ending.TRUNCATED] > 0
    assert counts[Ending.EXPIRED] > 0
    assert sum(counts.values()) == 400


def test_a_full_queue_refuses_and_a_hopeless_budget_is_told_so() -> None:
    hopeless = Kind(PROMPT, ANSWER, Budget(total_ms=100))
    assert simulate(load(hopeless, rate=0.5, requests=20)).counts[Ending.UNREACHABLE] > 0
    short = replace(load(Kind(PROMPT, ANSWER), rate=100), scheduler=SchedulerConfig(max_waiting=4))
    result = simulate(short)
    assert result.counts[Ending.REFUSED] + result.counts[Ending.KEPT] == 400
    assert result.counts[Ending.REFUSED] > 0


def test_capacity_is_the_rate_up_to_which_all_are_kept() -> None:
    scenario = replace(load(LOOSE, rate=1), admission=OPEN)
    capacity = find_capacity(scenario, requests=300, steps=4)
    assert simulate(scenario.at_rate(0.9 * capacity, 300)).kept_share >= 0.99
    assert simulate(scenario.at_rate(1.3 * capacity, 300)).kept_share < 0.99


def test_capacity_nobody_can_have_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at any rate"):
        find_capacity(load(Kind(PROMPT, ANSWER, Budget(total_ms=50)), rate=1), requests=20)


def test_a_request_beyond_the_machine_is_an_error() -> None:
    with pytest.raises(ContextLengthError):
        simulate(load(Kind(Tokens(9000), ANSWER), rate=1, requests=1))


def test_arrivals_scale_with_the_rate_and_stay_the_same_otherwise() -> None:
    slow, fast = (list(Traffic(MIXED, rate, 50, seed=3).arrivals()) for rate in (1.0, 4.0))
    assert [arrival[1:] for arrival in slow] == [arrival[1:] for arrival in fast]
    assert [arrival.at for arrival in slow] == pytest.approx([4 * arrival.at for arrival in fast])
    assert all(a.at <= b.at for a, b in pairwise(slow))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Traffic((), 1.0, 1), "no kind"),
        (lambda: Traffic(MIXED), "when requests come"),
        (lambda: Traffic(MIXED, math.inf, 5), "when requests come"),
        (lambda: Traffic(MIXED, times=(2.0, 1.0)), "in order"),
        (lambda: Traffic(MIXED, times=(math.nan,)), "in order"),
        (lambda: Tokens(0), "median"),
        (lambda: Kind(PROMPT, ANSWER, priority=10), "priority"),
        (lambda: Kind(PROMPT, ANSWER, ends_early=1.5), "share"),
        (lambda: Machine(StepCost(0, 0, 0, 0)), "no time"),
        (lambda: Machine(StepCost(1, 0, 0, 0), noise=-1), "noise"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused_with_the_remedy(make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=said):
        make()


def test_in_a_closed_loop_a_client_asks_when_it_was_answered() -> None:
    machine = Machine(StepCost(1.0, 0.0, 0.0, 0.0))
    traffic = Traffic((Kind(Tokens(1), Tokens(1)),), concurrency=1, requests=5, pause_ms=3.0, lengths=((8, 4),))
    result = simulate(Scenario(machine, traffic))
    assert [outcome.arrived for outcome in result.outcomes] == pytest.approx([0.007 * n for n in range(5)])
    assert {outcome.tokens for outcome in result.outcomes} == {4}


def test_a_closed_loop_never_has_more_under_way_than_clients() -> None:
    machine = Machine(StepCost(1.0, 0.01, 0.1, 0.0))
    traffic = Traffic((Kind(Tokens(1), Tokens(1)),), concurrency=3, requests=40, lengths=((8, 4), (20, 9)))
    outcomes = simulate(Scenario(machine, traffic)).outcomes
    assert len(outcomes) == 40
    for one in outcomes:
        under_way = [o for o in outcomes if o.arrived <= one.arrived < o.arrived + o.total_ms / 1000 - 1e-9]
        assert len(under_way) <= 3


def test_in_a_closed_loop_whoever_is_refused_comes_back_when_told_to() -> None:
    machine = Machine(StepCost(1.0, 0.1, 0.0, 0.0))
    kind = Kind(Tokens(1), Tokens(1), Budget(ttft_ms=40.0))
    traffic = Traffic((kind,), concurrency=12, requests=400, lengths=((100, 8),))
    outcomes = simulate(Scenario(machine, traffic)).outcomes
    refused = [one for one in outcomes if one.ending is Ending.REFUSED]
    assert refused
    for one in refused:
        back = one.arrived + one.retry_after_ms / 1000
        assert any(other.arrived == pytest.approx(back) for other in outcomes) or back >= outcomes[-1].arrived


def test_a_load_is_open_or_closed_and_not_both() -> None:
    with pytest.raises(ConfigError, match="one of"):
        Traffic((Kind(Tokens(1), Tokens(1)),), rate=1.0, requests=5, concurrency=2)


def test_passes_may_take_other_times_than_the_engine_begins_with() -> None:
    machine = Machine(StepCost(1.0, 0.0, 0.0, 0.0), pass_ms=lambda tokens, sequences, context: 2.0 + tokens)
    traffic = Traffic((Kind(Tokens(1), Tokens(1)),), concurrency=1, requests=3, lengths=((10, 3),))
    result = simulate(Scenario(machine, traffic))
    assert result.percentile("first_ms", 0.5) == pytest.approx(12.0)
    assert result.percentile("tpot_ms", 0.5) == pytest.approx(3.0)
