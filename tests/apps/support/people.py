"""The application on a socket, and people who use it: what the pages do, over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.routing import Route

from tests.apps.support.scripted_model import ScriptedModel
from vivace.apps.support import accounts, intent_store, knowledge, shops
from vivace.apps.support.app import build_app, build_service, listen
from vivace.apps.support.intent_store import IntentRule
from vivace.apps.support.service import Service
from vivace.apps.support.settings import PasswordCost, Rate, Rates, ShopSettings, SupportConfig

PASSWORD = "correct horse battery"
CHEAP = PasswordCost(passes=1, memory_kib=8, lanes=1)
NO_LIMITS = Rates(*[Rate(100_000, 100_000.0)] * 6)
WAIT_S = 60.0

ARTICLES = {
    "Returns": "You can return any item within 30 days of delivery. "
    "The refund takes 5 working days to reach your account.",
    "Shipping": "Standard shipping costs 4 dollars and takes 3 days. "
    "Express shipping costs 12 dollars and takes one day.",
    "Opening hours": "The shop in Main Street is open from 9 am to 6 pm, Monday to Saturday. It is closed on Sunday.",
    "退货政策": "您可以在收到商品后30天内退货。退款将在5个工作日内到账。",
}
INTENTS = {
    "greeting": ("reply", ["hello there", "hi", "good morning", "hey", "你好", "您好"]),
    "person": (
        "handover",
        ["I want to talk to a person", "give me a human agent", "connect me to somebody real", "我要找人工客服"],
    ),
    "order_status": ("orders", ["where is my order", "has my order been sent", "track my order", "我的订单在哪里"]),
    "none": ("answer", ["who won the match yesterday", "what is the capital of France", "who painted this", "写首诗"]),
    "returns": ("answer", ["can I return this item", "how do I send it back", "I want my money refunded", "怎么退货"]),
}


@dataclass
class Clock:
    """The application's time: the real one, and what was added."""

    added_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.added_s


@dataclass
class Running:
    """An application that can be reached."""

    service: Service
    model: ScriptedModel
    clock: Clock
    url: str
    http: httpx.AsyncClient

    async def guest(self) -> Person:
        person = Person(self.http)
        return person.take(await person.request("POST", "/api/guests", {}, 201))

    async def customer(self, email: str = "ada@example.com", name: str = "Ada") -> Person:
        person = Person(self.http)
        body = {"email": email, "password": PASSWORD, "name": name}
        return person.take(await person.request("POST", "/api/accounts", body, 201))

    async def staff(self, role: str, email: str | None = None, tenant: str | None = None) -> Person:
        tenant = tenant or self.service.config.tenants[0]
        email = email or f"{role}@{tenant}.example.com"
        password_hash = self.service.passwords.hash(PASSWORD)
        made = self.service.store.write(
            accounts.create, tenant, role, role.title(), "en", self.clock(), email, password_hash
        )
        return await self.sign_in(made.email or "", tenant)

    async def sign_in(self, email: str, tenant: str | None = None) -> Person:
        person = Person(self.http)
        body = {"email": email, "password": PASSWORD} | ({"tenant": tenant} if tenant else {})
        return person.take(await person.request("POST", "/api/sessions", body, 201))

    def service_routes(self) -> list[Route]:
        """Every address and its methods."""
        return [route for route in build_app(self.service).routes if isinstance(route, Route) and route.methods]

    def change_settings(self, **values: Any) -> None:
        import msgspec

        tenant = self.service.config.tenants[0]
        before = self.service.store.read(shops.load, tenant)
        changed = msgspec.structs.replace(before, **values)
        self.service.store.write(shops.save, tenant, changed, self.clock())


@dataclass
class Person:
    """Somebody with a session."""

    http: httpx.AsyncClient
    tokens: dict[str, Any] = field(default_factory=dict)
    numbers: Any = field(default_factory=itertools.count)

    def take(self, tokens: Any) -> Person:
        self.tokens = tokens
        return self

    @property
    def id(self) -> str:
        return str(self.tokens["account"]["id"])

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens['access_token']}"} if self.tokens else {}

    async def send(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        content = None if body is None else json.dumps(body)
        return await self.http.request(method, path, content=content, headers=self.headers, **options)

    async def request(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """The JSON of a reply that must have that status."""
        reply = await self.send(method, path, body)
        assert reply.status_code == status, f"{method} {path}: {reply.status_code} {reply.text}"
        return reply.json() if reply.content and "json" in reply.headers.get("content-type", "") else None

    async def get(self, path: str, status: int = 200) -> Any:
        return await self.request("GET", path, None, status)

    async def start(self) -> str:
        """A new conversation's id."""
        return str((await self.request("POST", "/api/conversations", {}, 201))["id"])

    async def say(self, conversation: str, text: str, client_id: str | None = None) -> Any:
        body = {"text": text, "client_id": client_id or f"m{next(self.numbers)}"}
        return await self.request("POST", f"/api/conversations/{conversation}/messages", body, 202)

    async def ask(self, conversation: str, text: str) -> Any:
        """What the bot, or the application, says next."""
        asked = await self.say(conversation, text)
        async with asyncio.timeout(WAIT_S):
            async for event in self.follow(conversation):
                if event.kind == "message" and event.data["reply_to"] == asked["id"]:
                    return event.data
                if event.kind == "state" and event.id > 0 and event.data["state"] != "bot":
                    return event.data
        raise AssertionError("the stream ended without an answer")

    async def read(self, conversation: str) -> Any:
        return await self.get(f"/api/conversations/{conversation}")

    async def follow(self, conversation: str, after: int = 0, role: str = "") -> AsyncIterator[Event]:
        path = f"/api/{role}conversations/{conversation}/events"
        async with self.http.stream("GET", path, headers=self.headers | {"last-event-id": str(after)}) as reply:
            assert reply.status_code == 200, await reply.aread()
            async for event in read_events(reply):
                yield event


@dataclass(frozen=True)
class Event:
    kind: str
    data: Any
    id: int = 0
    """0 for one that is not kept."""


async def read_events(reply: httpx.Response) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in reply.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "event" in fields:
            yield Event(fields["event"], json.loads(fields["data"]), int(fields.get("id", 0)))
            fields = {}


def make_config(directory: Path, database: str = "", **options: Any) -> SupportConfig:
    config = SupportConfig(
        server="http://model", directory=directory, database=database, port=0, password_cost=CHEAP, rates=NO_LIMITS
    )
    return replace(config, **options)


def fill_shop(service: Service, tenant: str | None = None) -> None:
    """A few articles and intents."""
    tenant, store, now = tenant or service.config.tenants[0], service.store, service.clock()
    store.write(shops.save, tenant, ShopSettings(name="Corner Shop"), now)
    for title, text in ARTICLES.items():
        store.write(knowledge.create, tenant, title, "text", text, None, now)
    for label, (action, examples) in INTENTS.items():
        replies = {"en": "Hello {name}!", "zh": "您好!"} if action == "reply" else {}
        store.write(intent_store.save_rule, tenant, IntentRule(label, action, replies, examples, now), None)


@asynccontextmanager
async def running(
    config: SupportConfig, model: ScriptedModel | None = None, *, filled: bool = True, with_upkeep: bool = False
) -> AsyncIterator[Running]:
    """The application on a socket, with a scripted model behind it."""
    model, clock = model or ScriptedModel(), Clock()
    service = build_service(config, model, clock)
    if filled:
        fill_shop(service)
    settings = uvicorn.Config(
        build_app(service, with_upkeep=with_upkeep), http="httptools", ws="none", lifespan="on", log_config=None,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    sock = listen(config)
    url = "http://{}:{}".format(*sock.getsockname())
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        while not server.started:
            assert not serving.done(), "the application did not start"
            await asyncio.sleep(0.005)
        async with httpx.AsyncClient(base_url=url, timeout=WAIT_S, trust_env=False) as http:
            yield Running(service, model, clock, url, http)
    finally:
        model.let_go()
        server.should_exit = True
        await serving
        sock.close()
