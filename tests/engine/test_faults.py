"""What breaks is told to those it concerns, at once; everyone else is served as if nothing had happened."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.engine.answers import drain, expected, last_update, make_engine
from tests.fakes import LIMITS, EveryOther, FakeRunner, make_request
from vivace.batch import Batch
from vivace.budget import Budget
from vivace.engine.admission import Admission, AdmissionConfig
from vivace.engine.bridge import EngineThread
from vivace.engine.constraint import Constraint, Grammar
from vivace.engine.engine import Engine
from vivace.engine.forecast import StepLimits
from vivace.engine.ladder import Ladder
from vivace.engine.request import FinishReason, Request, Update
from vivace.engine.scheduler import SchedulerConfig
from vivace.errors import EngineStoppedError, StepFailedError

NO_BURSTS = SchedulerConfig(max_burst_steps=1)


class Killed(BaseException):
    """Nothing that code should catch."""


class Panic(BaseException):
    """As libraries written in Rust raise it: no Exception."""


class FaultyRunner(FakeRunner):
    """Raises once whatever `fail` is given, and holds its launches while `gate` is closed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(on_launch=self._meddle, **options)
        self.gate = threading.Event()
        self.gate.set()
        self.held = threading.Event()
        self._errors: list[BaseException] = []

    def fail(self, *errors: BaseException) -> None:
        self._errors += errors

    def _meddle(self, batch: Batch) -> None:
        if not self.gate.is_set():
            self.held.set()
        assert self.gate.wait(30)
        if self._errors:
            raise self._errors.pop(0)


@contextmanager
def running(runner: FakeRunner, engine: Engine | Ladder | None = None, **options: Any) -> Iterator[EngineThread]:
    thread = EngineThread(engine or Engine(runner, NO_BURSTS), **options)
    thread.start()
    try:
        yield thread
    finally:
        thread.close()


async def ask(thread: EngineThread, request: Request) -> Update:
    """The last update, with all tokens."""
    tokens: list[int] = []
    try:
        async for update in thread.submit(thread.admit(request)):
            tokens += update.tokens
    finally:
        thread.release(request.id)
    return update._replace(tokens=tokens)


async def check_serves(thread: EngineThread, id: str = "after") -> None:
    request = make_request(id, (4, 5), 6)
    assert (await ask(thread, request)).tokens == expected(request)
    health = thread.health()
    assert (health.alive, health.error) == (True, "")


async def ask_held(
    thread: EngineThread, runner: FaultyRunner, requests: Sequence[Request]
) -> list[asyncio.Task[Update]]:
    """Requests of which the first are being computed, and held there, and the others wait."""
    runner.gate.clear()
    tasks = [asyncio.create_task(ask(thread, request)) for request in requests]
    assert await asyncio.to_thread(runner.held.wait, 30)
    return tasks


@pytest.mark.parametrize("error", [RuntimeError("planted"), MemoryError("std::bad_alloc"), OSError("planted")])
def test_a_step_that_raises_once_fails_its_own_requests_and_nobody_elses(error: Exception) -> None:
    runner = FaultyRunner(limits=replace(LIMITS, slots=1))
    engine = make_engine(runner, NO_BURSTS)
    engine.add(make_request("in the step"))
    others = [make_request(f"other {i}", (i,)) for i in range(3)]
    for request in others:
        engine.add(request)
    runner.fail(error)
    answers = drain(engine)
    failed = last_update(answers["in the step"])
    assert failed.finish_reason is FinishReason.ERROR
    assert type(error).__name__ in failed.error
    assert str(error) in failed.error
    for request in others:
        assert answers[request.id].tokens == expected(request)
    assert engine.stats().blocks_used == 0


def kill(runner: FaultyRunner, thread: EngineThread) -> None:
    """Raise Killed in the engine's thread itself, wherever it is, as soon as it goes on."""
    (number,) = [each.ident for each in threading.enumerate() if each.name == "vivace-engine"]
    assert number is not None
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(number), ctypes.py_object(Killed)) == 1


def raise_in_step(runner: FaultyRunner, thread: EngineThread) -> None:
    runner.fail(Killed("planted"))


def fail_for_good(runner: FaultyRunner, thread: EngineThread) -> None:
    runner.fail(*(RuntimeError("planted") for _ in range(3)))


@pytest.mark.parametrize("fault", [kill, raise_in_step])
def test_an_engine_that_is_killed_is_replaced_and_who_was_under_way_is_told_at_once(
    fault: Callable[[FaultyRunner, EngineThread], None],
) -> None:
    async def main(runner: FaultyRunner, thread: EngineThread) -> None:
        await check_serves(thread, "before")
        tasks = await ask_held(thread, runner, [make_request(str(i), (i,)) for i in range(20)])
        fault(runner, thread)
        runner.gate.set()
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*tasks)
        failed = [outcome for outcome in outcomes if outcome.finish_reason is FinishReason.ERROR]
        assert failed
        assert all("died of Killed" in outcome.error for outcome in failed)
        assert all(o.finish_reason is FinishReason.LENGTH for o in outcomes if o not in failed)
        await check_serves(thread)
        assert thread.health().restarts == 1
        assert thread.stats().blocks_used == 0

    runner = FaultyRunner(limits=replace(LIMITS, slots=2))
    with running(runner) as thread:
        asyncio.run(main(runner, thread))


def test_requests_that_the_dead_engine_had_not_heard_of_are_served_by_the_next() -> None:
    async def main(runner: FaultyRunner, thread: EngineThread) -> None:
        await check_serves(thread, "before")
        (lost,) = await ask_held(thread, runner, [make_request("lost")])
        kept = [make_request(f"kept {i}", (i,)) for i in range(5)]
        tasks = [asyncio.create_task(ask(thread, request)) for request in kept]
        await asyncio.sleep(0)  # they are sent, and wait for the step under way to end
        runner.fail(Killed("planted"))
        runner.gate.set()
        assert "died of Killed" in (await lost).error
        for request, task in zip(kept, tasks, strict=True):
            assert (await task).tokens == expected(request)

    runner = FaultyRunner()
    with running(runner) as thread:
        asyncio.run(main(runner, thread))


def test_a_runner_that_fails_three_times_gets_one_more_engine_if_it_ever_worked() -> None:
    async def main(runner: FaultyRunner, thread: EngineThread) -> None:
        await check_serves(thread, "before")
        for index in range(3):
            runner.fail(RuntimeError("planted"))
            outcome = await ask(thread, make_request(f"failed {index}"))
            assert "planted" in outcome.error
        await check_serves(thread)
        assert thread.health().restarts == 1

    runner = FaultyRunner()
    with running(runner) as thread:
        asyncio.run(main(runner, thread))


def test_an_engine_whose_runner_never_works_again_ends_and_everyone_is_told() -> None:
    async def main(runner: FaultyRunner, thread: EngineThread) -> None:
        await check_serves(thread, "before")
        runner.fail(Killed("planted"), Killed("planted again"))
        assert "died of Killed" in (await ask(thread, make_request("first"))).error
        with pytest.raises(EngineStoppedError, match="planted again"):
            await ask(thread, make_request("second"))
        with pytest.raises(EngineStoppedError, match="planted again"):
            await ask(thread, make_request("third"))
        health = thread.health()
        assert not health.alive
        assert "planted again" in health.error

    runner = FaultyRunner()
    with running(runner) as thread:
        asyncio.run(main(runner, thread))


@pytest.mark.parametrize("method", ["allocate", "match", "release"])
def test_an_allocation_that_fails_in_the_pool_takes_one_engine_and_not_the_service(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(thread: EngineThread, engine: Engine) -> None:
        await check_serves(thread, "before")

        def fail(*arguments: Any) -> Any:
            raise MemoryError("planted")

        monkeypatch.setattr(engine._scheduler.pool, method, fail)
        outcome = await ask(thread, make_request("a"))
        if method == "release":  # after the last token
            assert outcome.tokens == expected(make_request("a"))
        else:
            assert outcome.finish_reason is FinishReason.ERROR
            assert "MemoryError: planted" in outcome.error
        await check_serves(thread)
        assert thread.health().restarts == 1

    engine = Engine(FakeRunner(), NO_BURSTS)
    with running(FakeRunner(), engine) as thread:
        asyncio.run(main(thread, engine))


def test_a_request_that_the_engine_chokes_on_is_told_and_the_others_of_its_engine_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(runner: FaultyRunner, thread: EngineThread, engine: Engine) -> None:
        await check_serves(thread, "before")
        (under_way,) = await ask_held(thread, runner, [make_request("under way")])
        add = engine.add

        def choke(request: Request) -> None:
            if request.id == "poison":
                raise ZeroDivisionError("a fault of ours")
            add(request)

        monkeypatch.setattr(engine, "add", choke)
        poison = asyncio.create_task(ask(thread, make_request("poison")))
        behind = asyncio.create_task(ask(thread, make_request("behind", (8,))))
        await asyncio.sleep(0)
        runner.gate.set()
        with pytest.raises(StepFailedError, match="ZeroDivisionError"):
            await poison
        assert "ZeroDivisionError" in (await under_way).error
        assert (await behind).tokens == expected(make_request("behind", (8,)))

    runner = FaultyRunner()
    engine = Engine(runner, NO_BURSTS)
    with running(runner, engine) as thread:
        asyncio.run(main(runner, thread, engine))


def test_a_ladder_is_replaced_whole() -> None:
    async def main(runner: FaultyRunner, thread: EngineThread) -> None:
        await check_serves(thread, "before")
        tasks = await ask_held(thread, runner, [replace(make_request(name), variant=name) for name in ("full", "fast")])
        runner.fail(Killed("planted"))
        runner.gate.set()
        assert all("died of Killed" in outcome.error for outcome in await asyncio.gather(*tasks))
        await check_serves(thread)
        request = replace(make_request("again"), variant="fast")
        assert (await ask(thread, request)).tokens == expected(request)

    runner = FaultyRunner()
    ladder = Ladder({"full": Engine(runner, NO_BURSTS), "fast": Engine(FakeRunner(), NO_BURSTS)})
    with running(runner, ladder) as thread:
        asyncio.run(main(runner, thread))


def test_what_the_dead_engine_owed_is_owed_no_more() -> None:
    async def main(runner: FaultyRunner, thread: EngineThread) -> None:
        await check_serves(thread, "before")
        now = time.monotonic()
        requests = [make_request(str(i), (i,), arrived=now, budget=Budget(ttft_ms=60_000)) for i in range(6)]
        tasks = await ask_held(thread, runner, requests)
        runner.fail(Killed("planted"))
        runner.gate.set()
        await asyncio.gather(*tasks)
        stats = thread.admission_stats()
        assert stats is not None
        assert stats.under_way == 0

    runner = FaultyRunner()
    admission = Admission(AdmissionConfig(), StepLimits(50.0, LIMITS.max_batch_tokens))
    with running(runner, admission=admission) as thread:
        asyncio.run(main(runner, thread))


def panic(grammar: Grammar) -> Constraint:
    raise Panic("planted")


class PanickingConstraint(EveryOther):
    def accept(self, token: int) -> None:
        raise Panic("planted")


@pytest.mark.parametrize("compile", [panic, lambda grammar: PanickingConstraint(LIMITS.vocab_size)])
def test_a_grammar_that_makes_its_library_panic_ends_its_own_request_only(
    compile: Callable[[Grammar], Constraint],
) -> None:
    async def main(thread: EngineThread) -> None:
        request = replace(make_request("a"), grammar=Grammar("regex", "x"))
        try:
            outcome = (await ask(thread, request)).error
        except StepFailedError as error:
            outcome = str(error)
        assert "Panic" in outcome
        await check_serves(thread)
        assert thread.health().restarts == 0

    runner = FakeRunner()
    with running(runner, compile=compile) as thread:
        asyncio.run(main(thread))


def test_who_gives_up_while_a_grammar_is_compiled_leaves_nothing_behind() -> None:
    gate = threading.Event()

    def compile(grammar: Grammar) -> Constraint:
        assert gate.wait(30)
        return EveryOther(LIMITS.vocab_size)

    async def main(thread: EngineThread) -> None:
        asked = make_request("a", arrived=time.monotonic(), budget=Budget(total_ms=1e6))
        request = replace(asked, grammar=Grammar("regex", "x"))
        for _ in range(2):  # the id is free again
            task = asyncio.create_task(ask(thread, request))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await check_serves(thread)
        stats = thread.admission_stats()
        assert stats is not None
        assert stats.under_way == 0
        assert not any(mailroom.ids() for mailroom in thread._loops.values())

    admission = Admission(AdmissionConfig(), StepLimits(50.0, LIMITS.max_batch_tokens))
    with running(FakeRunner(), compile=compile, admission=admission) as thread:
        try:
            asyncio.run(main(thread))
        finally:
            gate.set()
