"""Webhooks: each change of state is told once it happened, signed, again when it fails, to public addresses only."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.apps.support.people import Running, make_config, running
from vivace.apps.support.delivery import DeliveryError, is_public, resolve, sign
from vivace.apps.support.webhooks import RETRY_AFTER_S, check_url
from vivace.errors import InvalidError

pytestmark = pytest.mark.anyio


@dataclass
class Receiver:
    """What a webhook leads to: a socket that answers with these statuses, the last for ever."""

    port: int
    statuses: list[int]
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/hook"


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(0, list(statuses))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        pairs = (line.partition(":") for line in head.split("\r\n")[1:])
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        receiver.got.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
        writer.write(
            f"HTTP/1.1 {status} X\r\nlocation: http://localhost:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()


@pytest.fixture
async def open_shop(database: str, tmp_path: Path) -> AsyncIterator[Running]:
    """One that may call the test's own machine."""
    async with running(make_config(tmp_path / "data", database, allow_private_webhooks=True)) as opened:
        yield opened


async def wait_for(receiver: Receiver, count: int) -> None:
    async with asyncio.timeout(60):
        while len(receiver.got) < count:
            await asyncio.sleep(0.01)


async def test_every_change_of_state_is_told_signed_and_without_a_text(open_shop: Running) -> None:
    admin, guest = await open_shop.staff("admin"), await open_shop.guest()
    async with receiving(200) as receiver:
        hook = await admin.request("POST", "/api/admin/webhooks", {"url": receiver.url}, 201)
        conversation = await guest.start()
        await guest.ask(conversation, "I want to talk to a person")
        await guest.request("POST", f"/api/conversations/{conversation}/close", {})
        await wait_for(receiver, 2)
    bodies = sorted((json.loads(body) for _, body in receiver.got), key=lambda body: body["version"])
    assert [(body["from"], body["state"], body["reason"]) for body in bodies] == [
        ("bot", "waiting_human", "asked"),
        ("waiting_human", "closed", "closed"),
    ]
    assert all(body["conversation_id"] == conversation and "text" not in body for body in bodies)
    headers, body = receiver.got[0]
    at = int(headers["x-vivace-signature"].split(",")[0].removeprefix("t="))
    assert hmac.compare_digest(headers["x-vivace-signature"], sign(hook["secret"], body, at))
    assert headers["host"] == f"localhost:{receiver.port}"


async def test_what_was_not_taken_comes_again_later_and_is_given_up_in_the_end(open_shop: Running) -> None:
    admin, guest = await open_shop.staff("admin"), await open_shop.guest()
    async with receiving(500) as receiver:
        await admin.request("POST", "/api/admin/webhooks", {"url": receiver.url}, 201)
        conversation = await guest.start()
        await guest.request("POST", f"/api/conversations/{conversation}/handover", {})
        await wait_for(receiver, 1)
        sender = open_shop.service.sender
        async with httpx.AsyncClient() as client:
            for number, wait_s in enumerate(RETRY_AFTER_S, 2):
                await asyncio.sleep(0.05)
                assert await sender.send_due(client) == 0, "not before its time"
                open_shop.clock.added_s += wait_s + 1
                await sender.send_due(client)
                await wait_for(receiver, number)
            await asyncio.sleep(0.05)
            open_shop.clock.added_s += 10**6
            assert await sender.send_due(client) == 0
    assert len({body for _, body in receiver.got}) == 1
    admin = await open_shop.sign_in("admin@shop.example.com")
    (told,) = (await admin.get("/api/admin/deliveries"))["deliveries"]
    assert (told["status"], told["attempts"], told["error"]) == ("failed", 6, "status 500")


async def test_a_redirection_is_not_followed(open_shop: Running) -> None:
    admin, guest = await open_shop.staff("admin"), await open_shop.guest()
    async with receiving(302) as receiver:
        await admin.request("POST", "/api/admin/webhooks", {"url": receiver.url}, 201)
        conversation = await guest.start()
        await guest.request("POST", f"/api/conversations/{conversation}/handover", {})
        await wait_for(receiver, 1)
    for _ in range(200):
        (told,) = (await admin.get("/api/admin/deliveries"))["deliveries"]
        if told["attempts"]:
            break
        await asyncio.sleep(0.01)
    assert told["error"] == "status 302"


async def test_private_addresses_are_refused_unless_allowed(shop: Running) -> None:
    admin, guest = await shop.staff("admin"), await shop.guest()
    async with receiving(200) as receiver:
        await admin.request("POST", "/api/admin/webhooks", {"url": receiver.url}, 201)
        conversation = await guest.start()
        await guest.request("POST", f"/api/conversations/{conversation}/handover", {})
        for _ in range(500):
            (told,) = (await admin.get("/api/admin/deliveries"))["deliveries"]
            if told["attempts"]:
                break
            await asyncio.sleep(0.01)
    assert (told["error"], receiver.got) == ("the host has an address that is not public", [])


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "::1", "fe80::1%eth0",
     "fd00::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "224.0.0.1", "255.255.255.255", "::"],
)  # fmt: skip
def test_an_address_that_is_nobodys_business_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


async def test_a_host_written_as_a_number_is_looked_at_as_an_address() -> None:
    for host in ("2130706433", "0x7f.1", "127.1", "localhost"):
        with pytest.raises(DeliveryError):
            await resolve(host, 80, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a.de/",
        "http://",
        "https://user:pw@a.de/",
        "https://a.de:0/",
        "http://a.de:x/",
        "https://ä.de/",
        "javascript:x",
    ],
)
def test_what_is_no_address_for_a_webhook_is_refused(url: str) -> None:
    with pytest.raises(InvalidError):
        check_url(url)
