"""Chats, completions and errors as the OpenAI API writes them: values in, JSON or server-sent events out.

Knows neither requests nor how an answer comes about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from msgspec import UNSET, Struct, UnsetType

from vivace.budget import NO_BUDGET, Budget, Timeline
from vivace.errors import (
    ContextLengthError,
    DeadlineError,
    EngineStoppedError,
    ModelNotFoundError,
    OverloadedError,
    QueueFullError,
    RequestError,
    StepFailedError,
    UnreachableBudgetError,
    VivaceError,
)
from vivace.server.decoding import FieldError
from vivace.server.tools import CallDelta

MAX_MESSAGE_CHARACTERS = 600
"""Error messages quote what was sent; no longer than this."""

_encoder = msgspec.json.Encoder()


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int = 0


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens, and where the time went."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    timing: dict[str, float]
    """Milliseconds by part. `slack_ms` is what a total budget left over; `truncated` is 1 where a deadline ended the
    answer."""
    variant: str = ""
    """Of a ladder of models, the one that answered."""
    degraded: str = ""
    """Why it was not the first one, or why the answer was cut."""


def make_usage(
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int,
    timeline: Timeline,
    budget: Budget = NO_BUDGET,
    *,
    truncated: bool = False,
    variant: str = "",
    degraded: str = "",
) -> Usage:
    """Count up one answer."""
    timing = timeline.as_dict()
    if budget.total_ms < math.inf:
        timing["slack_ms"] = round(budget.total_ms - timeline.total_ms, 3)
    if truncated:
        timing["truncated"] = 1.0
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens),
        timing=timing,
        variant=variant,
        degraded=degraded,
    )


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of an answer with its log-probability."""

    spelling: bytes
    """What it stands for by itself, which may be half a character."""
    logprob: float
    likeliest: Sequence[tuple[bytes, float]]
    """What could have stood in its place, likeliest first."""
    offset: int
    """Characters of the text before it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of one answer."""

    text: str = ""
    calls: Sequence[CallDelta] = ()
    tokens: Sequence[ScoredToken] | None = None
    """None if nobody asked for log-probabilities."""

    def __bool__(self) -> bool:
        return bool(self.text or self.calls or self.tokens)


@dataclass(slots=True)
class Whole:
    """All of one answer."""

    text: str = ""
    calls: list[CallDelta] = field(default_factory=list)
    """Each with its id, its name and all its arguments."""
    tokens: list[ScoredToken] | None = None
    finish_reason: str = ""

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        for delta in piece.calls:
            if delta.index == len(self.calls):
                self.calls.append(delta)
            else:
                known = self.calls[delta.index]
                self.calls[delta.index] = CallDelta(
                    known.index, known.id, known.name, known.arguments + delta.arguments
                )
        if piece.tokens is not None:
            self.tokens = [*(self.tokens or ()), *piece.tokens]


class Replies(Protocol):
    """The JSON of one reply in one of the APIs, whole, or as events of a stream in the order of the methods here."""

    @property
    def with_usage(self) -> bool:
        """Whether a stream tells its usage at the end."""
        ...

    def whole(self, answers: Sequence[Whole], usage: Usage) -> bytes: ...

    def opening(self) -> list[bytes]: ...

    def piece(self, index: int, piece: Piece) -> list[bytes]: ...

    def ending(self, index: int, finish_reason: str) -> list[bytes]: ...

    def closing(self, usage: Usage) -> list[bytes]: ...

    def failure(self, error: VivaceError) -> list[bytes]:
        """In place of all that would follow."""
        ...


def write_event(data: bytes, kind: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {kind}\n".encode() if kind else b""
    return b"%bdata: %b\n\n" % (head, data)


DONE = write_event(b"[DONE]")


class TokenLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChosenLogprob(TokenLogprob, frozen=True):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Struct, frozen=True):
    content: list[ChosenLogprob]
    refusal: None = None


class TextLogprobs(Struct, frozen=True):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


def show_spelling(spelling: bytes) -> str:
    return spelling.decode("utf-8", "replace")


def _chat_logprobs(tokens: Sequence[ScoredToken] | None) -> ChatLogprobs | None:
    if tokens is None:
        return None
    return ChatLogprobs(list_logprobs(tokens))


def list_logprobs(tokens: Sequence[ScoredToken]) -> list[ChosenLogprob]:
    """Log-probabilities as chats and responses have them."""
    return [
        ChosenLogprob(
            show_spelling(token.spelling),
            token.logprob,
            list(token.spelling),
            [TokenLogprob(show_spelling(spelling), value, list(spelling)) for spelling, value in token.likeliest],
        )
        for token in tokens
    ]


def _text_logprobs(tokens: Sequence[ScoredToken] | None) -> TextLogprobs | None:
    """Of tokens that look alike, the likeliest is told; the chosen one is always among them."""
    if tokens is None:
        return None
    likeliest = [[*token.likeliest, (token.spelling, token.logprob)] for token in tokens]
    return TextLogprobs(
        [show_spelling(token.spelling) for token in tokens],
        [token.logprob for token in tokens],
        [{show_spelling(spelling): value for spelling, value in reversed(some)} for some in likeliest],
        [token.offset for token in tokens],
    )


class FunctionText(Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(Struct, frozen=True):
    id: str
    function: FunctionText
    type: str = "function"


class FunctionDelta(Struct, frozen=True):
    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallDelta(Struct, frozen=True):
    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: FunctionDelta | UnsetType = UNSET


class ChatMessage(Struct, frozen=True):
    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Struct, frozen=True):
    message: ChatMessage
    finish_reason: str
    index: int = 0
    logprobs: ChatLogprobs | None = None


class Delta(Struct, frozen=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True):
    delta: Delta
    index: int = 0
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class TextChoice(Struct, frozen=True):
    text: str
    index: int = 0
    logprobs: TextLogprobs | None = None
    finish_reason: str | None = None


class ReplyHead(Struct, frozen=True, kw_only=True):
    """What whole replies and chunks begin with."""

    id: str
    object: str
    created: int
    model: str


class ChatReply(ReplyHead, frozen=True, kw_only=True):
    """POST /v1/chat/completions, whole."""

    choices: list[ChatChoice]
    usage: Usage


class ChatChunk(ReplyHead, frozen=True, kw_only=True):
    """One event of a chat's stream."""

    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET


class TextReply(ReplyHead, frozen=True, kw_only=True):
    """POST /v1/completions, whole or one event of a stream."""

    choices: list[TextChoice]
    usage: Usage | UnsetType | None = UNSET


@dataclass(frozen=True, slots=True)
class ChatReplies:
    """The JSON of one chat reply, whole or in chunks."""

    id: str
    created: int
    model: str
    with_usage: bool = False
    """The stream ends in a usage chunk, so every other chunk says `"usage": null`."""
    count: int = 1
    """Answers."""

    def whole(self, answers: Sequence[Whole], usage: Usage) -> bytes:
        choices = [
            ChatChoice(_write_message(answer), answer.finish_reason, index, _chat_logprobs(answer.tokens))
            for index, answer in enumerate(answers)
        ]
        reply = ChatReply(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=choices,
            usage=usage,
        )
        return _encoder.encode(reply)

    def opening(self) -> list[bytes]:
        first = Delta(role="assistant", content="")
        return [self._chunk([ChunkChoice(first, index)]) for index in range(self.count)]

    def piece(self, index: int, piece: Piece) -> list[bytes]:
        events = []
        if piece.text or piece.tokens:
            choice = ChunkChoice(Delta(content=piece.text), index, _chat_logprobs(piece.tokens))
            events.append(self._chunk([choice]))
        if piece.calls:
            calls = [_write_call_delta(call) for call in piece.calls]
            events.append(self._chunk([ChunkChoice(Delta(tool_calls=calls), index)]))
        return events

    def ending(self, index: int, finish_reason: str) -> list[bytes]:
        return [self._chunk([ChunkChoice(Delta(), index, finish_reason=finish_reason)])]

    def closing(self, usage: Usage) -> list[bytes]:
        return [self._chunk([], usage), DONE] if self.with_usage else [DONE]

    def failure(self, error: VivaceError) -> list[bytes]:
        return [write_error(error)]

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> bytes:
        chunk = ChatChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            usage=usage if self.with_usage else UNSET,
        )
        return write_event(_encoder.encode(chunk))


def _write_message(answer: Whole) -> ChatMessage:
    if not answer.calls:
        return ChatMessage(answer.text)
    calls = [ToolCall(call.id, FunctionText(call.name, call.arguments)) for call in answer.calls]
    return ChatMessage(answer.text or None, tool_calls=calls)


def _write_call_delta(call: CallDelta) -> ToolCallDelta:
    if not call.id:
        return ToolCallDelta(call.index, function=FunctionDelta(arguments=call.arguments))
    return ToolCallDelta(call.index, call.id, "function", FunctionDelta(call.name, call.arguments))


@dataclass(frozen=True, slots=True)
class CompletionReplies:
    """The JSON of one reply to plain completions, whole or in chunks."""

    id: str
    created: int
    model: str
    with_usage: bool = False

    def whole(self, answers: Sequence[Whole], usage: Usage) -> bytes:
        choices = [
            TextChoice(answer.text, index, _text_logprobs(answer.tokens), answer.finish_reason)
            for index, answer in enumerate(answers)
        ]
        return self._reply(choices, usage)

    def opening(self) -> list[bytes]:
        return []

    def piece(self, index: int, piece: Piece) -> list[bytes]:
        return self._chunk([TextChoice(piece.text, index, _text_logprobs(piece.tokens))]) if piece else []

    def ending(self, index: int, finish_reason: str) -> list[bytes]:
        return self._chunk([TextChoice("", index, finish_reason=finish_reason)])

    def closing(self, usage: Usage) -> list[bytes]:
        return [*self._chunk([], usage), DONE] if self.with_usage else [DONE]

    def failure(self, error: VivaceError) -> list[bytes]:
        return [write_error(error)]

    def _chunk(self, choices: list[TextChoice], usage: Usage | None = None) -> list[bytes]:
        return [write_event(self._reply(choices, usage if self.with_usage else UNSET))]

    def _reply(self, choices: list[TextChoice], usage: Usage | UnsetType | None) -> bytes:
        reply = TextReply(
            id=self.id,
            object="text_completion",
            created=self.created,
            model=self.model,
            choices=choices,
            usage=usage,
        )
        return _encoder.encode(reply)


class ModelCard(Struct, frozen=True):
    id: str
    created: int
    context_length: int
    object: str = "model"
    owned_by: str = "vivace"


class ModelList(Struct, frozen=True):
    data: list[ModelCard]
    object: str = "list"


class TokenizeReply(Struct, frozen=True):
    tokens: list[int]
    count: int
    max_model_len: int
    """The context, the answer included."""


class HealthReport(Struct, frozen=True, omit_defaults=True):
    status: str
    model: str
    stuck_ms: float
    """Since the step under way began."""
    waiting: int
    running: int
    overloaded: bool
    """A request was refused within the last second."""
    error: str = ""
    restarts: int = 0
    """Times that the engine died and was started again."""
    drifted: str = ""
    """Limits of the certificate that the latest answers do not keep."""


class ErrorBody(Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(Struct, frozen=True):
    error: ErrorBody


_KINDS: dict[type[VivaceError], tuple[int, str, str | None]] = {
    ContextLengthError: (400, "invalid_request_error", "context_length_exceeded"),
    UnreachableBudgetError: (400, "invalid_request_error", "budget_unreachable"),
    RequestError: (400, "invalid_request_error", None),
    ModelNotFoundError: (404, "invalid_request_error", "model_not_found"),
    OverloadedError: (429, "rate_limit_error", "overloaded"),
    DeadlineError: (504, "server_error", "deadline_exceeded"),
    QueueFullError: (429, "rate_limit_error", "queue_full"),
    EngineStoppedError: (503, "server_error", "engine_stopped"),
    StepFailedError: (500, "server_error", "step_failed"),
    VivaceError: (500, "server_error", None),
}
"""Status, type and code by class; the first that fits an error is its own."""


def describe_error(error: VivaceError) -> tuple[int, ErrorBody]:
    """The HTTP status and the body that tell a caller of `error`."""
    status, type_, code = next(kind for class_, kind in _KINDS.items() if isinstance(error, class_))
    message = str(error)[:MAX_MESSAGE_CHARACTERS]
    if isinstance(error, FieldError):
        return status, ErrorBody(message, type_, error.field and error.field[:MAX_MESSAGE_CHARACTERS], error.code)
    return status, ErrorBody(message, type_, "model" if status == 404 else None, code)


def write_error(error: VivaceError) -> bytes:
    """An error as the last event of a stream."""
    return write_event(_encoder.encode(ErrorReply(describe_error(error)[1])))


def encode(message: Struct) -> bytes:
    """A struct as JSON."""
    return _encoder.encode(message)
