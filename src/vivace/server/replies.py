"""Answers and errors as the OpenAI API writes them: values in, JSON out.

Knows neither requests nor how an answer comes about.
"""

from __future__ import annotations

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


class ChatMessage(Struct, frozen=True):
    content: str
    role: str = "assistant"
    refusal: None = None


class ChatChoice(Struct, frozen=True):
    message: ChatMessage
    finish_reason: str
    index: int = 0
    logprobs: None = None


class Delta(Struct, frozen=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True):
    delta: Delta
    index: int = 0
    logprobs: None = None
    finish_reason: str | None = None


class TextChoice(Struct, frozen=True):
    text: str
    index: int = 0
    logprobs: None = None
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

    def whole(self, text: str, finish_reason: str, usage: Usage) -> bytes:
        choice = ChatChoice(ChatMessage(text), finish_reason)
        return _encoder.encode(Reply(self.id, "chat.completion", self.created, self.model, [choice], usage))

    def opening(self) -> list[bytes]:
        return [self._chunk([ChunkChoice(Delta(role="assistant", content=""))])]

    def piece(self, text: str) -> bytes:
        return self._chunk([ChunkChoice(Delta(content=text))])

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

    def whole(self, text: str, finish_reason: str, usage: Usage) -> bytes:
        return self._reply([TextChoice(text, finish_reason=finish_reason)], usage)

    def opening(self) -> list[bytes]:
        return []

    def piece(self, text: str) -> bytes:
        return self._chunk([TextChoice(text)])

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
