"""Readers of one generation: each gets all of it, in its own time, and none harms another."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from vivace.budget import Timeline
from vivace.errors import RequestError, StepFailedError
from vivace.server.answer import Answers, News, Settled
from vivace.server.flights import Flights, Launch, see_from
from vivace.server.replies import Piece

pytestmark = pytest.mark.anyio


class Generation:
    """Stands in for answers: tells what it is given, when it is given it."""

    def __init__(self) -> None:
        self.begun = 0
        self.closed = asyncio.Event()
        self.finished = False
        self.arrived = time.monotonic()
        self._told: asyncio.Queue[News | Exception] = asyncio.Queue()

    def tell(self, text: str, reason: str | None = None) -> None:
        self._told.put_nowait([(0, Piece(text), reason)])

    def fail(self, error: Exception) -> None:
        self._told.put_nowait(error)

    async def launch(self) -> Answers:
        self.begun += 1
        return cast(Answers, self)

    async def read(self) -> News:
        told = await self._told.get()
        if isinstance(told, Exception):
            raise told
        self.finished = told[0][2] is not None
        return told

    async def settle(self) -> Settled:
        return Settled(3, 2, 1, Timeline(1, 2, 3, 4), self.arrived)

    async def aclose(self) -> None:
        self.closed.set()


def start(flights: Flights, generation: Generation, launch: Launch | None = None, **more: Any) -> Any:
    return flights.start("key", generation.arrived, launch or generation.launch, **more)


def join(flights: Flights) -> Any:
    reader = flights.join("key", time.monotonic())
    assert reader is not None
    return reader


async def drain(reader: Any) -> str:
    text = ""
    while not reader.finished:
        text += "".join(piece.text for _, piece, _ in await reader.read())
    await reader.usage()
    await reader.aclose()
    return text


async def test_a_follower_gets_what_came_before_it_and_then_what_comes() -> None:
    flights, generation = Flights(), Generation()
    leader = start(flights, generation)
    generation.tell("Hel")
    assert (await leader.read())[0][1].text == "Hel"
    follower = join(flights)
    assert (await follower.read())[0][1].text == "Hel"
    reading = asyncio.ensure_future(follower.read())
    await asyncio.sleep(0)
    assert not reading.done()
    generation.tell("lo", "stop")
    assert (await reading)[0][1].text == "lo"
    assert follower.finished
    assert await drain(leader) == "lo"
    await follower.aclose()
    assert generation.begun == 1
    assert len(flights) == 0


async def test_a_slow_reader_keeps_nobody_waiting_and_gets_the_rest_in_one_piece() -> None:
    flights, generation = Flights(), Generation()
    quick = start(flights, generation)
    slow = join(flights)
    for text in "abc":
        generation.tell(text)
        await quick.read()
    generation.tell("d", "stop")
    assert await drain(quick) == "d"
    assert [(piece.text, reason) for _, piece, reason in await slow.read()] == [("abcd", "stop")]
    assert await drain(slow) == ""


async def test_who_began_may_leave() -> None:
    flights, generation = Flights(), Generation()
    leader = start(flights, generation)
    follower = join(flights)
    await leader.aclose()
    assert not generation.closed.is_set()
    generation.tell("all", "stop")
    assert await drain(follower) == "all"


async def test_when_the_last_reader_leaves_the_generation_is_over_before_it_has_left() -> None:
    flights, generation = Flights(), Generation()
    readers = [start(flights, generation), join(flights), join(flights)]
    generation.tell("a")
    for reader in readers:
        await reader.read()
    for reader in readers[:-1]:
        await reader.aclose()
    assert not generation.closed.is_set()
    await readers[-1].aclose()
    assert generation.closed.is_set()
    assert flights.join("key", 0.0) is None


async def test_leaving_twice_is_leaving_once() -> None:
    flights, generation = Flights(), Generation()
    leader, follower = start(flights, generation), join(flights)
    await leader.aclose()
    await leader.aclose()
    generation.tell("x", "stop")
    assert await drain(follower) == "x"


async def test_one_that_is_still_being_prepared_can_be_given_up() -> None:
    flights, generation = Flights(), Generation()
    cancelled = asyncio.Event()

    async def prepare_for_ever() -> Answers:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    reader = start(flights, generation, prepare_for_ever)
    await asyncio.sleep(0)
    await reader.aclose()
    assert cancelled.is_set()
    assert len(flights) == 0


async def test_an_error_reaches_everyone_after_what_came_before_it() -> None:
    flights, generation = Flights(), Generation()
    readers = [start(flights, generation), join(flights)]
    generation.tell("a")
    for reader in readers:
        assert (await reader.read())[0][1].text == "a"
    generation.fail(StepFailedError("it broke"))
    for reader in readers:
        with pytest.raises(StepFailedError, match="it broke"):
            await reader.read()
    assert generation.closed.is_set()
    assert flights.join("key", 0.0) is None


async def test_an_error_of_preparing_reaches_everyone() -> None:
    async def refuse() -> Answers:
        raise RequestError("too long")

    flights = Flights()
    readers = [start(flights, Generation(), refuse), join(flights)]
    for reader in readers:
        with pytest.raises(RequestError, match="too long"):
            await reader.read_all()


async def test_what_was_told_to_its_end_lands_once_though_nobody_is_left() -> None:
    flights, generation = Flights(), Generation()
    landed: list[tuple[News, Settled]] = []
    gate = asyncio.Event()

    async def land(news: News, outcome: Settled) -> None:
        await gate.wait()
        landed.append((list(news), outcome))

    leader = start(flights, generation, land=land)
    generation.tell("x", "stop")
    assert await drain(leader) == "x"
    late = join(flights)  # told to its end, and not landed yet
    assert await drain(late) == "x"
    gate.set()
    while len(flights):
        await asyncio.sleep(0)
    assert [(len(news), outcome.prompt_tokens) for news, outcome in landed] == [(1, 3)]


async def test_what_was_given_up_or_failed_never_lands() -> None:
    async def land(news: News, outcome: Settled) -> None:
        raise AssertionError("landed")

    flights = Flights()
    for end in ("leave", "fail"):
        generation = Generation()
        reader = start(flights, generation, land=land)
        generation.tell("x")
        await reader.read()
        if end == "fail":
            generation.fail(StepFailedError("no"))
            with pytest.raises(StepFailedError):
                await reader.read()
        await reader.aclose()
        assert generation.closed.is_set()


async def test_a_new_generation_takes_the_key_and_leaves_the_old_one_to_its_readers() -> None:
    flights, old, new = Flights(), Generation(), Generation()
    first, second = start(flights, old), start(flights, new)
    third = join(flights)
    old.tell("old", "stop")
    assert await drain(first) == "old"
    new.tell("new", "stop")
    assert await drain(second) == await drain(third) == "new"


async def test_each_reader_tells_its_own_times() -> None:
    flights, generation = Flights(), Generation()
    generation.arrived = time.monotonic() - 1
    leader = flights.start("key", generation.arrived, generation.launch)
    arrived = time.monotonic() - 0.25
    follower = flights.join("key", arrived)
    assert follower is not None
    generation.tell("x", "stop")
    await leader.read_all()
    await follower.read_all()
    timing = (await leader.usage()).timing
    assert [timing[f"{part}_ms"] for part in ("preprocess", "queue", "prefill", "decode")] == [1, 2, 3, 4]
    usage = await follower.usage()
    assert usage.timing["total_ms"] == pytest.approx(250, abs=50)
    assert usage.timing["decode_ms"] == 0  # it joined 990 ms after the last token
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens
    assert (await leader.usage()).prompt_tokens_details.cached_tokens == 1


@pytest.mark.parametrize(
    ("late_ms", "left"),
    [
        (0, (10, 20, 30, 40)),
        (-5, (10, 20, 30, 40)),
        (4, (6, 20, 30, 40)),
        (25, (0, 5, 30, 40)),
        (75, (0, 0, 0, 25)),
        (500, (0, 0, 0, 0)),
    ],
)
async def test_who_comes_late_waits_for_the_rest(late_ms: float, left: tuple[float, ...]) -> None:
    assert see_from(Timeline(10, 20, 30, 40), late_ms) == Timeline(*left)
