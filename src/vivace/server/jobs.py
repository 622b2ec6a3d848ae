"""Request bodies made ready for the engine: decoded, templated, tokenized, and with a way to write the answer down.

These functions take CPU time, and run off the event loop. They know no socket and start nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from vivace.budget import Budget
from vivace.engine.constraint import Grammar
from vivace.engine.request import Request
from vivace.models.model import Model
from vivace.sampling import SamplingParams, build_request
from vivace.server.decoding import FieldError
from vivace.server.fields import SamplingFields, find_grammar, find_terms
from vivace.server.protocol import (
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
from vivace.server.tools import ToolFormat, ToolUse, find_format, write_grammar


@dataclass(frozen=True, slots=True)
class Job:
    """Requests made ready for the engine, and how their answers are to be told."""

    requests: Sequence[Request]
    per_prompt: int
    stop: tuple[str, ...]
    stream: bool
    replies: Replies
    tools: ToolUse | None = None


Prepare = Callable[[Model, bytes, float, Budget], Job]
"""From a body that arrived at a monotonic instant, and the budget that header and server set. Raises `RequestError` or
`ModelNotFoundError`."""


def prepare_chat(model: Model, body: bytes, arrived: float, budget: Budget) -> Job:
    """POST /v1/chat/completions."""
    asked = decode_chat(body)
    check_model(asked.model, model.name)
    params = chat_params(asked)
    tools = chat_tools(asked, tool_format(model) if asked.tools else None)
    grammar = find_grammar(asked.response_format) if tools is None else write_grammar(tools)
    shown = [tool.function for tool in asked.tools or ()] if tools is not None else []
    _check_history(model, asked.messages)
    prompt = encode_conversation(model, chat_messages(asked.messages), shown)
    id, count = f"chatcmpl-{secrets.token_hex(12)}", asked.n or 1
    replies = ChatReplies(id, int(time.time()), model.name, _with_usage(asked), count)
    requests = _build(model, id, [prompt], count, params, grammar, asked, arrived, budget)
    return Job(requests, count, params.stop, bool(asked.stream), replies, tools)


def prepare_completion(model: Model, body: bytes, arrived: float, budget: Budget) -> Job:
    """POST /v1/completions."""
    asked = decode_completion(body)
    check_model(asked.model, model.name)
    params = completion_params(asked)
    encode = model.tokenizer.encode
    prompts = [tuple(encode(part)) if isinstance(part, str) else part for part in completion_prompts(asked)]
    id, count = f"cmpl-{secrets.token_hex(12)}", asked.n or 1
    replies = CompletionReplies(id, int(time.time()), model.name, _with_usage(asked))
    grammar = find_grammar(asked.response_format)
    requests = _build(model, id, prompts, count, params, grammar, asked, arrived, budget)
    return Job(requests, count, params.stop, bool(asked.stream), replies)


def prepare_response(model: Model, body: bytes, arrived: float, budget: Budget) -> Job:
    """POST /v1/responses."""
    asked = decode_responses(body)
    check_model(asked.model, model.name)
    params = response_params(asked)
    tools = response_tools(asked, tool_format(model) if asked.tools else None)
    grammar = response_grammar(asked) if tools is None else write_grammar(tools)
    prompt = encode_conversation(model, response_messages(asked), response_functions(asked) if tools else [])
    id = f"resp_{secrets.token_hex(12)}"
    requests = _build(model, id, [prompt], 1, params, grammar, asked, arrived, budget)
    replies = ResponseReplies(_echo(id, model.name, asked))
    return Job(requests, 1, params.stop, bool(asked.stream), replies, tools)


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
    arrived: float,
    budget: Budget,
) -> list[Request]:
    """A request for each answer; a seed is the first answer's, and those of the next ones follow it."""
    terms = find_terms(asked, budget)
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
