"""What Python costs a token at batch 1: the same tokens from the core's own loop, from the engine, and from `LLM`.

    python benchmarks/python_cost.py /tmp/15m --rounds 7

The core's loop is one call that makes every token after the first. The three are taken in turn, round by round; printed
are the medians, ms a token, and the median of each round's ratio to the core's loop.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

from vivace.batch import BLOCK_SIZE, Batch, Row, Sampling, Want
from vivace.engine.benchmark import measure_speed
from vivace.llm import LLM, load_runner
from vivace.models.model import open_model
from vivace.runners.native import QUANTIZE, NativeConfig, NativeRunner
from vivace.sampling import SamplingParams


def time_core(runner: NativeRunner, prompt: list[int], new_tokens: int) -> float:
    """Seconds a token of one burst that nothing interrupts."""
    blocks = range(-(-(len(prompt) + new_tokens) // BLOCK_SIZE))
    first = Row(0, 0, prompt, blocks, Want.SAMPLE, opens=Sampling())
    runner.collect(runner.launch(Batch([first])))
    rest = Row(0, len(prompt), want=Want.SAMPLE, limit=new_tokens)
    start = time.perf_counter()
    made = runner.collect(runner.launch(Batch([rest], max_steps=new_tokens, burst_ms=1e9)))
    return (time.perf_counter() - start) / len(made.tokens[0])


def time_llm(llm: LLM, prompt: str, new_tokens: int) -> float:
    """Seconds a token of an answer, its first token left out."""
    params = SamplingParams(max_tokens=new_tokens, ignore_eos=True)
    before = llm.generate(prompt, SamplingParams(max_tokens=1, ignore_eos=True)).timing
    done = llm.generate(prompt, params)
    return (done.timing.decode_ms - before.decode_ms) / 1e3 / (len(done.token_ids) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--quantize", choices=QUANTIZE, default="int8")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    model = open_model(arguments.model)
    runner = load_runner(model, NativeConfig(quantize=arguments.quantize))
    llm = LLM(model, load_runner(model, NativeConfig(quantize=arguments.quantize)))
    generator = random.Random(0)
    rounds = []
    for seed in range(arguments.rounds + 1):  # the first warms up
        prompt = generator.choices(range(256), k=64)
        core_s = time_core(runner, prompt, arguments.new_tokens)
        engine = measure_speed(runner, concurrent=1, prompt=64, new_tokens=arguments.new_tokens, runs=1, seed=seed)[0]
        text = "".join(generator.choices("abcdefgh ", k=64))
        rounds.append((core_s * 1e3, engine.per_token_ms_p50, time_llm(llm, text, arguments.new_tokens) * 1e3))
    core, engine_ms, llm_ms = zip(*rounds[1:], strict=True)
    figures = {"core_ms": statistics.median(core)}
    for name, times in (("engine", engine_ms), ("llm", llm_ms)):
        figures[f"{name}_ms"] = statistics.median(times)
        figures[f"{name}_ratio"] = statistics.median(a / b for a, b in zip(times, core, strict=True))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
