"""Who is to be woken when something happens, and the drafts of answers under way; in memory, on one event loop.

A channel is a conversation's, or a tenant's queue. Nothing in it needs to outlive the process: what is kept stands in
the database, and its readers are told only that there is more. A slow reader holds nothing up, since it takes what is
there when it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Draft:
    """An answer under way."""

    reply_to: str
    text: str = ""


@dataclass(slots=True, eq=False)
class Channel:
    """What its readers look at when they are woken."""

    changes: int = 0
    """Goes up whenever more was kept."""
    draft: Draft | None = None
    readers: set[asyncio.Event] = field(default_factory=set)

    def wake(self) -> None:
        for reader in self.readers:
            reader.set()


class Hub:
    """The channels that somebody reads or writes to."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}

    def __len__(self) -> int:
        return len(self._channels)

    def note(self, name: str) -> None:
        """More was kept."""
        if (channel := self._channels.get(name)) is not None:
            channel.changes += 1
            channel.wake()

    def draft(self, name: str) -> Draft | None:
        channel = self._channels.get(name)
        return None if channel is None else channel.draft

    def extend(self, name: str, reply_to: str, text: str) -> None:
        """Add to the draft of this answer, or begin it."""
        channel = self._channels.setdefault(name, Channel())
        if channel.draft is None or channel.draft.reply_to != reply_to:
            channel.draft = Draft(reply_to)
        channel.draft.text += text
        channel.wake()

    def end_draft(self, name: str) -> None:
        """The draft was posted or given up; what was kept in its place is there by now."""
        channel = self._channels.get(name)
        if channel is not None:
            channel.draft = None
            channel.changes += 1
            channel.wake()
            self._drop_if_idle(name, channel)

    @contextmanager
    def watch(self, name: str) -> Iterator[tuple[Channel, asyncio.Event]]:
        """The channel, and an event that is set whenever it changed; clear it before looking."""
        channel = self._channels.setdefault(name, Channel())
        awake = asyncio.Event()
        channel.readers.add(awake)
        try:
            yield channel, awake
        finally:
            channel.readers.discard(awake)
            self._drop_if_idle(name, channel)

    def _drop_if_idle(self, name: str, channel: Channel) -> None:
        if not channel.readers and channel.draft is None and self._channels.get(name) is channel:
            del self._channels[name]


def name_queue(tenant: str) -> str:
    """The channel of a tenant's queue; no conversation has such an id."""
    return f"queue {tenant}"
