"""HTTP/1.1 on bare sockets: requests out as bytes, replies in with the moment of every read.

The moment is taken first thing when a socket has been read, and what was read is looked into only after all sockets
that were ready have been: parsing delays no other request's moment. Knows no schedules and no statistics.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from vivace.bench.observation import REFUSED, Observation
from vivace.bench.sse import DONE, Chunk, EventReader, MalformedStreamError, read_chunk, read_error
from vivace.bench.timer import clock
from vivace.errors import ConfigError

MAX_BODY_BYTES = 64 * 2**20
HANDSHAKE_S = 10.0
"""For TLS: a server that does not speak it may say nothing at all."""
MAX_WAIT_MS = 10_000.0
"""A server that asks to come back later than that is asked again then."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is. `path` is that of the API's root, without a slash at its end."""

    host: str
    port: int
    path: str
    tls: bool
    verify: bool = True

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def parse_url(url: str, *, verify: bool = True) -> Target:
    """Raises `ConfigError` for what is no address of an API."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url} is no URL: {error}. Give one such as http://127.0.0.1:8000/v1.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url} is no HTTP URL. Give one such as http://127.0.0.1:8000/v1.")
    if parts.username or parts.query or parts.fragment:
        raise ConfigError(f"The URL {url} has more than host, port and path. Send keys with --header.")
    tls = parts.scheme == "https"
    return Target(parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/"), tls, verify)


def encode_request(
    target: Target, method: str, path: str, body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> bytes:
    """The bytes of one request. `headers` come after ours; control characters in them are refused."""
    lines = [f"{method} {target.path}{path} HTTP/1.1", f"host: {target.authority}", "accept: */*"]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    for name, value in headers:
        if not name or any(ord(c) < 32 or ord(c) == 127 for c in name + value) or set(name) & set(" :"):
            raise ConfigError(f"The header {name!r} cannot be sent. Give it as --header 'Name: value'.")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body


class Reply:
    """What came back for one request, gathered while it comes."""

    __slots__ = (
        "body", "content_type", "done", "error", "events", "finish_reason", "keep_text", "message", "observation",
        "over", "pieces", "status", "stream",
    )  # fmt: skip

    def __init__(
        self, observation: Observation, over: asyncio.Future[None], *, stream: bool, keep_text: bool = False
    ) -> None:
        self.observation = observation
        self.over = over
        self.stream = stream
        self.keep_text = keep_text
        self.status = 0
        self.content_type = b""
        self.events = EventReader()
        self.pieces: list[str] = []
        self.body = bytearray()
        self.done = False
        self.finish_reason = ""
        self.error = ""
        self.message = ""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def take(self, moment: float, data: bytes) -> None:
        """A part of the body that was read at `moment`."""
        if self.status == 200 and self.stream and self.content_type.startswith(b"text/event-stream"):
            try:
                self._take_events(moment, self.events.feed(data))
            except MalformedStreamError as error:
                self.fail("malformed", f"The stream cannot be understood: {error}.")
        elif len(self.body) < MAX_BODY_BYTES:
            self.body += data

    def finish(self, moment: float) -> None:
        """The body is over."""
        self.observation.ended = moment
        if self.status != 200:
            self._take_status()
        elif not self.stream:
            self._take_whole(moment)
        elif not self.content_type.startswith(b"text/event-stream"):
            kind = self.content_type.decode("latin-1") or "no content type"
            self.fail(
                "not_streaming",
                f"The server answered with {kind} where a stream was asked for. Measure it with --no-stream.",
            )
        elif not self.done and not self.finish_reason and not self.error:
            self.fail("truncated", "The stream ended with neither a finish_reason nor [DONE].")

    def fail(self, error: str, message: str) -> None:
        """The first failure counts."""
        if not self.error:
            self.error, self.message = error, message

    def settle(self) -> None:
        """Write into the observation how it ended, and wake whoever waits."""
        self.observation.status = self.status
        self.observation.error, self.observation.message = self.error, self.message
        if not self.over.done():
            self.over.set_result(None)

    def note_wait(self, value: bytes, scale_ms: float) -> None:
        """After how long to come back, as a header has it; milliseconds are the better word. Dates are not read."""
        if value.isdigit() and len(value) < 10:
            self.observation.wait_ms = min(int(value) * scale_ms, MAX_WAIT_MS)

    def _take_events(self, moment: float, events: list[bytes]) -> None:
        chunks = 0
        for data in events:
            if data == DONE:
                self.done = True
                continue
            chunk = read_chunk(data)
            if chunk.failed:
                self.fail("server_error", f"The server broke off: {read_error(data)}")
            chunks += self._take_chunk(chunk)
        if chunks:
            seen = self.observation
            if seen.first is None:
                seen.first = moment
            seen.last = moment
            seen.arrivals.append(moment)
            seen.chunks += chunks

    def _take_chunk(self, chunk: Chunk) -> bool:
        """Whether it brought text."""
        if chunk.usage is not None:
            self._take_usage(chunk)
        if not chunk.choices:
            return False
        choice = chunk.choices[0]
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
        piece = choice.piece()
        if piece:
            self.observation.characters += len(piece)
            if self.keep_text:
                self.pieces.append(piece)
        return bool(piece)

    def _take_usage(self, chunk: Chunk) -> None:
        usage = chunk.usage
        assert usage is not None
        seen = self.observation
        seen.tokens, seen.prompt_tokens = usage.completion_tokens, usage.prompt_tokens
        seen.cached_tokens = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
        seen.server = usage.timeline()

    def _take_whole(self, moment: float) -> None:
        try:
            chunk = read_chunk(bytes(self.body))
        except MalformedStreamError as error:
            self.fail("malformed", f"The answer cannot be understood: {error}.")
            return
        if chunk.failed or chunk.choices is None:
            self.fail("server_error", f"The server answered without a choice: {read_error(bytes(self.body))}")
            return
        self._take_chunk(chunk)
        self.observation.last = moment

    def _take_status(self) -> None:
        kind = REFUSED if self.status in (429, 503) else f"http_{self.status}"
        self.fail(kind, f"Status {self.status}: {read_error(bytes(self.body))}")


class Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, pool: ConnectionPool) -> None:
        self.used = False
        self.usable = True
        self._pool = pool
        self._parser = httptools.HttpResponseParser(self)
        self._reads: deque[tuple[float, bytes]] = deque()
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        self._now = 0.0

    def send(self, request: bytes, reply: Reply) -> float:
        """Returns when it was handed over."""
        assert self._transport is not None
        assert self._reply is None
        self._reply = reply
        moment = clock()
        self._transport.write(request)
        return moment

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not of its family

    def data_received(self, data: bytes) -> None:
        self._reads.append((clock(), data))
        if self._reply is None or not self._reply.stream:
            self.parse()  # a whole answer is one read or a few, and what follows it should not wait
        else:
            self._pool.look_into(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._now = clock()
        self.parse()
        reply = self._reply
        if reply is None:
            return
        if reply.status and not exc and self._ends_by_closing():
            self.on_message_complete()
            return
        when = "in the middle of an answer" if reply.status else "before it answered"
        reply.fail("connection_lost", f"The server closed the connection {when}{f' ({exc})' if exc else ''}.")
        self._settle()

    def parse(self) -> None:
        """Look into all that was read."""
        while self._reads:
            self._now, data = self._reads.popleft()
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserError as error:
                hint = " Is its address https:// rather?" if data[:1] in (b"\x15", b"\x16") else ""
                self._refuse(f"This is no HTTP/1.1 answer: {error}; it begins {data[:40]!r}.{hint}")
                return

    # What the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is None:
            return
        name = name.lower()
        if name == b"content-type":
            self._reply.content_type = value.lower()
        elif name == b"retry-after-ms" or (name == b"retry-after" and not self._reply.observation.wait_ms):
            self._reply.note_wait(value, 1.0 if name == b"retry-after-ms" else 1000.0)

    def on_headers_complete(self) -> None:
        if self._reply is not None:
            self._reply.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._reply is not None:
            self._reply.take(self._now, body)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None or 100 <= reply.status < 200:
            return
        self.used = True
        if not self._parser.should_keep_alive():
            self.usable = False
        reply.finish(self._now)
        self._settle()

    def _ends_by_closing(self) -> bool:
        return not self._parser.should_keep_alive()

    def _refuse(self, message: str) -> None:
        if self._reply is not None:
            self._reply.fail("malformed", message)
            self._settle()
        self.close()

    def _settle(self) -> None:
        reply, self._reply = self._reply, None
        assert reply is not None
        reply.settle()


class ConnectionPool:
    """Connections to one server: kept open, and at most `limit` at once if that is not 0."""

    def __init__(self, target: Target, limit: int = 0) -> None:
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._tls = _make_context(target) if target.tls else None
        self._idle: list[Connection] = []
        self._unread: list[Connection] = []
        self._limit = asyncio.Semaphore(limit) if limit else None
        self.opened = 0

    def look_into(self, connection: Connection) -> None:
        """Parse what it read, after all other sockets that are ready have been read too."""
        if not self._unread:
            self._loop.call_soon(self._parse_all)
        self._unread.append(connection)

    def _parse_all(self) -> None:
        unread, self._unread = self._unread, []
        for connection in unread:
            connection.parse()

    async def exchange(self, request: bytes, reply: Reply, timeout_s: float) -> None:
        """Send and wait for the end. Whatever goes wrong is told in the reply's observation."""
        seen = reply.observation
        seen.dispatched = clock()
        if self._limit is None:
            await self._exchange(request, reply, timeout_s)
            return
        seen.waited = self._limit.locked()
        async with self._limit:
            await self._exchange(request, reply, timeout_s)

    async def _exchange(self, request: bytes, reply: Reply, timeout_s: float) -> None:
        handle = self._loop.call_later(timeout_s, self._time_out, reply, timeout_s)
        try:
            connection = await self._take(reply)
            while connection is not None:
                reply.observation.sent = connection.send(request, reply)
                await reply.over
                if connection.usable and reply.status:
                    self._idle.append(connection)
                else:
                    connection.close()
                if not (connection.used and reply.error == "connection_lost" and not reply.status):
                    return
                # The server had closed an idle connection just as it was used again: that is nobody's failure.
                reply.error = reply.message = ""
                reply.over = self._loop.create_future()
                connection = await self._open(reply)
        finally:
            handle.cancel()

    async def _take(self, reply: Reply) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return await self._open(reply)

    async def _open(self, reply: Reply) -> Connection | None:
        target = self._target
        opening = asyncio.ensure_future(
            self._loop.create_connection(
                lambda: Connection(self),
                target.host,
                target.port,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_S if self._tls else None,
            )
        )
        await asyncio.wait((opening, reply.over), return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():  # timed out
            opening.cancel()
            return None
        try:
            _, connection = opening.result()
        except OSError as error:
            reply.fail(*_explain(target, error))
            reply.settle()
            return None
        self.opened += 1
        return connection

    def _time_out(self, reply: Reply, timeout_s: float) -> None:
        if not reply.over.done():
            reply.fail("timeout", f"No whole answer within {timeout_s:g} s. Allow more with --timeout.")
            reply.status = 0
            reply.settle()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()


def _make_context(target: Target) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not target.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _explain(target: Target, error: OSError) -> tuple[str, str]:
    """The kind of a failed connection, and what to do about it."""
    where = target.authority
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls", f"The certificate of {where} is not trusted ({error.verify_message}). --insecure takes it anyway."
    if isinstance(error, ssl.SSLError):
        return "tls", f"{where} does not speak TLS as expected ({error.reason}). Is its address http:// rather?"
    if target.tls and isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):
        return "tls", f"{where} did not finish the TLS handshake ({error}). Is its address http:// rather?"
    if isinstance(error, ConnectionRefusedError):
        return "unreachable", f"Nothing listens on {where}. Start the server, or give another URL."
    return "unreachable", f"Cannot connect to {where}: {error}. Check the address and the network."
