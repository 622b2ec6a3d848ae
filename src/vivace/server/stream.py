"""An answer on its way out, whole or as server-sent events, while the client is there to read it.

Knows no route, no request body and no API's way of writing. A reader that goes away frees its request at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from vivace.errors import VivaceError
from vivace.server.answer import News, Reading
from vivace.server.replies import Replies, Usage

T = TypeVar("T")


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
        watching.cancel()
        if not running.done():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Answers as server-sent events: one write for each update that brings something.

    `first` is what was read already; the status line waits for it, so that a request the engine cannot take is told so
    by its status. `report` is called with the usage at the end, or with the error that came in its place.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        answers: Reading,
        replies: Replies,
        first: News,
        report: Callable[[Usage | VivaceError], None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._answers = answers
        self._replies = replies
        self._first = first
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._answers):
            with suppress(ClientDisconnect):
                await run_while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            events = await self._send_pieces(send)
            if self._replies.with_usage or not self._answers.over:  # what is told of the flush covers the text
                await send(_body(events, more=True))
                events = []
            usage = await self._answers.usage()
            events += self._replies.closing(usage)
            self._report(usage)
        except VivaceError as error:
            events = self._replies.failure(error)
            self._report(error)
        await send(_body(events, more=False))

    async def _send_pieces(self, send: Send) -> list[bytes]:
        """Sends each update as it comes, but for the last, whose events are returned."""
        events = self._replies.opening()
        news = self._first
        while True:
            for index, piece, reason in news:
                events += self._replies.piece(index, piece)
                if reason is not None:
                    events += self._replies.ending(index, reason)
            if self._answers.finished:
                return events
            if events:
                await send(_body(events, more=True))
                events = []
            news = await self._answers.read()


def _body(events: list[bytes], *, more: bool) -> Message:
    return {"type": "http.response.body", "body": b"".join(events), "more_body": more}
