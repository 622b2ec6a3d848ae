"""Answers as they were told, kept so that they can be told again: in one piece, or in the order they came.

Knows no engine and no API's way of writing. Ids of calls are part of an answer and come again with it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from vivace.budget import Timeline
from vivace.server.answer import News, Settled
from vivace.server.replies import Piece, ScoredToken, Usage, Whole, make_usage
from vivace.server.tools import CallDelta

WHOLE_REASONS = frozenset({"stop", "length", "tool_calls"})
"""Of answers that ended by themselves, or where the request said."""


class Recording(Struct, frozen=True, array_like=True):
    """The answers to one request."""

    news: News
    prompt_tokens: int
    completion_tokens: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Recording)


def is_worth_keeping(news: News, settled: Settled) -> bool:
    """Whether the same request would be answered the same again: every answer ended of itself.

    An answer that a deadline or pressure cut short, that failed or was given up is not one of those.
    """
    return not settled.forced and all(reason in WHOLE_REASONS for _, _, reason in news if reason is not None)


def record(news: News, settled: Settled) -> bytes:
    """Answers told to their end, as bytes."""
    return _encoder.encode(Recording(merge_news(news), settled.prompt_tokens, settled.completion_tokens))


def read_recording(data: bytes) -> Recording:
    return _decoder.decode(data)


@dataclass(slots=True)
class _Run:
    """Pieces of one answer that can be told as one."""

    texts: list[str] = field(default_factory=list)
    calls: list[CallDelta] = field(default_factory=list)
    tokens: list[ScoredToken] | None = None

    def takes(self, piece: Piece) -> bool:
        """A piece tells its text before its calls, so text cannot join calls that came before it."""
        return not self.calls or not (piece.text or piece.tokens)

    def add(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        for delta in piece.calls:
            before = self.calls[-1] if self.calls else None
            if before is not None and not delta.id and not before.id and before.index == delta.index:
                self.calls[-1] = CallDelta(delta.index, arguments=before.arguments + delta.arguments)
            else:
                self.calls.append(delta)
        if piece.tokens is not None:
            if self.tokens is None:
                self.tokens = []
            self.tokens += piece.tokens

    def piece(self) -> Piece:
        return Piece("".join(self.texts), self.calls, self.tokens)


def merge_news(news: Sequence[tuple[int, Piece, str | None]]) -> News:
    """The same in as few pieces as tell it in its order: of each answer one, or one for each text between calls."""
    if len(news) <= 1:
        return list(news)
    runs: dict[int, list[_Run]] = {}
    reasons: dict[int, str] = {}
    for index, piece, reason in news:
        some = runs.setdefault(index, [_Run()])
        if not some[-1].takes(piece):
            some.append(_Run())
        some[-1].add(piece)
        if reason is not None:
            reasons[index] = reason
    merged: News = []
    for index, some in runs.items():
        merged += [(index, run.piece(), None) for run in some[:-1]]
        merged.append((index, some[-1].piece(), reasons.get(index)))
    return merged


def assemble(news: Sequence[tuple[int, Piece, str | None]]) -> list[Whole]:
    """Answers told to their end, in order."""
    wholes: dict[int, Whole] = {}
    for index, piece, reason in news:
        whole = wholes.setdefault(index, Whole())
        whole.add(piece)
        whole.finish_reason = reason or whole.finish_reason
    return [wholes[index] for index in sorted(wholes)]


class Replay:
    """Reads a recording for a request that arrived at one monotonic instant and was recognised at another."""

    over = True

    def __init__(self, recording: Recording, arrived: float, found: float) -> None:
        self.finished = False
        self._recording = recording
        self._arrived = arrived
        self._found = found

    @property
    def finish_reasons(self) -> list[str]:
        return list_reasons(self._recording.news)

    async def read(self) -> News:
        """All of it at once."""
        self.finished = True
        return self._recording.news

    async def read_all(self) -> list[Whole]:
        return assemble(await self.read())

    async def usage(self) -> Usage:
        """The tokens of then and the times of now. The whole prompt was found in a cache."""
        recording = self._recording
        timeline = Timeline(
            preprocess_ms=1000 * (self._found - self._arrived), flush_ms=1000 * (time.monotonic() - self._found)
        )
        return make_usage(recording.prompt_tokens, recording.completion_tokens, recording.prompt_tokens, timeline)

    async def aclose(self) -> None:
        pass


def list_reasons(news: Sequence[tuple[int, Piece, str | None]]) -> list[str]:
    """Why answers finished, in their order."""
    reasons = {index: reason for index, _, reason in news if reason is not None}
    return [reasons[index] for index in sorted(reasons)]
