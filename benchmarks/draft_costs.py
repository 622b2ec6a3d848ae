"""From which acceptance on a draft pays: what a step with it costs, and what one without.

    python benchmarks/draft_costs.py mini --draft mini-draft [--quantize int8] [--context 128]

For one sequence, in milliseconds, medians in turn: a pass of the model in a burst, the draft running k tokens ahead,
and the model verifying these. A step with k proposed tokens gives 1 + a + ... + a^k tokens where each is right with
probability a if those before it are; printed is the a from which that is faster, and how much it is at 0.8. Weights may
be random: no token's value changes what it costs.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from itertools import pairwise

from vivace.batch import BLOCK_SIZE, Batch, Row, Runner, Sampling, Want
from vivace.engine.draft import DraftProposer
from vivace.engine.proposer import Ask
from vivace.engine.speculation import MAX_DRAFTED
from vivace.llm import load_draft, load_runner, open_draft
from vivace.models.model import open_model
from vivace.runners.native import QUANTIZE, NativeConfig

BURST = 8
DEPTHS = (1, 2, 3, 5, MAX_DRAFTED)


def run(runner: Runner, row: Row, passes: int = 1) -> None:
    runner.collect(runner.launch(Batch([row], passes, math.inf)))


def time_turn(runner: Runner, draft: DraftProposer, tokens: list[int], k: int, turn: int) -> dict[str, float]:
    """Milliseconds of each once."""
    context = len(tokens)
    instants = [time.perf_counter()]
    run(runner, Row(0, context, (), (), Want.SAMPLE, BURST), BURST)
    instants.append(time.perf_counter())
    draft.propose([Ask("a", [*tokens, turn % 256, k], k)])
    instants.append(time.perf_counter())
    run(runner, Row(0, context, tokens[: k + 1], (), Want.VERIFY))
    instants.append(time.perf_counter())
    burst, drafted, verified = (1e3 * (end - begin) for begin, end in pairwise(instants))
    return {"pass": burst / BURST, "draft": drafted, "verify": verified}


def measure(runner: Runner, draft: DraftProposer, context: int, rounds: int) -> dict[str, dict[int, float]]:
    """Medians in milliseconds, by what and k."""
    tokens = random.Random(0).choices(range(256), k=context)
    blocks = range(-(-(context + BURST + MAX_DRAFTED) // BLOCK_SIZE))
    run(runner, Row(0, 0, tokens, blocks, Want.SAMPLE, opens=Sampling()))
    times: dict[str, dict[int, list[float]]] = {name: {k: [] for k in DEPTHS} for name in ("pass", "draft", "verify")}
    for turn in range(rounds + 1):
        for k in DEPTHS:
            for name, ms in time_turn(runner, draft, tokens, k, turn).items():
                times[name][k].append(ms)
    return {
        name: {k: statistics.median(found[1:]) for k, found in by_depth.items()} for name, by_depth in times.items()
    }


def expected_tokens(acceptance: float, k: int) -> float:
    return sum(acceptance**place for place in range(k + 1))


def find_break_even(tokens: float, k: int) -> float | None:
    """The acceptance at which a step gives so many tokens; None if it never does."""
    if tokens > k + 1:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_tokens(middle, k) < tokens else (low, middle)
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--draft", required=True)
    parser.add_argument("--quantize", choices=QUANTIZE, default="int8")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    model = open_model(arguments.model)
    config = NativeConfig(quantize=arguments.quantize, max_sequences=8)
    runner = load_runner(model, config)
    draft = DraftProposer(load_draft(open_draft(arguments.draft, model), config, runner.limits))
    times = measure(runner, draft, arguments.context, arguments.rounds)
    plain = statistics.median(times["pass"].values())
    print(json.dumps({"pass_ms": round(plain, 4)}))
    for k in DEPTHS:
        step = times["draft"][k] + times["verify"][k]
        pays_from = find_break_even(step / plain, k)
        print(
            json.dumps(
                {
                    "k": k,
                    "draft_ms": round(times["draft"][k], 4),
                    "verify_ms": round(times["verify"][k], 4),
                    "pays_from": None if pays_from is None else round(pays_from, 3),
                    "faster_at_0.8": round(expected_tokens(0.8, k) * plain / step, 3),
                }
            )
        )


if __name__ == "__main__":
    main()
