"""Fields that several of the API's requests have in common, and what they ask for.

Pure functions on values. Knows no single request, no engine and no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from vivace.budget import NO_BUDGET, Budget, OnDeadline
from vivace.engine.constraint import Grammar
from vivace.engine.request import DEFAULT_PRIORITY
from vivace.sampling import MAX_LOGPROBS
from vivace.server.decoding import FieldError, quote
from vivace.server.tools import Tool, ToolFormat, ToolUse

MAX_CHOICES = 128
"""Answers to one request."""

Count = Annotated[int, Meta(ge=1)]
ChoiceCount = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(gt=0, le=1)]
LikeliestCount = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]
Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class TextFormat(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class JsonSchema(Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON schema with a name for it. It is always held to strictly."""

    name: Name
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """A JSON text that keeps to a schema."""

    json_schema: JsonSchema


class RegexFormat(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="regex"):
    """An extension: a text that a regular expression matches from end to end, in the syntax of Rust's regex crate."""

    regex: Annotated[str, Meta(min_length=1, max_length=100_000)]


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat | RegexFormat


Milliseconds = Annotated[float, Meta(gt=0, le=1e9)]


class BudgetFields(Struct, frozen=True, forbid_unknown_fields=True):
    """The most that the answer may take, in milliseconds, counted from the request's first byte."""

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    total_ms: Milliseconds | None = None


class SamplingFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every way of asking for an answer has in common."""

    model: str
    temperature: Temperature | None = None
    top_p: Share | None = None
    stream: bool | None = None
    # Extensions.
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    ignore_eos: bool = False
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=128)] | None = None
    cache_salt: Annotated[str, Meta(max_length=200)] | None = None
    budget: BudgetFields | None = None
    priority: Annotated[int, Meta(ge=0, le=9)] | None = None
    on_deadline: Literal["fail", "truncate"] | None = None
    # Accepted and of no effect here: they concern the caller's own bookkeeping.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms an answer is wanted."""

    budget: Budget = NO_BUDGET
    priority: int = DEFAULT_PRIORITY
    on_deadline: OnDeadline = OnDeadline.FAIL


def find_terms(asked: SamplingFields, budget: Budget) -> Terms:
    """What a body asks for, within the budget that the server and the header set."""
    if asked.budget is not None:
        values = {name: getattr(asked.budget, name) for name in asked.budget.__struct_fields__}
        budget = budget.tighten(Budget(**{name: value for name, value in values.items() if value is not None}))
    priority = DEFAULT_PRIORITY if asked.priority is None else asked.priority
    return Terms(budget, priority, OnDeadline(asked.on_deadline or OnDeadline.FAIL))


class FunctionCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A call as an answer told it."""

    name: str
    arguments: str
    """A JSON object, as text."""


class FunctionTool(Struct, frozen=True, forbid_unknown_fields=True):
    """A function that the model may call. Its parameters are always held to strictly."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


def template_call(id: str, function: FunctionCall, path: str) -> dict[str, Any]:
    """A call as chat templates take it. Raises `FieldError` for arguments that are no JSON object."""
    try:
        arguments = msgspec.json.decode(function.arguments)
    except (msgspec.DecodeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        message = f"{path}.arguments is no JSON object. Send the arguments of a call as the answer told them."
        raise FieldError(message, f"{path}.arguments", "invalid_value")
    return {"id": id, "type": "function", "function": {"name": function.name, "arguments": arguments}}


def find_grammar(format: ResponseFormat | None) -> Grammar | None:
    """What a response format demands of the text; None if nothing."""
    match format:
        case RegexFormat(regex=regex):
            return Grammar("regex", regex)
        case JsonSchemaFormat(json_schema=JsonSchema(schema=schema)) if schema is not None:
            return write_schema(schema)
        case JsonObjectFormat() | JsonSchemaFormat():
            return write_schema({"type": "object"})
    return None


def write_schema(schema: dict[str, Any]) -> Grammar:
    return Grammar("json_schema", msgspec.json.encode(schema).decode())


def select_tools(
    functions: Sequence[FunctionTool],
    mode: str | None,
    name: str | None,
    parallel: bool,
    format: ToolFormat | None,
    constrained: bool,
) -> ToolUse | None:
    """What an answer may call; None if nothing.

    `mode` is auto, required or none, `name` that of the one function to call, `format` how the model writes calls, None
    if it cannot; `constrained` says that a response format is asked for. Raises `FieldError` for contradictions, and
    when the model cannot do what is asked.
    """
    demanded = mode == "required" or name is not None
    if not functions:
        if demanded:
            raise FieldError("tool_choice demands a call, but there are none. Send tools.", "tools", "invalid_value")
        return None
    if mode == "none":
        return None
    if format is None:
        message = (
            "tools is not supported by this model: its chat template takes none, or shows calls in a way that is not "
            "known here. Leave tools out, or serve a model with tools."
        )
        raise FieldError(message, "tools", "unsupported_parameter")
    if len({function.name for function in functions}) < len(functions):
        raise FieldError("Two tools have the same name. Give each its own.", "tools", "invalid_value")
    allowed = [function for function in functions if name in (None, function.name)]
    if not allowed:
        message = f"tool_choice names {quote(name)}, which is none of the tools. Name one of them."
        raise FieldError(message, "tool_choice", "invalid_value")
    if constrained:
        message = "A response format and tools exclude each other. Leave one out, or set tool_choice to none."
        raise FieldError(message, "tools", "invalid_value")
    parameters = [function.parameters or {"type": "object", "properties": {}} for function in allowed]
    tools = [Tool(function.name, schema) for function, schema in zip(allowed, parameters, strict=True)]
    return ToolUse(format, tools, demanded, parallel and name is None)


def unsigned_seed(seed: int | None) -> int | None:
    """The API's seeds are signed 64-bit numbers, the engine's unsigned ones of the same bits."""
    if seed is None or 0 <= seed < 2**64:
        return seed
    if -(2**63) <= seed < 0:
        return seed + 2**64
    raise FieldError("seed must be a whole number of at most 64 bits. Send a smaller one.", "seed", "invalid_value")
