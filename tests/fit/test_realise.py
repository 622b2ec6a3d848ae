from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.compress.variants import write_conversations, write_model
from vivace.bench.stats import required_sample
from vivace.compress.distill import Distill
from vivace.errors import ConfigError
from vivace.fit.data import split_data
from vivace.fit.measure import plan_shapes
from vivace.fit.objective import parse_objective
from vivace.fit.realise import HttpRealiser, count_requests, read_realised, summarize_columns
from vivace.fit.space import Candidate, Format, Structure, open_space
from vivace.fit.workload import WorkloadSpec
from vivace.models.model import open_model


@pytest.fixture
def realiser(tmp_path: Path) -> HttpRealiser:
    model = str(write_model(tmp_path / "model", layers=3, context=2048))
    return HttpRealiser(
        models={model: model},
        texts={model: split_data(write_conversations(tmp_path / "talks.jsonl", 400), tmp_path / "texts")},
        workload=WorkloadSpec(input_tokens="24", output_tokens="6", concurrency=2, requests=24, warmup=2),
        directory=tmp_path,
        shapes=plan_shapes(2, 24, (64,)),
        method="mse",
        distil=(Distill(steps=2, batch=1, length=64, every=1),),
        requests=24,
        threads=1,
    )


def candidate_of(realiser: HttpRealiser) -> Candidate:
    [model] = realiser.models
    whole = open_space(model, open_model(model).config, 2).uniform("int8")
    row: tuple[Format, ...] = ("int8", "int4", "int8", "int4")
    return replace(whole, structure=Structure((1,), 0.5), formats=(row, row), distilled=True)


def test_a_candidate_becomes_a_checkpoint_once(realiser: HttpRealiser) -> None:
    candidate = candidate_of(realiser)
    place, recipe = realiser.make(candidate)
    model = open_model(place)
    assert [layer.intermediate_size for layer in model.config.layers] == [128, 128]
    assert recipe.startswith("drop_layers(layers=[1]), prune_width(share=0.5), distill(")
    written = (Path(place) / "config.json").stat().st_mtime_ns
    other = replace(candidate, settings=replace(candidate.settings, threads=1))
    assert realiser.make(other) == (place, recipe)  # how it is served makes no other checkpoint
    assert (Path(place) / "config.json").stat().st_mtime_ns == written


def test_floats_are_served_as_they_are(realiser: HttpRealiser) -> None:
    [model] = realiser.models
    whole = open_space(model, open_model(model).config, 2).uniform("f32")
    assert realiser.make(whole) == (model, "")


@pytest.mark.slow
def test_a_variant_is_measured_in_turn_with_the_baseline(realiser: HttpRealiser) -> None:
    one = realiser.realise(candidate_of(realiser), {}, {})
    assert set(one.values) == set(one.baseline) | {"loss"}
    assert all(0 <= value < math.inf for value in one.values.values())  # a burst's tokens arrive at once
    assert one.values["ttft_p50"] > 0
    assert one.quality is not None
    assert one.quality["documents"] == 120
    assert len(one.step_ms) == len(realiser.shapes)
    assert read_realised(one.as_dict()).candidate == one.candidate
    values, document = realiser.confirm(one, parse_objective("total_p99=100s").budget)
    assert values["total_p50"] > 0
    assert document["requests"]["answered"] == 24


def test_a_request_without_an_answer_is_slower_than_any() -> None:
    columns: dict[str, list[float | None]] = {"ttft": [1.0, None, 3.0, 2.0], "tpot": [0.5, None, None, 0.7]}
    found = summarize_columns(columns, ["", "refused", "", ""], 100)
    assert found.values["ttft_p50"] == 2.0
    assert found.values["ttft_p99"] == math.inf
    assert found.values["tpot_p50"] == 0.7  # an answer of one token has none
    assert found.values["memory"] == 100


def test_as_many_are_asked_as_the_highest_percentile_takes() -> None:
    assert count_requests(parse_objective("tpot_p50=1ms")) == required_sample(0.95)
    assert count_requests(parse_objective("tpot_p50=1ms ttft_p99=1s")) == required_sample(0.99)


def test_a_candidate_that_cannot_be_made_says_so(realiser: HttpRealiser) -> None:
    with pytest.raises(ConfigError):
        realiser.make(replace(candidate_of(realiser), structure=Structure((9,)), distilled=False))
