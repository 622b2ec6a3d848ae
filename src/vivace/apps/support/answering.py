"""Which question is answered when: those of one conversation one after the other, different conversations side by side.

What is due stands in the database, so a process that dies mid-answer leaves nothing behind that the next one does not find. Knows neither what
an answer is nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from vivace.apps.support import conversations
from vivace.apps.support.hub import Hub
from vivace.apps.support.pipeline import Pipeline, Question
from vivace.apps.support.store import Store
from vivace.apps.support.workers import Workers
from vivace.errors import BusyError

MAX_QUESTIONS = 4096
"""Waiting or being answered."""

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
    ) -> None:
        self._pipeline = pipeline
        self._store = store
        self._workers = workers
        self._hub = hub
        self._on_change = on_change
        self._lanes: dict[str, _Lane] = {}

    @property
    def count(self) -> int:
        """Questions waiting or being answered."""
        return sum(len(lane.waiting) + bool(lane.current) for lane in self._lanes.values())

    def check_room(self) -> None:
        """Raises `BusyError` when another question would wait too long."""
        if len(self._lanes) >= MAX_QUESTIONS:
            raise BusyError("Too many questions are waiting. Try again in a moment.", retry_after_s=2.0)

    def ask(self, question: Question) -> None:
        """Answer it, after those of its conversation that came before. One that is known already is left alone."""
        lane = self._lanes.setdefault(question.conversation_id, _Lane())
        known = {lane.current} | {waiting.message_id for waiting in lane.waiting}
        if question.message_id in known:
            return
        lane.stopped = False
        lane.waiting.append(question)
        if lane.task is None:
            lane.task = asyncio.create_task(self._work(question.conversation_id, lane))

    def interrupt(self, conversation_id: str) -> None:
        """The conversation is no longer the bot's: say nothing more."""
        if (lane := self._lanes.get(conversation_id)) is not None:
            lane.stopped = True
            lane.waiting.clear()
            self._hub.end_draft(conversation_id)

    async def resume(self) -> int:
        """Take up what is due and nobody works on: after a restart, all of it. Returns how many there are."""
        due = await self._workers.run(self._store.read, conversations.list_due)
        for conversation_id, message_id in due[:MAX_QUESTIONS]:
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
                await self._answer(question, lane)
                lane.current = ""
        finally:
            if self._lanes.get(conversation_id) is lane:
                del self._lanes[conversation_id]

    async def _answer(self, question: Question, lane: _Lane) -> None:
        try:
            if await self._pipeline.answer(question, lambda: lane.stopped):
                lane.waiting.clear()
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
