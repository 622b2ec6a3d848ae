"""Tokens a second against sequences at once, 1 to 1000, as a table and a plot in text.

python benchmarks/crowd.py /tmp/15m
"""

from __future__ import annotations

import argparse
import statistics

from vivace.engine.benchmark import measure_speed
from vivace.llm import load_runner
from vivace.models.model import open_model
from vivace.runners.native import QUANTIZE, NativeConfig
from vivace.speed import limit_cache

CROWDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
WIDTH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quantize", choices=QUANTIZE, default="int8")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    model = open_model(arguments.model)
    rates: dict[int, list[float]] = {crowd: [] for crowd in CROWDS}
    for seed in range(arguments.rounds):
        for crowd in CROWDS:
            config = limit_cache(model, NativeConfig(quantize=arguments.quantize), crowd, 32 + 64)
            runner = load_runner(model, config)
            measured = measure_speed(runner, concurrent=crowd, prompt=32, new_tokens=64, runs=2, seed=seed)
            runner.close()
            rates[crowd].append(measured[-1].tokens_per_s)
    medians = {crowd: statistics.median(values) for crowd, values in rates.items()}
    best = max(medians.values())
    for crowd, rate in medians.items():
        print(f"{crowd:5} {rate:8.0f} tokens/s {'#' * round(WIDTH * rate / best)}")


if __name__ == "__main__":
    main()
