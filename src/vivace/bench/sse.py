"""Server-sent events as bytes in, the events' data out; and what a chunk of the OpenAI API says.

The event grammar is the one of the HTML standard, section 9.2.6. Knows no sockets and no clock.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

MAX_EVENT_BYTES = 16 * 2**20
DONE = b"[DONE]"


class MalformedStreamError(ValueError):
    """What came is no stream of the API; the message says why."""


class EventReader:
    """Feed it a body as it comes; it returns the data of every event that is whole."""

    __slots__ = ("_carriage", "_rest", "_started")

    def __init__(self) -> None:
        self._rest = b""
        self._carriage = False
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """Raises `MalformedStreamError` when one event grows beyond all bounds."""
        if self._carriage or b"\r" in data:
            data = self._unify_line_ends(data)
        buffer = self._rest + data if self._rest else data
        if not self._started and buffer:
            if b"\xef\xbb\xbf".startswith(buffer[:3]) and len(buffer) < 3:
                self._rest = buffer
                return []
            self._started = True
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
        *blocks, self._rest = buffer.split(b"\n\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise MalformedStreamError(f"one event is longer than {MAX_EVENT_BYTES} bytes")
        return [found for block in blocks if (found := read_block(block)) is not None]

    @property
    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._rest.strip(b"\n")

    def _unify_line_ends(self, data: bytes) -> bytes:
        """A carriage return at the end is held back: the line feed that belongs to it may be still to come."""
        data = b"\r" + data if self._carriage else data
        self._carriage = data.endswith(b"\r") and not data.endswith(b"\r\r")
        data = data[:-1] if self._carriage else data
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def read_block(block: bytes) -> bytes | None:
    """The data of one event's lines; None if it has none, as a comment."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:") or line == b"data"]
    return b"\n".join(lines) if lines else None


class PromptDetails(Struct):
    cached_tokens: int | None = None


class Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    timing: Raw = Raw(b"")
    """Ours only: where the server says the time went."""

    def timeline(self) -> dict[str, float]:
        """Milliseconds by part, empty when the server sent none that is understood."""
        if not bytes(self.timing):
            return {}
        try:
            return msgspec.json.decode(self.timing, type=dict[str, float])
        except msgspec.DecodeError:
            return {}


class Message(Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Raw = Raw(b"")

    def text(self) -> str:
        """All that a reader sees of it. A tool call counts by its JSON."""
        text = (self.reasoning_content or self.reasoning or "") + (self.content or "")
        if bytes(self.tool_calls) in (b"", b"null", b"[]"):
            return text
        return text + bytes(self.tool_calls).decode("utf-8", "replace")


class Choice(Struct):
    delta: Message | None = None
    message: Message | None = None
    text: str | None = None
    finish_reason: str | None = None

    def piece(self) -> str:
        said = self.delta or self.message
        return said.text() if said is not None else self.text or ""


class Chunk(Struct):
    """A chunk of a stream, or a whole answer: of either API."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Raw = Raw(b"")

    @property
    def failed(self) -> bool:
        return bytes(self.error) not in (b"", b"null")


_decode = msgspec.json.Decoder(Chunk).decode


def read_chunk(data: bytes) -> Chunk:
    """Raises `MalformedStreamError`, with the beginning of what came."""
    try:
        return _decode(data)
    except msgspec.DecodeError as error:
        raise MalformedStreamError(f"{error}; it begins {data[:80]!r}") from error
    except UnicodeDecodeError as error:
        raise MalformedStreamError(f"it is not UTF-8; it begins {data[:80]!r}") from error


def read_error(body: bytes) -> str:
    """What a server says of its own error, as far as it can be made out."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return " ".join(body[:200].decode("utf-8", "replace").split())
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return (found if isinstance(found, str) else msgspec.json.encode(found).decode())[:300]
