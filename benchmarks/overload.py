"""A server at four times what it can do: who is served in time, who is refused how fast, and what comes after.

    python -m benchmarks.overload MODEL --budget "total=2s"
    python -m benchmarks.overload MODEL --budget "total=2s" --gguf MODEL.gguf --peer peer/bin/python

Each variant of the server (ours, ours without admission, llama-cpp-python's) gets the same open-loop load from
`vivace bench http`. First ours is asked at rising rates for the best goodput without overload; that goodput is what
"capacity" means here. Then each is asked at `--factor` times the capacity for `--seconds`, and ours lightly after it,
for how long it takes to recover. A request is kept if its client had the whole answer within the budget's total.
Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivace.budget import parse_budget

HERE = Path(__file__).parent
SHARES = (0.6, 0.75, 0.9, 1.0, 1.1)
"""Of the first guess at the capacity: the rates at which the best goodput without overload is looked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One load, and who is asked."""

    port: int
    budget: str
    input_tokens: int
    output_tokens: int

    def run(self, rate: float, seconds: float, seed: int) -> dict[str, Any]:
        """What `vivace bench http` measured."""
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command = [sys.executable, "-m", "vivace", "bench", "http", f"http://127.0.0.1:{self.port}/v1"]
            command += ["--rate", f"{rate:.4g}", "--duration", f"{seconds}s", "--seed", str(seed), "--salt"]
            command += ["--input-tokens", str(self.input_tokens), "--output-tokens", str(self.output_tokens)]
            command += ["--budget", self.budget, "--header", f"X-Budget: {self.budget.replace(',', ';')}"]
            command += ["--temperature", "1", "--extra", '{"ignore_eos": true}' if self.ours else "{}", "--completions"]
            command += ["--timeout", "60s", "--processes", "1", "--no-calibrate", "--quiet", "--json", file.name]
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            found: dict[str, Any] = json.loads(Path(file.name).read_text())
        return found

    @property
    def ours(self) -> bool:
        return self.port % 2 == 0


def summarize(document: dict[str, Any], total_ms: float) -> dict[str, Any]:
    """Counts, shares and times of one run, from its raw numbers."""
    raw = document["raw"]
    rows = list(zip(raw["status"], raw["sent_s"], raw["ended_s"], raw["e2e_ms"], strict=True))
    accepted = [row for row in rows if row[0] == 200]
    refused_ms = sorted(1000 * (ended - sent) for status, sent, ended, _ in rows if status == 429)
    kept = [row for row in accepted if row[3] is not None and row[3] <= total_ms]
    times = sorted(row[3] for row in accepted if row[3] is not None)
    return {
        "offered": document["requests"]["offered"],
        "accepted": len(accepted),
        "kept": len(kept),
        "kept_of_accepted": len(kept) / max(1, len(accepted)),
        "goodput_per_s": len(kept) / document["window_s"],
        "refused": len(refused_ms),
        "refused_ms_p50": quantile(refused_ms, 0.5),
        "refused_ms_p99": quantile(refused_ms, 0.99),
        "other": len(rows) - len(accepted) - len(refused_ms),
        "unanswered": document["requests"]["offered"] - len(rows),
        "response_ms_p50": quantile(times, 0.5),
        "response_ms_p99": quantile(times, 0.99),
    }


def quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))], 2) if ordered else None


@contextmanager
def serving(command: list[str], port: int) -> Iterator[str]:
    """The server as a process, from its first answer on; yields the name of its model."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield wait_until_up(port)
        finally:
            process.terminate()


def wait_until_up(port: int) -> str:
    """The name of the model that is served."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=1) as reply:
                return str(json.load(reply)["data"][0]["id"])
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise SystemExit("The server did not come up.")


def find_capacity(asked: Asked, total_ms: float, guess: float, seconds: float) -> tuple[float, list[dict[str, Any]]]:
    """The best goodput without overload, and what was measured at each rate."""
    steps = []
    for index, share in enumerate(SHARES):
        steps.append({"rate": guess * share} | summarize(asked.run(guess * share, seconds, index), total_ms))
    return max(step["goodput_per_s"] for step in steps), steps


def recover(asked: Asked, rate: float, total_ms: float) -> dict[str, Any]:
    """How long after an overload requests at a light rate were refused or late: 0 if none was."""
    raw = asked.run(rate, 6.0, 99)["raw"]
    rows = zip(raw["status"], raw["scheduled_s"], raw["e2e_ms"], strict=True)
    bad = [when for status, when, took in rows if status != 200 or took is None or took > total_ms]
    return {"rate": rate, "requests": len(raw["status"]), "recovered_after_s": max(bad, default=0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--budget", default="total=2s")
    parser.add_argument("--input-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--guess", type=float, default=8.0, help="requests a second that the machine may reach")
    parser.add_argument("--factor", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate-seconds", type=float, default=10.0)
    parser.add_argument("--gguf")
    parser.add_argument("--peer", help="a Python with llama-cpp-python[server]")
    parser.add_argument("--only", choices=("ours", "open", "peer"), help="one of the servers")
    parser.add_argument("--capacity", type=float, help="do not measure it")
    arguments = parser.parse_args()
    total_ms = parse_budget(arguments.budget).total_ms
    ours = [sys.executable, "-m", "vivace", "serve", arguments.model, "--port"]
    lengths = arguments.input_tokens, arguments.output_tokens
    found: dict[str, Any] = {"model": arguments.model, "budget": arguments.budget, "lengths": lengths}
    capacity = arguments.capacity
    if arguments.only in (None, "ours"):
        asked = Asked(21880, arguments.budget, *lengths)
        with serving([*ours, "21880"], 21880):
            if capacity is None:
                capacity, steps = find_capacity(asked, total_ms, arguments.guess, arguments.rate_seconds)
                found["without_overload"] = steps
            overload = asked.run(arguments.factor * capacity, arguments.seconds, 7)
            found["ours"] = summarize(overload, total_ms)
            found["recovery"] = recover(asked, 0.25 * capacity, total_ms)
    assert capacity is not None, "give --capacity, or measure ours"
    found["capacity_per_s"] = capacity
    if arguments.only in (None, "open"):
        with serving([*ours, "21882", "--no-admission", "--policy", "fifo"], 21882):
            asked = Asked(21882, arguments.budget, *lengths)
            overload = asked.run(arguments.factor * capacity, arguments.seconds, 7)
            found["without_admission"] = summarize(overload, total_ms)
    if arguments.gguf and arguments.only in (None, "peer"):
        command = [arguments.peer, str(HERE / "llama_cpp_server.py"), arguments.gguf, "21883", "2048"]
        with serving(command, 21883):
            asked = Asked(21883, arguments.budget, *lengths)
            overload = asked.run(arguments.factor * capacity, arguments.seconds, 7)
            found["llama_cpp_python"] = summarize(overload, total_ms)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
