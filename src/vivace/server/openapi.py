"""The API's description in OpenAPI 3.1, from the types that requests are decoded into and replies are written from.

So it cannot say what the server does not do. Knows no server that runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec

from vivace.server.protocol import ChatRequest, CompletionRequest, Message, TokenizeRequest
from vivace.server.replies import (
    ChatChunk,
    ChatReply,
    ErrorReply,
    HealthReport,
    ModelCard,
    ModelList,
    TextReply,
    TokenizeReply,
)
from vivace.server.response_replies import ResponseReply
from vivace.server.responses import ResponsesRequest

_JSON = "application/json"
_EVENTS = "text/event-stream"

_FAILURES = {
    400: "The request cannot be answered as it stands; the message says what to change.",
    401: "The API key is missing or wrong.",
    404: "There is no such model or path.",
    405: "The path takes another method.",
    413: "The body is too large.",
    415: "The body does not say that it is JSON.",
    429: "Too much is waiting; Retry-After says when to come back.",
    500: "The server failed.",
    503: "The engine has stopped or is stuck.",
    504: "The deadline came before the answer was whole.",
}


@dataclass(frozen=True, slots=True)
class _Operation:
    method: str
    path: str
    summary: str
    reply: type | None = None
    """None for plain text."""
    body: type | None = None
    chunk: type | None = None
    """One event of its stream, where it is a JSON object."""
    failures: Sequence[int] = ()
    streams: bool = False


_CACHE_CONTROL = {
    "name": "Cache-Control",
    "in": "header",
    "required": False,
    "description": "no-store: the answer is neither looked up, kept nor shared; no-cache: computed, and kept; "
    "max-age=SECONDS: no older one is told.",
    "schema": {"type": "string"},
}
_GENERATION = (400, 401, 404, 413, 415, 429, 500, 503, 504)

_OPERATIONS = (
    _Operation(
        "post", "/v1/chat/completions", "Continue a conversation.", ChatReply, ChatRequest, ChatChunk, _GENERATION, True
    ),
    _Operation(
        "post", "/v1/completions", "Continue a text.", TextReply, CompletionRequest, TextReply, _GENERATION, True
    ),
    _Operation(
        "post",
        "/v1/responses",
        "Answer with output items: text and calls.",
        ResponseReply,
        ResponsesRequest,
        None,
        _GENERATION,
        True,
    ),
    _Operation("get", "/v1/models", "The models served.", ModelList, failures=(401,)),
    _Operation("get", "/v1/models/{name}", "One model.", ModelCard, failures=(401, 404)),
    _Operation(
        "post",
        "/tokenize",
        "The tokens of a text or a conversation.",
        TokenizeReply,
        TokenizeRequest,
        failures=(400, 401, 404, 413, 415, 500),
    ),
    _Operation("get", "/health", "Whether the engine works.", HealthReport, failures=()),
    _Operation("get", "/metrics", "Figures for Prometheus.", failures=(401,)),
)


def describe_api(model: str, guarded: bool) -> dict[str, Any]:
    """The OpenAPI document of a server of one model; `guarded` says that requests need a key."""
    types = {type for operation in _OPERATIONS for type in (operation.reply, operation.body, operation.chunk) if type}
    ordered = sorted(types | {ErrorReply}, key=lambda type: type.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    references = dict(zip(ordered, schemas, strict=True))
    for request in (ChatRequest, CompletionRequest, ResponsesRequest, Message):
        _mark_refused(components[request.__name__], request.refused)
    for name in ("ChatRequest", "CompletionRequest", "ResponsesRequest", "TokenizeRequest"):
        components[name]["properties"]["model"] = {"enum": [model]}
    paths: dict[str, Any] = {}
    for operation in _OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation, references)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "vivace", "version": version("vivace"), "description": "Real-time LLM inference."},
        "paths": paths,
        "components": {"schemas": components},
    }
    if guarded:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _mark_refused(component: dict[str, Any], refused: Mapping[str, Sequence[object]]) -> None:
    """Of fields that are not acted on, only the values that ask for nothing are allowed."""
    for name, harmless in refused.items():
        component["properties"][name] = {"enum": [*harmless, None], "description": "Not acted on.", "default": None}


def _describe(operation: _Operation, references: Mapping[type, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method}{operation.path}".translate(str.maketrans("/{}", "___")),
        "responses": {"200": _describe_success(operation, references)},
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {_JSON: {"schema": references[operation.body]}}}
    if operation.streams:
        described["parameters"] = [_CACHE_CONTROL]
    if "{name}" in operation.path:
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        described["parameters"] = [name]
    for status in operation.failures:
        content = {_JSON: {"schema": references[ErrorReply]}}
        described["responses"][str(status)] = {"description": _FAILURES[status], "content": content}
    if operation.reply is HealthReport:
        content = {_JSON: {"schema": references[HealthReport]}}
        described["responses"]["503"] = {"description": _FAILURES[503], "content": content}
    return described


def _describe_event(operation: _Operation, references: Mapping[type, Any]) -> dict[str, Any]:
    """One server-sent event of a stream; the last one of chats and completions says [DONE]."""
    data: dict[str, Any] = {"type": "string", "contentMediaType": _JSON}
    if operation.chunk is not None:
        data["contentSchema"] = references[operation.chunk]
    return {
        "type": "object",
        "description": "With `stream`: one server-sent event.",
        "properties": {"event": {"type": "string"}, "data": {"anyOf": [data, {"const": "[DONE]"}]}},
        "required": ["data"],
    }


def _describe_success(operation: _Operation, references: Mapping[type, Any]) -> dict[str, Any]:
    if operation.reply is None:
        return {"description": operation.summary, "content": {"text/plain": {"schema": {"type": "string"}}}}
    content: dict[str, Any] = {_JSON: {"schema": references[operation.reply]}}
    if operation.streams:
        content[_EVENTS] = {"schema": _describe_event(operation, references)}
    described: dict[str, Any] = {"description": operation.summary, "content": content}
    if operation.streams:
        timing = {"description": "Where the time went, without `stream`.", "schema": {"type": "string"}}
        cache = {
            "description": "With a response cache: how the answer came about; shared is together with an equal request "
            "under way, bypass is computed with nothing looked up or kept.",
            "schema": {"enum": ["hit", "miss", "shared", "bypass"]},
        }
        described["headers"] = {"Server-Timing": timing, "X-Vivace-Cache": cache}
    return described
