"""Request bodies made ready for the engine: decoded, templated, tokenized, and with a way to write the answer down.

These functions take CPU time, and run off the event loop. They know no socket and start nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import structs

from vivace.budget import NO_BUDGET, Budget
from vivace.engine.constraint import Grammar
from vivace.engine.request import Request
from vivace.models.model import Model
from vivace.sampling import SamplingParams, build_request
from vivace.server.decoding import FieldError
from vivace.server.fields import SamplingFields, Terms, find_grammar, find_terms
from vivace.server.protocol import (
    ChatRequest,
    CompletionRequest,
    GenerationFields,
    Message,
    chat_messages,
    chat_params,
    chat_tools,
    check_model,
    completion_params,
    completion_prompts,
    decode_chat,
    decode_completion,
    decode_tokenize,
)
from vivace.server.replies import ChatReplies, CompletionReplies, Replies, TokenizeReply
from vivace.server.response_replies import ResponseReplies, ResponseReply
from vivace.server.responses import (
    ResponsesRequest,
    decode_responses,
    response_functions,
    response_grammar,
    response_messages,
    response_params,
    response_tools,
)
from vivace.server.sharing import GenerationRequest
from vivace.server.tools import ToolFormat, ToolUse, find_format, write_grammar


@dataclass(frozen=True, slots=True)
class Job:
    """Requests made ready for the engine, and how to read their answers."""

    requests: Sequence[Request]
    per_prompt: int
    stop: tuple[str, ...]
    tools: ToolUse | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A request that was decoded and is not templated yet, and how its answers are to be told."""

    id: str
    asked: GenerationRequest
    stream: bool
    replies: Replies
    terms: Terms
    prepare: Callable[[float], Job]
    """From a request that arrived at a monotonic instant. Raises `RequestError`."""


Read = Callable[[Model, bytes, str, Budget], Draft]
"""From a body; prefixes are shared between equal salts, of which this one is used where the body has none; the budget
is that of header and server. Raises `RequestError` or `ModelNotFoundError`."""


def read_chat(model: Model, body: bytes, salt: str = "", budget: Budget = NO_BUDGET) -> Draft:
    """POST /v1/chat/completions."""
    asked = _salt(decode_chat(body), salt)
    check_model(asked.model, model.name)
    id = f"chatcmpl-{secrets.token_hex(12)}"
    replies = ChatReplies(id, int(time.time()), model.name, _with_usage(asked), asked.n or 1)
    terms = find_terms(asked, budget)
    return Draft(id, asked, bool(asked.stream), replies, terms, partial(_prepare_chat, model, asked, id, terms))


def _prepare_chat(model: Model, asked: ChatRequest, id: str, terms: Terms, arrived: float) -> Job:
    params = chat_params(asked)
    tools = chat_tools(asked, tool_format(model) if asked.tools else None)
    grammar = find_grammar(asked.response_format) if tools is None else write_grammar(tools)
    shown = [tool.function for tool in asked.tools or ()] if tools is not None else []
    _check_history(model, asked.messages)
    prompt = encode_conversation(model, chat_messages(asked.messages), shown)
    count = asked.n or 1
    requests = _build(model, id, [prompt], count, params, grammar, asked, terms, arrived)
    return Job(requests, count, params.stop, tools)


def read_completion(model: Model, body: bytes, salt: str = "", budget: Budget = NO_BUDGET) -> Draft:
    """POST /v1/completions."""
    asked = _salt(decode_completion(body), salt)
    check_model(asked.model, model.name)
    id = f"cmpl-{secrets.token_hex(12)}"
    replies = CompletionReplies(id, int(time.time()), model.name, _with_usage(asked))
    terms = find_terms(asked, budget)
    return Draft(id, asked, bool(asked.stream), replies, terms, partial(_prepare_completion, model, asked, id, terms))


def _prepare_completion(model: Model, asked: CompletionRequest, id: str, terms: Terms, arrived: float) -> Job:
    params = completion_params(asked)
    encode = model.tokenizer.encode
    prompts = [tuple(encode(part)) if isinstance(part, str) else part for part in completion_prompts(asked)]
    count = asked.n or 1
    requests = _build(model, id, prompts, count, params, find_grammar(asked.response_format), asked, terms, arrived)
    return Job(requests, count, params.stop)


def read_response(model: Model, body: bytes, salt: str = "", budget: Budget = NO_BUDGET) -> Draft:
    """POST /v1/responses."""
    asked = _salt(decode_responses(body), salt)
    check_model(asked.model, model.name)
    id = f"resp_{secrets.token_hex(12)}"
    replies = ResponseReplies(_echo(id, model.name, asked))
    terms = find_terms(asked, budget)
    return Draft(id, asked, bool(asked.stream), replies, terms, partial(_prepare_response, model, asked, id, terms))


def _prepare_response(model: Model, asked: ResponsesRequest, id: str, terms: Terms, arrived: float) -> Job:
    params = response_params(asked)
    tools = response_tools(asked, tool_format(model) if asked.tools else None)
    grammar = response_grammar(asked) if tools is None else write_grammar(tools)
    prompt = encode_conversation(model, response_messages(asked), response_functions(asked) if tools else [])
    requests = _build(model, id, [prompt], 1, params, grammar, asked, terms, arrived)
    return Job(requests, 1, params.stop, tools)


_Asked = TypeVar("_Asked", bound=SamplingFields)


def _salt(asked: _Asked, salt: str) -> _Asked:
    return asked if asked.cache_salt or not salt else structs.replace(asked, cache_salt=salt)


def tokenize(model: Model, body: bytes) -> TokenizeReply:
    """POST /tokenize. Raises `RequestError` or `ModelNotFoundError`."""
    asked = decode_tokenize(body)
    check_model(asked.model, model.name)
    if asked.messages is not None:
        shown = [tool.function for tool in asked.tools or ()]
        messages = chat_messages(asked.messages)
        ids: Sequence[int] = encode_conversation(
            model, messages, shown, add_generation_prompt=asked.add_generation_prompt
        )
    else:
        ids = model.tokenizer.encode(asked.prompt or "", special=asked.add_special_tokens)
    return TokenizeReply(list(ids), len(ids), model.config.context_length)


def tool_format(model: Model) -> ToolFormat | None:
    """How the model writes calls; None if it cannot."""
    return find_format(model.tokenizer.tool_template, model.tokenizer.special_names)


def encode_conversation(
    model: Model, messages: Sequence[Any], functions: Sequence[Any], *, add_generation_prompt: bool = True
) -> tuple[int, ...]:
    """Tokens of a conversation whose model is shown `functions`."""
    tools = [{"type": "function", "function": _without_none(function)} for function in functions]
    return tuple(
        model.tokenizer.encode_chat(messages, tools=tools or None, add_generation_prompt=add_generation_prompt)
    )


def _without_none(function: Any) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(function)
    return {name: value for name, value in fields.items() if value is not None and name != "strict"}


def _check_history(model: Model, messages: Sequence[Message]) -> None:
    """Raises `FieldError` for calls in the conversation that the template would leave out in silence."""
    for index, message in enumerate(messages):
        if message.tool_calls and model.tokenizer.tool_template is None:
            path = f"messages[{index}].tool_calls"
            text = f"{path} is not supported by this model, whose chat template knows no calls. Leave it out."
            raise FieldError(text, path, "unsupported_parameter")


def _with_usage(asked: GenerationFields) -> bool:
    return bool(asked.stream_options and asked.stream_options.include_usage)


def _build(
    model: Model,
    id: str,
    prompts: Sequence[tuple[int, ...]],
    count: int,
    params: SamplingParams,
    grammar: Grammar | None,
    asked: SamplingFields,
    terms: Terms,
    arrived: float,
) -> list[Request]:
    """A request for each answer; a seed is the first answer's, and those of the next ones follow it."""
    requests = []
    for index in range(len(prompts) * count):
        seed = None if params.seed is None else (params.seed + index % count) % 2**64
        requests.append(
            build_request(
                id if index == 0 else f"{id}-{index}",
                prompts[index // count],
                params if seed == params.seed else replace(params, seed=seed),
                model.generation,
                model.config.context_length,
                model.config.vocab_size,
                arrived=arrived,
                cache_salt=asked.cache_salt or "",
                grammar=grammar,
            )
        )
    preprocess_ms = 1000 * (time.monotonic() - arrived)
    return [
        replace(
            request,
            preprocess_ms=preprocess_ms,
            budget=terms.budget,
            priority=terms.priority,
            on_deadline=terms.on_deadline,
        )
        for request in requests
    ]


def _echo(id: str, name: str, asked: ResponsesRequest) -> ResponseReply:
    """The response before anything has come, with what was asked."""
    text = msgspec.to_builtins(asked.text) if asked.text else {}
    format = (text.get("format") or {"type": "text"}) if isinstance(text, dict) else {"type": "text"}
    return ResponseReply(
        id=id,
        created_at=int(time.time()),
        model=name,
        instructions=asked.instructions,
        max_output_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_logprobs=asked.top_logprobs,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        tool_choice=asked.tool_choice or "auto",
        tools=asked.tools or [],
        text={"format": format},
        metadata=asked.metadata,
        user=asked.user,
    )
