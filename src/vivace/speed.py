"""The engine's speed on one model, beside this machine's limits measured in the same run."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

from vivace.batch import BLOCK_SIZE
from vivace.engine.benchmark import measure_speed
from vivace.info import MAX_MEASURED_BYTES
from vivace.models.config import ModelConfig
from vivace.models.model import Model
from vivace.native import measure_multiply_rate, measure_read_bandwidth
from vivace.runners.native import NativeConfig, NativeRunner, count_kv_bytes


def limit_cache(model: Model, config: NativeConfig, concurrent: int, tokens: int) -> NativeConfig:
    """With a cache no larger than `concurrent` sequences of `tokens` need.

    A server that has run for a while has written every page of its cache; here the run that warms up does it. With room
    to spare, each run would be timed while the system hands out fresh pages, because finished sequences stay cached.
    """
    blocks = concurrent * -(-tokens // BLOCK_SIZE)
    needed = blocks * BLOCK_SIZE * count_kv_bytes(model.config, config.quantize)
    return replace(config, kv_memory_bytes=min(config.kv_memory_bytes, needed))


def measure_engine(
    model: Model, runner: NativeRunner, quantize: str, concurrent: int, prompt: int, new_tokens: int, runs: int
) -> dict[str, Any]:
    """Figures ready for JSON: the median of `runs` runs after one more to warm up.

    `bytes_per_step` is what one decoding pass must read: every weight but an embedding that is not the head, and the
    KV cache half-way through the answer. `bandwidth_share` is the time to read that at the bandwidth measured here,
    over the time it took. `ops_per_s`
    counts the multiplications and additions of the layers' matrices for the prompts, and those of the head for their
    last tokens, over the time to the first token; it and its share are None where the prompts take more than one step.
    """
    measured = measure_speed(runner, concurrent=concurrent, prompt=prompt, new_tokens=new_tokens, runs=runs + 1)[1:]
    ttft_ms, p50, p99, tokens_per_s = (
        statistics.median(getattr(speed, name) for speed in measured)
        for name in ("ttft_ms", "per_token_ms_p50", "per_token_ms_p99", "tokens_per_s")
    )
    bandwidth = measure_read_bandwidth(min(runner.weight_bytes, MAX_MEASURED_BYTES), runner.threads, 5)
    step_bytes = runner.step_bytes + concurrent * runner.kv_bytes_per_token * (prompt + new_tokens // 2)
    best_rate = measure_multiply_rate(quantize, runner.isa, runner.threads, 5)
    one_step = concurrent * prompt <= runner.limits.max_batch_tokens
    rate = concurrent * count_prompt_operations(model.config, prompt) / (ttft_ms / 1e3) if one_step else None
    return {
        "engine": f"vivace-{quantize}",
        "isa": runner.isa,
        "threads": runner.threads,
        "concurrent": concurrent,
        "prompt": prompt,
        "new_tokens": new_tokens,
        "ttft_ms": ttft_ms,
        "per_token_ms": p50,
        "per_token_ms_p50": p50,
        "per_token_ms_p99": p99,
        "tokens_per_s": tokens_per_s,
        "bytes_per_step": step_bytes,
        "bandwidth_gb_per_s": bandwidth,
        "bandwidth_share": step_bytes / bandwidth / 1e6 / p50,
        "ops_per_s": rate,
        "best_tile_ops_per_s": best_rate,
        "ops_share": None if rate is None else rate / best_rate,
    }


def count_prompt_operations(
    config: ModelConfig, prompt: float, *, layers: int | None = None, width: float = 1
) -> float:
    """Multiplications and additions of the layers' matrices for a prompt, and of the head for its last token; of a
    model with so many of the layers, and that share of its MLPs' width."""
    attention = config.hidden_size * config.head_dim * 2 * (config.heads + config.kv_heads)
    inner = (3 if config.gated else 2) * config.hidden_size * width
    all_layers = sum(attention + inner * layer.intermediate_size for layer in config.layers[:layers])
    return 2.0 * (prompt * all_layers + config.hidden_size * config.vocab_size)
