"""The model server, as any OpenAI-compatible server is spoken to: one streamed chat completion at a time.

Knows no conversation and no shop. Answers are bounded in size and time by its caller's configuration.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from vivace.apps.support.settings import SupportConfig
from vivace.errors import ModelServerError

MAX_ANSWER_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Ending:
    """Why an answer ended, and where the server says the time went; milliseconds, empty where it does not say."""

    reason: str
    timing: Mapping[str, float]


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    timing: dict[str, Any] = msgspec.field(default_factory=dict)


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = msgspec.field(default_factory=list)
    usage: _Usage | None = None
    error: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_read_chunk = msgspec.json.Decoder(_Chunk).decode


class ModelClient:
    """A pool of connections to one server. Used from one event loop."""

    def __init__(self, config: SupportConfig, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._config = config
        self._model = config.model
        headers = {"authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        self._http = httpx.AsyncClient(
            base_url=config.api,
            headers=headers,
            timeout=httpx.Timeout(config.answer_timeout_s, connect=2.0),
            limits=httpx.Limits(max_connections=config.max_answers + 2, max_keepalive_connections=config.max_answers),
            trust_env=False,
            transport=transport,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def find_model(self) -> str:
        """The model's name: as configured, or the first that the server lists. Raises `ModelServerError`."""
        if not self._model:
            try:
                reply = await self._http.get("/models", timeout=5.0)
                found = msgspec.json.decode(reply.raise_for_status().content, type=_Models).data
            except (httpx.HTTPError, msgspec.DecodeError) as error:
                raise _unreachable(self._config.api, error) from error
            if not found:
                raise ModelServerError(f"The server at {self._config.api} lists no model. Load one.")
            self._model = found[0].id
        return self._model

    async def is_up(self) -> bool:
        try:
            return (await self._http.get("/models", timeout=2.0)).is_success
        except httpx.HTTPError:
            return False

    async def stream(self, messages: Sequence[Mapping[str, str]]) -> AsyncGenerator[str | Ending, None]:
        """Pieces of the answer as they come, then its ending. Raises `ModelServerError` when it cannot be had whole."""
        body = {
            "model": await self.find_model(),
            "messages": list(messages),
            "max_tokens": self._config.max_answer_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with (
                asyncio.timeout(self._config.answer_timeout_s),
                self._http.stream("POST", "/chat/completions", json=body) as reply,
            ):
                if reply.status_code != 200:
                    raise ModelServerError(f"The model server answered with status {reply.status_code}.")
                async with aclosing(_read_chunks(reply)) as chunks:
                    async for piece in _read_answer(chunks):
                        yield piece
        except (httpx.HTTPError, TimeoutError) as error:
            raise _unreachable(self._config.api, error) from error


async def _read_chunks(reply: httpx.Response) -> AsyncGenerator[_Chunk, None]:
    rest = b""
    size = 0
    async for data in reply.aiter_bytes():
        size += len(data)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and (payload := line[5:].strip()) != b"[DONE]":
                try:
                    yield _read_chunk(payload)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise ModelServerError("The model server's stream is not one of the OpenAI API.") from error
        if size > MAX_ANSWER_BYTES:
            raise ModelServerError("The model server's answer is longer than any that was asked for.")


async def _read_answer(chunks: AsyncIterator[_Chunk]) -> AsyncIterator[str | Ending]:
    reason, timing = "", {}
    async for chunk in chunks:
        if chunk.error is not None:
            raise ModelServerError("The model server broke off its answer.")
        for choice in chunk.choices[:1]:
            reason = choice.finish_reason or reason
            if choice.delta.content:
                yield choice.delta.content
        if chunk.usage is not None:
            timing = chunk.usage.timing
    if not reason:
        raise ModelServerError("The model server's stream ended before the answer did.")
    yield Ending(reason, {name: value for name, value in timing.items() if isinstance(value, int | float)})


def _unreachable(api: str, error: Exception) -> ModelServerError:
    return ModelServerError(f"The model server at {api} did not answer ({type(error).__name__}). Is it running?")
