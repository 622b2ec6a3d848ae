"""Responses (POST /v1/responses) as the OpenAI API writes them: values in, JSON or typed events out.

A stream tells of one output item after the other: it is added, grows, and is done. Knows neither requests' bodies nor
how an answer comes about.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct, structs

from vivace.errors import VivaceError
from vivace.server.replies import (
    ChosenLogprob,
    ErrorBody,
    Piece,
    ScoredToken,
    Usage,
    Whole,
    describe_error,
    list_logprobs,
    write_event,
)
from vivace.server.tools import CallDelta

_encoder = msgspec.json.Encoder()


class InputTokensDetails(Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Struct, frozen=True):
    reasoning_tokens: int = 0


class ResponseUsage(Struct, frozen=True, omit_defaults=True):
    """Tokens, and where the time went."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int
    timing: dict[str, float]
    variant: str = ""
    degraded: str = ""


class OutputText(Struct, frozen=True, tag_field="type", tag="output_text"):
    text: str
    annotations: list[str] = []
    logprobs: list[ChosenLogprob] = []


class OutputMessage(Struct, frozen=True, tag_field="type", tag="message"):
    id: str
    status: str
    content: list[OutputText]
    role: str = "assistant"


class OutputCall(Struct, frozen=True, tag_field="type", tag="function_call"):
    id: str
    status: str
    call_id: str
    name: str
    arguments: str


OutputItem = OutputMessage | OutputCall


class IncompleteDetails(Struct, frozen=True):
    reason: str


class ResponseReply(Struct, frozen=True, kw_only=True):
    """A response, under way or over; what was asked comes back with it."""

    id: str
    created_at: int
    model: str
    object: str = "response"
    status: str = "in_progress"
    output: list[OutputItem] = []
    usage: ResponseUsage | None = None
    error: ErrorBody | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    parallel_tool_calls: bool = True
    tool_choice: Any = "auto"
    tools: Any = []
    text: Any = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    store: bool = False
    background: bool = False
    previous_response_id: None = None
    reasoning: None = None
    service_tier: str = "default"
    truncation: str = "disabled"


@dataclass(slots=True)
class _Item:
    """The output item that grows."""

    index: int
    call: CallDelta | None
    id: str
    pieces: list[str] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)


@dataclass(slots=True)
class ResponseReplies:
    """The JSON of one response, whole or as events."""

    asked: ResponseReply
    """As it is before anything has come."""
    with_usage: bool = True
    _sequence: int = 0
    _output: list[OutputItem] = field(default_factory=list)
    _item: _Item | None = None
    _finish_reason: str = ""

    def whole(self, answers: Sequence[Whole], usage: Usage) -> bytes:
        (answer,) = answers
        self._finish_reason = answer.finish_reason
        output: list[OutputItem] = []
        if answer.text or not answer.calls:
            output.append(_message(_new_id("msg"), self._status, answer.text, answer.tokens or ()))
        for call in answer.calls:
            output.append(OutputCall(_new_id("fc"), self._status, call.id, call.name, call.arguments))
        return _encoder.encode(self._finish(output, usage))

    def opening(self) -> list[bytes]:
        return [
            self._event("response.created", response=self.asked),
            self._event("response.in_progress", response=self.asked),
        ]

    def piece(self, index: int, piece: Piece) -> list[bytes]:
        events: list[bytes] = []
        if piece.text or piece.tokens:
            events += self._add_text(piece)
        for delta in piece.calls:
            events += self._add_call(delta)
        return events

    def ending(self, index: int, finish_reason: str) -> list[bytes]:
        self._finish_reason = finish_reason
        events = [] if self._item or self._output else self._open(None)
        return events + self._close()

    def closing(self, usage: Usage) -> list[bytes]:
        response = self._finish(self._output, usage)
        return [self._event(f"response.{response.status}", response=response)]

    def failure(self, error: VivaceError) -> list[bytes]:
        body = describe_error(error)[1]
        failed = structs.replace(self.asked, status="failed", output=self._output, error=body)
        told = self._event("error", code=body.code, message=body.message, param=body.param)
        return [told, self._event("response.failed", response=failed)]

    @property
    def _status(self) -> str:
        return "incomplete" if self._finish_reason == "length" else "completed"

    def _finish(self, output: list[OutputItem], usage: Usage) -> ResponseReply:
        details = IncompleteDetails("max_output_tokens") if self._status == "incomplete" else None
        return structs.replace(
            self.asked, status=self._status, output=output, incomplete_details=details, usage=_translate(usage)
        )

    def _add_text(self, piece: Piece) -> list[bytes]:
        events = [] if self._item is not None and self._item.call is None else self._close() + self._open(None)
        item = self._item
        assert item is not None
        item.pieces.append(piece.text)
        item.tokens += piece.tokens or ()
        place = {"item_id": item.id, "output_index": item.index, "content_index": 0}
        logprobs = list_logprobs(piece.tokens or ())
        events.append(self._event("response.output_text.delta", **place, delta=piece.text, logprobs=logprobs))
        return events

    def _add_call(self, delta: CallDelta) -> list[bytes]:
        if delta.id:
            return self._close() + self._open(delta)
        item = self._item
        assert item is not None
        item.pieces.append(delta.arguments)
        place = {"item_id": item.id, "output_index": item.index}
        return [self._event("response.function_call_arguments.delta", **place, delta=delta.arguments)]

    def _open(self, call: CallDelta | None) -> list[bytes]:
        """Begin an item: a call, or else a message."""
        item = self._item = _Item(len(self._output), call, _new_id("fc" if call else "msg"))
        if call is not None:
            begun: OutputItem = OutputCall(item.id, "in_progress", call.id, call.name, "")
            return [self._event("response.output_item.added", output_index=item.index, item=begun)]
        begun = OutputMessage(item.id, "in_progress", [])
        place = {"item_id": item.id, "output_index": item.index, "content_index": 0}
        return [
            self._event("response.output_item.added", output_index=item.index, item=begun),
            self._event("response.content_part.added", **place, part=OutputText("")),
        ]

    def _close(self) -> list[bytes]:
        """End the item that grows, if there is one."""
        item, self._item = self._item, None
        if item is None:
            return []
        text = "".join(item.pieces)
        place = {"item_id": item.id, "output_index": item.index}
        if item.call is not None:
            done: OutputItem = OutputCall(item.id, self._status, item.call.id, item.call.name, text)
            events = [
                self._event("response.function_call_arguments.done", **place, name=item.call.name, arguments=text)
            ]
        else:
            message = done = _message(item.id, self._status, text, item.tokens)
            part = message.content[0]
            place["content_index"] = 0
            events = [
                self._event("response.output_text.done", **place, text=text, logprobs=part.logprobs),
                self._event("response.content_part.done", **place, part=part),
            ]
        self._output.append(done)
        return [*events, self._event("response.output_item.done", output_index=item.index, item=done)]

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = _encoder.encode({"type": kind, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return write_event(data, kind)


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"


def _message(id: str, status: str, text: str, tokens: Sequence[ScoredToken]) -> OutputMessage:
    return OutputMessage(id, status, [OutputText(text, logprobs=list_logprobs(tokens))])


def _translate(usage: Usage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(),
        total_tokens=usage.total_tokens,
        timing=usage.timing,
        variant=usage.variant,
        degraded=usage.degraded,
    )
