from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.fakes import (
    LIMITS,
    EveryOther,
    FakeRunner,
    make_request,
    reference_logprobs,
    reference_scores,
    reference_tokens,
)
from vivace.batch import Batch, Sampling
from vivace.engine.bridge import Abort, Close, EngineThread
from vivace.engine.constraint import Compile, Constraint, Grammar
from vivace.engine.engine import Engine
from vivace.engine.request import FinishReason, Request, Update
from vivace.engine.scheduler import SchedulerConfig
from vivace.errors import ContextLengthError, EngineError, EngineStoppedError, QueueFullError, RequestError

LONG = 400
"""More tokens than any of these tests waits for."""
CHATTY = Sampling(logprobs=2)
ROOMY = replace(LIMITS, blocks=8000, context_length=120_000)


class Gate:
    """Holds each launch of a runner until it is opened, and tells when one is being held."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self, batch: Batch) -> None:
        self.reached.set()
        assert self._opened.wait(30)

    def open(self) -> None:
        self._opened.set()

    async def wait_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


class Wire(EngineThread):
    """A bridge whose every message goes through JSON, as it would to another process."""

    def __init__(self, engine: Engine, compile: Compile | None = None) -> None:
        super().__init__(engine, compile)
        self.sent: Counter[str] = Counter()

    def _tell(self, message: Any) -> None:
        super()._tell(self._rewrite(message) if type(message) in (Request, Abort, Close) else message)

    def _send(self, message: Any) -> None:
        super()._send(self._rewrite(message))

    def _rewrite(self, message: Any) -> Any:
        kind: Any = list[Update] if isinstance(message, list) else type(message)
        self.sent["event" if isinstance(message, list) else type(message).__name__] += 1
        return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kind)


def compile_every_other(grammar: Grammar) -> Constraint:
    """A compiler of the one grammar that is known here."""
    if grammar.text != "every other":
        raise RequestError(f"{grammar.text} is no grammar. Send another.")
    return EveryOther(LIMITS.vocab_size)


EVERY_OTHER = Grammar("regex", "every other")


def let_others_run(batch: Batch) -> None:
    """As a native call does, which computes without the GIL."""
    time.sleep(0.0002)


@contextmanager
def running(runner: FakeRunner, config: SchedulerConfig | None = None) -> Iterator[EngineThread]:
    thread = EngineThread(Engine(runner, config))
    thread.start()
    try:
        yield thread
    finally:
        thread.close()


def test_a_stream_yields_every_token_and_then_ends() -> None:
    async def main(thread: EngineThread) -> None:
        updates = [update async for update in thread.submit(make_request("a", max_tokens=50))]
        assert [t for update in updates for t in update.tokens] == reference_tokens([1, 2, 3], Sampling(), 50)
        assert [update.finish_reason for update in updates[:-1]] == [None] * (len(updates) - 1)
        assert updates[-1].finish_reason is FinishReason.LENGTH
        assert updates[-1].timeline is not None

    with running(FakeRunner()) as thread:
        asyncio.run(main(thread))


def test_two_hundred_streams_at_once_each_get_their_own_text() -> None:
    requests = [make_request(str(i), (i % 101, 5, 6), 20 + i % 30, Sampling(1.0, seed=i)) for i in range(200)]

    async def main(thread: EngineThread) -> None:
        answers = await asyncio.gather(*(collect(thread, request) for request in requests))
        for request, answer in zip(requests, answers, strict=True):
            assert answer == reference_tokens(request.prompt, request.sampling, request.max_tokens)

    with running(FakeRunner(replace(LIMITS, slots=64, blocks=256, max_batch_tokens=256))) as thread:
        asyncio.run(main(thread))
        assert thread.stats().requests == 200
        assert thread.stats().blocks_used == 0


async def collect(thread: EngineThread, request: Request) -> list[int]:
    return [token async for update in thread.submit(request) for token in update.tokens]


def count_wakes() -> list[str]:
    """The name of each thread that will have woken this loop."""
    loop = asyncio.get_running_loop()
    wakes: list[str] = []
    wake = loop.call_soon_threadsafe

    def note_and_wake(*args: Any, **options: Any) -> asyncio.Handle:
        wakes.append(threading.current_thread().name)
        return wake(*args, **options)

    loop.call_soon_threadsafe = note_and_wake  # type: ignore[method-assign, assignment]
    return wakes


def test_all_streams_of_a_loop_are_woken_together() -> None:
    async def main(thread: EngineThread, gate: Gate) -> None:
        streams = [asyncio.create_task(collect(thread, make_request(str(i), (i,), 10))) for i in range(8)]
        await gate.wait_reached()
        wakes = count_wakes()
        gate.open()
        await asyncio.gather(*streams)
        assert 1 <= len(wakes) <= thread.stats().steps

    gate = Gate()
    with running(FakeRunner(on_launch=gate), SchedulerConfig(max_burst_steps=1)) as thread:
        asyncio.run(main(thread, gate))


def test_streams_may_belong_to_several_loops() -> None:
    answers: list[list[int]] = []

    def serve_one(thread: EngineThread, id: str) -> None:
        answers.append(asyncio.run(collect(thread, make_request(id, max_tokens=30))))

    with running(FakeRunner()) as thread:
        threads = [threading.Thread(target=serve_one, args=(thread, str(i))) for i in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert answers == [reference_tokens([1, 2, 3], Sampling(), 30)] * 4


def test_a_loop_that_is_gone_does_not_hold_its_requests() -> None:
    gate = Gate()

    async def leave(thread: EngineThread) -> None:
        task = asyncio.ensure_future(anext(thread.submit(make_request("gone", max_tokens=100_000))))
        await gate.wait_reached()
        assert not task.done()

    with running(FakeRunner(ROOMY, on_launch=gate)) as thread:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave(thread))
        loop.close()
        gate.open()
        assert len(asyncio.run(collect(thread, make_request("next", max_tokens=5)))) == 5
        asyncio.run(until_idle(thread))
        assert thread.stats().tokens < 100_000


async def until_idle(thread: EngineThread) -> None:
    """Send requests, one after the other, until the last one was alone."""
    await collect(thread, make_request("probe", max_tokens=1))
    while thread.stats().running or thread.stats().waiting:
        await collect(thread, make_request("probe", max_tokens=1))


async def cancel(thread: EngineThread, request: Request) -> None:
    async def read() -> None:
        async for _ in thread.submit(request):
            got.set()

    got = asyncio.Event()
    task = asyncio.create_task(read())
    await got.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def close_early(thread: EngineThread, request: Request) -> None:
    stream = thread.submit(request)
    await anext(stream)
    await stream.aclose()


async def break_off(thread: EngineThread, request: Request) -> None:
    async for _ in thread.submit(request):
        break


async def abort_by_id(thread: EngineThread, request: Request) -> None:
    reasons = []
    async for update in thread.submit(request):
        thread.abort(request.id)
        reasons.append(update.finish_reason)
    assert reasons[-1] is FinishReason.ABORT


@pytest.mark.parametrize("leave", [cancel, close_early, break_off, abort_by_id])
def test_a_reader_that_leaves_frees_its_request(leave: Callable[[EngineThread, Request], Awaitable[None]]) -> None:
    async def main(thread: EngineThread) -> None:
        await leave(thread, make_request("a", max_tokens=100_000))
        await until_idle(thread)
        assert thread.stats().blocks_used == 0
        assert thread.stats().tokens < 100_000

    with running(FakeRunner(ROOMY, on_launch=let_others_run), SchedulerConfig(max_burst_steps=2)) as thread:
        asyncio.run(main(thread))


def test_an_id_is_free_again_only_once_its_request_has_ended() -> None:
    async def main(thread: EngineThread, gate: Gate) -> None:
        stream = thread.submit(make_request("a", max_tokens=LONG))
        first = asyncio.ensure_future(anext(stream))
        await gate.wait_reached()
        first.cancel()
        await asyncio.wait([first])
        with pytest.raises(RequestError, match="'a' is under way"):
            await collect(thread, make_request("a"))
        gate.open()
        await until_idle(thread)
        assert await collect(thread, make_request("a", max_tokens=2)) == reference_tokens([1, 2, 3], Sampling(), 2)

    gate = Gate()
    with running(FakeRunner(on_launch=gate)) as thread:
        asyncio.run(main(thread, gate))


def test_refusals_are_raised_at_the_first_iteration() -> None:
    async def main(thread: EngineThread, gate: Gate) -> None:
        first = asyncio.create_task(collect(thread, make_request("a", max_tokens=2)))
        await gate.wait_reached()
        second = asyncio.create_task(collect(thread, make_request("b", max_tokens=2)))
        third = asyncio.create_task(collect(thread, make_request("c", max_tokens=2)))
        long = asyncio.create_task(collect(thread, make_request("d", [1] * 600)))
        await asyncio.sleep(0)
        gate.open()
        assert len(await first) == len(await second) == 2
        with pytest.raises(QueueFullError, match="waiting"):
            await third
        with pytest.raises(ContextLengthError, match="600"):
            await long

    gate = Gate()
    with running(FakeRunner(on_launch=gate), SchedulerConfig(max_waiting=1)) as thread:
        asyncio.run(main(thread, gate))


def test_a_stream_that_is_never_read_sends_nothing() -> None:
    with running(FakeRunner()) as thread:
        thread.submit(make_request("a"))
        assert asyncio.run(collect(thread, make_request("b", max_tokens=1)))
        assert thread.stats().requests == 1


def test_a_slow_reader_gets_everything_in_few_pieces() -> None:
    permits = threading.Semaphore(2)  # one step scores the prompt, one samples the first token

    def take_permit(batch: Batch) -> None:
        assert permits.acquire(timeout=30)

    async def main(thread: EngineThread) -> None:
        slow = thread.submit(make_request("slow", max_tokens=100, sampling=CHATTY, score_prompt=True))
        first = await anext(slow)
        permits.release(LONG)
        await collect(thread, make_request("fast", (9,), max_tokens=200))
        rest = [update async for update in slow]
        assert len(rest) == 1
        assert first.tokens + rest[0].tokens == reference_tokens([1, 2, 3], Sampling(), 100)
        assert first.logprobs is not None
        assert rest[0].logprobs is not None
        tokens = first.tokens + rest[0].tokens
        assert first.logprobs + rest[0].logprobs == reference_logprobs([1, 2, 3], tokens, CHATTY)
        assert (first.finish_reason, rest[0].finish_reason) == (None, FinishReason.LENGTH)
        assert len(first.prompt_scores or ()) == 2
        assert rest[0].timeline is not None

    with running(FakeRunner(on_launch=take_permit), SchedulerConfig(max_burst_steps=1)) as thread:
        asyncio.run(main(thread))


def test_what_comes_before_the_first_read_is_one_update_with_its_scores() -> None:
    async def main(thread: EngineThread, gate: Gate) -> None:
        request = make_request("a", max_tokens=3, sampling=CHATTY, score_prompt=True)
        task = asyncio.ensure_future(anext(thread.submit(request)))
        await gate.wait_reached()
        gate.open()
        thread.close(drain_ms=10_000.0)  # on the loop itself, so nothing is read meanwhile
        update = await task
        assert update.tokens == reference_tokens([1, 2, 3], Sampling(), 3)
        assert update.prompt_scores == reference_scores([1, 2, 3])
        assert update.logprobs == reference_logprobs([1, 2, 3], update.tokens, CHATTY)

    gate = Gate()
    with running(FakeRunner(on_launch=gate), SchedulerConfig(max_burst_steps=1)) as thread:
        asyncio.run(main(thread, gate))


def test_a_loop_that_is_busy_is_woken_once_for_all_it_missed() -> None:
    async def main(thread: EngineThread, gate: Gate) -> None:
        task = asyncio.create_task(collect(thread, make_request("a", max_tokens=20)))
        await gate.wait_reached()
        wakes = count_wakes()
        gate.open()
        thread.close(drain_ms=10_000.0)
        assert wakes == ["vivace-engine"]
        assert len(await task) == 20

    gate = Gate()
    with running(FakeRunner(on_launch=gate), SchedulerConfig(max_burst_steps=1)) as thread:
        asyncio.run(main(thread, gate))
        assert thread.stats().steps == 20


def test_every_message_interrupts_the_burst_under_way() -> None:
    async def main(thread: EngineThread) -> None:
        await collect(thread, make_request("a", max_tokens=1))
        assert runner.interrupts == 1
        thread.abort("a")
        assert runner.interrupts == 2

    runner = FakeRunner()
    with running(runner) as thread:
        asyncio.run(main(thread))


def test_an_idle_engine_makes_no_steps() -> None:
    runner = FakeRunner()
    with running(runner) as thread:
        asyncio.run(collect(thread, make_request("a", max_tokens=1)))
        thread.abort("nobody")
        launches = runner.launches
        asyncio.run(collect(thread, make_request("b", max_tokens=1)))
        assert runner.launches == launches + 1
        assert thread.health().stuck_ms == 0.0


def test_a_failed_step_ends_its_streams_and_the_engine_goes_on() -> None:
    async def main(thread: EngineThread) -> None:
        updates = [update async for update in thread.submit(make_request("a"))]
        assert updates[-1].finish_reason is FinishReason.ERROR
        assert "planted" in updates[-1].error
        assert len(await collect(thread, make_request("b"))) == 8
        assert thread.health().alive

    with running(FakeRunner(fail_at=(0,))) as thread:
        asyncio.run(main(thread))


def test_when_the_thread_dies_every_stream_is_told_why_and_new_ones_are_refused() -> None:
    async def main(thread: EngineThread, gate: Gate) -> None:
        requests = [make_request(str(i), (i,)) for i in range(20)]
        tasks = [asyncio.create_task(collect(thread, request)) for request in requests]
        await gate.wait_reached()
        gate.open()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        stopped = [outcome for outcome in outcomes if isinstance(outcome, EngineStoppedError)]
        assert len(stopped) >= 18  # the first two steps, of one slot each, ended theirs with an update
        assert all("died of EngineError" in str(error) and "planted" in str(error) for error in stopped)
        with pytest.raises(EngineStoppedError, match="died"):
            await collect(thread, make_request("late"))
        assert not thread.health().alive
        assert "planted" in thread.health().error

    gate = Gate()
    with running(FakeRunner(replace(LIMITS, slots=1), on_launch=gate, fail_at=range(100))) as thread:
        asyncio.run(main(thread, gate))


def test_a_step_that_hangs_shows_in_health_and_close_does_not_hang_with_it() -> None:
    async def main(thread: EngineThread, gate: Gate) -> None:
        task = asyncio.create_task(collect(thread, make_request("a")))
        await gate.wait_reached()
        assert thread.health().alive
        assert thread.health().stuck_ms >= 0.0
        with pytest.raises(EngineError, match="did not stop"):
            await asyncio.to_thread(thread.close, 0.0, 1.0)
        with pytest.raises(EngineStoppedError, match="step has been running"):
            await task
        assert not thread.health().alive

    gate = Gate()
    thread = EngineThread(Engine(FakeRunner(on_launch=gate)))
    thread.start()
    asyncio.run(main(thread, gate))
    gate.open()


def test_stuck_time_runs_while_a_step_does() -> None:
    now = [5.0]
    gate = Gate()
    thread = EngineThread(Engine(FakeRunner(on_launch=gate)), clock=lambda: now[0])
    thread.start()

    async def main() -> None:
        task = asyncio.create_task(collect(thread, make_request("a", max_tokens=1)))
        await gate.wait_reached()
        now[0] += 2.0
        assert thread.health().stuck_ms == 2000.0
        gate.open()
        await task

    asyncio.run(main())
    thread.close()


def test_closing_lets_streams_finish_while_there_is_time() -> None:
    async def main(thread: EngineThread, gate: Gate) -> None:
        task = asyncio.create_task(collect(thread, make_request("a", max_tokens=60)))
        await gate.wait_reached()
        closing = asyncio.create_task(asyncio.to_thread(thread.close, 30_000.0))
        while "closed" not in thread.health().error:
            await asyncio.sleep(0)
        with pytest.raises(EngineStoppedError, match="closed"):
            await collect(thread, make_request("late", max_tokens=LONG))
        gate.open()
        assert await task == reference_tokens([1, 2, 3], Sampling(), 60)
        await closing
        assert thread.stats().tokens == 60

    gate = Gate()
    with running(FakeRunner(on_launch=gate)) as thread:
        asyncio.run(main(thread, gate))
        assert not thread.health().alive


def test_closing_aborts_what_is_left() -> None:
    async def read(thread: EngineThread) -> Update:
        return [update async for update in thread.submit(make_request("a", max_tokens=LONG))][-1]

    async def main(thread: EngineThread, gate: Gate) -> None:
        task = asyncio.create_task(read(thread))
        await gate.wait_reached()
        closing = asyncio.create_task(asyncio.to_thread(thread.close))
        while "closed" not in thread.health().error:
            await asyncio.sleep(0)
        gate.open()
        assert (await task).finish_reason is FinishReason.ABORT
        await closing
        with pytest.raises(EngineStoppedError, match="closed"):
            await collect(thread, make_request("late"))
        assert thread.stats().blocks_used == 0

    gate = Gate()
    with running(FakeRunner(on_launch=gate), SchedulerConfig(max_burst_steps=1)) as thread:
        asyncio.run(main(thread, gate))


def test_closing_twice_and_before_the_start_is_harmless() -> None:
    thread = EngineThread(Engine(FakeRunner()))
    thread.close()
    assert not thread.health().alive
    with running(FakeRunner()) as thread:
        thread.close()


def test_a_request_before_the_start_is_refused() -> None:
    thread = EngineThread(Engine(FakeRunner()))
    with pytest.raises(EngineStoppedError, match="call start"):
        asyncio.run(collect(thread, make_request("a")))


def test_every_message_could_travel_to_another_process() -> None:
    """And one event a step comes up, whatever the number of streams."""
    requests = [
        replace(
            make_request(
                f"r{i}",
                range(i, i + 30),
                20,
                Sampling(0.8 if i % 2 else 0.0, seed=2**64 - 1 - i, stop_token_ids=(7,), logprobs=i % 3 - 1),
                cache_salt="盐" if i % 4 == 0 else "",
                score_prompt=i % 5 == 0,
            ),
            grammar=EVERY_OTHER if i % 3 == 0 else None,
        )
        for i in range(24)
    ]

    async def ask(thread: EngineThread, request: Request) -> list[Any]:
        updates = [update async for update in thread.submit(request)]
        logprobs = [told for update in updates for told in update.logprobs or ()]
        scores = next((update.prompt_scores for update in updates if update.prompt_scores), None)
        tokens = [token for update in updates for token in update.tokens]
        end = updates[-1]
        return [tokens, msgspec.to_builtins(logprobs), scores, end.finish_reason, type(end.timeline)]

    async def ask_all(thread: EngineThread) -> list[Any]:
        answers = await asyncio.gather(*(ask(thread, request) for request in requests))
        with pytest.raises(ContextLengthError, match="context"):
            await ask(thread, make_request("long", [1] * 10_000))
        with pytest.raises(RequestError, match="nonsense is no grammar"):
            await ask(thread, replace(make_request("bad"), grammar=Grammar("regex", "nonsense")))
        stream = thread.submit(make_request("gone", max_tokens=40))
        await anext(stream)
        await stream.aclose()
        return answers

    told = []
    for kind in (Wire, EngineThread):
        engine = Engine(FakeRunner(on_launch=let_others_run), SchedulerConfig(max_burst_steps=1))
        thread = kind(engine, compile_every_other)
        thread.start()
        told.append(asyncio.run(ask_all(thread)))
        thread.close()
        if isinstance(thread, Wire):
            assert {"Request", "Abort", "Close", "event", "Refusal"} <= thread.sent.keys()
            assert thread.sent["event"] <= thread.stats().steps + 2
    assert told[0] == told[1]


class Slow:
    """A compiler that waits until it is let."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def __call__(self, grammar: Grammar) -> Constraint:
        assert self.gate.wait(30)
        return compile_every_other(grammar)


@contextmanager
def running_slowly() -> Iterator[tuple[EngineThread, Slow]]:
    slow = Slow()
    thread = EngineThread(Engine(FakeRunner()), slow)
    thread.start()
    try:
        yield thread, slow
    finally:
        slow.gate.set()
        thread.close()


def test_the_engine_goes_on_while_a_grammar_is_compiled() -> None:
    async def main(thread: EngineThread, slow: Slow) -> None:
        waiting = asyncio.create_task(collect(thread, replace(make_request("slow"), grammar=EVERY_OTHER)))
        assert len(await collect(thread, make_request("fast"))) == 8
        assert not waiting.done()
        slow.gate.set()
        due = reference_tokens((1, 2, 3), Sampling(), 8, LIMITS.vocab_size, EveryOther(LIMITS.vocab_size))
        assert await waiting == due

    with running_slowly() as (thread, slow):
        asyncio.run(main(thread, slow))


def test_a_request_given_up_while_its_grammar_is_compiled_is_never_computed() -> None:
    async def main(thread: EngineThread, slow: Slow) -> None:
        task = asyncio.create_task(collect(thread, replace(make_request("a"), grammar=EVERY_OTHER)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await collect(thread, make_request("b", max_tokens=1))  # the abort is seen to before this
        slow.gate.set()
        await asyncio.sleep(0.05)
        await collect(thread, make_request("c", max_tokens=1))

    with running_slowly() as (thread, slow):
        asyncio.run(main(thread, slow))
        assert thread.stats().requests == 2


def test_closing_waits_for_a_grammar_no_longer_than_for_an_answer() -> None:
    async def main(thread: EngineThread) -> None:
        task = asyncio.create_task(collect(thread, replace(make_request("a"), grammar=EVERY_OTHER)))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await asyncio.to_thread(thread.close, 100.0)
        assert time.monotonic() - began < 5
        with pytest.raises(EngineStoppedError):
            await task

    with running_slowly() as (thread, _):
        asyncio.run(main(thread))


def test_without_a_compiler_a_grammar_is_refused() -> None:
    with running(FakeRunner()) as thread, pytest.raises(RequestError, match="compiles no grammars"):
        asyncio.run(collect(thread, replace(make_request("a"), grammar=EVERY_OTHER)))
