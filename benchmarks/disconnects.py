"""Clients that go away, while their request waits, while its prompt is computed, and while its answer comes: how long
until what it held is free again, and whether anything stays behind.

    python -m benchmarks.disconnects --times 334

A real server with real sockets, in this process so that its books can be looked into. Prints JSON. A time is from the
closing of the socket until the engine's figures say that the request is gone; the step under way has to end first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from vivace.engine.admission import AdmissionConfig, AdmissionStats
from vivace.engine.bridge import EngineThread
from vivace.engine.engine import EngineStats
from vivace.engine.scheduler import SchedulerConfig
from vivace.launch import Launched, launch
from vivace.models.model import open_model
from vivace.runners.native import NativeConfig
from vivace.server.app import ServerConfig, build_app, listen

STAGES = ("queued", "prefill", "decode")
CHUNK_TOKENS = 32
"""Small, so that a prompt takes several steps."""
PATIENCE_S = 20.0
POLL_S = 0.0002


@dataclass(frozen=True)
class Served:
    """A server on a thread of its own."""

    launched: Launched
    port: int
    name: str
    context_length: int

    @property
    def bridge(self) -> EngineThread:
        return self.launched.bridge

    @property
    def stats(self) -> EngineStats:
        return self.bridge.stats()

    @property
    def admission(self) -> AdmissionStats:
        stats = self.bridge.admission_stats()
        assert stats is not None
        return stats


@contextmanager
def serving(model: str) -> Iterator[Served]:
    """One sequence at a time, so that the next one waits."""
    opened = open_model(model)
    native = NativeConfig(max_sequences=1, max_batch_tokens=CHUNK_TOKENS)
    launched = launch({"": opened}, native, SchedulerConfig(), AdmissionConfig(by_forecast=False))
    config = ServerConfig(port=0)
    sock = listen(config)
    app = build_app(opened, launched.bridge, config)
    server = uvicorn.Server(uvicorn.Config(app, loop="uvloop", http="httptools", lifespan="on", log_config=None))
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    try:
        yield Served(launched, sock.getsockname()[1], opened.name, opened.config.context_length)
    finally:
        server.should_exit = True
        thread.join()
        sock.close()
        launched.close()


def write_request(served: Served, words: int, salt: str) -> bytes:
    """A long streamed answer. The salt keeps its prompt out of the prefix cache."""
    fields = {
        "model": served.name,
        "prompt": "town " * words,
        "max_tokens": served.context_length // 2,
        "ignore_eos": True,
        "stream": True,
        "cache_salt": salt,
        "budget": {"total_ms": 1e6},
    }
    body = json.dumps(fields).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def connected(served: Served, request: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def wait_until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(POLL_S)


async def leave_queued(served: Served, index: int, words: int) -> float | None:
    """Seconds until the queue is empty again behind an answer that goes on; None if that ended too soon."""
    before = served.stats.requests
    async with connected(served, write_request(served, 4, f"running {index}")) as (reader, _):
        await reader.readuntil(b"data: ")
        async with connected(served, write_request(served, words, f"queued {index}")) as (_, writer):
            await wait_until(lambda: served.stats.requests == before + 2)
            left = time.perf_counter()
            writer.transport.abort()
            if not served.stats.waiting:
                return None
            await wait_until(lambda: served.stats.waiting == 0 and served.admission.under_way <= 1)
            return time.perf_counter() - left


async def leave_prefill(served: Served, index: int, words: int) -> float | None:
    """None if the first token had come before the client went."""
    before = served.stats.tokens
    async with connected(served, write_request(served, words, f"prefill {index}")) as (_, writer):
        await wait_until(lambda: served.stats.running == 1)
        left = time.perf_counter()
        writer.transport.abort()
        prefilling = served.stats.tokens == before
        await wait_until(lambda: is_idle(served))
        return time.perf_counter() - left if prefilling else None


async def leave_decode(served: Served, index: int, words: int) -> float:
    async with connected(served, write_request(served, 4, f"decode {index}")) as (reader, writer):
        await reader.readuntil(b"data: ")
        left = time.perf_counter()
        writer.transport.abort()
        await wait_until(lambda: is_idle(served))
        return time.perf_counter() - left


def is_idle(served: Served) -> bool:
    stats = served.stats
    return stats.running + stats.waiting + stats.blocks_used + served.admission.under_way == 0


async def leave_all(served: Served, times: int, words: int) -> dict[str, list[float]]:
    leaving = {"queued": leave_queued, "prefill": leave_prefill, "decode": leave_decode}
    times_s: dict[str, list[float]] = {stage: [] for stage in STAGES}
    index = 0
    while min(map(len, times_s.values())) < times:
        for stage in STAGES:
            if len(times_s[stage]) < times:
                taken = await leaving[stage](served, index, words)
                times_s[stage] += [] if taken is None else [taken]
            await wait_until(lambda: is_idle(served))
        index += 1
        assert index < 10 * times + 10, "hardly any client went in time; take a larger model or a longer prompt"
    return times_s


def measure(model: str, times: int, words: int) -> dict[str, Any]:
    """Milliseconds by stage. Raises AssertionError or TimeoutError if anything stays behind."""
    with serving(model) as served:
        times_s = asyncio.run(leave_all(served, times, words))
        stats = served.stats
        engine = served.bridge._engine
    engine.check_integrity()
    assert served.admission.under_way == 0
    assert served.bridge.stats().blocks_used == 0
    figures = {stage: summarise([1000 * second for second in seconds]) for stage, seconds in times_s.items()}
    return {"model": served.name, "requests": stats.requests, "integrity": "clean", "ms until free": figures}


def summarise(times_ms: list[float]) -> dict[str, float]:
    ordered = sorted(times_ms)
    at = {"p99": 0.99, "p99.9": 0.999}
    tails = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in at.items()}
    found = {"median": statistics.median(ordered)} | tails | {"most": ordered[-1]}
    return {"count": len(ordered)} | {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--times", type=int, default=334, help="of each stage")
    parser.add_argument("--words", type=int, default=200, help="in a prompt")
    options = parser.parse_args()
    print(json.dumps(measure(options.model, options.times, options.words), indent=1))


if __name__ == "__main__":
    main()
