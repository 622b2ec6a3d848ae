"""Event streams: resumed from the last event seen, with nothing lost or doubled, and ended when the session is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.apps.support.people import Event, Person, Running, make_config, running
from vivace.apps.support.hub import Hub
from vivace.apps.support.pipeline import DRAFTS_COUNTED, FEW_DRAFTS

pytestmark = pytest.mark.anyio
QUESTION = "How many days do I have to return an item?"
ANSWER = "You can return any item within 30 days of delivery."


async def collect(person: Person, conversation: str, after: int, until: int) -> list[Event]:
    """Kept events up to number `until`, and whatever comes between."""
    found = []
    async with asyncio.timeout(60):
        async for event in person.follow(conversation, after):
            found.append(event)
            if event.id >= until:
                return found
    raise AssertionError("the stream ended")


async def test_a_reader_that_comes_back_gets_each_kept_event_once(shop: Running) -> None:
    shop.model.say(ANSWER)
    guest = await shop.guest()
    conversation = await guest.start()
    for number in range(3):
        await guest.ask(conversation, f"{QUESTION} {number}")
    for after in range(6):
        events = await collect(guest, conversation, after, 6)
        assert [event.id for event in events if event.id] == list(range(after + 1, 7))


async def test_one_that_comes_back_mid_answer_gets_the_draft_as_it_stands_and_then_the_answer_in_its_place(
    shop: Running,
) -> None:
    shop.model.say(ANSWER)
    shop.model.hold()
    guest = await shop.guest()
    conversation = await guest.start()
    await guest.say(conversation, QUESTION)
    async with asyncio.timeout(60):
        async for event in guest.follow(conversation):
            if event.kind == "draft":
                break
    assert (await guest.read(conversation))["draft"]["text"] == ANSWER[:8]
    reading = asyncio.create_task(collect(guest, conversation, 1, 2))
    await asyncio.sleep(0.1)
    shop.model.let_go()
    events = await reading
    assert (events[0].kind, events[0].data["text"]) == ("draft", ANSWER[:8])
    text = "".join(event.data["text"] for event in events[:-1])
    assert ANSWER.startswith(text)
    assert (events[-1].kind, events[-1].data["source"]) == ("message", "model")
    assert "withdrawn" not in [event.kind for event in events]


async def test_without_live_drafts_an_answer_is_seen_only_when_it_was_checked(shop: Running) -> None:
    shop.model.say(ANSWER)
    shop.change_settings(live_drafts=False)
    guest = await shop.guest()
    conversation = await guest.start()
    reading = asyncio.create_task(collect(guest, conversation, 0, 2))
    await guest.say(conversation, QUESTION)
    assert [event.kind for event in await reading] == ["message", "message"]


async def test_drafts_of_a_model_that_are_seldom_the_answer_are_not_shown_until_they_are_again(shop: Running) -> None:
    guest = await shop.guest()
    conversation = await guest.start()

    async def ask(model_says: str) -> list[str]:
        shop.model.say(model_says)
        last = len((await guest.read(conversation))["messages"])
        reading = asyncio.create_task(collect(guest, conversation, last, last + 2))
        await guest.say(conversation, QUESTION)
        return [event.kind for event in await reading]

    first = await ask("Refunds of 900 euros fly to Mars in 77 minutes.")
    assert "draft" in first
    for _ in range(FEW_DRAFTS):
        later = await ask("Refunds of 900 euros fly to Mars in 77 minutes.")
    assert "draft" not in later
    for _ in range(DRAFTS_COUNTED):
        good = await ask(ANSWER)
    assert "draft" in good


async def test_a_message_sent_twice_is_kept_once(shop: Running) -> None:
    guest = await shop.guest()
    conversation = await guest.start()
    replies = await asyncio.gather(*(guest.say(conversation, QUESTION, "same") for _ in range(5)))
    assert len({reply["id"] for reply in replies}) == 1
    customer = [message for message in (await guest.read(conversation))["messages"] if message["author"] == "customer"]
    assert len(customer) == 1


async def test_a_stream_ends_when_its_session_does(database: str, tmp_path: Path) -> None:
    async with running(make_config(tmp_path / "data", database, keep_alive_s=0.05)) as shop:
        guest = await shop.guest()
        conversation = await guest.start()

        async def read() -> None:
            async for _ in guest.follow(conversation):
                pass

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        assert not reading.done()
        await guest.request("DELETE", "/api/sessions/current", None, 204)
        async with asyncio.timeout(60):
            await reading
        assert (shop.service.streams, len(shop.service.hub)) == ({}, 0)


async def test_an_account_has_so_many_streams_and_no_more(database: str, tmp_path: Path) -> None:
    async with running(make_config(tmp_path / "data", database, max_streams_of_account=1)) as shop:
        guest = await shop.guest()
        conversation = await guest.start()
        path = f"/api/conversations/{conversation}/events"
        async with guest.http.stream("GET", path, headers=guest.headers):
            assert (await guest.send("GET", path)).status_code == 429


@pytest.mark.parametrize("id", ["x", "-1", "1e3", "9" * 30])
async def test_what_is_no_event_id_is_refused(id: str, shop: Running) -> None:
    guest = await shop.guest()
    conversation = await guest.start()
    headers = guest.headers | {"last-event-id": id}
    assert (await guest.http.get(f"/api/conversations/{conversation}/events", headers=headers)).status_code == 400


async def test_agents_follow_the_queue(shop: Running) -> None:
    agent, guest = await shop.staff("agent"), await shop.guest()
    conversation = await guest.start()
    async with agent.http.stream("GET", "/api/agent/events", headers=agent.headers) as reply:
        from tests.apps.support.people import read_events

        events = read_events(reply)
        assert (await anext(events)).data["waiting"] == []
        await guest.request("POST", f"/api/conversations/{conversation}/handover", {})
        async with asyncio.timeout(60):
            waiting = (await anext(events)).data["waiting"]
    assert [ticket["id"] for ticket in waiting] == [conversation]


def test_a_hub_forgets_channels_that_nobody_reads_or_writes() -> None:
    hub = Hub()
    hub.note("a")
    hub.extend("a", "q", "x")
    with hub.watch("a") as (channel, awake):
        assert channel.draft is not None
        hub.extend("a", "q", "y")
        assert (channel.draft.text, awake.is_set()) == ("xy", True)
        hub.end_draft("a")
    hub.end_draft("b")
    assert len(hub) == 0
