"""What requests for chats and completions may say, and what they ask for.

Pure functions on bytes and values. Knows no socket, no engine, no tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from vivace.errors import ModelNotFoundError
from vivace.sampling import MAX_BIASED_TOKENS, SamplingParams
from vivace.server.decoding import FieldError, decode, refuse_unsupported
from vivace.server.fields import (
    MAX_CHOICES,
    ChoiceCount,
    Count,
    FunctionCall,
    FunctionTool,
    LikeliestCount,
    ResponseFormat,
    SamplingFields,
    TokenId,
    find_grammar,
    select_tools,
    template_call,
    unsigned_seed,
)
from vivace.server.tools import ToolFormat, ToolUse

COMPLETION_MAX_TOKENS = 16
"""`max_tokens` of /v1/completions when it is not given, as the OpenAI API has it."""

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
StopString = Annotated[str, Meta(min_length=1, max_length=500)]


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class GenerationFields(SamplingFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What chat and plain completions have in common."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = {"service_tier": ("auto", "default")}
    """Fields this server does not act on, and the values that ask for nothing. None always does."""

    max_tokens: Count | None = None
    n: ChoiceCount | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=MAX_BIASED_TOKENS)] | None = None
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=16)] | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    service_tier: Any = None


class ContentPart(Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a message's content. Only text can be read; the others are known in order to say so."""

    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None


class ToolCall(Struct, frozen=True, forbid_unknown_fields=True):
    """A call that the model made, and the id by which its result refers to it."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    index: int | None = None
    """Of no effect: streams tell calls with it, and callers send them back."""


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = {
        "function_call": (),
        "refusal": (),
        "audio": (),
        "annotations": ([],),
    }

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None
    annotations: Any = None


class ChatTool(Struct, frozen=True, forbid_unknown_fields=True):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: FunctionTool


class FunctionName(Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class NamedChoice(Struct, frozen=True, forbid_unknown_fields=True):
    """This function has to be called."""

    type: Literal["function"]
    function: FunctionName


Tools = Annotated[list[ChatTool], Meta(max_length=128)]


class ChatRequest(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/chat/completions."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = GenerationFields.refused | {
        "functions": ([],),
        "function_call": ("none", "auto"),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "reasoning_effort": ("none",),
        "verbosity": ("medium",),
        "web_search_options": (),
    }

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: LikeliestCount | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class CompletionRequest(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/completions."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = GenerationFields.refused | {
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
    }

    prompt: str | list[str | int | list[TokenId]]
    logprobs: LikeliestCount | None = None
    best_of: Any = None
    echo: Any = None
    suffix: Any = None


class TokenizeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /tokenize: a text, or a conversation."""

    model: str
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    tools: Tools | None = None
    add_special_tokens: bool = True
    """To a text: what the tokenizer puts around one."""
    add_generation_prompt: bool = True
    """To a conversation: the beginning of the answer."""


_chat_decoder = msgspec.json.Decoder(ChatRequest)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)
_tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)


def decode_chat(body: bytes) -> ChatRequest:
    """Raises `FieldError` for anything that is not a chat request this server can answer."""
    request = decode(_chat_decoder, body)
    refuse_unsupported(request, request.refused, "")
    _check_messages(request.messages)
    _check_stream_options(request)
    return request


def decode_completion(body: bytes) -> CompletionRequest:
    """Raises `FieldError` for anything that is not a completion request this server can answer."""
    request = decode(_completion_decoder, body)
    refuse_unsupported(request, request.refused, "")
    _check_stream_options(request)
    return request


def decode_tokenize(body: bytes) -> TokenizeRequest:
    """Raises `FieldError` unless there is either a text or a conversation."""
    request = decode(_tokenize_decoder, body)
    if (request.prompt is None) == (request.messages is None):
        raise FieldError("Send either prompt, a text, or messages, a conversation.", "prompt", "invalid_value")
    _check_messages(request.messages or ())
    return request


def _check_messages(messages: Sequence[Message]) -> None:
    for index, message in enumerate(messages):
        refuse_unsupported(message, message.refused, f"messages[{index}].")


def _check_stream_options(request: GenerationFields) -> None:
    if request.stream_options is not None and not request.stream:
        message = "stream_options is only for streams. Set stream to true, or leave stream_options out."
        raise FieldError(message, "stream_options", "invalid_value")


def check_model(asked: str, served: str) -> None:
    """Raises `ModelNotFoundError` unless the model asked for is the one served."""
    if asked != served:
        raise ModelNotFoundError(f"The model {asked[:100]!r} is not served here. This server has: {served!r}.")


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The conversation as chat templates take it: plain text contents, `developer` as `system`, calls' arguments as
    objects."""
    return [_template_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _template_message(message: Message, path: str) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    content = "" if message.content is None and message.tool_calls else message.content
    plain: dict[str, Any] = {"role": role, "content": _text_of(content, f"{path}.content")}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        calls = enumerate(message.tool_calls)
        plain["tool_calls"] = [template_call(c.id, c.function, f"{path}.tool_calls[{i}].function") for i, c in calls]
    return plain


def _text_of(content: str | list[ContentPart] | None, path: str) -> str:
    if content is None:
        raise FieldError(f"{path} is missing. Send text, which may be empty.", path, "missing_required_parameter")
    if isinstance(content, str):
        return content
    return "\n".join(_part_text(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part_text(part: ContentPart, path: str) -> str:
    if part.type != "text" or part.text is None:
        message = f'{path} is not a text part. This model reads text only: send {{"type": "text", "text": "..."}}.'
        raise FieldError(message, path, "unsupported_parameter")
    return part.text


def completion_prompts(request: CompletionRequest) -> list[str | tuple[int, ...]]:
    """The prompts, each a text or token ids. Raises `FieldError` for none, or a mixture within one."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    tokens = tuple(part for part in prompt if isinstance(part, int))
    if prompt and len(tokens) == len(prompt):
        return [tokens]
    if not prompt or tokens or len(prompt) * (request.n or 1) > MAX_CHOICES:
        message = (
            "prompt must be a text, a list of token ids, or a list of either; with n, of no more than "
            f"{MAX_CHOICES} answers in all. Send the rest as requests of their own."
        )
        raise FieldError(message, "prompt", "invalid_value")
    return [part if isinstance(part, str) else tuple(part) for part in prompt if not isinstance(part, int)]


def chat_tools(request: ChatRequest, format: ToolFormat | None) -> ToolUse | None:
    """What an answer may call; None if nothing. Raises `FieldError` as `select_tools` does."""
    choice = request.tool_choice
    name = choice.function.name if isinstance(choice, NamedChoice) else None
    mode = choice if isinstance(choice, str) else None
    functions = [tool.function for tool in request.tools or ()]
    constrained = find_grammar(request.response_format) is not None
    return select_tools(functions, mode, name, request.parallel_tool_calls is not False, format, constrained)


def chat_params(request: ChatRequest) -> SamplingParams:
    """What a chat request asks of generation. Raises `RequestError` for a value out of range."""
    limit, newer = request.max_tokens, request.max_completion_tokens
    if limit is not None and newer is not None and limit != newer:
        message = "max_tokens and max_completion_tokens differ. Send one of them."
        raise FieldError(message, "max_tokens", "invalid_value")
    if request.top_logprobs and not request.logprobs:
        message = "top_logprobs is only for log-probabilities. Set logprobs to true, or leave top_logprobs out."
        raise FieldError(message, "top_logprobs", "invalid_value")
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return _params(request, newer if limit is None else limit, logprobs)


def completion_params(request: CompletionRequest) -> SamplingParams:
    """What a completion request asks of generation. Raises `RequestError` for a value out of range."""
    max_tokens = COMPLETION_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    return _params(request, max_tokens, request.logprobs)


def _params(request: GenerationFields, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
    stop = request.stop or ()
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        seed=unsigned_seed(request.seed),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        ignore_eos=request.ignore_eos,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        logit_bias=request.logit_bias,
        min_tokens=request.min_tokens or 0,
        logprobs=logprobs,
    )
