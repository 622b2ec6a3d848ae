from __future__ import annotations

import asyncio
import time

import pytest
import uvloop

from vivace.bench.timer import Alarm, clock


@pytest.mark.parametrize("precise", [True, False])
def test_moments_are_kept_in_their_order_and_never_early(precise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not precise:
        monkeypatch.setattr("sys.platform", "other")

    async def run() -> list[tuple[float, float]]:
        alarm = Alarm(asyncio.get_running_loop())
        start = clock()
        moments = [start + offset for offset in (0.02, 0.005, 0.01, 0.0051, -1.0)]
        met: list[tuple[float, float]] = []
        done = asyncio.Event()

        def meet(moment: float) -> None:
            met.append((moment, clock()))
            if len(met) == len(moments):
                done.set()

        for moment in moments:
            alarm.call_at(moment, lambda moment=moment: meet(moment))  # type: ignore[misc]
        await asyncio.wait_for(done.wait(), 5)
        await alarm.wait_until(clock() + 0.003)
        alarm.close()
        return met

    met = uvloop.run(run())
    assert [moment for moment, _ in met] == sorted(moment for moment, _ in met)
    assert all(now >= moment for moment, now in met)


def test_the_clock_is_the_machines_own() -> None:
    """Client processes compare each other's moments."""
    assert abs(clock() - time.clock_gettime(time.CLOCK_MONOTONIC)) < 0.01


def test_a_closed_alarm_calls_nothing() -> None:
    async def run() -> list[int]:
        alarm, called = Alarm(asyncio.get_running_loop()), list[int]()
        alarm.call_at(clock() + 0.005, lambda: called.append(1))
        alarm.close()
        await asyncio.sleep(0.02)
        return called

    assert uvloop.run(run()) == []
