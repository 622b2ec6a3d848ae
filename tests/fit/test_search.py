from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.checkpoints import write_llama
from tests.fit.machine import KnownMachine, known_losses
from vivace.fit.measure import plan_builds, plan_shapes
from vivace.fit.objective import LOSS, parse_objective
from vivace.fit.predict import Demand, Predictor, compose
from vivace.fit.search import LADDER, Predicted, Search, choose_next, find_front, make_candidate
from vivace.fit.settings import EngineSettings
from vivace.fit.space import FORMATS, Space, open_space
from vivace.models.config import read_config

SHAPES = plan_shapes(2, 16, (64,))


@pytest.fixture
def space(tmp_path: Path) -> Space:
    directory = write_llama(tmp_path / "m", hidden=64, intermediate=128, layers=2)
    found = open_space("m", read_config(directory), 2)
    return replace(found, widths=(1.0,), ranks=(0.0,), batches=(2, 4), chunks=(64,), threads=(2,))


class CountingPredictor(Predictor):
    """Counts what it is asked."""

    asked = 0

    def predict(self, candidate):  # type: ignore[no-untyped-def]
        type(self).asked += 1
        return super().predict(candidate)


@pytest.fixture
def predictor(space: Space) -> Predictor:
    machine = KnownMachine()
    builds = [(build, machine.time_build(build, SHAPES)) for build in plan_builds(space, 2, 2)]
    composition = compose(space.config, SHAPES, builds)
    CountingPredictor.asked = 0
    return CountingPredictor(space.config, composition, known_losses(space), Demand(((16, 8),), 2), 2)


def plain(model: str, values: Mapping[str, float]) -> Mapping[str, float]:
    return values


def test_more_time_buys_less_loss(space: Space, predictor: Predictor) -> None:
    def lose(share: float) -> float:
        candidate = make_candidate(
            space, predictor, tables="int8", dropped=0, width=1.0, rank=0.0, mlp="int8", time_share=share,
            settings=EngineSettings(),
        )  # fmt: skip
        return predictor.losses.predict(candidate)  # type: ignore[no-any-return]

    losses = [lose(share) for share in LADDER]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def best_by_trying_all(space: Space, predictor: Predictor, limit: float) -> float:
    """The least loss of all that take no longer than the limit."""
    least = float("inf")
    for tables in FORMATS:
        for formats in itertools.product(("int8", "int4"), repeat=8):
            base = space.uniform("int8", tables, EngineSettings(threads=2, max_sequences=2))
            candidate = replace(base, formats=(formats[:4], formats[4:]))  # type: ignore[arg-type]
            if predictor.passes(candidate).step_ms(2, 2, 24) <= limit:
                least = min(least, predictor.losses.predict(candidate))
    return least


@pytest.mark.slow
def test_the_known_optimum_is_found(space: Space, predictor: Predictor, tmp_path: Path) -> None:
    values = predictor.predict(space.uniform("int8", settings=EngineSettings(threads=2)))
    limit = 0.9 * values["tpot_p50"]
    objective = parse_objective(f"tpot_p50={limit}ms")
    found = Search(objective, {"m": space}, {"m": predictor}, tmp_path / "t.db").run(150, lambda: True, plain)
    kept = [one for one in found if not objective.find_missed(one.values)]
    step_limit = max(predictor.passes(one.candidate).step_ms(2, 2, 24) for one in kept)
    best = min(one.values[LOSS] for one in kept)
    assert best <= best_by_trying_all(space, predictor, step_limit) * 1.1 + 1e-4


def test_a_search_goes_on_where_it_was_and_predicts_nothing_twice(
    space: Space, predictor: Predictor, tmp_path: Path
) -> None:
    search = Search(parse_objective("tpot_p50=1ms"), {"m": space}, {"m": predictor}, tmp_path / "t.db")
    first = search.run(12, lambda: True, plain)
    asked = CountingPredictor.asked
    assert asked == len(first)
    again = Search(search.objective, {"m": space}, {"m": predictor}, tmp_path / "t.db")
    assert again.run(12, lambda: True, plain) == first
    assert CountingPredictor.asked == asked
    more = again.run(16, lambda: True, plain)
    assert [one.candidate for one in more][: len(first)] == [one.candidate for one in first]


def test_a_search_ends_when_its_time_is_over(space: Space, predictor: Predictor, tmp_path: Path) -> None:
    turns = iter([True, True, True])
    search = Search(parse_objective("tpot_p50=1ms"), {"m": space}, {"m": predictor}, tmp_path / "t.db")
    search.run(100, lambda: next(turns, False), plain)
    assert CountingPredictor.asked <= 3


def test_the_front_is_what_none_beats_in_both() -> None:
    assert find_front([("a", 1.0, 9.0), ("b", 2.0, 5.0), ("c", 3.0, 7.0), ("d", 4.0, 1.0)]) == ["a", "b", "d"]


def test_nothing_alike_is_realised_twice(space: Space) -> None:
    objective = parse_objective("tpot_p50=5ms")
    int8, int4 = space.uniform("int8"), space.uniform("int4")
    found = [Predicted(int8, {"tpot_p50": 2.0, LOSS: 0.0}), Predicted(int4, {"tpot_p50": 1.0, LOSS: 0.1})]
    first = choose_next(objective, found, plain, [])
    assert first is not None
    assert first.candidate == int8
    second = choose_next(objective, found, plain, [replace(int8, settings=EngineSettings(max_batch_tokens=64))])
    assert second is not None
    assert second.candidate == int4
    assert choose_next(objective, found, plain, [int8, int4]) is None


def test_what_was_measured_decides_what_comes_next(space: Space) -> None:
    objective = parse_objective("tpot_p50=5ms")
    found = [
        Predicted(space.uniform("int8"), {"tpot_p50": 4.0, LOSS: 0.0}),
        Predicted(space.uniform("int4"), {"tpot_p50": 2.0, LOSS: 0.1}),
    ]
    chosen = choose_next(objective, found, lambda model, values: {**values, "tpot_p50": 2 * values["tpot_p50"]}, [])
    assert chosen is not None
    assert chosen.candidate == space.uniform("int4")
