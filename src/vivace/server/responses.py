"""What requests for responses (POST /v1/responses) may say, and what they ask for.

Text goes in and comes out; nothing is kept between requests. Pure functions on bytes and values. Knows no socket, no
engine, no tokenizer.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from vivace.engine.constraint import Grammar
from vivace.sampling import SamplingParams
from vivace.server.decoding import FieldError, decode, refuse_unsupported
from vivace.server.fields import (
    Count,
    FunctionCall,
    FunctionTool,
    JsonObjectFormat,
    LikeliestCount,
    Name,
    RegexFormat,
    SamplingFields,
    TextFormat,
    find_grammar,
    select_tools,
    template_call,
    unsigned_seed,
    write_schema,
)
from vivace.server.tools import ToolFormat, ToolUse

LOGPROBS = "message.output_text.logprobs"


class InputPart(Struct, frozen=True, forbid_unknown_fields=True):
    """One part of an item's content. Only text can be read; the others are known in order to say so."""

    type: str
    text: str | None = None
    annotations: Any = None
    logprobs: Any = None
    image_url: Any = None
    file_id: Any = None
    file_data: Any = None
    file_url: Any = None
    filename: Any = None
    detail: Any = None
    refusal: Any = None


InputText = str | list[InputPart]


class InputItem(Struct, frozen=True, forbid_unknown_fields=True):
    """A turn, a call that the model made, or a call's result; an answer's `output` items can be sent as they are."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: InputText | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: InputText | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    summary: Any = None
    encrypted_content: Any = None


class FlatJsonSchemaFormat(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """A JSON text that keeps to a schema. It is always held to strictly."""

    name: Name
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What the text has to look like."""

    format: TextFormat | JsonObjectFormat | FlatJsonSchemaFormat | RegexFormat | None = None
    verbosity: Literal["medium"] | None = None


class FlatTool(Struct, frozen=True, forbid_unknown_fields=True):
    """A function that the model may call. Its parameters are always held to strictly."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FlatNamedChoice(Struct, frozen=True, forbid_unknown_fields=True):
    """This function has to be called."""

    type: Literal["function"]
    name: str


class ResponseStreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    include_obfuscation: Literal[False] | None = None


class ResponsesRequest(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/responses."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = {
        "background": (False,),
        "conversation": (),
        "max_tool_calls": (),
        "moderation": (),
        "previous_response_id": (),
        "prompt": (),
        "prompt_cache_retention": ("in_memory",),
        "reasoning": ({}, {"effort": "none"}),
        "service_tier": ("auto", "default"),
        "truncation": ("disabled",),
    }
    """Fields this server does not act on, and the values that ask for nothing. None always does."""

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FlatTool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FlatNamedChoice | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: LikeliestCount | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    stream_options: ResponseStreamOptions | None = None
    seed: int | None = None
    """An extension."""
    background: Any = None
    conversation: Any = None
    max_tool_calls: Any = None
    moderation: Any = None
    previous_response_id: Any = None
    prompt: Any = None
    prompt_cache_retention: Any = None
    reasoning: Any = None
    service_tier: Any = None
    truncation: Any = None


_decoder = msgspec.json.Decoder(ResponsesRequest)


def decode_responses(body: bytes) -> ResponsesRequest:
    """Raises `FieldError` for anything that is not a request this server can answer."""
    request = decode(_decoder, body)
    refuse_unsupported(request, request.refused, "")
    return request


def response_messages(request: ResponsesRequest) -> list[dict[str, Any]]:
    """The conversation as chat templates take it. Raises `FieldError` for an item that lacks a part of it."""
    messages = [{"role": "system", "content": request.instructions}] if request.instructions else []
    if isinstance(request.input, str):
        return [*messages, {"role": "user", "content": request.input}]
    for index, item in enumerate(request.input):
        _append_item(messages, item, f"input[{index}]")
    return messages


def _append_item(messages: list[dict[str, Any]], item: InputItem, path: str) -> None:
    if item.type == "message":
        role = _present(item.role, f"{path}.role")
        content = _read_text(_present(item.content, f"{path}.content"), f"{path}.content")
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    elif item.type == "function_call":
        name, arguments = _present(item.name, f"{path}.name"), _present(item.arguments, f"{path}.arguments")
        call = template_call(_present(item.call_id, f"{path}.call_id"), FunctionCall(name, arguments), path)
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": ""})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif item.type == "function_call_output":
        content = _read_text(_present(item.output, f"{path}.output"), f"{path}.output")
        call_id = _present(item.call_id, f"{path}.call_id")
        messages.append({"role": "tool", "content": content, "tool_call_id": call_id})


def _present(value: Any, path: str) -> Any:
    if value is None:
        raise FieldError(f"The field {path!r} is missing. Add it.", path, "missing_required_parameter")
    return value


def _read_text(content: InputText, path: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content):
        if part.type not in ("input_text", "output_text", "text") or part.text is None:
            message = (
                f"{path}[{index}] is not a text part. This model reads text only: send "
                '{"type": "input_text", "text": "..."}.'
            )
            raise FieldError(message, f"{path}[{index}]", "unsupported_parameter")
        texts.append(part.text)
    return "\n".join(texts)


def response_grammar(request: ResponsesRequest) -> Grammar | None:
    """What the text format demands; None if nothing."""
    format = request.text.format if request.text else None
    if isinstance(format, FlatJsonSchemaFormat):
        return write_schema(format.schema)
    return find_grammar(format)


def response_functions(request: ResponsesRequest) -> list[FunctionTool]:
    """The tools as chat has them."""
    return [FunctionTool(tool.name, tool.description, tool.parameters, tool.strict) for tool in request.tools or ()]


def response_tools(request: ResponsesRequest, format: ToolFormat | None) -> ToolUse | None:
    """What an answer may call; None if nothing. Raises `FieldError` as `select_tools` does."""
    choice = request.tool_choice
    name = choice.name if isinstance(choice, FlatNamedChoice) else None
    mode = choice if isinstance(choice, str) else None
    constrained = response_grammar(request) is not None
    parallel = request.parallel_tool_calls is not False
    return select_tools(response_functions(request), mode, name, parallel, format, constrained)


def response_params(request: ResponsesRequest) -> SamplingParams:
    """What a request asks of generation. Raises `RequestError` for a value out of range."""
    asked = LOGPROBS in (request.include or ())
    if request.top_logprobs and not asked:
        message = f"top_logprobs is only for log-probabilities. Add {LOGPROBS!r} to include, or leave it out."
        raise FieldError(message, "top_logprobs", "invalid_value")
    return SamplingParams(
        max_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        seed=unsigned_seed(request.seed),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=request.ignore_eos,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        min_tokens=request.min_tokens or 0,
        logprobs=(request.top_logprobs or 0) if asked else None,
    )
