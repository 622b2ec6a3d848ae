"""The engine's own figures for one model, as one line of JSON.

    python benchmarks/engine.py mini
    python benchmarks/engine.py /tmp/15m --quantize int8 --prompt 32 --new-tokens 64 --concurrent 64

`ttft_ms` is from the prompt's tokens to the first new one; `per_token_ms` the median over bursts of their time per
token, the Python side included; `tokens_per_s` all new tokens over the whole time, prompts included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from vivace.batch import Sampling
from vivace.engine.engine import Engine
from vivace.engine.request import Request
from vivace.llm import load_runner
from vivace.models.model import Model, open_model
from vivace.runners.native import QUANTIZE, NativeConfig, NativeRunner


def make_requests(model: Model, count: int, prompt: int, new_tokens: int, attempt: int) -> list[Request]:
    generator = np.random.default_rng(attempt)
    return [
        Request(
            id=f"{attempt}-{i}",
            prompt=tuple(int(token) for token in generator.integers(5, model.config.vocab_size, prompt)),
            max_tokens=new_tokens,
            sampling=Sampling(),
            arrived=time.monotonic(),
        )
        for i in range(count)
    ]


def measure(model: Model, runner: NativeRunner, count: int, prompt: int, new_tokens: int) -> dict[str, float]:
    """The last of three attempts: the first ones touch memory and wake threads."""
    engine = Engine(runner)
    for attempt in range(3):
        start = time.perf_counter()
        for request in make_requests(model, count, prompt, new_tokens, attempt):
            engine.add(request)
        first, last, per_token_ms = 0.0, start, []
        while engine.has_work:
            made = sum(len(update.tokens) for update in engine.step())
            now = time.perf_counter()
            if made and not first:
                first = now
            elif made and count == 1:
                per_token_ms.append((now - last) * 1e3 / made)
            last = now
    figures = {"ttft_ms": (first - start) * 1e3, "tokens_per_s": count * new_tokens / (last - start)}
    if per_token_ms:
        figures["per_token_ms"] = statistics.median(per_token_ms)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mini")
    parser.add_argument("--quantize", choices=QUANTIZE, default="int8")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--concurrent", type=int, default=1)
    arguments = parser.parse_args()
    model = open_model(arguments.model)
    runner = load_runner(model, NativeConfig(quantize=arguments.quantize, threads=arguments.threads))
    figures = measure(model, runner, arguments.concurrent, arguments.prompt, arguments.new_tokens)
    print(
        json.dumps({"engine": f"vivace-{arguments.quantize}", "isa": runner.isa, "threads": runner.threads} | figures)
    )


if __name__ == "__main__":
    main()
