"""`vivace bench engine` sets figures beside limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import write_llama
from vivace.llm import load_runner
from vivace.models.model import open_model
from vivace.runners.native import NativeConfig
from vivace.speed import limit_cache, measure_engine


def test_shares_are_figures_over_limits(tmp_path: Path) -> None:
    model = open_model(str(write_llama(tmp_path / "tiny")))
    runner = load_runner(model, NativeConfig(quantize="int4"))
    report = measure_engine(model, runner, "int4", concurrent=2, prompt=30, new_tokens=10, runs=1)
    cache_bytes = 2 * runner.kv_bytes_per_token * 35
    assert report["bytes_per_step"] == runner.weight_bytes + cache_bytes
    read_ms = report["bytes_per_step"] / report["bandwidth_gb_per_s"] / 1e6
    assert report["bandwidth_share"] == pytest.approx(read_ms / report["per_token_ms_p50"])
    assert report["ops_share"] == pytest.approx(report["ops_per_s"] / report["best_tile_ops_per_s"])
    layers = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 112 * 64)
    operations = 2 * 2 * (30 * layers + 320 * 64)
    assert report["ops_per_s"] == pytest.approx(operations / (report["ttft_ms"] / 1e3))


def test_no_rate_is_given_for_prompts_that_take_more_than_one_step(tmp_path: Path) -> None:
    model = open_model(str(write_llama(tmp_path / "tiny")))
    runner = load_runner(model, NativeConfig(max_sequences=4, max_batch_tokens=50))
    report = measure_engine(model, runner, "int8", concurrent=3, prompt=30, new_tokens=4, runs=1)
    assert report["ops_per_s"] is None
    assert report["ops_share"] is None


def test_the_cache_holds_what_is_at_once_under_way_and_no_more_than_was_asked_for(tmp_path: Path) -> None:
    model = open_model(str(write_llama(tmp_path / "tiny")))
    runner = load_runner(model, limit_cache(model, NativeConfig(), 40, 100))
    assert runner.limits.blocks == 40 * 7
    asked = NativeConfig(kv_memory_bytes=1000)
    assert limit_cache(model, asked, 40, 100) == asked
