"""The customer-service application under customers who read and think: an open loop, from question to whole answer.

    python benchmarks/support_load.py --customers 1 10 100 --seconds 20 30 70
    python benchmarks/support_load.py --customers 10 1000 --seconds 20 30 --recovery --neighbour
    python benchmarks/support_load.py --customers 1 10 100 --seconds 140 105 75 --think 0.2 1.5 10   # enough for a p99

Starts `vivace serve MODEL` and the application with the sample shop beside it, each in a process of its own, with
rate limits lifted, and asks the sample's questions, those without an answer included. Every customer has an event
stream open and asks at moments fixed in advance, `--think` seconds apart on average (exponential), whatever the
answers do; times run from the moment a question was due. `first` is to the first piece that the customer sees,
`whole` to the answer that was posted (or to the hand-over). A percentile is given where the sample bears it
(`vivace.bench.stats`). `--recovery` then asks once a second until answers are as fast as in the first level;
`--neighbour` measures the gaps between one customer's tokens, alone and while another asks questions of 2,000
characters without pause. `client_cpu` is what this program took of one core, on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import uvloop

from vivace.apps.support.sample import load_sample
from vivace.apps.support.settings import Rate, Rates, SupportConfig
from vivace.bench.sse import EventReader
from vivace.bench.stats import summarize

TIMEOUT_S = 30.0
NO_LIMITS = Rates(*[Rate(10**6, 10.0**6)] * 6)


# The processes


def serve_app(directory: str, server: str, options: list[str]) -> None:
    """In the child: the application with its limits lifted."""
    from vivace.apps.support.app import serve

    settings = {name: int(value) for name, _, value in (option.partition("=") for option in options)}
    config = replace(SupportConfig(server=server, directory=Path(directory), port=0, rates=NO_LIMITS), **settings)  # type: ignore[arg-type]
    serve(config, lambda url: print(json.dumps({"url": url}), flush=True))


@contextmanager
def starting(*command: str) -> Iterator[str]:
    """The URL that a process says it serves on; it ends with the block."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield str(json.loads(process.stdout.readline())["url"])
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


# One customer's connections


class Connection:
    """HTTP/1.1, one request at a time: as little work for the client as will do."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        return self._streams

    async def request(self, method: str, path: str, token: str = "", body: Any = None) -> tuple[int, Any]:
        reader, writer = await self.open()
        writer.write(write_request(method, path, token, body))
        status, headers = await read_head(reader)
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        return status, msgspec.json.decode(content) if content else None

    async def follow(self, path: str, token: str) -> AsyncIterator[list[Any]]:
        """The data of a stream's events, as they come."""
        reader, writer = await self.open()
        writer.write(write_request("GET", path, token, None))
        status, _ = await read_head(reader)
        assert status == 200, status
        events = EventReader()
        while True:
            size = int(await reader.readline(), 16)
            chunk = await reader.readexactly(size + 2)
            if size == 0:
                return
            if found := events.feed(chunk[:-2]):
                yield [msgspec.json.decode(data) for data in found]

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def write_request(method: str, path: str, token: str, body: Any) -> bytes:
    content = b"" if body is None else msgspec.json.encode(body)
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in head[1:] if line)
    return int(head[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


@dataclass(slots=True)
class Asked:
    """One question: when it was due, and what became of it. Seconds of the loop's clock."""

    due: float
    first: float | None = None
    whole: float | None = None
    outcome: str = "no answer"
    pieces: list[float] = field(default_factory=list)


class Customer:
    """A guest with a conversation; a new one when a person was called."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = Connection(url)
        self._stream = Connection(url)
        self._token = ""
        self._conversation = ""
        self._following: asyncio.Task[None] | None = None
        self._waiting: dict[str, Asked] = {}
        self._early: dict[str, list[tuple[Any, float]]] = {}
        """Events about a question whose id is not known yet: its reply is still to be read."""
        self._number = 0
        self._lock = asyncio.Lock()

    async def arrive(self) -> None:
        _, tokens = await self._http.request("POST", "/api/guests", "", {})
        self._token = tokens["access_token"]
        await self._start()

    async def _start(self) -> None:
        if self._following is not None:
            self._following.cancel()
            self._stream.close()
        _, started = await self._http.request("POST", "/api/conversations", self._token, {})
        self._conversation = started["id"]
        self._stream = Connection(self._url)
        self._following = asyncio.create_task(self._follow(self._stream, self._conversation))

    async def _follow(self, stream: Connection, conversation: str) -> None:
        clock = asyncio.get_running_loop().time
        async for events in stream.follow(f"/api/conversations/{conversation}/events", self._token):
            now = clock()
            for event in events:
                self._take(event, now)

    def _take(self, event: Any, now: float) -> None:
        if event.get("state") == "waiting_human":
            for waiting in self._waiting.values():
                waiting.first, waiting.whole, waiting.outcome = waiting.first or now, now, f"person: {event['reason']}"
            self._waiting.clear()
            self._conversation = ""
        question = event.get("reply_to") or ""
        asked = self._waiting.get(question)
        if not question or event.get("text") is None:
            return
        if asked is None:
            self._early.setdefault(question, []).append((event, now))
            return
        asked.first = asked.first or now
        if "author" in event:
            asked.whole, asked.outcome = now, event["source"]
            del self._waiting[event["reply_to"]]
        else:
            asked.pieces.append(now)

    async def ask(self, text: str, asked: Asked) -> None:
        """Send it; the answer comes on the stream."""
        async with self._lock:
            if not self._conversation:
                await self._start()
            self._number += 1
            body = {"text": text, "client_id": f"n{self._number}"}
            path = f"/api/conversations/{self._conversation}/messages"
            status, reply = await self._http.request("POST", path, self._token, body)
            if status == 409:
                self._conversation = ""
            if status != 202:
                asked.outcome = f"status {status}"
                return
            if path != f"/api/conversations/{self._conversation}/messages":
                asked.outcome = "person: called before"
                return
            self._waiting[reply["id"]] = asked
            for event, now in self._early.pop(reply["id"], []):
                self._take(event, now)

    def leave(self) -> None:
        if self._following is not None:
            self._following.cancel()
        self._http.close()
        self._stream.close()


# Levels of load


async def offer(url: str, customers: int, seconds: float, think_s: float, seed: int) -> list[Asked]:
    """All questions of one level, asked at their moments and waited for."""
    chance, clock = random.Random(seed), asyncio.get_running_loop().time
    questions = [question.question for question in load_sample().questions]
    people = [Customer(url) for _ in range(customers)]
    for start in range(0, customers, 20):
        await asyncio.gather(*(person.arrive() for person in people[start : start + 20]))
    begin = clock() + 0.5
    everything: list[Asked] = []
    tasks = []
    for person in people:
        at = chance.random() * think_s
        while at < seconds:
            asked = Asked(begin + at)
            everything.append(asked)
            tasks.append(asyncio.create_task(ask_when_due(person, chance.choice(questions), asked)))
            at += chance.expovariate(1 / think_s)
    await asyncio.gather(*tasks, return_exceptions=True)
    end = clock() + TIMEOUT_S
    while clock() < end and any(asked.outcome == "no answer" for asked in everything):
        await asyncio.sleep(0.05)
    for person in people:
        person.leave()
    return everything


async def ask_when_due(person: Customer, text: str, asked: Asked) -> None:
    await asyncio.sleep(max(0.0, asked.due - asyncio.get_running_loop().time()))
    await person.ask(text, asked)


def report(customers: int, everything: list[Asked], seconds: float, cpu_s: float) -> dict[str, Any]:
    outcomes = Counter(asked.outcome for asked in everything)
    errors = sum(count for outcome, count in outcomes.items() if outcome.startswith(("status", "no answer")))
    times = {
        "first": [1000 * (asked.first - asked.due) for asked in everything if asked.first is not None],
        "whole": [1000 * (asked.whole - asked.due) for asked in everything if asked.whole is not None],
    }
    figures: dict[str, Any] = {
        "customers": customers,
        "questions": len(everything),
        "per_second": round(len(everything) / seconds, 2),
        "error_rate": errors / max(1, len(everything)),
        "outcomes": dict(outcomes),
        "client_cpu": round(cpu_s / seconds, 2),
    }
    for name, values in times.items():
        summary = summarize(values)
        if summary is not None:
            found = {key: round(value, 1) for key, value in summary.percentiles.items() if key in ("p50", "p90", "p99")}
            figures[f"{name}_ms"] = found | {"max": round(summary.max, 1)}
    return figures


async def recover(url: str, calm_ms: float) -> float:
    """Seconds until a question asked is answered within twice the calm median."""
    began = asyncio.get_running_loop().time()
    person = Customer(url)
    await person.arrive()
    while True:
        asked = Asked(asyncio.get_running_loop().time())
        await person.ask("How do I return a lamp?", asked)
        for _ in range(1000):
            if asked.whole is not None or asked.outcome.startswith("status"):
                break
            await asyncio.sleep(0.01)
        if asked.whole is not None and 1000 * (asked.whole - asked.due) <= 2 * calm_ms:
            person.leave()
            return asked.due - began
        await asyncio.sleep(1)


async def measure_gaps(url: str, seconds: float, *, beside: bool) -> dict[str, float]:
    """Between the pieces of one customer's answers, ms; `beside` another who asks heavy questions without pause."""
    stop = asyncio.Event()
    neighbour = asyncio.create_task(_ask_heavily(url, stop)) if beside else None
    person, clock = Customer(url), asyncio.get_running_loop().time
    await person.arrive()
    gaps: list[float] = []
    end = clock() + seconds
    while clock() < end:
        asked = Asked(clock())
        await person.ask("How do I return a lamp, and how long does the refund take?", asked)
        while asked.outcome == "no answer" and clock() < asked.due + TIMEOUT_S:
            await asyncio.sleep(0.005)
        gaps += [1000 * (b - a) for a, b in zip(asked.pieces, asked.pieces[1:], strict=False)]
    stop.set()
    if neighbour is not None:
        await neighbour
    person.leave()
    ordered = sorted(gaps) or [float("nan")]
    return {
        "n": len(gaps),
        "p50": round(statistics.median(ordered), 2),
        "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 2),
        "max": round(ordered[-1], 2),
    }


async def _ask_heavily(url: str, stop: asyncio.Event) -> None:
    words = [word for article in load_sample().articles for word in article.markdown.split()]
    chance = random.Random(5)
    while not stop.is_set():
        person = Customer(url)
        await person.arrive()
        asked = Asked(asyncio.get_running_loop().time())
        await person.ask(" ".join(chance.choices(words, k=400))[:2000], asked)
        while asked.outcome == "no answer" and not stop.is_set():
            await asyncio.sleep(0.002)
        person.leave()


async def run(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    levels = []
    await offer(url, 2, 3.0, 0.5, seed=99)  # warm
    thinking = arguments.think if len(arguments.think) > 1 else arguments.think * len(arguments.customers)
    for customers, seconds, think_s in zip(arguments.customers, arguments.seconds, thinking, strict=True):
        before = resource.getrusage(resource.RUSAGE_SELF)
        everything = await offer(url, customers, seconds, think_s, seed=customers)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        levels.append({"think_s": think_s} | report(customers, everything, seconds, cpu_s))
        print(json.dumps(levels[-1], ensure_ascii=False), file=sys.stderr, flush=True)
    figures: dict[str, Any] = {"levels": levels}
    if arguments.recovery:
        figures["recovery_s"] = round(await recover(url, levels[0]["whole_ms"]["p50"]), 1)
    if arguments.neighbour:
        figures["gaps_ms"] = {
            name: await measure_gaps(url, 10.0, beside=beside) for name, beside in (("alone", False), ("beside", True))
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--threads", type=int, default=1, help="Of the model server.")
    parser.add_argument("--customers", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--seconds", type=float, nargs="+", default=[20.0, 30.0, 70.0])
    parser.add_argument("--think", type=float, nargs="+", default=[10.0], metavar="SECONDS",
                        help="One for all levels, or one for each.")  # fmt: skip
    parser.add_argument("--recovery", action="store_true")
    parser.add_argument("--neighbour", action="store_true")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--serve-app", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_app:
        serve_app(arguments.serve_app[0], arguments.serve_app[1], arguments.settings)
        return
    with tempfile.TemporaryDirectory() as directory:
        command = ["-m", "vivace", "support", "--directory", directory, "init", "--sample"]
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        server = ["-m", "vivace", "serve", arguments.model, "--port", "0", "--log-format", "json"]
        settings = [part for setting in arguments.settings for part in ("--set", setting)]
        with (
            starting(*server, "--threads", str(arguments.threads)) as model_url,
            starting(__file__, "--serve-app", directory, model_url, *settings) as url,
        ):
            print(json.dumps(uvloop.run(run(url, arguments)), ensure_ascii=False))


if __name__ == "__main__":
    main()
