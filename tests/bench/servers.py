"""Servers that do what a test says, on sockets of this machine: right answers, wrong ones, and none."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

EVENT_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def void(_: object) -> None:
    """Whatever it was."""


@dataclass
class Asked:
    """One request as a server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    number: int
    """From 0, of those that were not GET."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Behaviour = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Running:
    """A server's address, and what it was asked."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    close: Callable[[], None] = lambda: None


def piece(text: str) -> bytes:
    return chunk(f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': text}}]})}\n\n".encode())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def usage(tokens: int, **more: Any) -> bytes:
    counts = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens} | more
    return chunk(f"data: {json.dumps({'choices': [], 'usage': counts})}\n\n".encode())


DONE = chunk(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n') + chunk(b"data: [DONE]\n\n")
END = DONE + b"0\r\n\r\n"


def whole(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def answer_well(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Two words and their count."""
    writer.write(EVENT_HEAD + piece("Hello"))
    await writer.drain()
    await asyncio.sleep(0.002)
    writer.write(piece(" you") + usage(2) + END)


@contextmanager
def serving(behave: Behaviour = answer_well, *, models: bytes | None = None) -> Iterator[Running]:
    """Runs on a loop of its own, in a thread."""
    listed = b'{"object":"list","data":[{"id":"tiny","object":"model"}]}' if models is None else models
    running = Running("")
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    writers: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while not writer.is_closing():
                asked = await read_request(reader, sum(one.method != "GET" for one in running.asked))
                running.asked.append(asked)
                if asked.path.endswith("/models"):
                    writer.write(whole(listed))
                else:
                    await behave(asked, writer)
                await writer.drain()
        writer.close()

    def run() -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(asyncio.start_server(handle, "127.0.0.1", 0))
        running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        running.close = lambda: void(loop.call_soon_threadsafe(server.close))
        ready.set()
        loop.run_forever()
        server.close()
        loop.run_until_complete(end(writers))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield running
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


async def end(writers: set[asyncio.StreamWriter]) -> None:
    """Whatever still goes on."""
    for writer in writers:
        writer.transport.abort()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)


async def read_request(reader: asyncio.StreamReader, number: int) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, path, _ = first.split(" ")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, body, number)
