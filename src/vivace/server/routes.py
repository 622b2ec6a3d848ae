"""The API's handlers: bytes in, an answer out.

A body is decoded, its prompt templated and tokenized on a small pool of threads; only then does the event loop hand
it to the engine. Knows nothing of sockets, processes or the page, and never logs what was asked or answered.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.engine.bridge import EngineThread
from vivace.engine.request import Request as EngineRequest
from vivace.errors import VivaceError
from vivace.models.model import Model
from vivace.sampling import SamplingParams, build_request
from vivace.server.protocol import (
    chat_messages,
    chat_params,
    check_model,
    completion_params,
    completion_prompt,
    decode_chat,
    decode_completion,
)
from vivace.server.replies import (
    ChatReplies,
    CompletionReplies,
    ErrorBody,
    ErrorReply,
    HealthReport,
    ModelCard,
    ModelList,
    describe_error,
    encode,
)
from vivace.server.stream import Answer, EventStream, Replies, run_while_connected

RETRY_AFTER_S = 1
"""What a caller is told to wait when the queue is full."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the handlers work with."""

    model: Model
    bridge: EngineThread
    pool: Executor
    """Where prompts are prepared."""
    max_body_bytes: int
    stuck_after_ms: float
    """A step under way for longer than this makes /health red."""
    created: int
    """When the service began, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request made ready for the engine, and how its answer is to be told."""

    request: EngineRequest
    stop: tuple[str, ...]
    stream: bool
    replies: Replies


Prepare = Callable[[Model, bytes, float], Job]


def build_routes(service: Service) -> list[Route]:
    """The API under /v1, and /health."""
    chat = partial(_generate, service, prepare_chat)
    completion = partial(_generate, service, prepare_completion)
    return [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completion, methods=["POST"]),
        Route("/v1/models", partial(_list_models, service)),
        Route("/v1/models/{name:path}", partial(_show_model, service)),
        Route("/health", partial(_report_health, service)),
    ]


def prepare_chat(model: Model, body: bytes, arrived: float) -> Job:
    """Raises `RequestError` or `ModelNotFoundError` for a body that cannot be answered."""
    asked = decode_chat(body)
    check_model(asked.model, model.name)
    params = chat_params(asked)
    prompt = model.tokenizer.encode_chat(chat_messages(asked))
    id = f"chatcmpl-{secrets.token_hex(12)}"
    options = asked.stream_options
    replies = ChatReplies(id, int(time.time()), model.name, bool(options and options.include_usage))
    request = _build(model, id, tuple(prompt), params, asked.cache_salt, arrived)
    return Job(request, params.stop, bool(asked.stream), replies)


def prepare_completion(model: Model, body: bytes, arrived: float) -> Job:
    """Raises `RequestError` or `ModelNotFoundError` for a body that cannot be answered."""
    asked = decode_completion(body)
    check_model(asked.model, model.name)
    params = completion_params(asked)
    prompt = completion_prompt(asked)
    tokens = tuple(model.tokenizer.encode(prompt)) if isinstance(prompt, str) else prompt
    id = f"cmpl-{secrets.token_hex(12)}"
    options = asked.stream_options
    replies = CompletionReplies(id, int(time.time()), model.name, bool(options and options.include_usage))
    request = _build(model, id, tokens, params, asked.cache_salt, arrived)
    return Job(request, params.stop, bool(asked.stream), replies)


def _build(
    model: Model, id: str, prompt: tuple[int, ...], params: SamplingParams, cache_salt: str | None, arrived: float
) -> EngineRequest:
    return build_request(
        id,
        prompt,
        params,
        model.generation,
        model.config.context_length,
        model.config.vocab_size,
        arrived=arrived,
        preprocess_ms=1000 * (time.monotonic() - arrived),
        cache_salt=cache_salt or "",
    )


async def _generate(service: Service, prepare: Prepare, request: Request) -> Response:
    arrived = time.monotonic()
    body = await _read_body(request, service.max_body_bytes)
    job = await asyncio.get_running_loop().run_in_executor(service.pool, prepare, service.model, body, arrived)
    answer = Answer(service.bridge, job.request, service.model.tokenizer, job.stop)
    if not job.stream:
        return await run_while_connected(request.receive, _answer_whole(answer, job.replies))
    try:
        first = await run_while_connected(request.receive, answer.read())
    except BaseException:
        await answer.aclose()
        raise
    return EventStream(answer, job.replies, first)


async def _answer_whole(answer: Answer, replies: Replies) -> Response:
    async with aclosing(answer):
        text = await answer.read_all()
        usage = await answer.usage()
    assert answer.finish_reason is not None
    return _json(replies.whole(text, answer.finish_reason.value, usage, answer.take_scored()))


async def _read_body(request: Request, limit_bytes: int) -> bytes:
    """Raises `HTTPException` for a body that is too large or does not say that it is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "The body must be JSON. Send it with the header Content-Type: application/json.")
    declared = request.headers.get("content-length", "0")
    too_large = HTTPException(413, f"The body is larger than {limit_bytes} bytes. Send a shorter conversation.")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise too_large
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit_bytes:
            raise too_large
    return bytes(body)


async def _list_models(service: Service, request: Request) -> Response:
    return _json(encode(ModelList([_card(service)])))


async def _show_model(service: Service, request: Request) -> Response:
    check_model(request.path_params["name"], service.model.name)
    return _json(encode(_card(service)))


def _card(service: Service) -> ModelCard:
    return ModelCard(service.model.name, service.created, service.model.config.context_length)


async def _report_health(service: Service, request: Request) -> Response:
    health = service.bridge.health()
    problem = health.error or ("" if health.alive else "The engine has stopped. Restart the server.")
    if health.stuck_ms > service.stuck_after_ms:
        problem = f"The engine has been in one step for {health.stuck_ms:.0f} ms. Restart the server if it stays so."
    report = HealthReport("error" if problem else "ok", service.model.name, round(health.stuck_ms, 1), problem)
    return _json(encode(report), 503 if problem else 200)


async def report_error(request: Request, error: Exception) -> Response:
    """Tells a caller of one of our own errors, in the API's shape."""
    assert isinstance(error, VivaceError)
    status, body = describe_error(error)
    headers = {"retry-after": str(RETRY_AFTER_S)} if status == 429 else None
    return _json(encode(ErrorReply(body)), status, headers)


async def report_http_error(request: Request, error: Exception) -> Response:
    """Tells of a wrong path, a wrong method, a wrong or too large body, in the API's shape."""
    assert isinstance(error, HTTPException)
    hints = {
        404: f"There is nothing at {request.url.path[:200]}. The API is under /v1.",
        405: f"{request.url.path[:200]} does not take {request.method[:20]}. Use another method.",
    }
    message = hints.get(error.status_code, error.detail)
    body = ErrorBody(message, "invalid_request_error", code=_HTTP_CODES.get(error.status_code))
    return _json(encode(ErrorReply(body)), error.status_code, dict(error.headers or {}))


_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}


async def report_bug(request: Request, error: Exception) -> Response:
    """An error nobody foresaw: the caller hears that it is ours, the log has the rest."""
    body = ErrorBody("The server failed. The fault is ours; its log says more.", "server_error")
    return _json(encode(ErrorReply(body)), 500)


async def drop_reply(request: Request, error: Exception) -> Response:
    """The client went away: nothing is sent, and nothing is wrong."""
    assert isinstance(error, ClientDisconnect)
    return Response(status_code=499)


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")
