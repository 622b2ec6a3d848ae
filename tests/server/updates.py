"""Updates without an engine: what stands in for the bridge, and short ways to write updates."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, cast

from vivace.batch import Logprobs, Sampling
from vivace.budget import Timeline
from vivace.engine.bridge import EngineThread
from vivace.engine.request import FinishReason, Request, Update
from vivace.models.model import Model
from vivace.server.answer import Answer
from vivace.server.tools import ToolUse

END = 258


class Updates:
    """Stands in for the bridge: yields the given updates, and notes what becomes of the request."""

    def __init__(self, *updates: Update) -> None:
        self.updates = updates
        self.aborted: list[str] = []
        self.closed = False

    async def submit(self, request: Request) -> AsyncIterator[Update]:
        try:
            for update in self.updates:
                yield update
        finally:
            self.closed = True

    def abort(self, id: str) -> None:
        self.aborted.append(id)

    def release(self, id: str) -> None:
        assert self.closed or not self.updates, "released before it was closed"


def make_answer(
    model: Model, updates: Updates, stop: tuple[str, ...] = (), logprobs: int = -1, tools: ToolUse | None = None
) -> Answer:
    sampling = Sampling(stop_token_ids=(END,), logprobs=logprobs)
    request = Request("r", (1, 2, 3), 100, sampling, time.monotonic())
    return Answer(cast(EngineThread, updates), request, model.tokenizer, stop, tools)


def scored_update(text: str | bytes, *rest: Any) -> Update:
    """Each token's log-probability is minus a hundredth of its id, and token 65's is reported beside it."""
    told = update(text, *rest)
    return told._replace(logprobs=[Logprobs(-token / 100, [(65, -0.65)]) for token in told.tokens])


def update(text: str | bytes = "", reason: FinishReason | None = None, *more: int, **fields: Any) -> Update:
    tokens = list(text.encode() if isinstance(text, str) else text)
    timeline = Timeline(1, 2, 3, 4) if reason else None
    return Update("r", [*tokens, *more], reason, timeline, **fields)
