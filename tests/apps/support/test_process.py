"""The application as a process that is killed: nothing is lost, nothing comes twice, and it goes on where it was."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.apps.support.databases import find_port
from tests.apps.support.people import Event, Person, fill_shop, make_config, read_events
from vivace.apps.support.app import build_service, listen
from vivace.apps.support.settings import SupportConfig

pytestmark = pytest.mark.anyio

ANSWER = "You can return any item within 30 days of delivery. The refund takes 5 working days to reach your account."
START_S, WAIT_S = 180, 120


@asynccontextmanager
async def slow_model_server() -> AsyncIterator[str]:
    """The URL of a server that takes its time over every answer."""

    async def list_models(request: Request) -> Response:
        return JSONResponse({"data": [{"id": "slow"}]})

    async def answer(request: Request) -> Response:
        async def speak() -> AsyncIterator[bytes]:
            for word in ANSWER.split(" "):
                yield _write({"delta": {"content": f"{word} " if not word.endswith("account.") else word}})
                await asyncio.sleep(0.005)
            yield _write({"delta": {}, "finish_reason": "stop"})

        return StreamingResponse(speak(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/models", list_models), Route("/v1/chat/completions", answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, http="httptools", log_config=None, timeout_graceful_shutdown=1))
    sock = listen(SupportConfig(port=0))
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield "http://{}:{}".format(*sock.getsockname())
    finally:
        server.should_exit = True
        await serving
        sock.close()


def _write(choice: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"choices": [{"finish_reason": None} | choice]}).encode() + b"\n\n"


@contextmanager
def application(directory: Path, database: str, server: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """A process of `vivace support` that can be reached."""
    options = ["--directory", str(directory), "--database", database, "--server", server, "--port", str(port)]
    command = [sys.executable, "-m", "vivace", "support", *options, "--log-format", "json"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "support"
            yield process
        finally:
            process.kill()


@dataclass
class Customer:
    """One who keeps what every kept event said, and comes back with the last id seen."""

    person: Person
    conversation: str
    events: dict[int, Event] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    async def follow(self) -> AsyncIterator[Event]:
        path = f"/api/conversations/{self.conversation}/events"
        headers = self.person.headers | {"last-event-id": str(max(self.order, default=0))}
        async with self.person.http.stream("GET", path, headers=headers) as reply:
            assert reply.status_code == 200
            async for event in read_events(reply):
                if event.id:
                    assert event.id not in self.events, "an event came twice"
                    self.events[event.id] = event
                    self.order.append(event.id)
                yield event

    def answer_to(self, question: str) -> Event | None:
        found = [event for event in self.events.values() if event.data.get("reply_to") == question]
        assert len(found) <= 1, "a question was answered twice"
        return found[0] if found else None


async def survive_kills(directory: Path, database: str, kills: int) -> None:
    config = make_config(directory, database)
    service = build_service(config)
    fill_shop(service)
    service.store.close()
    chance, port = random.Random(kills), find_port()
    async with slow_model_server() as server:
        customer: Customer | None = None
        client_ids: list[str] = []
        for kill in range(kills + 1):
            with application(directory, database or config.database_url, server, port) as process:
                async with httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S, trust_env=False
                ) as http:
                    if customer is None:
                        person = Person(http)
                        person.take(await person.request("POST", "/api/guests", {}, 201))
                        customer = Customer(person, await person.start())
                    customer.person.http = http
                    tokens = {"refresh_token": customer.person.tokens["refresh_token"]}
                    customer.person.take(await customer.person.request("POST", "/api/sessions/refresh", tokens))
                    for client_id in client_ids[-1:]:  # it may not know whether the last one arrived
                        await customer.person.say(customer.conversation, _ask(client_id), client_id)
                    if kill == kills:
                        await _read_to_the_end(customer, client_ids)
                        return
                    client_ids.append(f"k{kill}")
                    await _be_killed(customer, client_ids[-1], process, chance)
                assert process.wait(START_S) == -signal.SIGKILL


def _ask(client_id: str) -> str:
    return f"How many days do I have to return item {client_id}?"


async def _be_killed(customer: Customer, client_id: str, process: subprocess.Popen[str], chance: random.Random) -> None:
    """Ask, and kill the process after so many events; sometimes before the question was taken, sometimes after its
    answer."""
    patience = chance.choice([0, 1, 2, 3, 5, 8, 13, 21])

    async def ask_and_read() -> None:
        posting = asyncio.create_task(customer.person.say(customer.conversation, _ask(client_id), client_id))
        seen = 0
        try:
            async for event in customer.follow():
                seen += 1
                if seen > patience or event.data.get("author") == "bot":
                    process.kill()
        finally:
            outcome = await asyncio.gather(posting, return_exceptions=True)
        assert all(isinstance(one, dict | httpx.HTTPError) for one in outcome), outcome

    if patience == 0:
        asyncio.get_running_loop().call_later(chance.random() / 50, process.kill)
    try:
        async with asyncio.timeout(WAIT_S):
            await ask_and_read()
    except httpx.HTTPError:
        pass  # as it should: the process is gone
    finally:
        process.kill()


async def _read_to_the_end(customer: Customer, client_ids: list[str]) -> None:
    shown = await customer.person.read(customer.conversation)
    asked = {message["client_id"]: message["id"] for message in shown["messages"] if message["author"] == "customer"}
    assert list(asked) == client_ids, "every question was kept, once, in its order"
    async with asyncio.timeout(WAIT_S):
        async for _ in customer.follow():
            if all(customer.answer_to(question) for question in asked.values()):
                break
    assert sorted(customer.events) == list(range(1, max(customer.events) + 1)), "no event was lost"
    answers = [customer.answer_to(question) for question in asked.values()]
    assert all(answer is not None and "30 days" in answer.data["text"] for answer in answers)
    shown = await customer.person.read(customer.conversation)
    assert len([message for message in shown["messages"] if message["author"] == "bot"]) == len(client_ids)


@pytest.mark.timeout(600)
async def test_a_process_killed_mid_answer_loses_and_doubles_nothing(tmp_path: Path) -> None:
    await survive_kills(tmp_path / "data", "", kills=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_nor_does_one_that_is_killed_a_hundred_times(tmp_path: Path, database: str) -> None:
    await survive_kills(tmp_path / "data", database, kills=100)
