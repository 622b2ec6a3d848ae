"""Answers and errors as the OpenAI API writes them: values in, JSON out.

Knows neither requests nor how an answer comes about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, Struct, UnsetType

from vivace.budget import Timeline
from vivace.errors import (
    ContextLengthError,
    EngineStoppedError,
    ModelNotFoundError,
    QueueFullError,
    RequestError,
    StepFailedError,
    VivaceError,
)
from vivace.server.protocol import FieldError

MAX_MESSAGE_CHARACTERS = 600
"""Error messages quote what was sent; no longer than this."""

_encoder = msgspec.json.Encoder()


class PromptTokensDetails(Struct, frozen=True):
    cached_tokens: int = 0


class Usage(Struct, frozen=True):
    """Tokens, and where the time went."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    timing: dict[str, float]


def make_usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int, timeline: Timeline) -> Usage:
    """Count up one answer."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens),
        timing=timeline.as_dict(),
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


def _show(spelling: bytes) -> str:
    return spelling.decode("utf-8", "replace")


def _chat_logprobs(tokens: Sequence[ScoredToken] | None) -> ChatLogprobs | None:
    if tokens is None:
        return None
    return ChatLogprobs(
        [
            ChosenLogprob(
                _show(token.spelling),
                token.logprob,
                list(token.spelling),
                [TokenLogprob(_show(spelling), value, list(spelling)) for spelling, value in token.likeliest],
            )
            for token in tokens
        ]
    )


def _text_logprobs(tokens: Sequence[ScoredToken] | None) -> TextLogprobs | None:
    """Of tokens that look alike, the likeliest is told; the chosen one is always among them."""
    if tokens is None:
        return None
    likeliest = [[*token.likeliest, (token.spelling, token.logprob)] for token in tokens]
    return TextLogprobs(
        [_show(token.spelling) for token in tokens],
        [token.logprob for token in tokens],
        [{_show(spelling): value for spelling, value in reversed(some)} for some in likeliest],
        [token.offset for token in tokens],
    )


class ChatMessage(Struct, frozen=True):
    content: str
    role: str = "assistant"
    refusal: None = None


class ChatChoice(Struct, frozen=True):
    message: ChatMessage
    finish_reason: str
    index: int = 0
    logprobs: ChatLogprobs | None = None


class Delta(Struct, frozen=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


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


class Reply(Struct, frozen=True):
    """A whole answer or one chunk of it, of either API."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice] | list[ChunkChoice] | list[TextChoice]
    usage: Usage | UnsetType | None = UNSET


@dataclass(frozen=True, slots=True)
class ChatReplies:
    """The JSON of one chat answer, whole or in chunks."""

    id: str
    created: int
    model: str
    with_usage: bool = False
    """The stream ends in a usage chunk, so every other chunk says `"usage": null`."""

    def whole(self, text: str, finish_reason: str, usage: Usage, tokens: Sequence[ScoredToken] | None = None) -> bytes:
        choice = ChatChoice(ChatMessage(text), finish_reason, logprobs=_chat_logprobs(tokens))
        return _encoder.encode(Reply(self.id, "chat.completion", self.created, self.model, [choice], usage))

    def opening(self) -> list[bytes]:
        return [self._chunk([ChunkChoice(Delta(role="assistant", content=""))])]

    def piece(self, text: str, tokens: Sequence[ScoredToken] | None = None) -> bytes:
        return self._chunk([ChunkChoice(Delta(content=text), logprobs=_chat_logprobs(tokens))])

    def ending(self, finish_reason: str) -> bytes:
        return self._chunk([ChunkChoice(Delta(), finish_reason=finish_reason)])

    def usage(self, usage: Usage) -> bytes:
        return self._chunk([], usage)

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> bytes:
        told = usage if self.with_usage else UNSET
        return _encoder.encode(Reply(self.id, "chat.completion.chunk", self.created, self.model, choices, told))


@dataclass(frozen=True, slots=True)
class CompletionReplies:
    """The JSON of one plain completion, whole or in chunks."""

    id: str
    created: int
    model: str
    with_usage: bool = False

    def whole(self, text: str, finish_reason: str, usage: Usage, tokens: Sequence[ScoredToken] | None = None) -> bytes:
        choice = TextChoice(text, logprobs=_text_logprobs(tokens), finish_reason=finish_reason)
        return self._reply([choice], usage)

    def opening(self) -> list[bytes]:
        return []

    def piece(self, text: str, tokens: Sequence[ScoredToken] | None = None) -> bytes:
        return self._chunk([TextChoice(text, logprobs=_text_logprobs(tokens))])

    def ending(self, finish_reason: str) -> bytes:
        return self._chunk([TextChoice("", finish_reason=finish_reason)])

    def usage(self, usage: Usage) -> bytes:
        return self._chunk([], usage)

    def _chunk(self, choices: list[TextChoice], usage: Usage | None = None) -> bytes:
        return self._reply(choices, usage if self.with_usage else UNSET)

    def _reply(self, choices: list[TextChoice], usage: Usage | UnsetType | None) -> bytes:
        return _encoder.encode(Reply(self.id, "text_completion", self.created, self.model, choices, usage))


class ModelCard(Struct, frozen=True):
    id: str
    created: int
    context_length: int
    object: str = "model"
    owned_by: str = "vivace"


class ModelList(Struct, frozen=True):
    data: list[ModelCard]
    object: str = "list"


class HealthReport(Struct, frozen=True, omit_defaults=True):
    status: str
    model: str
    stuck_ms: float
    """Since the step under way began."""
    error: str = ""


class ErrorBody(Struct, frozen=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(Struct, frozen=True):
    error: ErrorBody


_KINDS: dict[type[VivaceError], tuple[int, str, str | None]] = {
    ContextLengthError: (400, "invalid_request_error", "context_length_exceeded"),
    RequestError: (400, "invalid_request_error", None),
    ModelNotFoundError: (404, "invalid_request_error", "model_not_found"),
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


def encode(message: Struct) -> bytes:
    """A struct as JSON."""
    return _encoder.encode(message)
