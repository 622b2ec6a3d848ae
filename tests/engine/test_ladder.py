from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.answers import Answer, gather
from tests.fakes import LIMITS, FakeClock, FakeRunner, make_request, reference_tokens
from vivace.batch import Sampling
from vivace.budget import Budget
from vivace.engine.admission import Admission, AdmissionConfig
from vivace.engine.cost import CostModel, StepCost
from vivace.engine.engine import Engine
from vivace.engine.forecast import StepLimits
from vivace.engine.ladder import Ladder
from vivace.engine.request import FinishReason, Request, Update
from vivace.errors import ConfigError, OverloadedError, RequestError, UnreachableBudgetError

SLOW, FAST = StepCost(10.0, 0.0, 0.0, 0.0), StepCost(1.0, 0.0, 0.0, 0.0)


def make_ladder() -> tuple[Ladder, dict[str, FakeRunner]]:
    clock = FakeClock()
    runners = {name: FakeRunner(clock=clock, pass_ms=ms) for name, ms in (("full", 10.0), ("fast", 1.0))}
    return Ladder({name: Engine(runner, clock=clock) for name, runner in runners.items()}), runners


def drain(ladder: Ladder) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    while ladder.has_work:
        gather(answers, ladder.step())
        ladder.check_integrity()
    return answers


def test_each_request_is_answered_by_its_variant_and_by_the_first_if_it_names_none() -> None:
    ladder, runners = make_ladder()
    ladder.add(make_request("a", (1, 2, 3), 4))
    assert drain(ladder)["a"].tokens == reference_tokens((1, 2, 3), Sampling(), 4)
    assert (runners["full"].launches > 0, runners["fast"].launches) == (True, 0)
    for id in ("b", "c"):
        ladder.add(replace(make_request(id, (4, 5), 4), variant="fast"))
    assert len(drain(ladder)) == 2
    assert runners["fast"].launches > 0


def test_engines_with_work_step_in_turn() -> None:
    ladder, runners = make_ladder()
    ladder.add(make_request("a", (1, 2), 20))
    ladder.add(replace(make_request("b", (3, 4), 20), variant="fast"))
    for _ in range(6):
        ladder.step()
    assert (runners["full"].launches, runners["fast"].launches) == (3, 3)


def test_an_abort_reaches_the_engine_that_has_the_request_and_frees_it() -> None:
    ladder, _ = make_ladder()
    ladder.add(replace(make_request("a", (1, 2), 20), variant="fast"))
    ladder.step()
    assert ladder.abort("a")
    assert not ladder.abort("other")
    assert drain(ladder)["a"].reason is FinishReason.ABORT
    assert ladder.stats().blocks_used == 0


def test_figures_of_all_engines_add_up() -> None:
    ladder, _ = make_ladder()
    ladder.add(make_request("a", (1, 2), 3))
    ladder.add(replace(make_request("b", (3, 4), 4), variant="fast"))
    drain(ladder)
    stats = ladder.stats()
    assert (stats.requests, stats.tokens) == (2, 7)
    assert stats.blocks_free + stats.blocks_cached == 2 * LIMITS.blocks


def test_what_cannot_be_is_refused() -> None:
    ladder, _ = make_ladder()
    with pytest.raises(RequestError, match="there are full, fast"):
        ladder.add(replace(make_request("a"), variant="other"))
    ladder.add(make_request("a"))
    with pytest.raises(RequestError, match="its own id"):
        ladder.add(replace(make_request("a"), variant="fast"))
    with pytest.raises(ConfigError, match="at least one"):
        Ladder({})


def make_admission(pressed: int = 0) -> Admission:
    return Admission(AdmissionConfig(pressed_max_tokens=pressed), StepLimits(50.0, 64), ("full", "fast"))


def ask(id: str, total_ms: float, max_tokens: int = 20, variant: str = "") -> Request:
    return replace(make_request(id, (1, 2), max_tokens, budget=Budget(total_ms=total_ms)), variant=variant)


def test_the_best_variant_that_is_in_time_answers_and_the_reply_says_why() -> None:
    admission, costs = make_admission(), (SLOW, FAST)
    loose = admission.admit(ask("a", 1000), costs, 1000.0)
    assert (loose.variant, loose.degraded) == ("full", "")
    admission.forget("a")
    admission.admit(ask("b", 1000, variant="fast"), costs, 1000.0)
    tight = admission.admit(ask("c", 180), costs, 1000.0)
    assert tight.variant == "fast"
    assert tight.degraded.startswith("full would have been")
    assert admission.stats(1000.0).degraded == 1


def test_a_named_variant_is_the_only_one_tried() -> None:
    admission = make_admission()
    admission.admit(ask("first", 1000), (SLOW, FAST), 1000.0)
    with pytest.raises((OverloadedError, UnreachableBudgetError)):
        admission.admit(ask("a", 100, variant="full"), (SLOW, FAST), 1000.0)


def test_under_pressure_an_answer_is_cut_rather_than_refused() -> None:
    admission, costs = make_admission(pressed=5), (SLOW, FAST)
    admission.admit(ask("first", 1000), costs, 1000.0)
    cut = admission.admit(ask("a", 120, max_tokens=500), costs, 1000.0)
    assert (cut.variant, cut.max_tokens) in (("full", 5), ("fast", 5))
    assert "cut to 5 tokens" in cut.degraded


def test_when_the_pressure_passes_the_first_variant_answers_again() -> None:
    admission, costs = make_admission(), (SLOW, FAST)
    admission.admit(ask("a", 1000, variant="fast"), costs, 1000.0)
    assert admission.admit(ask("b", 270), costs, 1000.0).variant == "fast"
    for id in ("a", "b"):
        admission.observe(Update(id, [1], FinishReason.STOP), 1000.1)
    assert admission.admit(ask("c", 470), costs, 1000.2).variant == "full"


def test_costs_of_all_variants_are_known_to_the_bridge() -> None:
    clock = FakeClock()
    engines = {name: Engine(FakeRunner(clock=clock), clock=clock, cost=CostModel(SLOW)) for name in ("full", "fast")}
    assert len(Ladder(engines).stats().costs) == 2
