"""Sends the outbox: signed, bounded, tried again, and to public addresses only.

The name is resolved here, every address it has is looked at, and the connection goes to the one that was looked at: a
name that leads elsewhere a moment later gains nothing. Redirections are not followed. Knows no message's text.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import msgspec

from vivace.apps.support import webhooks
from vivace.apps.support.sessions import derive_key
from vivace.apps.support.store import Store
from vivace.apps.support.webhooks import Delivery
from vivace.apps.support.workers import Workers
from vivace.errors import SupportError

TIMEOUT_S = 10.0
LEASE_S = 60.0
AT_ONCE = 8

_logger = logging.getLogger("vivace.support.webhooks")


class DeliveryError(SupportError):
    """A webhook was not taken; the message says why, without what the other side wrote."""


def sign(secret: str, body: bytes, at: int) -> str:
    """The value of `X-Vivace-Signature`: HMAC-SHA256 of time and body."""
    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def make_secret(key: bytes, webhook_id: str) -> str:
    """Of one webhook: derived, so that it need not be kept."""
    return derive_key(key, f"webhook {webhook_id}").hex()


def is_public(address: str) -> bool:
    """Whether it is one of the Internet's: no loopback, private network, link-local (metadata) or multicast."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if parsed in ipaddress.ip_network("64:ff9b::/96"):  # NAT64 (RFC 6052)
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
    return parsed.is_global and not parsed.is_multicast


async def resolve(host: str, port: int, allow_private: bool) -> str:
    """An address of the host. Raises `DeliveryError` when it has none, or one that is not public."""
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DeliveryError("the host's name cannot be resolved") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private and not all(is_public(address) for address in addresses):
        raise DeliveryError("the host has an address that is not public")
    return addresses[0]


class Sender:
    """Takes what is due from the outbox, again and again, until it is cancelled."""

    def __init__(
        self, store: Store, workers: Workers, key: bytes, allow_private: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._workers = workers
        self._key = key
        self._allow_private = allow_private
        self._clock = clock
        self._awake = asyncio.Event()

    def wake(self) -> None:
        """There may be something new."""
        self._awake.set()

    async def run(self, interval_s: float = 5.0) -> None:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client:
            while True:
                self._awake.clear()
                try:
                    sent = await self.send_due(client)
                except Exception:
                    _logger.exception("webhooks cannot be sent; trying again")
                    sent = 0
                if not sent:
                    with_timeout = asyncio.wait_for(self._awake.wait(), interval_s)
                    await asyncio.gather(with_timeout, return_exceptions=True)

    async def send_due(self, client: httpx.AsyncClient) -> int:
        """One round; how many were tried."""
        due = await self._workers.run(self._store.write, webhooks.take_due, self._clock(), LEASE_S, AT_ONCE)
        await asyncio.gather(*(self._send(client, delivery) for delivery in due))
        return len(due)

    async def _send(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        error = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._post(client, delivery)
        except DeliveryError as failure:
            error = str(failure)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as failure:
            error = type(failure).__name__
        await self._workers.run(self._store.write, webhooks.note_end, delivery, error, self._clock())
        if error is not None:
            _logger.info("webhook", extra={"fields": {"webhook": delivery.webhook_id, "error": error}})

    async def _post(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        parts = urlsplit(delivery.url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        address = await resolve(host, port, self._allow_private)
        body = msgspec.json.encode(delivery.body)
        headers = {
            "host": parts.netloc,
            "content-type": "application/json",
            "user-agent": "vivace-support",
            "x-vivace-signature": sign(make_secret(self._key, delivery.webhook_id), body, int(self._clock())),
        }
        url = httpx.URL(delivery.url).copy_with(host=address)
        request = client.build_request(
            "POST", url, content=body, headers=headers, extensions={"sni_hostname": host, "timeout": _TIMEOUTS}
        )
        response = await client.send(request, stream=True)  # what it says is not read: its length is not ours to bound
        await response.aclose()
        if not response.is_success:
            raise DeliveryError(f"status {response.status_code}")


_TIMEOUTS = httpx.Timeout(TIMEOUT_S).as_dict()
