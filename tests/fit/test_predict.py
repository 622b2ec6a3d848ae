from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.checkpoints import write_llama
from tests.fit.machine import KnownMachine, count_bytes, known_losses, pass_ms
from vivace.fit.measure import StepShape, Timing, plan_builds, plan_checks, plan_shapes
from vivace.fit.predict import (
    Composition,
    Correction,
    Demand,
    PassTimes,
    Predictor,
    check_composition,
    compose,
    find_errors,
    find_streams,
    simulate_times,
)
from vivace.fit.settings import EngineSettings
from vivace.fit.space import Format, Space, open_space
from vivace.models.config import read_config

SHAPES = plan_shapes(4, 32, (256,))


@pytest.fixture
def space(tmp_path: Path) -> Space:
    directory = write_llama(tmp_path / "m", hidden=64, intermediate=128, layers=4)
    return open_space("m", read_config(directory), 4)


@pytest.fixture
def composition(space: Space) -> Composition:
    machine = KnownMachine()
    builds = [(build, machine.time_build(build, SHAPES)) for build in plan_builds(space, 2, 4)]
    threads = {1: machine.time_build(replace(builds[0][0], threads=1), SHAPES).ms}
    return compose(space.config, SHAPES, builds, threads)


@pytest.fixture
def predictor(space: Space, composition: Composition) -> Predictor:
    demand = Demand(((32, 16), (20, 30)), concurrency=4)
    return Predictor(space.config, composition, known_losses(space), demand, all_threads=2)


def test_what_was_not_timed_follows_from_what_was(space: Space, composition: Composition) -> None:
    machine = KnownMachine()
    checks = [(build, machine.time_build(build, SHAPES)) for build in plan_checks(space, 2, 4)]
    assert max(map(abs, check_composition(composition, space.config, checks))) < 0.01


def test_no_more_is_saved_than_there_is(space: Space) -> None:
    """The first build met a busy moment: each of the others looks as if it saved what that took."""
    machine = KnownMachine()
    builds = [(build, machine.time_build(build, SHAPES)) for build in plan_builds(space, 2, 4)]
    slow = replace(builds[0][1], ms=tuple(1.3 * ms for ms in builds[0][1].ms))
    composition = compose(space.config, SHAPES, [(builds[0][0], slow), *builds[1:]])
    checks = [(build, machine.time_build(build, SHAPES)) for build in plan_checks(space, 2, 4)]
    assert min(check_composition(composition, space.config, checks)) > -0.5


def test_a_mixed_candidate_takes_what_its_parts_take(predictor: Predictor, space: Space) -> None:
    rows: list[tuple[Format, ...]] = [("int8", "int4", "int8", "int4"), ("int4",) * 4, ("int8",) * 4, ("int8",) * 4]
    candidate = replace(space.uniform("int8", settings=EngineSettings(threads=2)), formats=tuple(rows))
    expected = [pass_ms(rows, "int8", shape) for shape in SHAPES]
    assert predictor.passes(candidate).ms == pytest.approx(expected, rel=0.01)
    assert predictor.bytes(candidate)[0] == pytest.approx(count_bytes(rows, "int8"), rel=0.01)


def test_fewer_threads_take_as_much_longer_as_they_did(predictor: Predictor, space: Space) -> None:
    one, two = (predictor.passes(space.uniform("int8", settings=EngineSettings(threads=n))).ms for n in (1, 2))
    assert one == pytest.approx([2 * ms for ms in two])


def linear(base: float, token: float, sequence: float, context: float) -> PassTimes:
    def ms(shape: StepShape) -> float:
        earlier = shape.sequences * shape.tokens * (shape.context + shape.tokens // 2)
        return base + token * shape.all_tokens + sequence * shape.sequences + context * earlier

    return PassTimes(SHAPES, tuple(map(ms, SHAPES)))


def test_steps_between_those_timed_are_interpolated() -> None:
    passes = linear(1.0, 0.1, 0.05, 0.001)
    assert passes.context_ms == pytest.approx(0.001)
    assert passes.step_ms(3, 3, 300) == pytest.approx(1 + 0.3 + 0.15 + 0.3, rel=0.05)
    assert passes.step_ms(40, 1, 800) == pytest.approx(1 + 4 + 0.05 + 0.8, rel=0.05)
    assert passes.step_ms(2000, 1, 0) > passes.step_ms(1000, 1, 0)


def test_the_engine_begins_with_a_line_near_to_the_times() -> None:
    passes = linear(1.0, 0.1, 0.05, 0.0)
    assert passes.linear.step_ms(4, 4, 48) == pytest.approx(passes.step_ms(4, 4, 48), rel=0.1)


def test_one_client_alone_waits_for_its_own_steps_only() -> None:
    passes = linear(2.0, 0.0, 0.0, 0.0)
    values = simulate_times(Demand(((32, 11),), concurrency=1), passes, EngineSettings(), 1024)
    assert values["ttft_p50"] == pytest.approx(2.0, rel=0.02)
    assert values["tpot_p99"] == pytest.approx(2.0, rel=0.02)
    assert values["total_p50"] == pytest.approx(22.0, rel=0.02)


def test_more_clients_wait_longer_and_a_batch_limit_makes_them_queue() -> None:
    passes = linear(1.0, 0.1, 0.1, 0.0)
    few = simulate_times(Demand(((32, 16),), concurrency=2), passes, EngineSettings(), 1024)
    many = simulate_times(Demand(((32, 16),), concurrency=16), passes, EngineSettings(), 1024)
    limited = simulate_times(Demand(((32, 16),), concurrency=16), passes, EngineSettings(max_sequences=2), 1024)
    assert few["tpot_p50"] < many["tpot_p50"]
    assert limited["tpot_p50"] < many["tpot_p50"]
    assert limited["ttft_p50"] > many["ttft_p50"]


def test_lookup_makes_tokens_and_not_prompts_faster(predictor: Predictor, space: Space) -> None:
    faster = replace(predictor, lookup_gain=2.0)
    plain = faster.passes(space.uniform("int8"))
    lookup = faster.passes(space.uniform("int8", settings=EngineSettings(speculate="lookup")))
    assert lookup.step_ms(4, 4, 0) == pytest.approx(plain.step_ms(4, 4, 0) / 2)
    assert lookup.step_ms(40, 1, 0) == plain.step_ms(40, 1, 0)


def test_what_was_measured_corrects_what_is_expected() -> None:
    correction = Correction()
    assert correction.apply({"tpot_p50": 2.0}) == {"tpot_p50": 2.0}
    correction.learn({"tpot_p50": 2.0, "loss": 0.1}, {"tpot_p50": 3.0})
    assert correction.apply({"tpot_p50": 4.0, "loss": 0.1}) == pytest.approx({"tpot_p50": 6.0, "loss": 0.1})
    correction.learn({"tpot_p50": 2.0}, {"tpot_p50": 2.0})
    assert 1.0 < correction.factor("tpot_p50") < 1.5**0.5


def test_what_had_no_answer_teaches_nothing() -> None:
    correction = Correction()
    correction.learn({"ttft_p99": 2.0}, {"ttft_p99": float("inf")})
    assert correction.factor("ttft_p99") == 1.0


def test_a_rate_keeps_as_many_streams_busy_as_it_takes() -> None:
    assert find_streams(Demand(((8, 50),), rate=20.0), 10.0) == 10
    assert find_streams(Demand(((8, 50),), concurrency=3), 10.0) == 3


def test_errors_are_shares_of_what_was_measured() -> None:
    assert find_errors({"tpot_p50": 2.2, "loss": 1.0}, {"tpot_p50": 2.0, "loss": 2.0}) == pytest.approx(
        {"tpot_p50": 0.1}
    )


def test_a_timing_of_nothing_is_not_divided_by(space: Space) -> None:
    builds = [(build, Timing((0.0,) * len(SHAPES), 1, 1)) for build in plan_builds(space, 1, 4)]
    assert min(compose(space.config, SHAPES, builds).step_ms({("layer",): 4.0}, 1)) > 0
