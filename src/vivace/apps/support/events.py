"""A conversation followed as server-sent events: what was kept after the last event seen, then whatever happens.

Kept events carry their number as the event's id; drafts carry none, so that a reader that comes back with the last id
it saw gets each kept event once, and the draft as it stands. Knows no access rights: `is_good` says whether the
reader may go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from vivace.apps.support import handover
from vivace.apps.support.bodies import encode
from vivace.apps.support.conversations import Event, find_by_id, list_events
from vivace.apps.support.hub import Channel, Hub, name_queue
from vivace.apps.support.store import Store
from vivace.apps.support.views import show_event
from vivace.apps.support.workers import Workers
from vivace.errors import NotFoundError

PING = b": still here\n\n"


def write_event(kind: str, data: Any, id: int | None = None) -> bytes:
    """One event as its bytes."""
    head = b"" if id is None else b"id: %d\n" % id
    return b"%bevent: %b\ndata: %b\n\n" % (head, kind.encode(), encode(data))


@dataclass(frozen=True, slots=True)
class Source:
    """Where events come from, and how long a reader may hear nothing."""

    hub: Hub
    store: Store
    workers: Workers
    keep_alive_s: float


class _Shown:
    """What one reader has been told."""

    def __init__(self, after: int) -> None:
        self.last = after
        self.reply_to = ""
        """Of the draft on its screen; empty if there is none."""
        self.length = 0

    def take_events(self, events: Sequence[Event]) -> bytes:
        for event in events:
            self.last = event.id
            if event.message is not None and event.message.reply_to == self.reply_to:
                self.reply_to = ""
        return b"".join(write_event(event.kind, show_event(event), event.id) for event in events)

    def take_draft(self, channel: Channel) -> bytes:
        """What is new of the draft, or that there is none any more."""
        draft = channel.draft
        told = b""
        if self.reply_to and (draft is None or draft.reply_to != self.reply_to):
            told = write_event("withdrawn", {"reply_to": self.reply_to})
            self.reply_to = ""
        if draft is None or not draft.text:
            return told
        if not self.reply_to:
            self.reply_to, self.length = draft.reply_to, len(draft.text)
            return told + write_event("draft", {"reply_to": draft.reply_to, "text": draft.text})
        news, self.length = draft.text[self.length :], len(draft.text)
        return told + (write_event("delta", {"reply_to": draft.reply_to, "text": news}) if news else b"")


async def follow_conversation(
    source: Source, id: str, after: int, is_good: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes, None]:
    """Until the reader may not go on, or the conversation is deleted; never empty for longer than the keep-alive."""
    shown = _Shown(after)
    seen: int | None = None
    with source.hub.watch(id) as (channel, awake):
        checked_at = time.monotonic()
        while True:
            awake.clear()
            told = b""
            if channel.changes != seen:
                seen = channel.changes
                try:
                    events, position = await source.workers.run(source.store.read, _load_news, id, shown.last)
                except NotFoundError:
                    return
                told += shown.take_events(events)
                if events and position is not None:
                    told += write_event("queue", {"queue_position": position})
            if channel.changes == seen:  # else the draft may have ended in a message that was not read yet
                told += shown.take_draft(channel)
            if told:
                yield told
            if time.monotonic() - checked_at >= source.keep_alive_s:
                checked_at = time.monotonic()
                if not await is_good():
                    return
                seen = None  # another process may have kept more
            if channel.changes == seen and not await _wait(awake, source.keep_alive_s):
                yield PING


def _load_news(connection: Connection, id: str, after: int) -> tuple[list[Event], int | None]:
    conversation = find_by_id(connection, id)
    return list_events(connection, id, after), handover.find_queue_position(connection, conversation)


async def _wait(awake: asyncio.Event, timeout_s: float) -> bool:
    """Whether something happened in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await awake.wait()
    except TimeoutError:
        return False
    return True


async def follow_queue(
    source: Source,
    tenant: str,
    load: Callable[[], Awaitable[Any]],
    is_good: Callable[[], Awaitable[bool]],
) -> AsyncGenerator[bytes, None]:
    """The whole queue, now and whenever it changed."""
    before: bytes | None = None
    with source.hub.watch(name_queue(tenant)) as (_, awake):
        while await is_good():
            awake.clear()
            told = write_event("queue", await load())
            if told != before:
                before = told
                yield told
            if not await _wait(awake, source.keep_alive_s):
                yield PING
