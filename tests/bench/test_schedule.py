from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.bench.schedule import ARRIVALS, Load, fix_times
from vivace.errors import ConfigError


@given(st.sampled_from(ARRIVALS), st.floats(0.5, 500), st.floats(0.1, 20), st.integers(0, 2**40))
def test_times_are_ordered_within_the_duration_and_the_seeds_alone(
    arrivals: str, rate: float, duration: float, seed: int
) -> None:
    load = Load(rate=rate, arrivals=arrivals, duration_s=duration)
    times = fix_times(load, seed)
    assert times == fix_times(load, seed)
    assert all(a <= b for a, b in pairwise(times))
    assert all(0 <= moment < duration for moment in times)


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_the_rate_is_kept(arrivals: str) -> None:
    times = fix_times(Load(rate=100, arrivals=arrivals, duration_s=200), 3)
    assert len(times) == pytest.approx(20_000, rel=0.06)


def test_poisson_gaps_are_exponential() -> None:
    times = fix_times(Load(rate=10, requests=20_000), 0)
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.01)


def test_constant_gaps_are_equal_and_bursts_come_at_once() -> None:
    assert fix_times(Load(rate=4, arrivals="constant", requests=3), 0) == [0, 0.25, 0.5]
    times = fix_times(Load(rate=4, arrivals="bursts", burst=5, requests=10), 0)
    assert len(set(times)) == 2


def test_a_trace_is_replayed_up_to_its_limits() -> None:
    load = Load(times=(0.0, 2.0, 1.0, 5.0), duration_s=4)
    assert fix_times(load, 0) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rate": 1.0, "concurrency": 2, "requests": 1},
        {"rate": -1.0, "requests": 1},
        {"rate": float("nan"), "requests": 1},
        {"rate": 1.0},
        {"rate": 1.0, "requests": 1, "arrivals": "often"},
    ],
)
def test_a_load_that_cannot_be_offered_is_refused_with_the_option_to_give(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Load(**options)
