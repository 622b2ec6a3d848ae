"""What the routes work with: the parts of the application put together, and how a request is let in.

Knows Starlette's requests and no route.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from vivace.apps.support import sessions
from vivace.apps.support.accounts import Passwords
from vivace.apps.support.answering import Answering
from vivace.apps.support.bodies import decode, encode
from vivace.apps.support.delivery import Sender
from vivace.apps.support.events import Source
from vivace.apps.support.hub import Hub, name_queue
from vivace.apps.support.intent_store import Classifier
from vivace.apps.support.knowledge import KnowledgeBase
from vivace.apps.support.limits import RateLimiter, find_address, name_address
from vivace.apps.support.model_client import ModelClient
from vivace.apps.support.sessions import Identity, TokenMaker
from vivace.apps.support.settings import Rates, SupportConfig
from vivace.apps.support.store import Store
from vivace.apps.support.workers import Workers
from vivace.errors import ForbiddenError, InvalidError, NotFoundError, SignedOutError, TooLargeError

P = ParamSpec("P")
T = TypeVar("T")


class Limiters:
    """One limiter for each rate."""

    def __init__(self, rates: Rates, clock: Callable[[], float] = time.monotonic) -> None:
        self.sign_ins_of_address = RateLimiter(rates.sign_ins_of_address, clock)
        self.sign_ins_of_email = RateLimiter(rates.sign_ins_of_email, clock)
        self.new_accounts_of_address = RateLimiter(rates.new_accounts_of_address, clock)
        self.messages_of_account = RateLimiter(rates.messages_of_account, clock)
        self.requests_of_account = RateLimiter(rates.requests_of_account, clock)
        self.requests_of_address = RateLimiter(rates.requests_of_address, clock)


@dataclass(frozen=True, slots=True)
class Claim:
    """A session that a signed token names, read at `at`; whether it has ended is not known yet."""

    session_id: str
    expires_at: float
    at: float


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that lives as long as the application."""

    config: SupportConfig
    key: bytes
    store: Store
    workers: Workers
    stream_workers: Workers
    """Apart, so that what is answered reaches its reader without waiting behind what is still to be answered."""
    password_workers: Workers
    """Apart, so that a crowd that signs in keeps nobody from an answer."""
    passwords: Passwords
    tokens: TokenMaker
    limiters: Limiters
    hub: Hub
    classifier: Classifier
    knowledge: KnowledgeBase
    model: ModelClient
    answering: Answering
    sender: Sender
    streams: dict[str, int]
    """Event streams open, by account."""
    clock: Callable[[], float] = time.time

    @property
    def source(self) -> Source:
        return Source(self.hub, self.store, self.stream_workers, self.config.keep_alive_s)

    async def read(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """In a transaction that reads, on a worker thread."""
        return await self.workers.run(self.store.read, function, *args, **kwargs)

    async def write(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """In a transaction that may write, on a worker thread."""
        return await self.workers.run(self.store.write, function, *args, **kwargs)

    def tell_change(self, tenant: str, conversation_id: str, *, bot_stops: bool) -> None:
        """A conversation changed its state: wake who reads it, the agents, and the webhooks."""
        if bot_stops:
            self.answering.interrupt(conversation_id)
        self.hub.note(conversation_id)
        self.hub.note(name_queue(tenant))
        self.sender.wake()

    def choose_tenant(self, named: str | None) -> str:
        """Raises `NotFoundError` for one that is not served here."""
        tenant = named or self.config.tenants[0]
        if tenant not in self.config.tenants:
            raise NotFoundError("There is no such shop here.")
        return tenant

    def limit_address(self, request: Request, limiter: RateLimiter) -> None:
        """Raises `RateLimitedError`."""
        limiter.take(self.address_of(request))

    def address_of(self, request: Request) -> str:
        peer = request.client.host if request.client is not None else ""
        forwarded = request.headers.get("x-forwarded-for", "")
        return name_address(find_address(peer, forwarded, self.config.trusted_proxies))

    async def identify(self, request: Request, *roles: str) -> Identity:
        """Who asks. Raises `SignedOutError`, `RateLimitedError`, or `ForbiddenError` if it is none of the roles."""
        identity = await self.look_up(self.read_token(request))
        if roles and identity.account.role not in roles:
            raise ForbiddenError(f"Only {' and '.join(roles)} accounts may do this.")
        return identity

    def read_token(self, request: Request) -> Claim:
        """What a token of ours says, by its signature alone; costs no thread. Raises `SignedOutError`."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token or len(token) > 4096:
            raise SignedOutError("This needs the header Authorization: Bearer ACCESS_TOKEN. Sign in first.")
        now = self.clock()
        session_id, expires_at = self.tokens.read_access(token, now)
        return Claim(session_id, expires_at, now)

    async def look_up(self, claim: Claim) -> Identity:
        """Whose session it is. Raises `SignedOutError` when it has ended, and `RateLimitedError`."""
        identity = await self.read(sessions.identify, claim.session_id, claim.expires_at, claim.at)
        self.limiters.requests_of_account.take(identity.account.id)
        return identity

    async def is_still_good(self, identity: Identity) -> bool:
        """Whether an event stream of this session may go on."""
        now = self.clock()
        if identity.expires_at <= now:
            return False
        try:
            await self.stream_workers.run(
                self.store.read, sessions.identify, identity.session_id, identity.expires_at, now
            )
        except SignedOutError:
            return False
        return True

    async def decode(self, request: Request, type: type[T]) -> T:
        """The body. Raises `InvalidError`, `TooLargeError`."""
        return decode(await read_body(request, self.config.max_body_bytes), type)


async def read_body(request: Request, most: int) -> bytes:
    """Raises `TooLargeError` as soon as it is too much."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise TooLargeError(f"The body is longer than {most} bytes. Send less.")
        parts.append(part)
    return b"".join(parts)


def reply(value: Any, status: int = 200) -> Response:
    """JSON that no cache keeps."""
    return Response(encode(value), status, {"cache-control": "no-store"}, media_type="application/json")


def reply_nothing() -> Response:
    return Response(status_code=204, headers={"cache-control": "no-store"})


def read_words(request: Request, name: str, most: int) -> str:
    """A parameter of the address, without control characters; empty if it is not there."""
    given = request.query_params.get(name, "")[:most]
    return "".join(character for character in given if character.isprintable()).strip()


def read_number(request: Request, name: str, default: T, kind: Callable[[str], Any] = float) -> Any | T:
    """A parameter of the address. Raises `InvalidError`."""
    given = request.query_params.get(name)
    if given is None or given == "":
        return default
    try:
        number = kind(given[:40])
    except ValueError as error:
        raise InvalidError(f"{name} must be a number.") from error
    if not 0 <= number < 2**53:
        raise InvalidError(f"{name} is out of its range.")
    return number
