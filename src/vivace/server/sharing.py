"""One computed answer for all who ask the same: from the response cache, or together while it is under way.

Only what is sure to be answered the same again is shared: requests without chance, or with a seed of their own. A
request is recognised by a digest of what was decoded, before template and tokenizer; no text of it is kept. Knows
neither routes nor how an answer is computed.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec
from msgspec import structs

from vivace.sampling import LEAST_TEMPERATURE, GenerationDefaults
from vivace.server.answer import News, Reading, Settled
from vivace.server.cache import ResponseCache
from vivace.server.flights import Flights, Launch
from vivace.server.protocol import ChatRequest, CompletionRequest
from vivace.server.recording import Replay, is_worth_keeping, read_recording, record
from vivace.server.responses import ResponsesRequest

GenerationRequest = ChatRequest | CompletionRequest | ResponsesRequest

Outcome = Literal["hit", "miss", "shared", "bypass"]
"""How a request came by its answer: from the cache, computed and told to the cache, together with an equal one under
way, or computed with nothing looked up or kept."""

WITHOUT_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "service_tier",
        "stream",
        "stream_options",
    }
)
"""Fields that change nothing about an answer."""

PACE = frozenset({"budget", "priority", "on_deadline"})
"""Fields that change when an answer comes and whether it does, and nothing about a whole one."""

LARGE_BYTES = 32_768
"""A recording of this size takes so long to read that the event loop leaves it to a thread."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a request is recognised by."""

    answer: bytes
    """Equal for requests with the same answer."""
    flight: bytes
    """Equal for those that may also wait for it together."""


def find_keys(
    route: str, asked: GenerationRequest, defaults: GenerationDefaults, caller: str = "", pace: str = ""
) -> Keys | None:
    """Of a decoded request; None if chance has a part in its answer.

    `caller` is whatever else has to be equal for an answer to be shared, `pace` the terms on which it is wanted. Takes
    time in proportion to the request.
    """
    temperature = defaults.temperature if asked.temperature is None else asked.temperature
    if asked.seed is None and temperature >= LEAST_TEMPERATURE:
        return None
    fields = structs.asdict(asked) | {"temperature": temperature}
    told = {name: value for name, value in fields.items() if name not in WITHOUT_EFFECT and name not in PACE}
    answer = _digest([route, caller, told])
    return Keys(answer, _digest([answer, pace]))


def _digest(value: object) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(value)).digest()


@dataclass(frozen=True, slots=True)
class Directives:
    """What a request's Cache-Control says, as far as it concerns an answer that a request brings about (RFC 9111)."""

    store: bool = True
    """False: neither read, nor keep, nor share."""
    max_age_s: float | None = None
    """Read nothing as old as this; 0 reads nothing."""


def read_directives(header: str) -> Directives:
    """What is not understood asks for nothing."""
    parts = [part.strip().lower().partition("=") for part in header.split(",")]
    told = {name.strip(): value.strip().strip('"') for name, _, value in parts}
    age = told.get("max-age", "")
    max_age_s = float(min(int(age[:12]), 2**31)) if age.isascii() and age.isdecimal() else None
    return Directives("no-store" not in told, 0.0 if "no-cache" in told else max_age_s)


class Sharing:
    """Finds who can be answered without computing. For one event loop.

    Without a cache, only requests under way at the same time share. Recordings are written on the pool's threads.
    """

    def __init__(self, cache: ResponseCache | None, pool: Executor) -> None:
        self.cache = cache
        self.outcomes: Counter[Outcome] = Counter()
        self._flights = Flights()
        self._pool = pool

    @property
    def under_way(self) -> int:
        """Generations that can be joined."""
        return len(self._flights)

    async def open(
        self, keys: Keys | None, directives: Directives, arrived: float, launch: Launch
    ) -> tuple[Reading, Outcome]:
        """The answers to a request that arrived at a monotonic instant. Close them, whatever happens.

        Raises what `launch` raises, here or from the first read on.
        """
        if keys is None or not directives.store:
            self.outcomes["bypass"] += 1
            return await launch(), "bypass"
        replay = await self._find(keys, directives, arrived)
        if replay is not None:
            self.outcomes["hit"] += 1
            return replay, "hit"
        together = None if directives.max_age_s == 0 else self._flights.join(keys.flight, arrived)
        if together is not None:
            self.outcomes["shared"] += 1
            return together, "shared"
        self.outcomes["miss"] += 1
        return self._flights.start(keys.flight, arrived, launch, partial(self._keep, keys.answer)), "miss"

    async def _find(self, keys: Keys, directives: Directives, arrived: float) -> Replay | None:
        if self.cache is None or directives.max_age_s == 0:
            return None
        data = self.cache.get(keys.answer, directives.max_age_s)
        if data is None:
            return None
        if len(data) < LARGE_BYTES:
            recording = read_recording(data)
        else:
            recording = await asyncio.get_running_loop().run_in_executor(self._pool, read_recording, data)
        return Replay(recording, arrived, time.monotonic())

    async def _keep(self, key: bytes, news: News, outcome: Settled) -> None:
        if self.cache is not None and is_worth_keeping(news, outcome):
            data = await asyncio.get_running_loop().run_in_executor(self._pool, record, news, outcome)
            self.cache.put(key, data)


def write_outcome(outcome: Outcome | None) -> Mapping[str, str]:
    """As a header; none where nothing is shared."""
    return {} if outcome is None else {"x-vivace-cache": outcome}
