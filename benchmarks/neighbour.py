"""A step's p99 with a foreign busy process on the machine, against alone, in turn.

    python benchmarks/neighbour.py /tmp/15m --rounds 7

The neighbour is one process that computes without pause, free to run on every core this one may use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from vivace.engine.benchmark import Speed, measure_speed
from vivace.llm import load_runner
from vivace.models.model import open_model
from vivace.runners.native import QUANTIZE, NativeConfig, NativeRunner


def measure(runner: NativeRunner, concurrent: int, seed: int, busy: bool) -> Speed:
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        time.sleep(0.2)  # for the neighbour to start, and for caches to settle when there is none
        return measure_speed(runner, concurrent=concurrent, prompt=64, new_tokens=512, runs=1, seed=seed)[0]
    finally:
        if neighbour:
            neighbour.kill()
            neighbour.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quantize", choices=QUANTIZE, default="int8")
    parser.add_argument("--concurrent", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    runner = load_runner(open_model(arguments.model), NativeConfig(quantize=arguments.quantize))
    measure(runner, arguments.concurrent, 0, busy=False)
    pairs = [
        (
            measure(runner, arguments.concurrent, seed, busy=False),
            measure(runner, arguments.concurrent, seed, busy=True),
        )
        for seed in range(1, arguments.rounds + 1)
    ]
    figures = {}
    for name in ("per_token_ms_p50", "per_token_ms_p99"):
        alone, beside = ([getattr(pair[which], name) for pair in pairs] for which in (0, 1))
        figures[f"{name}_alone"], figures[f"{name}_beside"] = statistics.median(alone), statistics.median(beside)
        figures[f"{name}_ratio"] = statistics.median(b / a for a, b in zip(alone, beside, strict=True))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
