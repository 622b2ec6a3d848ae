"""Who may speak: never two at once, whatever the order in which things happen."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from tests.apps.support.people import Person, Running
from vivace.apps.support import accounts, conversations, handover
from vivace.apps.support.conversations import Event, Message, NewMessage
from vivace.apps.support.store import Store, open_store
from vivace.errors import ConflictError

TENANT = "shop"


# The rule itself, checked on what was kept


def check_nobody_talked_over_anybody(events: Sequence[Event]) -> int:
    """Read a conversation's events in order. Returns how many replies of the bot there are."""
    state, replied = "bot", set()
    assert [event.id for event in events] == list(range(1, len(events) + 1)), "events are numbered without a gap"
    for event in events:
        if event.kind == "state":
            assert event.data["state"] in handover.ALLOWED[state], "a change that is none"
            state = event.data["state"]
        elif event.message is not None and event.message.author == "bot":
            assert state == "bot", f"the bot spoke while the conversation was {state}"
            assert event.message.reply_to not in replied, "a question was answered twice"
            replied.add(event.message.reply_to)
        elif event.message is not None and event.message.author == "agent":
            assert state == "human", f"an agent spoke while the conversation was {state}"
    return len(replied)


# What may happen, one step after the other


@dataclass
class Scene:
    """One conversation, and everybody who does something in it. Each step is one transaction."""

    customer: str
    agents: Sequence[str]
    conversation: str
    question: str
    names: Iterator[int]
    now: Callable[[], float] = time.time
    seen: dict[str, int] = field(default_factory=dict)

    def begin(self, who: str) -> Callable[[Connection], None]:
        def step(connection: Connection) -> None:
            self.seen[who] = conversations.find_by_id(connection, self.conversation).version

        return step

    def reply(self, who: str) -> Callable[[Connection], None]:
        def step(connection: Connection) -> None:
            new = NewMessage("bot", "An answer.", "en", reply_to=self.question, source="model")
            conversations.post_reply(connection, self.conversation, self.seen[who], new, self.now())

        return step

    def call(self, who: str) -> Callable[[Connection], None]:
        def step(connection: Connection) -> None:
            handover.call_person(connection, self.conversation, self.seen[who], "low_confidence", self.now())

        return step

    def claim(self, agent: str) -> Callable[[Connection], None]:
        def step(connection: Connection) -> None:
            handover.claim(connection, TENANT, self.conversation, agent, self.seen[agent], self.now())

        return step

    def speak(self, agent: str) -> Callable[[Connection], None]:
        def step(connection: Connection) -> None:
            new = NewMessage("agent", "Hello.", "en", author_id=agent, client_id=f"a{next(self.names)}")
            conversations.post_from_agent(connection, TENANT, self.conversation, new, self.now())

        return step

    def release(self, agent: str, to: str) -> Callable[[Connection], None]:
        return lambda connection: _drop(handover.release(connection, TENANT, self.conversation, agent, to, self.now()))

    def ask_for_person(self, connection: Connection) -> None:
        handover.ask_for_person(connection, TENANT, self.conversation, self.customer, self.now())

    def say_more(self, connection: Connection) -> None:
        found = conversations.find_by_id(connection, self.conversation)
        new = NewMessage("customer", "And then?", "en", client_id=f"c{next(self.names)}")
        conversations.post_from_customer(connection, found, new, self.now())

    def give_up(self, connection: Connection) -> None:
        handover.give_up_waiting(connection, TENANT, self.now() + 1, self.now())

    def actors(self) -> list[list[Callable[[Connection], None]]]:
        """Two processes that answer the same question, a third that calls a person, two agents, a customer, and the
        clock."""
        first, second = self.agents
        return [
            [self.begin("bot"), self.reply("bot")],
            [self.begin("other"), self.reply("other"), self.reply("other")],
            [self.begin("third"), self.call("third")],
            [self.begin(first), self.claim(first), self.speak(first), self.release(first, "bot")],
            [self.begin(second), self.claim(second), self.speak(second), self.release(second, "waiting_human")],
            [self.ask_for_person, self.say_more],
            [self.give_up],
        ]


def _drop(value: object) -> None:
    pass


def make_people(connection: Connection) -> tuple[str, list[str]]:
    now = time.time()
    customer = accounts.create(connection, TENANT, "customer", "Ada", "en", now)
    return customer.id, [accounts.create(connection, TENANT, "agent", f"Agent {n}", "en", now).id for n in range(2)]


def make_scene(connection: Connection, customer: str, agents: Sequence[str], names: Iterator[int]) -> Scene:
    started = conversations.start(connection, TENANT, customer, "en", time.time())
    new = NewMessage("customer", "A question?", "en", client_id=f"c{next(names)}")
    question, _ = conversations.post_from_customer(connection, started, new, time.time())
    return Scene(customer, agents, started.id, question.id, names)


def interleave(
    actors: list[list[Callable[[Connection], None]]], chance: random.Random
) -> Iterator[Callable[..., None]]:
    """All steps, each actor's in its own order."""
    order = [number for number, steps in enumerate(actors) for _ in steps]
    chance.shuffle(order)
    rest = [iter(steps) for steps in actors]
    return (next(rest[number]) for number in order)


def run_interleavings(store: Store, count: int, seed: int) -> int:
    """Returns how many replies were posted in all. Steps one after the other in one transaction are what they are in
    transactions of their own; one that is refused is undone. (One transaction for all would be slow: PostgreSQL looks
    through every version of a row, and every savepoint, that a transaction has made.)"""
    chance, names = random.Random(seed), iter(range(10**9))
    customer, agents = store.write(make_people)
    return sum(store.write(_run_scene, customer, agents, names, chance) for _ in range(count))


def _run_scene(
    connection: Connection, customer: str, agents: Sequence[str], names: Iterator[int], chance: random.Random
) -> int:
    scene = make_scene(connection, customer, agents, names)
    for step in interleave(scene.actors(), chance):
        with suppress(ConflictError), connection.begin_nested():
            step(connection)
    return check_nobody_talked_over_anybody(conversations.list_events(connection, scene.conversation, 0))


def test_in_no_interleaving_does_the_bot_talk_over_a_person_or_answer_twice(database: str) -> None:
    store = open_store(database)
    replies = run_interleavings(store, 100, seed=1)
    store.close()
    assert 10 < replies < 90, "in some it answers, in some it is too late"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nor_in_ten_thousand(database: str) -> None:
    store = open_store(database)
    replies = run_interleavings(store, 10_000, seed=2)
    store.close()
    assert 1000 < replies < 9000


def test_nor_with_threads_that_all_write_at_once(database: str) -> None:
    store = open_store(database, pool_size=16)
    names, chance = iter(range(10**9)), random.Random(3)
    customer, agents = store.write(make_people)
    scenes = replies = 0
    while scenes < 15 or (replies == 0 and scenes < 300):  # in some scenes the bot comes to speak
        scenes += 1
        scene = store.write(make_scene, customer, agents, names)
        actors = scene.actors()
        barrier = threading.Barrier(len(actors))
        errors: list[BaseException] = []
        waits = [[chance.random() / 500 for _ in steps] for steps in actors]
        threads = [
            threading.Thread(target=_act, args=(store, steps, wait, barrier, errors))
            for steps, wait in zip(actors, waits, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        replies += check_nobody_talked_over_anybody(store.read(conversations.list_events, scene.conversation, 0))
    store.close()
    assert replies > 0


def _act(
    store: Store,
    steps: Sequence[Callable[[Connection], None]],
    waits: Sequence[float],
    barrier: threading.Barrier,
    errors: list[BaseException],
) -> None:
    barrier.wait()
    for step, wait in zip(steps, waits, strict=True):
        time.sleep(wait)
        try:
            store.write(step)
        except ConflictError:
            pass
        except BaseException as error:
            errors.append(error)


def test_the_check_sees_a_bot_that_talks_over_a_person() -> None:
    state = Event(1, "state", {"state": "waiting_human"})
    message = Message(
        "m", "c", 2, "bot", None, None, "x", "en", None, "q", False, (), None, None, "model", (), None, 0.0
    )  # fmt: skip
    with pytest.raises(AssertionError, match="spoke while"):
        check_nobody_talked_over_anybody([state, Event(2, "message", {}, message)])
    with pytest.raises(AssertionError, match="answered twice"):
        check_nobody_talked_over_anybody([Event(1, "message", {}, message), Event(2, "message", {}, message)])


# Over HTTP


async def _wait_for_draft(guest: Person, conversation: str) -> str:
    async for event in guest.follow(conversation):
        if event.kind == "draft":
            return str(event.data["text"])
    raise AssertionError("no draft came")


@pytest.mark.anyio
async def test_a_draft_under_way_is_withdrawn_when_an_agent_takes_over(shop: Running) -> None:
    agent, guest = await shop.staff("agent"), await shop.guest()
    conversation = await guest.start()
    shop.model.say("You can return any item within 30 days of delivery.")
    shop.model.hold()
    await guest.say(conversation, "How many days do I have to return an item?")
    assert (await _wait_for_draft(guest, conversation)).startswith("You can")
    version = (await guest.read(conversation))["conversation"]["version"]
    ticket = await agent.request("POST", f"/api/agent/conversations/{conversation}/claim", {"version": version})
    assert (ticket["state"], ticket["mine"], ticket["agent"]) == ("human", True, {"name": "Agent"})
    shop.model.let_go()
    await agent.request(
        "POST", f"/api/agent/conversations/{conversation}/messages", {"text": "Hello.", "client_id": "1"}, 202
    )
    await asyncio.sleep(0.1)
    shown = await guest.read(conversation)
    assert [message["author"] for message in shown["messages"]] == ["customer", "system", "agent"]
    assert shown["draft"] is None


@pytest.mark.anyio
async def test_of_two_agents_who_claim_at_once_one_has_it(shop: Running) -> None:
    first, second = await shop.staff("agent", "one@example.com"), await shop.staff("agent", "two@example.com")
    guest = await shop.guest()
    conversation = await guest.start()
    called = await guest.request("POST", f"/api/conversations/{conversation}/handover", {})
    path, body = f"/api/agent/conversations/{conversation}/claim", {"version": called["version"]}
    replies = await asyncio.gather(first.send("POST", path, body), second.send("POST", path, body))
    assert sorted(reply.status_code for reply in replies) == [200, 409]


@pytest.mark.anyio
async def test_release_gives_it_to_the_bot_or_back_to_the_queue_and_close_ends_it(shop: Running) -> None:
    agent, guest = await shop.staff("agent"), await shop.guest()
    conversation = await guest.start()
    path = f"/api/agent/conversations/{conversation}"
    for to in ("waiting_human", "bot"):
        version = (await guest.read(conversation))["conversation"]["version"]
        await agent.request("POST", f"{path}/claim", {"version": version})
        assert (await agent.request("POST", f"{path}/release", {"to": to}))["state"] == to
    await agent.request("POST", f"{path}/release", {"to": "bot"}, 409)
    assert (await agent.request("POST", f"{path}/close", {}))["state"] == "closed"
    body = {"text": "Hello?", "client_id": "late"}
    await guest.request("POST", f"/api/conversations/{conversation}/messages", body, 409)


@pytest.mark.anyio
async def test_two_unhappy_messages_in_a_row_call_a_person(shop: Running) -> None:
    guest = await shop.guest()
    conversation = await guest.start()
    first = await guest.ask(conversation, "Awful! How many days after the delivery can I return an item for a refund?")
    assert first["author"] == "bot"
    state = await guest.ask(conversation, "Your answer is awful garbage, I am furious about the return of my item!")
    assert (state["state"], state["reason"]) == ("waiting_human", "negative")


@pytest.mark.anyio
async def test_repeated_thumbs_down_call_a_person(shop: Running) -> None:
    guest = await shop.guest()
    conversation = await guest.start()
    for number in range(2):
        assert (await guest.read(conversation))["conversation"]["state"] == "bot"
        answer = await guest.ask(conversation, f"How many days do I have to return item {number}?")
        await guest.request("PUT", f"/api/messages/{answer['id']}/feedback", {"rating": "down"})
    shown = (await guest.read(conversation))["conversation"]
    assert (shown["state"], shown["reason"]) == ("waiting_human", "thumbs_down")


@pytest.mark.anyio
async def test_what_the_knowledge_base_does_not_know_goes_to_a_person(shop: Running) -> None:
    guest = await shop.guest()
    state = await guest.ask(await guest.start(), "Quarks and vermilion xylophones?")
    assert (state["state"], state["reason"] in ("no_passage", "low_confidence")) == ("waiting_human", True)


@pytest.mark.anyio
async def test_who_waits_too_long_goes_back_to_the_bot(shop: Running, tmp_path: Path) -> None:
    from vivace.apps.support import upkeep

    guest = await shop.guest()
    conversation = await guest.start()
    await guest.request("POST", f"/api/conversations/{conversation}/handover", {})
    assert await upkeep.look_at_queues(shop.service) == 0
    shop.clock.added_s = 601
    assert await upkeep.look_at_queues(shop.service) == 1
    shown = (await guest.send("GET", f"/api/conversations/{conversation}")).status_code
    assert shown == 401, "the access token has expired by then"
    guest.take(await guest.request("POST", "/api/sessions/refresh", {"refresh_token": guest.tokens["refresh_token"]}))
    found = (await guest.read(conversation))["conversation"]
    assert (found["state"], found["reason"]) == ("bot", "timeout")
