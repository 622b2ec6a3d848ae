"""A model server that says what it is told to say, without a socket: the application's HTTP client gets it as its
transport."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class ScriptedModel(httpx.AsyncBaseTransport):
    """`script` makes an answer of the messages. With `hold`, every answer waits after its first piece for `let_go`."""

    script: Callable[[list[dict[str, str]]], str] = lambda messages: "I do not know."
    reason: str = "stop"
    status: int = 200
    breaks: bool = False
    """Streams end in the middle."""
    asked: list[list[dict[str, str]]] = field(default_factory=list)
    """The messages of each chat."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    _gate: asyncio.Event | None = None

    def say(self, text: str) -> None:
        self.script = lambda messages: text

    def hold(self) -> None:
        self._gate = asyncio.Event()

    def let_go(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(self.status, json={"data": [{"id": "scripted"}]})
        body = json.loads(await request.aread())
        self.bodies.append(body)
        self.asked.append(body["messages"])
        if self.status != 200:
            return httpx.Response(self.status, json={"error": {"message": "no"}})
        return httpx.Response(200, stream=_Chunks(self, self.script(body["messages"]), self._gate))


class _Chunks(httpx.AsyncByteStream):
    def __init__(self, model: ScriptedModel, text: str, gate: asyncio.Event | None) -> None:
        self._model, self._text, self._gate = model, text, gate

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = [self._text[at : at + 8] for at in range(0, len(self._text), 8)]
        for number, piece in enumerate(pieces):
            yield _write({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            if self._gate is not None and number == 0:
                await self._gate.wait()
            if self._model.breaks and number == 1:
                return
        yield _write({"choices": [{"index": 0, "delta": {}, "finish_reason": self._model.reason}]})
        yield _write({"choices": [], "usage": {"timing": {"queue": 1.0, "prefill": 2.0, "decode": 3.0}}})
        yield b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        pass


def _write(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"
