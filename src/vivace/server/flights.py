"""Equal requests under way at once share one generation: each reads all of it, from the beginning, at its own pace.

A generation lives while anyone reads it. When the last reader leaves, it is given up at once; who came first makes no
difference. Knows no request and no cache.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import aclosing
from dataclasses import replace

from vivace.budget import Timeline
from vivace.server.answer import Answers, News, Settled
from vivace.server.recording import assemble, list_reasons, merge_news
from vivace.server.replies import Usage, Whole

Launch = Callable[[], Awaitable[Answers]]
"""Prepares and begins a generation."""
Land = Callable[[News, Settled], Awaitable[None]]
"""What is done with a generation that was told to its end."""


class Flight:
    """One generation, and all that came of it so far."""

    def __init__(self) -> None:
        self.news: News = []
        self.finished = False
        """Nothing more comes."""
        self.settled: Settled | None = None
        self.error: Exception | None = None
        self.readers: set[Reader] = set()
        self.task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self.settled is not None or self.error is not None

    def tell(self, news: News, finished: bool) -> None:
        self.news += news
        self.finished = finished
        self._wake()

    def settle(self, outcome: Settled) -> None:
        self.settled = outcome
        self._wake()

    def fail(self, error: Exception) -> None:
        self.error = error
        self._wake()

    def _wake(self) -> None:
        for reader in self.readers:
            reader.changed.set()


class Reader:
    """Reads a flight for a request that arrived at one monotonic instant and joined at another.

    Whoever began the flight joins it on arrival. Errors of the generation are raised to every reader.
    """

    def __init__(self, flight: Flight, leave: Callable[[Reader], Awaitable[None]], arrived: float, joined: float):
        self.changed = asyncio.Event()
        self._flight = flight
        self._leave = leave
        self._arrived = arrived
        self._joined = joined
        self._place = 0

    @property
    def finished(self) -> bool:
        return self._flight.finished and self._place == len(self._flight.news)

    @property
    def over(self) -> bool:
        return self._flight.ended

    @property
    def finish_reasons(self) -> list[str]:
        return list_reasons(self._flight.news)

    async def read(self) -> News:
        """What is new since the last time, in as few pieces as can be. Raises what the generation failed of."""
        flight = self._flight
        await self._wait(lambda: self._place < len(flight.news))
        news, self._place = flight.news[self._place :], len(flight.news)
        return merge_news(news)

    async def read_all(self) -> list[Whole]:
        await self._wait(lambda: self._flight.finished)
        self._place = len(self._flight.news)
        return assemble(self._flight.news)

    async def usage(self) -> Usage:
        """The times are this request's own: of the generation's, what it waited for. One that joined had nothing
        computed for it, so the whole of its prompt counts as found in a cache."""
        await self._wait(lambda: self._flight.settled is not None)
        outcome = self._flight.settled
        assert outcome is not None
        leads = self._joined <= outcome.arrived
        timeline = see_from(outcome.timeline, 1000 * (self._joined - outcome.arrived))
        before_ms = 1000 * (self._joined - self._arrived)
        timeline = replace(timeline, preprocess_ms=timeline.preprocess_ms + before_ms)
        elapsed_ms = 1000 * (time.monotonic() - self._arrived)
        return outcome.usage(
            replace(timeline, flush_ms=max(0.0, elapsed_ms - timeline.total_ms)),
            outcome.cached_tokens if leads else outcome.prompt_tokens,
        )

    async def aclose(self) -> None:
        """Leave. The last one to leave ends a generation that still runs."""
        await self._leave(self)

    async def _wait(self, holds: Callable[[], bool]) -> None:
        while not holds():
            if self._flight.error is not None:
                raise self._flight.error
            self.changed.clear()
            await self.changed.wait()


def see_from(timeline: Timeline, late_ms: float) -> Timeline:
    """What is left of a generation's times for someone who came `late_ms` after their beginning."""
    left: dict[str, float] = {}
    for name in ("preprocess_ms", "queue_ms", "prefill_ms", "decode_ms"):
        part = getattr(timeline, name)
        left[name] = max(0.0, part - max(0.0, late_ms))
        late_ms -= part
    return Timeline(**left)


class Flights:
    """The generations under way, by key."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._flights)

    def join(self, key: Hashable, arrived: float) -> Reader | None:
        """Read along with the generation under that key; None if there is none."""
        flight = self._flights.get(key)
        return None if flight is None else self._add_reader(key, flight, arrived, time.monotonic())

    def start(self, key: Hashable, arrived: float, launch: Launch, land: Land | None = None) -> Reader:
        """Begin a generation that others can join, and be its first reader. From now on it is the key's."""
        flight = self._flights[key] = Flight()
        reader = self._add_reader(key, flight, arrived, arrived)
        flight.task = asyncio.ensure_future(self._run(key, flight, launch, land))
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._tasks.discard)
        return reader

    def _add_reader(self, key: Hashable, flight: Flight, arrived: float, joined: float) -> Reader:
        async def leave(reader: Reader) -> None:
            flight.readers.discard(reader)
            if not flight.readers and not flight.ended and flight.task is not None:
                self._remove(key, flight)
                flight.task.cancel()
                await asyncio.gather(flight.task, return_exceptions=True)

        reader = Reader(flight, leave, arrived, joined)
        flight.readers.add(reader)
        return reader

    async def _run(self, key: Hashable, flight: Flight, launch: Launch, land: Land | None) -> None:
        try:
            answers = await launch()
            async with aclosing(answers):
                while not answers.finished:
                    news = await answers.read()
                    flight.tell(news, answers.finished)
                flight.settle(outcome := await answers.settle())
            if land is not None:
                await land(flight.news, outcome)
        except Exception as error:
            if flight.ended:
                raise
            self._remove(key, flight)
            flight.fail(error)
        finally:
            self._remove(key, flight)

    def _remove(self, key: Hashable, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
