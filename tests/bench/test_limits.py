from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.bench.limits import Attainment, Limits, parse_budget
from vivace.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("ttft=200ms", Limits(ttft_ms=200)),
        ("ttft=0.2s,tpot=20ms,total=2s", Limits(200, 20, 2000)),
        ("ttft=200", Limits(ttft_ms=200)),
        ("e2e:1s ttft<30ms", Limits(ttft_ms=30, total_ms=1000)),
    ],
)
def test_a_budget_is_read_in_either_unit(text: str, limits: Limits) -> None:
    assert parse_budget(text) == limits


@pytest.mark.parametrize("text", ["", "ttft", "ttft=", "ttft=0", "ttft=-1ms", "itl=3ms", "ttft=1,ttft=2", "ttft=1.2.3"])
def test_what_is_no_budget_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="ttft=200ms"):
        parse_budget(text)


@given(st.text(alphabet="tfpoal=0123456789.ms,: x", max_size=20))
def test_any_text_is_a_budget_or_a_clear_error(text: str) -> None:
    with suppress(ConfigError):
        assert parse_budget(text)


@pytest.mark.parametrize(
    ("kept", "offered", "verdict"), [(1000, 1000, "kept"), (98, 100, "missed"), (20, 20, "at risk"), (0, 0, "missed")]
)
def test_a_small_sample_does_not_show_that_a_budget_is_kept(kept: int, offered: int, verdict: str) -> None:
    assert Attainment(kept, offered, 0.99).verdict == verdict
