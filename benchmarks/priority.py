"""A stream of high priority beside as much low-priority work as the server can do.

    python -m benchmarks.priority MODEL --budget "ttft=200ms,tpot=25ms" --low 16

Low priority asks for `--low` answers at once, without a budget: first alone, then while high priority asks for one
after the other, each with the budget. Prints as JSON what share of the high-priority answers kept their budget, their
times at p50 and p99, and the low-priority tokens a second alone and beside them.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.overload import quantile, serving
from vivace.budget import Budget, parse_budget

PORT = 21884
TOKENS = 32


def bench(options: list[str], seconds: float, body: dict[str, Any], file: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vivace", "bench", "http", f"http://127.0.0.1:{PORT}/v1", "--completions"]
    command += ["--input-tokens", "64", "--salt", "--temperature", "1", "--duration", f"{seconds}s", "--quiet"]
    command += ["--no-calibrate", "--processes", "1", "--extra", json.dumps({"ignore_eos": True} | body)]
    return subprocess.Popen([*command, *options, "--json", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def read(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(file).read_text())
    return found


def ask_in_turn(model: str, budget: Budget, seconds: float) -> list[dict[str, float]]:
    """One streamed answer after the other at the highest priority: times of each, or its refusal."""
    body = {"model": model, "max_tokens": TOKENS, "stream": True, "priority": 9, "ignore_eos": True, "temperature": 1}
    body["budget"] = budget.as_dict()
    generator, found = random.Random(0), []
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}/v1", timeout=60) as client:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            prompt = generator.choices(range(256), k=64)
            began = time.perf_counter()
            with client.stream("POST", "/completions", json=body | {"prompt": prompt}) as reply:
                moments = [time.perf_counter() for _ in reply.iter_raw()]
            if reply.status_code != 200:
                found.append({"refused": 1.0})
                time.sleep(0.05)
                continue
            first, last = moments[0], moments[-1]
            found.append({"ttft_ms": 1e3 * (first - began), "tpot_ms": 1e3 * (last - first) / (TOKENS - 1)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--budget", default="ttft=200ms,tpot=25ms")
    parser.add_argument("--low", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    budget = parse_budget(arguments.budget)
    low = ["--concurrency", str(arguments.low), "--output-tokens", str(TOKENS)]
    command = [sys.executable, "-m", "vivace", "serve", arguments.model, "--port", str(PORT)]
    with tempfile.TemporaryDirectory() as directory, serving(command, PORT):
        alone, beside = f"{directory}/alone.json", f"{directory}/beside.json"
        bench(low, arguments.seconds, {"priority": 0}, alone).wait()
        running = bench(low, arguments.seconds + 6, {"priority": 0}, beside)
        time.sleep(4)
        high = ask_in_turn(Path(arguments.model).name, budget, arguments.seconds)
        running.wait()
        documents = {"alone": read(alone), "beside": read(beside)}
    answered = [one for one in high if "refused" not in one]
    kept = [one for one in answered if one["ttft_ms"] <= budget.ttft_ms and one["tpot_ms"] <= budget.tpot_ms]
    times = {name: sorted(one[name] for one in answered) for name in ("ttft_ms", "tpot_ms")}
    rates = {
        name: sum(filter(None, document["raw"]["tokens"])) / document["window_s"]
        for name, document in documents.items()
    }
    print(
        json.dumps(
            {
                "model": arguments.model,
                "budget": budget.as_dict(),
                "high_requests": len(high),
                "high_refused": len(high) - len(answered),
                "high_kept": len(kept),
                "high": {name: [quantile(values, 0.5), quantile(values, 0.99)] for name, values in times.items()},
                "low_tokens_per_s_alone": round(rates["alone"], 1),
                "low_tokens_per_s_beside": round(rates["beside"], 1),
                "low_share": round(rates["beside"] / rates["alone"], 3),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
