"""Which question is answered when: those of one conversation one after the other, different conversations side by side.

What is due stands in the database, so a process that dies mid-answer leaves nothing behind that the next one does not
find. Knows neither what an answer is nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vivace.apps.support import conversations
from vivace.apps.support.hub import Hub
from vivace.apps.support.pipeline import Pipeline, Question
from vivace.apps.support.store import Store
from vivace.apps.support.workers import Workers
from vivace.errors import BusyError

ROOM_LEAST = 64
"""So many questions may always be under way."""
MEAN_SHARE = 0.6
"""Of the longest wait that the mean may be: under overload the 99th percentile was measured at 1.6 times the median. A
shorter queue costs nothing: as many are answered."""
WINDOW_S = 5.0
"""Over which it is counted how many are answered a second."""

_logger = logging.getLogger("vivace.support.answers")


@dataclass(slots=True, eq=False)
class _Lane:
    """The questions of one conversation."""

    waiting: deque[Question] = field(default_factory=deque)
    current: str = ""
    stopped: bool = False
    task: asyncio.Task[None] | None = None


class Answering:
    """Runs the pipeline. Used from one event loop."""

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        workers: Workers,
        hub: Hub,
        on_change: Callable[[], None],
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = pipeline
        self._store = store
        self._workers = workers
        self._hub = hub
        self._on_change = on_change
        self._wait_s = wait_s
        self._clock = clock
        self._count = 0
        self._answered: deque[float] = deque()
        self._lanes: dict[str, _Lane] = {}

    @property
    def count(self) -> int:
        """Questions waiting or being answered, and those whose place is held while they are stored."""
        return self._count

    def check_room(self) -> None:
        """Raises `BusyError` when another question would wait longer than `answer_wait_s` behind those under way.

        By Little's law the mean wait is their number over the rate at which questions have been answered of late.
        """
        if self._count >= self._room():
            raise BusyError("Too many questions are waiting. Try again in a moment.", retry_after_s=2.0)

    @contextmanager
    def hold_place(self) -> Iterator[None]:
        """A place among those under way for a question that is still to be stored and asked. Raises `BusyError`."""
        self.check_room()
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    def is_pressed(self) -> bool:
        """Whether there is so much to do that passages should answer alone: three times as many for the same work."""
        return self._count >= max(ROOM_LEAST / 2, self._room() / 2)

    def _room(self) -> float:
        now = self._clock()
        while self._answered and self._answered[0] < now - WINDOW_S:
            self._answered.popleft()
        return max(ROOM_LEAST, len(self._answered) / WINDOW_S * self._wait_s * MEAN_SHARE)

    def ask(self, question: Question) -> None:
        """Answer it, after those of its conversation that came before. One that is known already is left alone."""
        lane = self._lanes.setdefault(question.conversation_id, _Lane())
        known = {lane.current} | {waiting.message_id for waiting in lane.waiting}
        if question.message_id in known:
            return
        lane.stopped = False
        lane.waiting.append(question)
        self._count += 1
        if lane.task is None:
            lane.task = asyncio.create_task(self._work(question.conversation_id, lane))

    def interrupt(self, conversation_id: str) -> None:
        """The conversation is no longer the bot's: say nothing more."""
        if (lane := self._lanes.get(conversation_id)) is not None:
            lane.stopped = True
            self._drop_waiting(lane)
            self._hub.end_draft(conversation_id)

    async def resume(self) -> int:
        """Take up what is due and nobody works on: after a restart, all of it. Returns how many there are."""
        due = await self._workers.run(self._store.read, conversations.list_due)
        for conversation_id, message_id in due:
            self.ask(Question(conversation_id, message_id))
        return len(due)

    async def stop(self) -> None:
        """Give up what is under way; it stays due."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, conversation_id: str, lane: _Lane) -> None:
        try:
            while lane.waiting:
                question = lane.waiting.popleft()
                lane.current = question.message_id
                try:
                    await self._answer(question, lane)
                finally:
                    lane.current = ""
                    self._count -= 1
                    self._answered.append(self._clock())
        finally:
            self._drop_waiting(lane)
            if self._lanes.get(conversation_id) is lane:
                del self._lanes[conversation_id]

    def _drop_waiting(self, lane: _Lane) -> None:
        self._count -= len(lane.waiting)
        lane.waiting.clear()

    async def _answer(self, question: Question, lane: _Lane) -> None:
        try:
            if await self._pipeline.answer(question, lambda: lane.stopped, pressed=self.is_pressed()):
                self._drop_waiting(lane)
                self._on_change()
        except BusyError:
            _logger.warning("too much to do; a question waits for the next look at what is due")
        except Exception:
            _logger.exception("a question could not be answered; a person is called")
            try:
                await self._pipeline.give_up(question)
            except Exception:
                _logger.exception("nor could a person be called; the question stays due")
            else:
                self._on_change()
