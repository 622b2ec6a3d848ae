from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vivace.fit.floor import Floor, explain, find_floor
from vivace.fit.measure import Limits
from vivace.fit.objective import parse_objective
from vivace.fit.predict import Demand
from vivace.models.config import read_config
from vivace.speed import count_prompt_operations

LIMITS = Limits("none", 2, read_gb_per_s=10.0, read_bytes=1, multiply_gops={"int8": 100.0})


def floor_of(directory: Path, limits: Limits = LIMITS) -> Floor:
    config = read_config(directory)
    demand = Demand(((32, 16),), concurrency=4)
    return find_floor(config, 2, 1.0, 1_000_000, 1000, demand, 4, limits, "int8")


def test_a_token_waits_for_all_bytes_to_be_read(llama_directory: Path) -> None:
    floor = floor_of(llama_directory)
    assert floor.step_bytes == 1_000_000 + 4 * 1000 * 40
    assert floor.tpot_ms == floor.read_ms == pytest.approx(0.116)
    assert floor.bound == "bandwidth"


def test_or_for_all_to_be_multiplied(llama_directory: Path) -> None:
    slow = floor_of(llama_directory, replace(LIMITS, multiply_gops={"int8": 0.1}))
    assert slow.bound == "arithmetic"
    assert slow.tpot_ms == slow.multiply_ms > slow.read_ms


def test_a_prompt_multiplies_each_weight_with_each_token(llama_directory: Path) -> None:
    config = read_config(llama_directory)
    head = 2 * config.hidden_size * config.vocab_size
    one, many = (count_prompt_operations(config, tokens, layers=2) - head for tokens in (1, 10))
    assert many == pytest.approx(10 * one)
    assert one == 2 * 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 112)


def test_what_is_kept_needs_no_reason(llama_directory: Path) -> None:
    assert explain(parse_objective("tpot_p50=1ms"), {"tpot_p50": 0.5}, floor_of(llama_directory), 1000) is None


def test_a_limit_below_the_floor_is_said_to_be_impossible(llama_directory: Path) -> None:
    objective = parse_objective("tpot_p50=0.01ms loss=1%")
    found = explain(objective, {"tpot_p50": 0.2, "loss": 0.5}, floor_of(llama_directory), 1000)
    assert found is not None
    assert found.binding.name == "tpot_p50"
    assert found.impossible
    assert "no search can keep it" in str(found)
    assert "loss=1%" in str(found)


def test_a_limit_above_the_floor_that_is_missed_is_not(llama_directory: Path) -> None:
    found = explain(parse_objective("tpot_p50=0.15ms"), {"tpot_p50": 0.2}, floor_of(llama_directory), 1000)
    assert found is not None
    assert not found.impossible
    assert "reaches 0.2ms; the floor of the smallest is 0.116ms" in str(found)


def test_memory_has_a_floor_too(llama_directory: Path) -> None:
    found = explain(parse_objective("memory=1KB"), {"memory": 5000.0}, floor_of(llama_directory), 2000)
    assert found is not None
    assert found.impossible
