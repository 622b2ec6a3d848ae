"""A client process: offers its share of the load and hands back what it saw.

The parent draws, samples and computes; nothing else runs here while requests are under way. Knows no statistics.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing.connection
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvloop
from msgspec import Struct

from vivace.bench.client import ConnectionPool, Reply, encode_request, parse_url
from vivace.bench.observation import Observation
from vivace.bench.timer import Alarm, clock
from vivace.bench.workload import Ask, Workload

TICK_S = 0.005
"""How often the loop's own lag is looked at."""
PROGRESS_S = 0.5
GONE_AFTER = 20
"""So many requests in a row that could not even connect, and the server is given up."""
PREPARED = 2000
"""Bodies made before the start, where their number is not known."""
MAX_PREPARED = 20_000
"""And at most, in a closed loop."""


class Stage(Struct, kw_only=True):
    """What one process offers to one server, until all of it is answered."""

    target: int = 0
    block: int = 0
    entries: list[tuple[int, float]] = msgspec.field(default_factory=list)
    """Open loop: places in the workload, and seconds from the start."""
    concurrency: int = 0
    """Closed loop."""
    first: int = 0
    stride: int = 1
    """Closed loop: the places are first, first + stride, ..."""
    requests: int = 0
    """0 is as many as fit `duration_s`."""
    duration_s: float = 0.0


class Plan(Struct, kw_only=True):
    """All that a client process is told."""

    urls: list[str]
    models: list[str] = msgspec.field(default_factory=list)
    """By which name each server knows the model; empty for the workload's."""
    workload: Workload
    stages: list[Stage]
    warmup: int = 0
    """Requests to each server before the first stage, not counted."""
    think_ms: float = 0.0
    connections: int = 0
    timeout_s: float = 120.0
    headers: list[tuple[str, str]] = msgspec.field(default_factory=list)
    verify: bool = True
    tokenizer: str = ""
    """A tokenizer.json, to count tokens where the server sends no usage."""
    keep_text: bool = False


class Progress(Struct):
    """What a live view shows."""

    sent: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0
    latencies_ms: list[float] = msgspec.field(default_factory=list)
    """Of the answers since the last one: to the first fragment, else to the end."""


class Outcome(Struct, kw_only=True):
    """All that a client process saw."""

    observations: list[Observation]
    started: float
    ended: float
    ticks: list[float]
    """When the loop was looked at."""
    lags_ms: list[float]
    """And how late it was each time."""
    cpu_s: float
    """Of this process, over the stages."""
    connections: int
    stopped: str = ""
    """Why it stopped before the plan was done."""
    texts: list[str] = msgspec.field(default_factory=list)


@dataclass
class _Live:
    """What is under way."""

    progress: Progress = field(default_factory=Progress)
    stopped: str = ""
    unreachable: int = 0
    observations: list[Observation] = field(default_factory=list)
    texts: list[tuple[Observation, str]] = field(default_factory=list)


class Client:
    """Offers the stages of a plan, one after the other."""

    def __init__(self, plan: Plan, alarm: Alarm) -> None:
        self._plan = plan
        self._alarm = alarm
        self._targets = [parse_url(url, verify=plan.verify) for url in plan.urls]
        self._pools = [ConnectionPool(target, plan.connections) for target in self._targets]
        self._headers = tuple(plan.headers)
        self._loop = asyncio.get_running_loop()
        self.live = _Live()

    @property
    def connections(self) -> int:
        return sum(pool.opened for pool in self._pools)

    async def warm_up(self) -> None:
        """Requests far beyond the workload's places, some at a time."""
        for target in range(len(self._targets)):
            for start in range(0, self._plan.warmup, 8):
                count = min(8, self._plan.warmup - start)
                asks = [self._plan.workload.ask(10_000_000 + start + i) for i in range(count)]
                await asyncio.gather(*(self._send(ask, clock(), target, 0, 0) for ask in asks))
        self.live = _Live()

    def prepare(self, stage: Stage) -> list[tuple[Ask, bytes]]:
        """Requests made before the clock runs: all of an open loop, the first of a closed one."""
        if not stage.concurrency:
            return [self._encode(stage.target, self._plan.workload.ask(index)) for index, _ in stage.entries]
        count = min(stage.requests or PREPARED, MAX_PREPARED)
        return [self._encode(stage.target, self._ask_of(stage, number)) for number in range(count)]

    async def run(self, stage: Stage, prepared: list[tuple[Ask, bytes]], start: float) -> None:
        """Returns when all is answered."""
        await (self._run_closed if stage.concurrency else self._run_open)(stage, prepared, start)

    def take_texts(self) -> list[tuple[Observation, str]]:
        return self.live.texts

    def close(self) -> None:
        for pool in self._pools:
            pool.close()

    async def _run_open(self, stage: Stage, prepared: list[tuple[Ask, bytes]], start: float) -> None:
        under_way: set[asyncio.Task[float]] = set()
        for (_, offset), (ask, request) in zip(stage.entries, prepared, strict=True):
            await self._alarm.wait_until(start + offset)
            if self.live.stopped:
                break
            task = self._loop.create_task(self._converse(stage, ask, request, start + offset))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        while under_way:
            await asyncio.wait(under_way)

    async def _run_closed(self, stage: Stage, prepared: list[tuple[Ask, bytes]], start: float) -> None:
        numbers = iter(range(stage.requests or 2**62))
        await self._alarm.wait_until(start)
        ends = start + stage.duration_s if stage.duration_s else float("inf")

        async def loop() -> None:
            scheduled = clock()
            while scheduled < ends and not self.live.stopped:
                number = next(numbers, None)
                if number is None:
                    return
                ready = number < len(prepared)
                ask, request = prepared[number] if ready else self._encode(stage.target, self._ask_of(stage, number))
                wait_ms = await self._converse(stage, ask, request, scheduled)
                scheduled = clock() + max(wait_ms, self._plan.think_ms) / 1e3
                await self._alarm.wait_until(scheduled)

        await asyncio.gather(*(loop() for _ in range(stage.concurrency)))

    def _ask_of(self, stage: Stage, number: int) -> Ask:
        return self._plan.workload.ask(stage.first + number * stage.stride)

    async def _converse(self, stage: Stage, ask: Ask, request: bytes, scheduled: float) -> float:
        """One request, and the turns that follow it. After how long the server asked to come back, in ms."""
        turn = 0
        while True:
            seen, text = await self._send(ask, scheduled, stage.target, stage.block, turn, request)
            if not ask.turns or not seen.ok or self.live.stopped:
                return seen.wait_ms
            ask, turn = self._plan.workload.follow(ask, text), turn + 1
            _, request = self._encode(stage.target, ask)
            scheduled = (seen.ended or clock()) + self._plan.think_ms / 1e3
            await self._alarm.wait_until(scheduled)

    def _encode(self, target: int, ask: Ask) -> tuple[Ask, bytes]:
        workload = self._plan.workload
        model = {"model": self._plan.models[target]} if self._plan.models else {}
        body = msgspec.json.encode(ask.body | model)
        return ask, encode_request(self._targets[target], "POST", workload.path, body, self._headers)

    async def _send(
        self, ask: Ask, scheduled: float, target: int, block: int, turn: int, request: bytes | None = None
    ) -> tuple[Observation, str]:
        live, plan = self.live, self._plan
        seen = Observation(index=ask.index, turn=turn, scheduled=scheduled, target=target, block=block)
        live.observations.append(seen)
        live.progress.sent += 1
        keep = bool(ask.expected or ask.turns or plan.tokenizer or plan.keep_text)
        reply = Reply(seen, self._loop.create_future(), stream=plan.workload.stream, keep_text=keep)
        request = request or self._encode(target, ask)[1]
        await self._pools[target].exchange(request, reply, plan.timeout_s)
        if ask.expected and not ask.turns and seen.ok:
            seen.correct = reply.text.strip() in {answer.strip() for answer in ask.expected}
        if plan.keep_text or (plan.tokenizer and seen.tokens is None and seen.ok):
            live.texts.append((seen, reply.text))
        self._note(live, seen)
        return seen, reply.text

    def _note(self, live: _Live, seen: Observation) -> None:
        live.progress.done += 1
        live.progress.tokens += seen.tokens or 0
        if seen.ok:
            live.progress.latencies_ms.append(seen.ttft_ms or seen.e2e_ms or 0.0)
        live.progress.failed += not seen.ok
        live.unreachable = live.unreachable + 1 if seen.error == "unreachable" else 0
        if live.unreachable >= GONE_AFTER and not live.stopped:
            live.stopped = f"The server is gone: {GONE_AFTER} requests in a row could not connect. {seen.message}"


class LoopWatch:
    """Looks at how late the event loop is."""

    def __init__(self, alarm: Alarm) -> None:
        self.moments: list[float] = []
        self.lags_ms: list[float] = []
        self._alarm = alarm
        self._on = True
        self._due = clock() + TICK_S
        alarm.call_at(self._due, self._tick)

    def stop(self) -> None:
        self._on = False

    def _tick(self) -> None:
        now = clock()
        self.moments.append(now)
        self.lags_ms.append(1e3 * (now - self._due))
        self._due = max(self._due + TICK_S, now)
        if self._on:
            self._alarm.call_at(self._due, self._tick)


class Channel:
    """The line to the parent: small reports out, a start and a stop in."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def report(self, kind: str, value: Any = None) -> None:
        os.set_blocking(self._pipe.fileno(), True)  # the event loop that watches it had set that off
        self._pipe.send_bytes(msgspec.msgpack.encode((kind, value)))

    async def wait_for_start(self) -> float:
        """The common moment. Raises EOFError when the parent is gone."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._pipe.fileno(), lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            loop.remove_reader(self._pipe.fileno())
        return float(self._pipe.recv_bytes())

    def watch_for_stop(self, live: _Live) -> None:
        """Anything that comes now means stop, and so does the end of the parent."""
        fileno = self._pipe.fileno()
        loop = asyncio.get_running_loop()

        def stop() -> None:
            live.stopped = live.stopped or "It was interrupted."
            loop.remove_reader(fileno)

        loop.add_reader(fileno, stop)


async def run_plan(plan: Plan, channel: Channel) -> Outcome:
    """Warm up, wait for the common start, run the stages."""
    alarm = Alarm(asyncio.get_running_loop())
    client = Client(plan, alarm)
    try:
        await client.warm_up()
        prepared = [client.prepare(stage) for stage in plan.stages]
        channel.report("ready")
        start = await channel.wait_for_start()
        channel.watch_for_stop(client.live)
        reporting = asyncio.ensure_future(_report(client, channel))
        watch = LoopWatch(alarm)
        cpu = time.process_time()
        for number, stage in enumerate(plan.stages):
            await client.run(stage, prepared[number], start if number == 0 else clock() + 0.01)
            if client.live.stopped:
                break
        ended, cpu_s = clock(), time.process_time() - cpu
        watch.stop()
        reporting.cancel()
        _count_tokens(plan, client.take_texts())
        return Outcome(
            observations=client.live.observations,
            started=start,
            ended=ended,
            ticks=watch.moments,
            lags_ms=watch.lags_ms,
            cpu_s=cpu_s,
            connections=client.connections,
            stopped=client.live.stopped,
            texts=[text for _, text in client.take_texts()] if plan.keep_text else [],
        )
    finally:
        client.close()
        alarm.close()


async def _report(client: Client, channel: Channel) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        channel.report("progress", client.live.progress)
        client.live.progress.latencies_ms = []


def _count_tokens(plan: Plan, texts: list[tuple[Observation, str]]) -> None:
    if not plan.tokenizer:
        return
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(plan.tokenizer)
    for seen, text in texts:
        if seen.tokens is None:
            seen.tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)


def main(pipe: multiprocessing.connection.Connection, plan: bytes) -> None:
    """A client process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    channel = Channel(pipe)
    gc.disable()  # what a run makes is kept to its end anyway
    try:
        outcome = uvloop.run(run_plan(msgspec.msgpack.decode(plan, type=Plan), channel))
        channel.report("outcome", outcome)
    except Exception as error:
        channel.report("error", f"{type(error).__name__}: {error}")
        raise
