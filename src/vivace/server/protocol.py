"""What requests to the OpenAI API may say, and what they ask for.

Pure functions on bytes and values. Knows no socket, no engine, no tokenizer.
A field that nobody defines is refused by name; so is one that the API defines and this server does not have yet,
unless its value asks for nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from vivace.errors import (
    ModelNotFoundError,
    RequestError,
)
from vivace.sampling import MAX_BIASED_TOKENS, MAX_LOGPROBS, SamplingParams

T = TypeVar("T")

COMPLETION_MAX_TOKENS = 16
"""`max_tokens` of /v1/completions when it is not given, as the OpenAI API has it."""

Count = Annotated[int, Meta(ge=1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
LikeliestCount = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]
StopString = Annotated[str, Meta(min_length=1, max_length=500)]


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class GenerationFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What chat and plain completions have in common."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = {
        "n": (1,),
        "service_tier": ("auto", "default"),
    }
    """Fields this server does not act on, and the values that ask for nothing. None always does."""

    model: str
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Meta(max_length=MAX_BIASED_TOKENS)] | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=128)] | None = None
    cache_salt: Annotated[str, Meta(max_length=200)] | None = None
    # Accepted and of no effect here: they concern the caller's own bookkeeping.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Refused unless they ask for nothing.
    n: Any = None
    service_tier: Any = None


class ContentPart(Struct, frozen=True, forbid_unknown_fields=True):
    """One part of a message's content. Only text can be read; the others are known in order to say so."""

    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """One turn of a conversation."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = {
        "tool_calls": ([],),
        "function_call": (),
        "refusal": (),
        "audio": (),
        "annotations": ([],),
    }

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None
    annotations: Any = None


class ChatRequest(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/chat/completions."""

    refused: ClassVar[dict[str, tuple[object, ...]]] = GenerationFields.refused | {
        "response_format": ({"type": "text"},),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
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
    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
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


class FieldError(RequestError):
    """A request that can never be answered because of one of its fields."""

    def __init__(self, message: str, field: str | None, code: str) -> None:
        super().__init__(message)
        self.field = field
        """A path such as `messages[0].role`; None when the body as a whole is at fault."""
        self.code = code


_chat_decoder = msgspec.json.Decoder(ChatRequest)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)
_encoder = msgspec.json.Encoder()


def decode_chat(body: bytes) -> ChatRequest:
    """Raises `FieldError` for anything that is not a chat request this server can answer."""
    request = _decode(_chat_decoder, body)
    _refuse_unsupported(request, request.refused, "")
    for index, message in enumerate(request.messages):
        _refuse_unsupported(message, message.refused, f"messages[{index}].")
    _check_stream_options(request)
    return request


def decode_completion(body: bytes) -> CompletionRequest:
    """Raises `FieldError` for anything that is not a completion request this server can answer."""
    request = _decode(_completion_decoder, body)
    _refuse_unsupported(request, request.refused, "")
    _check_stream_options(request)
    return request


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except RecursionError:
        raise FieldError("The body is nested too deeply. Send flatter JSON.", None, "invalid_json") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"The body is not valid JSON in UTF-8 ({error}). Send a JSON object."
        raise FieldError(message, None, "invalid_json") from None


_PATH = re.compile(r" - at `(?:key` in `)?\$\.?([^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`$", re.DOTALL)


def _explain(text: str) -> FieldError:
    """A decoder's complaint as ours: the field by its path, and what to do."""
    found = _PATH.search(text)
    parent = found[1] if found else ""
    problem = text[: found.start()] if found else text
    prefix = f"{parent}." if parent else ""
    if match := _UNKNOWN.match(problem):
        field = prefix + match[1]
        return FieldError(f"Unknown field {field!r}. Remove it, or check its spelling.", field, "unknown_parameter")
    if match := _MISSING.match(problem):
        field = prefix + match[1]
        return FieldError(f"The field {field!r} is missing. Add it.", field, "missing_required_parameter")
    message = f"{parent or 'The body'} cannot be used: {problem[:1].lower()}{problem[1:]}. Change it and send again."
    return FieldError(message, parent or None, "invalid_value")


def _refuse_unsupported(struct: Struct, refused: dict[str, tuple[object, ...]], prefix: str) -> None:
    for name, harmless in refused.items():
        value = getattr(struct, name)
        if value is None or value in harmless:
            continue
        remedy = f"Leave it out or send {_quote(harmless[0])}." if harmless else "Leave it out."
        message = f"{prefix}{name} = {_quote(value)} is not supported by this server. {remedy}"
        raise FieldError(message, prefix + name, "unsupported_parameter")


def _quote(value: object) -> str:
    text = _encoder.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


def _check_stream_options(request: GenerationFields) -> None:
    if request.stream_options is not None and not request.stream:
        message = "stream_options is only for streams. Set stream to true, or leave stream_options out."
        raise FieldError(message, "stream_options", "invalid_value")


def check_model(asked: str, served: str) -> None:
    """Raises `ModelNotFoundError` unless the model asked for is the one served."""
    if asked != served:
        raise ModelNotFoundError(f"The model {asked[:100]!r} is not served here. This server has: {served!r}.")


def chat_messages(request: ChatRequest) -> list[dict[str, str]]:
    """The conversation as chat templates take it: plain text contents, `developer` as `system`."""
    return [_template_message(message, f"messages[{index}]") for index, message in enumerate(request.messages)]


def _template_message(message: Message, path: str) -> dict[str, str]:
    role = "system" if message.role == "developer" else message.role
    plain = {"role": role, "content": _text_of(message.content, f"{path}.content")}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
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


def completion_prompt(request: CompletionRequest) -> str | tuple[int, ...]:
    """The one prompt: a text, or token ids. Raises `FieldError` for several prompts or none."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and not isinstance(prompt[0], int):
        return prompt[0] if isinstance(prompt[0], str) else tuple(prompt[0])
    tokens = tuple(token for token in prompt if isinstance(token, int))
    if prompt and len(tokens) == len(prompt):
        return tokens
    message = "prompt must be one text or one list of token ids. Send several prompts as several requests."
    raise FieldError(message, "prompt", "invalid_value")


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
        seed=_unsigned_seed(request.seed),
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


def _unsigned_seed(seed: int | None) -> int | None:
    """The API's seeds are signed 64-bit numbers, the engine's unsigned ones of the same bits."""
    if seed is None or 0 <= seed < 2**64:
        return seed
    if -(2**63) <= seed < 0:
        return seed + 2**64
    raise FieldError("seed must be a whole number of at most 64 bits. Send a smaller one.", "seed", "invalid_value")
