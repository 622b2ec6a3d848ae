"""Asks a server what it is before it is measured: its models, whether it answers, how it counts tokens.

What is wrong with an address, a name or a server is found here, before anything is timed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec
import uvloop
from msgspec import Struct

from vivace.bench.client import ConnectionPool, Reply, Target, encode_request, parse_url
from vivace.bench.observation import Observation
from vivace.bench.sse import read_error
from vivace.bench.timer import clock
from vivace.bench.workload import WORDS, Workload
from vivace.errors import ConfigError

PROBE_WORDS = (20, 120)


class _Model(Struct):
    id: str


class _Models(Struct):
    data: list[_Model]


@dataclass(frozen=True, slots=True)
class Found:
    """What a server said of itself."""

    model: str
    models: tuple[str, ...]
    words_per_token: float | None
    """Of the workload's words by the server's own count; None when it sends no usage."""
    overhead_tokens: float
    """Of an empty prompt."""
    sends_usage: bool
    sends_timeline: bool


def probe(
    url: str, workload: Workload, headers: tuple[tuple[str, str], ...], *, verify: bool = True, timeout_s: float = 60.0
) -> Found:
    """Raises `ConfigError` that says what is wrong and what to do."""
    return uvloop.run(_probe(parse_url(url, verify=verify), workload, headers, timeout_s))


async def _probe(target: Target, workload: Workload, headers: tuple[tuple[str, str], ...], timeout_s: float) -> Found:
    pool = ConnectionPool(target)
    try:
        models = await _list_models(pool, target, headers, timeout_s, needed=not workload.model)
        model = workload.model or models[0]
        asked = msgspec.structs.replace(workload, model=model)
        counts = []
        for words in PROBE_WORDS if not workload.lines else PROBE_WORDS[:1]:
            seen = await _ask(pool, target, asked, words, models, headers, timeout_s)
            counts.append(seen.prompt_tokens)
        per_token, overhead = _fit(counts)
        return Found(model, models, per_token, overhead, seen.tokens is not None, bool(seen.server))
    finally:
        pool.close()


async def _list_models(
    pool: ConnectionPool, target: Target, headers: tuple[tuple[str, str], ...], timeout_s: float, *, needed: bool
) -> tuple[str, ...]:
    reply = _new_reply(stream=True)  # so that a body that is no answer is kept as it is
    await pool.exchange(encode_request(target, "GET", "/models", headers=headers), reply, timeout_s)
    if reply.status == 200 and reply.error in ("", "not_streaming"):
        try:
            models = tuple(model.id for model in msgspec.json.decode(reply.body, type=_Models).data)
        except msgspec.DecodeError:
            models = ()
        if models or not needed:
            return models
    if reply.error in ("unreachable", "tls", "timeout", "malformed"):
        raise ConfigError(reply.message)
    if not needed:
        return ()
    said = f"status {reply.status}" if reply.status else reply.message
    raise ConfigError(
        f"{target.path}/models on {target.authority} lists no model ({said}). Does the URL end where the API begins, "
        "as http://127.0.0.1:8000/v1 does? Else name the model with --model."
    )


async def _ask(
    pool: ConnectionPool,
    target: Target,
    workload: Workload,
    words: int,
    models: tuple[str, ...],
    headers: tuple[tuple[str, str], ...],
    timeout_s: float,
) -> Observation:
    """One short answer. Raises `ConfigError` when it fails for a reason that would fail every other."""
    body = workload.ask(0).body if workload.lines else _short(workload, words)
    reply = _new_reply(stream=workload.stream)
    request = encode_request(target, "POST", workload.path, msgspec.json.encode(body), headers)
    await pool.exchange(request, reply, timeout_s)
    seen = reply.observation
    if reply.status == 404 or ("model" in seen.message and reply.status in (400, 422)):
        said = read_error(bytes(reply.body)).rstrip(".") or f"status {reply.status}"
        offers = f" It offers {', '.join(models[:8])}." if models else ""
        raise ConfigError(
            f"{target.authority} does not answer {target.path}{workload.path} for the model {workload.model!r}: {said}."
            f"{offers} Choose with --model, or check the URL."
        )
    if not seen.ok:
        raise ConfigError(f"A first request to {target.authority} failed. {seen.message}")
    if workload.stream and seen.first is None:
        raise ConfigError(
            f"A first request to {target.authority} was answered without any text, so there is nothing to time. "
            "Try another prompt, --output-tokens above 1, or --no-stream."
        )
    return seen


def _short(workload: Workload, words: int) -> dict[str, Any]:
    small = msgspec.structs.replace(workload, lengths=((words, 8),), words_per_token=1.0, overhead_tokens=0.0, salt="")
    body = small.ask(0).body
    text = " ".join(WORDS[i % len(WORDS)] for i in range(words))
    return body | ({"messages": [{"role": "user", "content": text}]} if workload.chat else {"prompt": text})


def _fit(counts: list[int | None]) -> tuple[float | None, float]:
    """Words a token, and the tokens of no words, of the line through two counts."""
    if len(counts) < 2 or counts[0] is None or counts[1] is None or counts[1] <= counts[0]:
        return None, 0.0
    slope = (counts[1] - counts[0]) / (PROBE_WORDS[1] - PROBE_WORDS[0])
    return 1 / slope, max(0.0, counts[0] - slope * PROBE_WORDS[0])


def _new_reply(*, stream: bool) -> Reply:
    over = asyncio.get_running_loop().create_future()
    return Reply(Observation(index=0, scheduled=clock()), over, stream=stream)
