"""What the caches save: a second request behind the same system message, and a request that was answered before.

    python benchmarks/cache.py mini /tmp/135m

Each model (a name or a directory; benchmarks/shapes.py writes some) is served in a process of its own and asked over
one open connection. In every round a system message that was never sent before is asked about twice: `first` finds
nothing of it in the prefix cache, `second` asks something else behind it. Times are to the first byte of the stream,
which leaves with the first token. `hit` is a request whose answer is in the response cache, with a prompt of that
length and with a short one: inside the server by its own `usage.timing`, and as a client sees it. Prints JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WORDS = (
    "when",
    "a",
    "parcel",
    "is",
    "late",
    "the",
    "shop",
    "writes",
    "to",
    "you",
    "may",
    "ask",
    "for",
    "money",
    "within",
)
QUESTIONS = ("Where is it?", "May I return it?")
JSON = {"content-type": "application/json"}


class Client:
    def __init__(self, port: int, model: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._model = model

    def post(self, path: str, body: dict[str, Any], **headers: str) -> tuple[Any, dict[str, str], float]:
        """The reply, its headers, and milliseconds to its end."""
        data = json.dumps({"model": self._model} | body)
        began = time.perf_counter()
        self._connection.request("POST", path, data, JSON | headers)
        response = self._connection.getresponse()
        reply = response.read()
        took_ms = 1000 * (time.perf_counter() - began)
        if response.status != 200:
            raise SystemExit(reply.decode())
        return json.loads(reply), {name.lower(): value for name, value in response.getheaders()}, took_ms

    def time_first_byte(self, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """Milliseconds to the first byte of a stream of a computed answer, and the usage at its end."""
        asked = {"model": self._model, "stream": True, "stream_options": {"include_usage": True}} | body
        data = json.dumps(asked)
        began = time.perf_counter()
        self._connection.request("POST", "/v1/chat/completions", data, JSON | {"cache-control": "no-store"})
        response = self._connection.getresponse()
        reply = response.read(1)
        took_ms = 1000 * (time.perf_counter() - began)
        reply += response.read()
        return took_ms, json.loads(reply.split(b"\n\n")[-3].removeprefix(b"data: "))["usage"]

    def write_text(self, tokens: int, seed: int) -> str:
        """Words never sent before, of nearly that many tokens."""
        words = random.Random(seed)
        text = f"{seed}:"
        while True:
            more = text + " " + " ".join(words.choices(WORDS, k=20))
            if self.post("/tokenize", {"prompt": more})[0]["count"] > tokens:
                return text
            text = more


@contextmanager
def serving(model: str, port: int) -> Iterator[Client]:
    command = [sys.executable, "-m", "vivace", "serve", model, "--port", str(port), "--response-cache", "64"]
    with subprocess.Popen([*command, "--log-format", "json"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            told = json.loads(server.stdout.readline())
            yield Client(port, told["model"])
        finally:
            server.terminate()


def ask(system: str, question: str) -> dict[str, Any]:
    roles = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"messages": roles, "max_tokens": 8, "temperature": 0}


def measure_prefix(client: Client, tokens: int, rounds: int) -> dict[str, Any]:
    times: tuple[list[float], list[float]] = ([], [])
    prompts, cached = 0, 0
    for turn in range(rounds):
        system = client.write_text(tokens, turn)
        for question, kept in zip(QUESTIONS, times, strict=True):
            took_ms, usage = client.time_first_byte(ask(system, question))
            kept.append(took_ms)
            prompts, cached = usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
    shares = [second / first for first, second in zip(*times, strict=True)]
    return {
        "prompt_tokens": prompts,
        "cached_tokens_of_second": cached,
        "first_ms": spread(times[0]),
        "second_ms": spread(times[1]),
        "second_over_first": spread(shares),
    }


def measure_hits(client: Client, system: str, times: int) -> dict[str, Any]:
    body = ask(system, QUESTIONS[0])
    computed: list[float] = []
    for _ in range(5):
        _, headers, took_ms = client.post("/v1/chat/completions", body, **{"cache-control": "no-cache"})
        assert headers["x-vivace-cache"] == "miss"
        computed.append(took_ms)
    inside, outside = [], []
    for _ in range(times):
        reply, headers, took_ms = client.post("/v1/chat/completions", body)
        assert headers["x-vivace-cache"] == "hit"
        inside.append(reply["usage"]["timing"]["total_ms"])
        outside.append(took_ms)
    prompt_tokens = reply["usage"]["prompt_tokens"]
    return {
        "prompt_tokens": prompt_tokens,
        "computed_ms": spread(computed),
        "inside_the_server_ms": spread(inside),
        "at_the_client_ms": spread(outside),
    }


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    found = {"median": statistics.median(ordered), "p99": ordered[len(ordered) * 99 // 100], "max": ordered[-1]}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tokens", type=int, default=1000, help="of the prompt; what a short context leaves room for")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--hits", type=int, default=1000)
    parser.add_argument("--port", type=int, default=28431)
    arguments = parser.parse_args()
    for number, model in enumerate(arguments.models):
        with serving(model, arguments.port + number) as client:
            context = client.post("/tokenize", {"prompt": "x"})[0]["max_model_len"]
            tokens = min(arguments.tokens, context - 48)
            systems = ("Be brief.", client.write_text(tokens, -1))
            found = {
                "model": model,
                "prefix": measure_prefix(client, tokens, arguments.rounds),
                "hit": [measure_hits(client, system, arguments.hits) for system in systems],
            }
        print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
