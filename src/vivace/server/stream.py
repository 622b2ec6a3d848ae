"""One answer on its way out: the engine's tokens become text, and text becomes server-sent events.

Knows no route, no request body and no template. A reader that goes away frees its request at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from vivace.budget import Timeline
from vivace.engine.bridge import EngineThread
from vivace.engine.request import FinishReason, Request, Update
from vivace.errors import EngineStoppedError, StepFailedError, VivaceError
from vivace.server.replies import ErrorReply, ScoredToken, Usage, describe_error, encode, make_usage
from vivace.tokenizer import Tokenizer

T = TypeVar("T")


class Replies(Protocol):
    """The JSON of one answer in one of the APIs."""

    @property
    def with_usage(self) -> bool: ...

    def whole(
        self, text: str, finish_reason: str, usage: Usage, tokens: Sequence[ScoredToken] | None = None
    ) -> bytes: ...

    def opening(self) -> list[bytes]: ...

    def piece(self, text: str, tokens: Sequence[ScoredToken] | None = None) -> bytes: ...

    def ending(self, finish_reason: str) -> bytes: ...

    def usage(self, usage: Usage) -> bytes: ...


class Answer:
    """The text of one request as it is generated, then how it ended.

    Close it, whatever happens: that frees the request in the engine.
    """

    def __init__(
        self, bridge: EngineThread, request: Request, tokenizer: Tokenizer, stop: tuple[str, ...] = ()
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self._bridge = bridge
        self._request = request
        self._text = tokenizer.stream(stop)
        self._scorer = _Scorer(tokenizer) if request.sampling.logprobs >= 0 else None
        self._updates = bridge.submit(request)
        self._tokens = 0
        self._last: Update | None = None

    async def read(self) -> str:
        """The text of the engine's next update, which may be empty. The one that sets `finish_reason` is the last.

        Raises `QueueFullError` on the first read, and `StepFailedError` or `EngineStoppedError` on any.
        """
        update = await self._next_update()
        self._tokens += len(update.tokens)
        tokens, before = self._without_stop_token(update), self._text.token_count
        piece = self._text.push(tokens)
        if self._scorer is not None:
            self._scorer.add(tokens[: self._text.token_count - before], update)
        if update.finish_reason is not None:
            piece += self._text.finish()
        elif self._text.stopped:
            self._bridge.abort(self._request.id)
        self.finish_reason = FinishReason.STOP if self._text.stopped else update.finish_reason
        return piece

    def take_scored(self) -> list[ScoredToken] | None:
        """The tokens of the text, up to one that completes a stop string, since this was last called; None if nobody
        asked for log-probabilities. Their text may be still to come."""
        return None if self._scorer is None else self._scorer.take()

    async def read_all(self) -> str:
        """The whole text. Raises as `read` does."""
        pieces = []
        while self.finish_reason is None:
            pieces.append(await self.read())
        return "".join(pieces)

    async def usage(self) -> Usage:
        """Tokens and times, once the text is over; what is left of the time is the flush."""
        while self._last is None:  # a stop string ended the text, and the engine has not let go yet
            await self._next_update(aborted=True)
        timeline = self._last.timeline or Timeline()
        elapsed_ms = 1000 * (time.monotonic() - self._request.arrived)
        timeline = replace(timeline, flush_ms=0.0)
        timeline = replace(timeline, flush_ms=max(0.0, elapsed_ms - timeline.total_ms))
        tokens = self._text.token_count if self._text.stopped else self._tokens
        return make_usage(len(self._request.prompt), tokens, self._last.cached_tokens, timeline)

    async def aclose(self) -> None:
        """Free the request, if it still runs."""
        await self._updates.aclose()

    async def _next_update(self, *, aborted: bool = False) -> Update:
        try:
            update = await anext(self._updates)
        except StopAsyncIteration:
            raise EngineStoppedError("The engine let go of the request. Send it again.") from None
        if update.finish_reason is FinishReason.ERROR:
            raise StepFailedError(f"{update.error or 'The engine failed.'} Send the request again.")
        if update.finish_reason is FinishReason.ABORT and not aborted:
            raise EngineStoppedError("The server ended the request before its answer was whole. Send it again.")
        if update.finish_reason is not None:
            self._last = update
        return update

    def _without_stop_token(self, update: Update) -> list[int]:
        """A token that ends the answer is counted, and is not part of its text."""
        tokens = update.tokens
        stops = update.finish_reason is FinishReason.STOP and tokens
        return tokens[:-1] if stops and tokens[-1] in self._request.sampling.stop_token_ids else tokens


class _Scorer:
    """Tokens with their log-probabilities in, the same as text out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._spell = tokenizer.spell
        self._text = tokenizer.stream()
        self._length = 0
        self._scored: list[ScoredToken] = []

    def add(self, tokens: Sequence[int], update: Update) -> None:
        """`tokens` are the first of the update's."""
        for token, told in zip(tokens, update.logprobs or (), strict=False):
            likeliest = [(self._spell(other), value) for other, value in told.likeliest]
            self._scored.append(ScoredToken(self._spell(token), told.chosen, likeliest, self._length))
            self._length += len(self._text.push([token]))

    def take(self) -> list[ScoredToken]:
        scored, self._scored = self._scored, []
        return scored


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away. Raises `ClientDisconnect` then."""
    running = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((running, watching), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise ClientDisconnect
    finally:
        running.cancel()
        watching.cancel()
        await asyncio.gather(running, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """An answer as server-sent events: one write for each update that brings text.

    `first` is the text read already; the status line waits for it, so that a request the engine cannot take is
    told so by its status.
    """

    media_type = "text/event-stream"

    def __init__(self, answer: Answer, replies: Replies, first: str) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._answer = answer
        self._replies = replies
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._answer):
            with suppress(ClientDisconnect):
                await run_while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            events = await self._send_text(send)
            if self._replies.with_usage:
                await send(_body(events, more=True))
                events = [self._replies.usage(await self._answer.usage())]
            events.append(b"[DONE]")
        except VivaceError as error:
            events = [encode(ErrorReply(describe_error(error)[1]))]
        await send(_body(events, more=False))

    async def _send_text(self, send: Send) -> list[bytes]:
        """Sends each update as it comes, but for the last, whose events are returned."""
        events = self._replies.opening()
        piece = self._first
        while self._answer.finish_reason is None:
            self._append_piece(events, piece)
            if events:
                await send(_body(events, more=True))
            events = []
            piece = await self._answer.read()
        self._append_piece(events, piece)
        return [*events, self._replies.ending(self._answer.finish_reason.value)]

    def _append_piece(self, events: list[bytes], piece: str) -> None:
        scored = self._answer.take_scored()
        if piece or scored:
            events.append(self._replies.piece(piece, scored))


def _body(events: list[bytes], *, more: bool) -> Message:
    data = b"".join(b"data: " + event + b"\n\n" for event in events)
    return {"type": "http.response.body", "body": data, "more_body": more}
