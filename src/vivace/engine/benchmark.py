"""Times the engine on random prompts, through the same steps that serve requests, bursts included.

Knows no model: limits such as bandwidth are for the caller to set beside the figures.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from vivace.batch import Runner, Sampling
from vivace.engine.engine import Engine
from vivace.engine.request import Request


@dataclass(frozen=True, slots=True)
class Speed:
    """One run of some equal requests, all added at once."""

    ttft_ms: float
    """To the first token of any of them."""
    per_token_ms_p50: float
    """Of the steps after it: time over passes, so the time between a sequence's tokens."""
    per_token_ms_p99: float
    tokens_per_s: float
    """All new tokens over the whole time, prompts included."""


def measure_speed(
    runner: Runner, *, concurrent: int, prompt: int, new_tokens: int, runs: int = 3, seed: int = 0
) -> list[Speed]:
    """Each run has prompts of its own, so none finds another's prefix. The first run also warms caches and threads."""
    generator = random.Random(seed)
    engine = Engine(runner)
    return [_run(engine, runner, f"{i}", concurrent, prompt, new_tokens, generator) for i in range(runs)]


def _run(
    engine: Engine, runner: Runner, name: str, concurrent: int, prompt: int, new_tokens: int, generator: random.Random
) -> Speed:
    vocab = range(runner.limits.vocab_size)
    requests = [
        Request(f"{name}-{i}", tuple(generator.choices(vocab, k=prompt)), new_tokens, Sampling(), time.monotonic())
        for i in range(concurrent)
    ]
    start = time.perf_counter()
    for request in requests:
        engine.add(request)
    first, last, gaps_ms = 0.0, start, list[float]()
    while engine.has_work:
        passes = engine.stats().passes
        made = sum(len(update.tokens) for update in engine.step())
        now = time.perf_counter()
        if made and first:
            gaps_ms.append((now - last) * 1e3 / (engine.stats().passes - passes))
        elif made:
            first = now
        last = now
    gaps_ms.sort()
    return Speed(
        ttft_ms=(first - start) * 1e3,
        per_token_ms_p50=_quantile(gaps_ms, 0.5),
        per_token_ms_p99=_quantile(gaps_ms, 0.99),
        tokens_per_s=concurrent * new_tokens / (last - start),
    )


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
