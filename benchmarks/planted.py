"""What the bench makes of servers with a planted fault; prints what was planted beside what was found.

python benchmarks/planted.py stall            a stall of 1.4 s in 15 s: corrected p99 and naive p99
python benchmarks/planted.py slow --runs 10   5% slower, and equal servers, by compare --vs
python benchmarks/planted.py files --runs 10  the same, by comparing two files
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vivace.bench.calibrate import null_server
from vivace.bench.compare import columns_of, compare, plan_in_turn
from vivace.bench.experiment import Experiment, measure_client, run
from vivace.bench.processes import run_plans
from vivace.bench.schedule import Load
from vivace.bench.workload import Lengths, Workload

WORKLOAD = Workload(model="null", input_tokens=Lengths("fixed", 32), output_tokens=Lengths("fixed", 8))
DELAYS = ("--ttft-ms", "20", "--tpot-ms", "2", "--jitter", "0.02")
SMALLEST = 0.01


def find_stall(_: int) -> None:
    """Without a limit on connections, and with four, as many benchmarks have."""
    for connections in (0, 4):
        with null_server("--ttft-ms", "20", "--tpot-ms", "2", "--stall-at-s", "6", "--stall-ms", "1400") as url:
            experiment = Experiment(url, WORKLOAD, Load(rate=60, duration_s=15, connections=connections))
            document = run(experiment, measure_client(experiment))[0]
        row = {name: document[name]["p99"] for name in ("ttft_ms", "service_ttft_ms", "naive_ttft_ms")}
        print(f"connections {connections or 'any'}: p99 {row}, n {document['ttft_ms']['n']}", flush=True)


def compare_in_turn(url: str, other: str, seed: int) -> dict[str, Any]:
    workload, load = replace_seed(seed), Load(concurrency=4, requests=300)
    measured = run_plans([plan_in_turn(Experiment(url, workload, load, seed=seed), other, "null", 20)])
    sides = [columns_of([one for one in measured.observations if one.target == target]) for target in (0, 1)]
    return compare(sides[0], sides[1], SMALLEST, seed, blocks=True)


def compare_files(url: str, other: str, seed: int) -> dict[str, Any]:
    experiment = Experiment(url, replace_seed(seed), Load(concurrency=4, requests=300), seed=seed)
    raws = [run(replace(experiment, url=each), None)[0]["raw"] for each in (url, other)]
    return compare(raws[0], raws[1], SMALLEST, seed)


def replace_seed(seed: int) -> Workload:
    return Workload(model="null", input_tokens=WORKLOAD.input_tokens, output_tokens=WORKLOAD.output_tokens, seed=seed)


def find_slow_down(runs: int, how: Any) -> None:
    with null_server(*DELAYS) as a, null_server(*DELAYS) as same, null_server(*DELAYS, "--slow-down", "1.05") as slow:
        for name, other in (("equal", same), ("5% slower", slow)):
            verdicts: Counter[str] = Counter()
            for seed in range(runs):
                found = how(a, other, seed)
                verdicts[found["verdict"]] += 1
                ratios = {key: round(metric["ratio"], 4) for key, metric in found["metrics"].items()}
                print(f"{name}, run {seed}: {found['verdict']}, {ratios}", flush=True)
            print(f"{name}: {dict(verdicts)}", flush=True)


KINDS: dict[str, Callable[[int], None]] = {
    "stall": find_stall,
    "slow": lambda runs: find_slow_down(runs, compare_in_turn),
    "files": lambda runs: find_slow_down(runs, compare_files),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    KINDS[arguments.kind](arguments.runs)


if __name__ == "__main__":
    main()
