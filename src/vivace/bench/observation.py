"""What one request turned out to be, as it was seen from here.

Knows no HTTP and no statistics. Instants are seconds of `timer.clock`.
"""

from __future__ import annotations

from itertools import pairwise

from msgspec import Struct, field

REFUSED = "refused"
"""The server said it is too busy: status 429 or 503."""


class Observation(Struct, kw_only=True):
    """One request that was offered, answered or not."""

    index: int
    """Its place in the workload: equal places of two runs ask the same."""
    turn: int = 0
    """Of a conversation, from 0."""
    scheduled: float
    """When it was to be sent: by the schedule, or when the request or the pause before it was over."""
    dispatched: float = 0.0
    """When the client turned to it."""
    sent: float = 0.0
    """When its bytes were handed to the system, on a connection that stood."""
    first: float | None = None
    """When the first non-empty fragment was read."""
    last: float | None = None
    """When the last fragment was read; without streaming, the whole answer."""
    ended: float | None = None
    """When the answer was over: usage and all."""
    arrivals: list[float] = field(default_factory=list)
    """Of every read that brought text."""
    chunks: int = 0
    """Fragments with text, of which one read may bring several."""
    characters: int = 0
    tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    status: int = 0
    wait_ms: float = 0.0
    """After how long the server asked to come back, where it refused."""
    error: str = ""
    """Its kind, empty when it was answered."""
    message: str = ""
    server: dict[str, float] = field(default_factory=dict)
    """The server's own timeline, milliseconds by part."""
    correct: bool | None = None
    """Whether the answer is the expected one, where one is expected."""
    waited: bool = False
    """Whether it had to wait for one of a limited number of connections."""
    target: int = 0
    """Which server, when two are compared in turn."""
    block: int = 0
    """Which turn of theirs."""

    @property
    def ok(self) -> bool:
        return not self.error

    @property
    def ttft_ms(self) -> float | None:
        """From the scheduled moment to the first non-empty fragment."""
        return None if self.first is None else 1e3 * (self.first - self.scheduled)

    @property
    def e2e_ms(self) -> float | None:
        """From the scheduled moment to the last fragment with text."""
        return None if self.last is None else 1e3 * (self.last - self.scheduled)

    @property
    def service_ttft_ms(self) -> float | None:
        """As `ttft_ms`, from when it was really sent."""
        return None if self.first is None else 1e3 * (self.first - self.sent)

    @property
    def service_e2e_ms(self) -> float | None:
        return None if self.last is None else 1e3 * (self.last - self.sent)

    @property
    def tpot_ms(self) -> float | None:
        """(E2E - TTFT) / (n - 1); undefined below two tokens, and where n is not known."""
        if self.first is None or self.last is None or self.tokens is None or self.tokens < 2:
            return None
        return 1e3 * (self.last - self.first) / (self.tokens - 1)

    @property
    def gaps_ms(self) -> list[float]:
        """Between reads that brought text. They are times between tokens only if each brought one."""
        return [1e3 * (b - a) for a, b in pairwise(self.arrivals)]

    @property
    def one_token_a_chunk(self) -> bool:
        """Whether gaps are times between tokens. The token that ends an answer may have no text."""
        return self.tokens is not None and len(self.arrivals) == self.chunks and 0 <= self.tokens - self.chunks <= 1

    @property
    def send_lag_ms(self) -> float:
        """How late the client was; waiting for a free connection is not the client's doing."""
        return 1e3 * (self.dispatched - self.scheduled)

    @property
    def network_ms(self) -> float | None:
        """What the server's timeline does not account for of the time from sending to the end."""
        total = self.server.get("total_ms")
        return None if total is None or self.ended is None else 1e3 * (self.ended - self.sent) - total
