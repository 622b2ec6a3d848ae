"""A stream of high priority beside as much low-priority work as the server can do.

    python -m benchmarks.priority MODEL --budget "ttft=200ms,tpot=25ms" --low 16

Low priority asks for `--low` answers at once, without a budget: first alone, then while high priority asks for one
after the other, each with the budget. Prints as JSON what share of the high-priority answers kept their budget, their
times at p50 and p99, and the low-priority tokens a second alone and beside them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.overload import quantile, serving

PORT = 21884


def bench(options: list[str], seconds: float, body: dict[str, Any], file: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vivace", "bench", "http", f"http://127.0.0.1:{PORT}/v1", "--completions"]
    command += ["--input-tokens", "64", "--salt", "--temperature", "1", "--duration", f"{seconds}s", "--quiet"]
    command += ["--no-calibrate", "--processes", "1", "--extra", json.dumps({"ignore_eos": True} | body)]
    return subprocess.Popen([*command, *options, "--json", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def read(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(file).read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--budget", default="ttft=200ms,tpot=25ms")
    parser.add_argument("--low", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    header = ["--header", f"X-Budget: {arguments.budget.replace(',', ';')}", "--budget", arguments.budget]
    low = ["--concurrency", str(arguments.low), "--output-tokens", "32"]
    high = ["--concurrency", "1", "--output-tokens", "32", "--warmup", "1", *header]
    command = [sys.executable, "-m", "vivace", "serve", arguments.model, "--port", str(PORT)]
    with tempfile.TemporaryDirectory() as directory, serving(command, PORT):
        alone, beside, urgent = (f"{directory}/{name}.json" for name in ("alone", "beside", "urgent"))
        bench(low, arguments.seconds, {"priority": 0}, alone).wait()
        running = bench(low, arguments.seconds + 4, {"priority": 0}, beside)
        bench(high, arguments.seconds, {"priority": 9}, urgent).wait()
        running.wait()
        documents = {name: read(file) for name, file in (("alone", alone), ("beside", beside), ("urgent", urgent))}
    raw = documents["urgent"]["raw"]
    times = {name: sorted(value for value in raw[name] if value is not None) for name in ("ttft_ms", "tpot_ms")}
    rates = {
        name: sum(filter(None, documents[name]["raw"]["tokens"])) / documents[name]["window_s"] for name in documents
    }
    print(
        json.dumps(
            {
                "model": arguments.model,
                "budget": documents["urgent"]["budget"],
                "high_requests": len(raw["status"]),
                "high_refused": raw["status"].count(429),
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
