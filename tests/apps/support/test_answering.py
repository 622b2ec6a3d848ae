"""Who must wait for an answer is told so at once, and what waits is counted wherever it waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import pytest

from tests.apps.support.people import Event, Running, make_config, running
from vivace.apps.support import handover
from vivace.apps.support.answering import ROOM_LEAST
from vivace.errors import BusyError

pytestmark = pytest.mark.anyio

MORE = 30


async def test_what_is_beyond_the_room_is_refused_while_every_thread_is_taken(tmp_path: Path) -> None:
    """Also what waits for its session to be looked up, and to be stored, has a place; what is refused waits for
    nothing."""
    async with running(make_config(tmp_path, worker_threads=1)) as shop:
        guests = [(guest := await shop.guest(), await guest.start()) for _ in range(ROOM_LEAST + MORE)]
        gate = threading.Event()
        blocked = asyncio.create_task(shop.service.workers.run(gate.wait, 60.0))
        body = {"text": "How many days do I have to return an item?", "client_id": "one"}
        asking = [
            asyncio.create_task(guest.send("POST", f"/api/conversations/{conversation}/messages", body))
            for guest, conversation in guests
        ]
        while sum(task.done() for task in asking) < MORE:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        refused = [task.result() for task in asking if task.done()]
        assert [one.status_code for one in refused] == [503] * MORE
        assert all(one.headers["retry-after"] == "2" for one in refused)
        assert shop.service.answering.count == ROOM_LEAST
        gate.set()
        await blocked
        replies = await asyncio.gather(*asking)
        assert sorted(one.status_code for one in replies) == [202] * ROOM_LEAST + [503] * MORE
        while shop.service.answering.count:
            await asyncio.sleep(0.01)


async def test_a_place_is_given_back_when_nothing_comes_of_it(shop: Running) -> None:
    guest, other = await shop.guest(), await shop.guest()
    conversation = await other.start()
    body = {"text": "Hello?", "client_id": "one"}
    await guest.request("POST", f"/api/conversations/{conversation}/messages", body, 404)
    await guest.request("DELETE", "/api/sessions/current", None, 204)
    await guest.request("POST", f"/api/conversations/{conversation}/messages", body, 401)
    assert shop.service.answering.count == 0


async def test_without_room_nobody_is_looked_up(shop: Running) -> None:
    """Not even who has no session: it costs nothing to refuse."""
    answering = shop.service.answering
    places = [answering.hold_place() for _ in range(ROOM_LEAST)]
    for place in places:
        place.__enter__()
    with pytest.raises(BusyError):
        answering.check_room()
    reply = await shop.http.post("/api/conversations/x/messages", content=b"{}")
    assert reply.status_code == 503
    for place in places:
        place.__exit__(None, None, None)
    assert answering.count == 0


async def test_what_was_answered_reaches_its_reader_while_every_thread_has_other_work(tmp_path: Path) -> None:
    async with running(make_config(tmp_path, worker_threads=1)) as shop:
        guest = await shop.guest()
        conversation = await guest.start()
        await guest.ask(conversation, "How many days do I have to return an item?")
        events = cast("AsyncGenerator[Event, None]", guest.follow(conversation))
        assert (await anext(events)).data["author"] == "customer"
        gate = threading.Event()
        blocked = asyncio.create_task(shop.service.workers.run(gate.wait, 60.0))
        shop.service.store.write(handover.ask_for_person, "shop", conversation, guest.id, shop.clock())
        shop.service.hub.note(conversation)
        kinds = [(await anext(events)).kind for _ in range(2)]
        assert kinds == ["message", "state"], "the answer, then the hand-over"
        gate.set()
        await blocked
        await events.aclose()
