"""Threads for whatever would hold the event loop: the database, passwords, retrieval, classification.

The queue is bounded: what would wait too long is refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from vivace.errors import BusyError

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A bounded pool of threads. Used from one event loop."""

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = threads + max_waiting
        self._busy = 0

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the call, made on a thread. Raises what it raises, and `BusyError` when too much waits.

        A caller that is cancelled leaves the call to run to its end.
        """
        if self._busy >= self._limit:
            raise BusyError("Too much is waiting for an answer here. Try again in a moment.", retry_after_s=1.0)
        self._busy += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *args, **kwargs))
        future.add_done_callback(self._count_down)
        return await asyncio.shield(future)

    def _count_down(self, future: asyncio.Future[T]) -> None:
        self._busy -= 1
        if not future.cancelled():
            future.exception()  # one that nobody waits for any more is no warning

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
