"""Routes of the agent desk: the queue, a conversation's transcript and summary, taking it and giving it back."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vivace.apps.support import accounts, conversations, handover, knowledge, shops, tickets
from vivace.apps.support.accounts import Account
from vivace.apps.support.bodies import Claim, Empty, Release, Said, clean_text
from vivace.apps.support.conversations import Message, NewMessage
from vivace.apps.support.events import follow_queue
from vivace.apps.support.language import detect_language
from vivace.apps.support.personal import list_orders
from vivace.apps.support.redact import redact
from vivace.apps.support.routes_conversations import open_stream, stream_conversation
from vivace.apps.support.service import Service, read_number, read_words, reply
from vivace.apps.support.sessions import Identity
from vivace.apps.support.summary import summarize
from vivace.apps.support.views import show_draft, show_message
from vivace.errors import InvalidError

STAFF = ("agent", "admin")
STATES = ("bot", "waiting_human", "human", "closed")
SEARCH_LIMIT = 10


def build_agent_routes(service: Service) -> list[Route]:
    desk = _Desk(service)
    return [
        Route("/api/agent/queue", desk.show_queue),
        Route("/api/agent/events", desk.follow_queue),
        Route("/api/agent/search", desk.search),
        Route("/api/agent/conversations", desk.list_conversations),
        Route("/api/agent/conversations/{id}", desk.show),
        Route("/api/agent/conversations/{id}/events", desk.follow),
        Route("/api/agent/conversations/{id}/claim", desk.claim, methods=["POST"]),
        Route("/api/agent/conversations/{id}/messages", desk.say, methods=["POST"]),
        Route("/api/agent/conversations/{id}/release", desk.release, methods=["POST"]),
        Route("/api/agent/conversations/{id}/close", desk.close, methods=["POST"]),
    ]


class _Desk:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def _identify(self, request: Request) -> Identity:
        return await self._service.identify(request, *STAFF)

    async def show_queue(self, request: Request) -> Response:
        account = (await self._identify(request)).account
        return reply(await self._service.read(_load_queue, account))

    async def follow_queue(self, request: Request) -> Response:
        identity = await self._identify(request)
        account = identity.account

        async def load() -> Any:
            return await self._service.read(_load_queue, account)

        async def is_good() -> bool:
            return await self._service.is_still_good(identity)

        events = follow_queue(self._service.source, account.tenant, load, is_good)
        return open_stream(self._service, account, events)

    async def search(self, request: Request) -> Response:
        account = (await self._identify(request)).account
        return reply({"hits": await find_hits(self._service, account, request)})

    async def list_conversations(self, request: Request) -> Response:
        account = (await self._identify(request)).account
        state = request.query_params.get("state") or None
        if state is not None and state not in STATES:
            raise InvalidError(f"state must be one of {', '.join(STATES)}.")
        before = read_number(request, "before", None)
        found = await self._service.read(tickets.list_page, account.tenant, account.id, state, before)
        following = str(found[-1]["updated_at"]) if len(found) == tickets.PAGE else None
        return reply({"conversations": found, "next": following})

    async def show(self, request: Request) -> Response:
        account = (await self._identify(request)).account
        id = request.path_params["id"]
        shown = await self._service.read(_show_whole, account, id, self._service.clock())
        return reply(shown | {"draft": show_draft(self._service.hub.draft(id))})

    async def follow(self, request: Request) -> Response:
        identity = await self._identify(request)
        id = request.path_params["id"]
        conversation = await self._service.read(conversations.find, identity.account.tenant, id)
        return stream_conversation(self._service, request, identity, conversation)

    async def claim(self, request: Request) -> Response:
        account = (await self._identify(request)).account
        body = await self._service.decode(request, Claim)
        return await self._change(account, request, handover.claim, account.id, body.version)

    async def release(self, request: Request) -> Response:
        account = (await self._identify(request)).account
        body = await self._service.decode(request, Release)
        return await self._change(account, request, handover.release, account.id, body.to)

    async def close(self, request: Request) -> Response:
        service = self._service
        account = (await self._identify(request)).account
        await service.decode(request, Empty)
        id = request.path_params["id"]
        await service.write(handover.close, account.tenant, id, account.id, service.clock(), as_agent=True)
        return await self._told(account, id)

    async def _change(self, account: Account, request: Request, change: Any, *how: object) -> Response:
        id = request.path_params["id"]
        await self._service.write(change, account.tenant, id, *how, self._service.clock())
        return await self._told(account, id)

    async def _told(self, account: Account, id: str) -> Response:
        """The ticket after a change of its state, of which everybody concerned is told."""
        self._service.tell_change(account.tenant, id, bot_stops=True)
        return reply(await self._service.read(tickets.get, account.tenant, id, account.id))

    async def say(self, request: Request) -> Response:
        service = self._service
        account = (await self._identify(request)).account
        body = await service.decode(request, Said)
        text = clean_text(body.text, service.config.max_message_characters)
        id = request.path_params["id"]
        message = await service.workers.run(self._keep, account, id, text, body.client_id)
        service.hub.note(id)
        return reply(show_message(message), 202)

    def _keep(self, account: Account, id: str, text: str, client_id: str) -> Message:
        """On a worker thread. An agent's words are redacted too: they may repeat what a customer said aloud."""
        store = self._service.store
        region = store.read(shops.load, account.tenant).phone_region
        redacted = redact(text, region)
        new = NewMessage(
            author="agent",
            text=redacted.text,
            language=detect_language(redacted.text),
            author_id=account.id,
            client_id=client_id,
            redacted=redacted.kinds,
        )
        return store.write(conversations.post_from_agent, account.tenant, id, new, self._service.clock())[0]


async def find_hits(service: Service, account: Account, request: Request) -> list[dict[str, Any]]:
    """What the knowledge base has to the parameter `q`."""
    query = read_words(request, "q", knowledge.MAX_QUERY_CHARACTERS)
    if not query:
        raise InvalidError("Say what to look for: ?q=...")
    hits = await service.workers.run(service.knowledge.search, account.tenant, query, SEARCH_LIMIT)
    names = ("passage_id", "article_id", "version", "title", "heading", "text", "score", "rank")
    return [{name: getattr(hit, name) for name in names} for hit in hits]


def _load_queue(connection: Connection, account: Account) -> dict[str, Any]:
    queue = tickets.load_queue(connection, account.tenant, account.id)
    return queue | {"timeout_s": shops.load(connection, account.tenant).queue_timeout_s}


def _show_whole(connection: Connection, account: Account, id: str, now: float) -> dict[str, Any]:
    conversation = conversations.find(connection, account.tenant, id)
    messages = conversations.list_messages(connection, id)
    customer = accounts.find(connection, account.tenant, conversation.account_id)
    allowed = customer.personal and shops.load(connection, account.tenant).personal_replies
    return {
        "conversation": tickets.get(connection, account.tenant, id, account.id),
        "messages": [show_message(message) for message in messages],
        "summary": summarize(conversation, messages, now),
        "orders": list_orders(connection, customer.id) if allowed else [],
    }
