"""A server of the API that computes nothing: it answers at planned moments with a fixed text.

It calibrates clients, and shows with planted delays and stalls that a measurement finds them.

    python -m vivace.bench.null_server --port 0 --ttft-ms 20 --tpot-ms 2
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import signal
from dataclasses import dataclass
from functools import partial
from typing import cast

import httptools
import msgspec
import uvloop
from msgspec import Struct

from vivace.bench.timer import Alarm, clock

WORD = " word"


@dataclass(frozen=True, slots=True)
class Delays:
    """What the server pretends to take. `slow_down` multiplies both times."""

    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    slow_down: float = 1.0
    jitter: float = 0.0
    """The standard deviation of each request's times, as a share of them."""
    stall_at_s: float = 0.0
    """Seconds from the first request to a stall of the whole server."""
    stall_ms: float = 0.0


class Options(Struct):
    include_usage: bool = False


class Body(Struct):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    stream_options: Options | None = None


@dataclass(slots=True)
class Server:
    """What all connections share."""

    delays: Delays
    alarm: Alarm
    generator: random.Random
    stalled_until: float = 0.0
    started: bool = False

    def begin(self) -> None:
        """Called with every request; the first sets the stall's moment."""
        if not self.started:
            self.started = True
            if self.delays.stall_ms:
                self.alarm.call_at(clock() + self.delays.stall_at_s, self._stall)

    def factor(self) -> float:
        """By which one request's times are multiplied."""
        spread = self.generator.gauss(1.0, self.delays.jitter) if self.delays.jitter else 1.0
        return max(0.05, spread) * self.delays.slow_down

    def call_at(self, moment: float, function: partial[None]) -> None:
        """As the alarm's, but nothing happens during a stall."""
        if self.stalled_until > moment:
            moment = self.stalled_until
        self.alarm.call_at(moment, partial(self._call, function))

    def _call(self, function: partial[None]) -> None:
        if self.stalled_until > clock():
            self.call_at(self.stalled_until, function)
        else:
            function()

    def _stall(self) -> None:
        self.stalled_until = clock() + self.delays.stall_ms / 1e3


def _event(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _head(content_type: str, length: int | None = None) -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{framing}\r\n\r\n".encode()


_CHAT = b'{"id":"null","object":"chat.completion.chunk","created":0,"model":"null","choices":[{"index":0,"delta":%b}]}'
_TEXT = b'{"id":"null","object":"text_completion","created":0,"model":"null","choices":[{"index":0,"text":"%b"}]}'
_HEAD = _head("text/event-stream")
_PIECES = {
    True: _event(_CHAT % (b'{"content":"%b"}' % WORD.encode())),
    False: _event(_TEXT % WORD.encode()),
}
_OPENING = {True: _event(_CHAT % b'{"role":"assistant","content":""}'), False: b""}
_FINISH = _event(b'{"id":"null","choices":[{"index":0,"delta":{},"text":"","finish_reason":"length"}]}')
_END = _event(b"[DONE]") + b"0\r\n\r\n"
_MODELS = b'{"object":"list","data":[{"id":"null","object":"model","created":0,"owned_by":"vivace"}]}'


def _usage(prompt: int, tokens: int) -> bytes:
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (prompt, tokens, prompt + tokens)


class Exchange(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not of its family

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        self._body.clear()

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url.endswith(b"/models"):
            self._write(_head("application/json", len(_MODELS)) + _MODELS)
            return
        self._server.begin()
        try:
            asked = msgspec.json.decode(self._body, type=Body)
        except msgspec.DecodeError:
            text = b'{"error":{"message":"The body is not JSON of a request."}}'
            self._write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
            return
        self._answer(asked, chat=b"chat" in self._url)

    def _answer(self, asked: Body, *, chat: bool) -> None:
        tokens = asked.max_tokens or asked.max_completion_tokens or 16
        delays, factor, now = self._server.delays, self._server.factor(), clock()
        first = now + factor * delays.ttft_ms / 1e3
        gap = factor * delays.tpot_ms / 1e3
        usage = _usage(len(self._body) // 6, tokens)
        if not asked.stream:
            self._at(first + gap * (tokens - 1), _whole(tokens, usage, chat=chat))
            return
        piece = _PIECES[chat]
        closing = _FINISH + (_event(b'{"choices":[],"usage":%b}' % usage) if asked.stream_options else b"") + _END
        if not gap:
            self._at(first, _HEAD + _OPENING[chat] + piece * tokens + closing)
            return
        self._at(first, _HEAD + _OPENING[chat] + piece, partial(self._next, first, 1, tokens, gap, piece, closing))

    def _next(self, first: float, done: int, tokens: int, gap: float, piece: bytes, closing: bytes) -> None:
        """Plan the token after `done` others: moments do not drift, whatever the last one took."""
        if done == tokens:
            self._write(closing)
        else:
            then = partial(self._next, first, done + 1, tokens, gap, piece, closing)
            self._at(first + gap * done, piece, then)

    def _at(self, moment: float, data: bytes, then: partial[None] | None = None) -> None:
        if then is None and moment <= clock() and self._server.stalled_until <= clock():
            self._write(data)
        else:
            self._server.call_at(moment, partial(self._write, data, then))

    def _write(self, data: bytes, then: partial[None] | None = None) -> None:
        if self._transport is not None:
            self._transport.write(data)
            if then is not None:
                then()


def _whole(tokens: int, usage: bytes, *, chat: bool) -> bytes:
    text = (WORD * tokens).encode()
    said = b'"message":{"role":"assistant","content":"%b"}' % text if chat else b'"text":"%b"' % text
    choice = b'{"index":0,%b,"finish_reason":"length"}' % said
    body = b'{"id":"null","object":"answer","created":0,"model":"null","choices":[%b],"usage":%b}' % (choice, usage)
    return _head("application/json", len(body)) + body


async def serve(delays: Delays, host: str, port: int) -> None:
    """Listen until SIGTERM or SIGINT; the address is printed first."""
    loop = asyncio.get_running_loop()
    server = Server(delays, Alarm(loop), random.Random(0))
    listener = await loop.create_server(lambda: Exchange(server), host, port, backlog=4096)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print(f"http://{host}:{listener.sockets[0].getsockname()[1]}/v1", flush=True)
    await stop.wait()
    listener.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    for name in ("ttft-ms", "tpot-ms", "jitter", "stall-at-s", "stall-ms"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--slow-down", type=float, default=1.0)
    options = vars(parser.parse_args())
    host, port = options.pop("host"), options.pop("port")
    gc.freeze()
    uvloop.run(serve(Delays(**options), host, port))


if __name__ == "__main__":
    main()
