"""Wakes the event loop at exact moments.

An event loop's own timers count whole milliseconds. Where Linux has timerfd, moments here are kept to some tens of
microseconds; elsewhere the loop's timers are used, and the send lag of a run shows what that costs.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import os
import sys
import time
from collections.abc import Callable

clock = time.perf_counter
"""Seconds of the machine's monotonic clock: the same in every process of one machine (Linux)."""

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Calls functions at moments of `clock`, in order. Close it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._armed = float("inf")
        self._handle: asyncio.TimerHandle | None = None
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC) if self._libc else -1
        if self._fd >= 0:
            loop.add_reader(self._fd, self._expired)

    def call_at(self, moment: float, function: Callable[[], None]) -> None:
        """Call `function` at `moment`, or at once if that has passed."""
        heapq.heappush(self._heap, (moment, next(self._count), function))
        if moment < self._armed:
            self._arm()

    async def wait_until(self, moment: float) -> None:
        """Return at `moment`; at once, without a turn of the loop, if it has passed."""
        if moment <= clock():
            return
        reached: asyncio.Future[None] = self._loop.create_future()
        self.call_at(moment, lambda: None if reached.done() else reached.set_result(None))
        await reached

    def close(self) -> None:
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _arm(self) -> None:
        self._armed = self._heap[0][0] if self._heap else float("inf")
        if self._fd < 0:
            self._arm_loop()
        elif self._heap:
            # The library's function checks nothing: a moment of zero would disarm, so it is never earlier than 1 ns.
            nanoseconds = max(1, int(self._armed * 1e9))
            value = _Timespec(nanoseconds // 10**9, nanoseconds % 10**9)
            assert self._libc is not None
            self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(_Itimerspec(_Timespec(0, 0), value)), None)

    def _arm_loop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0.0, self._armed - clock()), self._fire) if self._heap else None

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._fire()

    def _fire(self) -> None:
        try:
            while self._heap and self._heap[0][0] <= clock():
                heapq.heappop(self._heap)[2]()
        finally:  # an error of one must not cost the others their moments
            self._arm()
