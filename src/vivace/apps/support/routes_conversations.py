"""Routes of a customer's own conversations: start, say, follow, ask for a person, rate, end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from vivace.apps.support import conversations, feedback, handover, shops
from vivace.apps.support.accounts import Account
from vivace.apps.support.bodies import Empty, NewConversation, Opinion, Said, clean_text
from vivace.apps.support.conversations import Conversation, Message, NewMessage
from vivace.apps.support.events import follow_conversation
from vivace.apps.support.language import detect_language
from vivace.apps.support.pipeline import Question
from vivace.apps.support.redact import redact
from vivace.apps.support.service import Service, read_number, reply
from vivace.apps.support.sessions import Identity
from vivace.apps.support.timeline import Stopwatch
from vivace.apps.support.views import show_conversation, show_draft, show_feedback, show_message
from vivace.errors import InvalidError, RateLimitedError


def build_conversation_routes(service: Service) -> list[Route]:
    own = _Conversations(service)
    return [
        Route("/api/conversations", own.list_own),
        Route("/api/conversations", own.start, methods=["POST"]),
        Route("/api/conversations/{id}", own.show),
        Route("/api/conversations/{id}/events", own.follow),
        Route("/api/conversations/{id}/messages", own.say, methods=["POST"]),
        Route("/api/conversations/{id}/handover", own.ask_for_person, methods=["POST"]),
        Route("/api/conversations/{id}/close", own.close, methods=["POST"]),
        Route("/api/messages/{id}/feedback", own.rate, methods=["PUT"]),
    ]


class _Conversations:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def list_own(self, request: Request) -> Response:
        account = (await self._service.identify(request)).account
        found = await self._service.read(_list_own, account)
        return reply({"conversations": found})

    async def start(self, request: Request) -> Response:
        service = self._service
        account = (await service.identify(request)).account
        body = await service.decode(request, NewConversation)
        service.limiters.messages_of_account.take(account.id)
        language = body.language or account.language
        started = await service.write(conversations.start, account.tenant, account.id, language, service.clock())
        return reply(show_conversation(started), 201)

    async def show(self, request: Request) -> Response:
        account = (await self._service.identify(request)).account
        id = request.path_params["id"]
        shown = await self._service.read(_show_whole, account, id)
        return reply(shown | {"draft": show_draft(self._service.hub.draft(id))})

    async def follow(self, request: Request) -> Response:
        identity = await self._service.identify(request)
        conversation = await self._service.read(
            conversations.find, identity.account.tenant, request.path_params["id"], identity.account.id
        )
        return stream_conversation(self._service, request, identity, conversation)

    async def say(self, request: Request) -> Response:
        """What is refused for want of room costs no thread. A place is held from before the session is looked up, so
        that what waits for a thread counts; but not while a body comes, which a client may send slowly."""
        service, watch = self._service, Stopwatch()
        service.answering.check_room()
        claim = service.read_token(request)
        body = await service.decode(request, Said)
        text = clean_text(body.text, service.config.max_message_characters)
        with service.answering.hold_place():
            account = (await service.look_up(claim)).account
            service.limiters.messages_of_account.take(account.id)
            watch.mark("receive")
            said = _Saying(account, request.path_params["id"], text, body.client_id, service.clock())
            message, is_new = await service.workers.run(self._keep, said, watch)
            if is_new:
                service.hub.note(message.conversation_id)
            if message.due:
                service.answering.ask(Question(message.conversation_id, message.id, watch))
        return reply(show_message(message), 202)

    def _keep(self, said: _Saying, watch: Stopwatch) -> tuple[Message, bool]:
        """On a worker thread: nothing is stored before it was redacted."""
        tenant, store = said.account.tenant, self._service.store
        with store.reading() as connection:
            conversation = conversations.find(connection, tenant, said.conversation_id, said.account.id)
            region = shops.load(connection, tenant).phone_region
        redacted = redact(said.text, region)
        language = detect_language(redacted.text)
        watch.mark("redact")
        new = NewMessage(
            author="customer", text=redacted.text, language=language, client_id=said.client_id, redacted=redacted.kinds
        )
        kept = store.write(conversations.post_from_customer, conversation, new, said.at)
        watch.mark("store")
        return kept

    async def ask_for_person(self, request: Request) -> Response:
        service = self._service
        account = (await service.identify(request)).account
        await service.decode(request, Empty)
        id = request.path_params["id"]
        await service.write(handover.ask_for_person, account.tenant, id, account.id, service.clock())
        return await self._told(account, id)

    async def close(self, request: Request) -> Response:
        service = self._service
        account = (await service.identify(request)).account
        await service.decode(request, Empty)
        id = request.path_params["id"]
        await service.write(handover.close, account.tenant, id, account.id, service.clock(), as_agent=False)
        return await self._told(account, id)

    async def _told(self, account: Account, id: str) -> Response:
        """The conversation after a change of its state, of which everybody concerned is told."""
        self._service.tell_change(account.tenant, id, bot_stops=True)
        return reply((await self._service.read(_show_whole, account, id))["conversation"])

    async def rate(self, request: Request) -> Response:
        service = self._service
        account = (await service.identify(request)).account
        body = await service.decode(request, Opinion)
        text = clean_text(body.text, 1000) if body.text else None
        message, handed_over = await service.workers.run(
            service.store.write, _rate, account, request.path_params["id"], body, text, service.clock()
        )
        service.hub.note(message.conversation_id)
        if handed_over:
            service.tell_change(account.tenant, message.conversation_id, bot_stops=True)
        return reply(show_feedback(message))


@dataclass(frozen=True, slots=True)
class _Saying:
    """What a customer said, not kept yet."""

    account: Account
    conversation_id: str
    text: str
    client_id: str
    at: float


def _list_own(connection: Connection, account: Account) -> list[dict[str, Any]]:
    found = conversations.list_own(connection, account.tenant, account.id)
    return [_show(connection, conversation) for conversation in found]


def _show(connection: Connection, conversation: Conversation) -> dict[str, Any]:
    agent = handover.name_agent(connection, conversation.agent_id)
    return show_conversation(conversation, agent, handover.find_queue_position(connection, conversation))


def _show_whole(connection: Connection, account: Account, id: str) -> dict[str, Any]:
    conversation = conversations.find(connection, account.tenant, id, account.id)
    messages = conversations.list_messages(connection, id)
    return {"conversation": _show(connection, conversation), "messages": [show_message(said) for said in messages]}


def _rate(
    connection: Connection, account: Account, id: str, body: Opinion, text: str | None, now: float
) -> tuple[Message, bool]:
    """Keep the opinion, and call a person if there were too many bad ones; whether one was called."""
    settings = shops.load(connection, account.tenant)
    redacted = None if text is None else redact(text, settings.phone_region).text
    message, down = feedback.give(connection, account.tenant, account.id, id, body.rating, body.reason, redacted, now)
    if body.rating != "down" or down < settings.thumbs_down:
        return message, False
    conversation = conversations.lock(connection, message.conversation_id)
    called = handover.call_person(connection, conversation.id, conversation.version, "thumbs_down", now)
    return message, called is not None


def stream_conversation(
    service: Service, request: Request, identity: Identity, conversation: Conversation
) -> StreamingResponse:
    """Its events from the last one seen. Raises `RateLimitedError` when too many are open already."""
    after = _read_last_event(request, conversation)

    async def is_good() -> bool:
        return await service.is_still_good(identity)

    events = follow_conversation(service.source, conversation.id, after, is_good)
    return open_stream(service, identity.account, events)


def _read_last_event(request: Request, conversation: Conversation) -> int:
    given = request.headers.get("last-event-id")
    if given is None:
        return int(read_number(request, "after", 0, int))
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise InvalidError("Last-Event-ID must be the id of an event of this conversation.")
    return int(given)


def open_stream(service: Service, account: Account, events: AsyncGenerator[bytes, None]) -> StreamingResponse:
    """Counted by account and in all. Raises `RateLimitedError`."""
    streams, config = service.streams, service.config
    if streams.get(account.id, 0) >= config.max_streams_of_account or sum(streams.values()) >= config.max_streams:
        raise RateLimitedError("Too many event streams are open. Close one.", retry_after_s=5.0)
    streams[account.id] = streams.get(account.id, 0) + 1
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return _CountedStream(service, account.id, events, headers)


class _CountedStream(StreamingResponse):
    """Gives its place back however it ends, also when it was never begun to be read."""

    def __init__(
        self, service: Service, account_id: str, events: AsyncGenerator[bytes, None], headers: dict[str, str]
    ) -> None:
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._service = service
        self._account_id = account_id
        self._events = events

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        streams = self._service.streams
        try:
            await super().__call__(scope, receive, send)
        finally:
            if (left := streams.pop(self._account_id, 1) - 1) > 0:
                streams[self._account_id] = left
            await self._events.aclose()
