"""The API's handlers: bytes in, an answer out.

A body is decoded, its prompt templated and tokenized on a small pool of threads; only then does the event loop hand
it to the engine. Knows nothing of sockets, processes or the page, and never logs what was asked or answered.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.budget import Budget, parse_budget
from vivace.engine.bridge import EngineThread
from vivace.engine.request import Request as EngineRequest
from vivace.errors import ConfigError, DeadlineError, OverloadedError, VivaceError
from vivace.models.model import Model
from vivace.server.answer import Answer, Answers, Reading
from vivace.server.decoding import FieldError
from vivace.server.jobs import Draft, Job, Read, read_chat, read_completion, read_response, tokenize
from vivace.server.metrics import Metrics
from vivace.server.protocol import check_model
from vivace.server.replies import (
    ErrorBody,
    ErrorReply,
    HealthReport,
    ModelCard,
    ModelList,
    Usage,
    describe_error,
    encode,
)
from vivace.server.sharing import Keys, Outcome, Sharing, find_keys, read_directives, write_outcome
from vivace.server.stream import EventStream, run_while_connected

RETRY_AFTER_MS = 1000.0
"""What a caller is told to wait when the queue is full."""
MAX_BUDGET_CHARACTERS = 200
OVERLOADED_MS = 1000.0
"""/health speaks of overload for so long after a refusal."""
TOLD = "vivace.told"
"""In a request's scope: a dictionary of what its log line may say."""
CALLER = "vivace.caller"
"""In a request's scope: what stands for its API key, a text that nobody can guess; empty without keys."""
ASKED = "vivace.asked"
"""In a request's scope, once it is decoded: the request."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the handlers work with."""

    model: Model
    bridge: EngineThread
    pool: Executor
    """Where prompts are prepared."""
    metrics: Metrics
    max_body_bytes: int
    budget: Budget
    """Of every request, unless it asks for less."""
    stuck_after_ms: float
    """A step under way for longer than this makes /health red."""
    created: int
    """When the service began, in seconds since 1970."""
    sharing: Sharing | None = None
    """Finds answers that need not be computed again; None computes every one."""
    callers_share: bool = False
    """Callers with different API keys share answers."""
    callers_share_prefixes: bool = True
    """They share prefixes of prompts, unless a request has a salt."""


def build_routes(service: Service) -> list[Route]:
    """The API under /v1, /tokenize, /health and /metrics."""
    reads: dict[str, Read] = {
        "/v1/chat/completions": read_chat,
        "/v1/completions": read_completion,
        "/v1/responses": read_response,
    }
    return [
        *(Route(path, partial(_generate, service, read), methods=["POST"]) for path, read in reads.items()),
        Route("/v1/models", partial(_list_models, service)),
        Route("/v1/models/{name:path}", partial(_show_model, service)),
        Route("/tokenize", partial(_tokenize, service), methods=["POST"]),
        Route("/health", partial(_report_health, service)),
        Route("/metrics", partial(_show_metrics, service)),
    ]


async def _generate(service: Service, read: Read, request: Request) -> Response:
    arrived = time.monotonic()
    budget = _find_budget(request, service.budget)
    service.bridge.screen(_declared_bytes(request), budget, arrived)
    body = await _read_body(request, service.max_body_bytes)
    draft, answers, outcome = await _open(service, read, request, body, arrived, budget)
    told = request.scope.get(TOLD, {})
    report = partial(_report, service.metrics, told, draft, answers, outcome)
    try:
        if not draft.stream:
            return await run_while_connected(request.receive, _answer_whole(answers, draft, report, outcome))
        first = await run_while_connected(request.receive, answers.read())
    except BaseException as error:
        await answers.aclose()
        if isinstance(error, VivaceError):
            report(error)
        raise
    return EventStream(answers, draft.replies, first, report, write_outcome(outcome))


async def _open(
    service: Service, read: Read, request: Request, body: bytes, arrived: float, budget: Budget
) -> tuple[Draft, Reading, Outcome | None]:
    """Decode a request, and find or compute its answers."""
    run = partial(asyncio.get_running_loop().run_in_executor, service.pool)
    caller = request.scope.get(CALLER, "")
    salt = "" if service.callers_share_prefixes else caller
    read_body = partial(read, service.model, body, salt, budget)
    if service.sharing is None:
        draft, job = await run(_read_and_prepare, read_body, arrived)
        request.scope[ASKED] = draft.asked
        return draft, _submit(service, job, len(body)), None
    recognise = partial(
        find_keys,
        request.url.path,
        defaults=service.model.generation,
        caller="" if service.callers_share else caller,
    )
    draft, keys = await run(_read_and_recognise, read_body, recognise)
    request.scope[ASKED] = draft.asked

    async def launch() -> Answers:
        return _submit(service, await run(draft.prepare, arrived), len(body))

    directives = read_directives(request.headers.get("cache-control", ""))
    answers, outcome = await service.sharing.open(keys, directives, arrived, launch)
    return draft, answers, outcome


def _read_and_prepare(read_body: Callable[[], Draft], arrived: float) -> tuple[Draft, Job]:
    draft = read_body()
    return draft, draft.prepare(arrived)


def _read_and_recognise(
    read_body: Callable[[], Draft], recognise: Callable[..., Keys | None]
) -> tuple[Draft, Keys | None]:
    draft = read_body()
    return draft, recognise(draft.asked, pace=repr(draft.terms))


def _find_budget(request: Request, default: Budget) -> Budget:
    """The header's budget and the server's, the tighter of each part. Raises `FieldError`."""
    text = ", ".join(request.headers.getlist("x-budget"))  # as HTTP has it for a header that comes more than once
    if not text and "x-budget" not in request.headers:
        return default
    try:
        if len(text) > MAX_BUDGET_CHARACTERS:
            raise ConfigError(f"It is longer than {MAX_BUDGET_CHARACTERS} characters. Write ttft, tpot and total once.")
        return default.tighten(parse_budget(text))
    except ConfigError as error:
        raise FieldError(f"The header X-Budget cannot be used. {error}", "X-Budget", "invalid_value") from None


def _declared_bytes(request: Request) -> int:
    """What the header says of the body's size; 0 if nothing."""
    declared = request.headers.get("content-length", "0")
    return int(declared) if declared.isdecimal() and len(declared) < 16 else 0


def _submit(service: Service, job: Job, size_bytes: int) -> Answers:
    service.bridge.learn_size(sum(len(request.prompt) for request in job.requests[:: job.per_prompt]), size_bytes)
    tokenizer = service.model.tokenizer
    requests = _admit(service.bridge, job)
    answers = [Answer(service.bridge, request, tokenizer, job.stop, job.tools) for request in requests]
    return Answers(answers, job.per_prompt, service.metrics.count_prompts)


def _admit(bridge: EngineThread, job: Job) -> list[EngineRequest]:
    """All of a job's requests, as accepted, or none. Raises `OverloadedError` or `UnreachableBudgetError`."""
    accepted: list[EngineRequest] = []
    try:
        for request in job.requests:
            accepted.append(bridge.admit(request))
    except VivaceError:
        for request in accepted:
            bridge.release(request.id)
        raise
    return accepted


async def _answer_whole(answers: Reading, draft: Draft, report: partial[None], outcome: Outcome | None) -> Response:
    async with aclosing(answers):
        wholes = await answers.read_all()
        usage = await answers.usage()
    report(usage)
    headers = {"server-timing": _write_timing(usage), **write_outcome(outcome)}
    return _json(draft.replies.whole(wholes, usage), headers=headers)


def _report(
    metrics: Metrics,
    told: dict[str, Any],
    draft: Draft,
    answers: Reading,
    outcome: Outcome | None,
    result: Usage | VivaceError,
) -> None:
    told["id"] = draft.id
    if outcome is not None:
        told["cache"] = outcome
    if isinstance(result, VivaceError):
        told["error"] = type(result).__name__
        if isinstance(result, DeadlineError):
            metrics.count_expired()
        return
    metrics.record(result, draft.terms.budget, computed=outcome not in ("hit", "shared"))
    told["prompt_tokens"] = result.prompt_tokens
    told["cached_tokens"] = result.prompt_tokens_details.cached_tokens
    told["completion_tokens"] = result.completion_tokens
    told["finish_reasons"] = ",".join(answers.finish_reasons)
    told |= result.timing


def _write_timing(usage: Usage) -> str:
    """The Server-Timing header: durations in milliseconds, as W3C's Server Timing has it."""
    durations = {name.removesuffix("_ms"): value for name, value in usage.timing.items() if name.endswith("_ms")}
    return ", ".join(f"{name};dur={value}" for name, value in durations.items())


async def _tokenize(service: Service, request: Request) -> Response:
    body = await _read_body(request, service.max_body_bytes)
    return _json(await asyncio.get_running_loop().run_in_executor(service.pool, _encode_tokens, service.model, body))


def _encode_tokens(model: Model, body: bytes) -> bytes:
    return encode(tokenize(model, body))


async def _show_metrics(service: Service, request: Request) -> Response:
    text = await asyncio.get_running_loop().run_in_executor(service.pool, service.metrics.expose)
    return Response(text, media_type=service.metrics.media_type)


async def _read_body(request: Request, limit_bytes: int) -> bytes:
    """Raises `HTTPException` for a body that is too large or does not say that it is JSON."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "The body must be JSON. Send it with the header Content-Type: application/json.")
    too_large = HTTPException(413, f"The body is larger than {limit_bytes} bytes. Send a shorter conversation.")
    if _declared_bytes(request) > limit_bytes:
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
    stats, admission = service.bridge.stats(), service.bridge.admission_stats()
    report = HealthReport(
        "error" if problem else "ok",
        service.model.name,
        round(health.stuck_ms, 1),
        stats.waiting,
        stats.running,
        admission is not None and admission.refused_ago_ms < OVERLOADED_MS,
        problem,
        health.restarts,
        service.metrics.describe_drift(),
    )
    return _json(encode(report), 503 if problem else 200)


async def report_error(request: Request, error: Exception) -> Response:
    """Tells a caller of one of our own errors, in the API's shape."""
    assert isinstance(error, VivaceError)
    status, body = describe_error(error)
    headers = {}
    if status == 429:
        wait_ms = error.retry_after_ms if isinstance(error, OverloadedError) else RETRY_AFTER_MS
        headers = {"retry-after": str(math.ceil(wait_ms / 1000)), "retry-after-ms": str(math.ceil(wait_ms))}
    if isinstance(error, DeadlineError):
        headers = {"x-should-retry": "false"}  # the official client would send it again, later still
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
