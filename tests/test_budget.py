from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.budget import NO_BUDGET, Budget, Deadline, Timeline, parse_budget
from vivace.errors import ConfigError

milliseconds = st.floats(0, 1e7, allow_nan=False)


@given(milliseconds, milliseconds, milliseconds, milliseconds, milliseconds)
def test_the_total_is_the_sum_of_the_parts(
    preprocess: float, queue: float, prefill: float, decode: float, flush: float
) -> None:
    assert Timeline(preprocess, queue, prefill, decode, flush).total_ms == preprocess + queue + prefill + decode + flush


def test_a_timeline_begins_empty() -> None:
    assert Timeline().total_ms == 0.0


def test_as_dict_names_every_part_and_the_total_to_a_microsecond() -> None:
    timeline = Timeline(preprocess_ms=1.00049, queue_ms=2.0, prefill_ms=3.0, decode_ms=4.0, flush_ms=0.5)
    assert json.loads(json.dumps(timeline.as_dict())) == {
        "preprocess_ms": 1.0,
        "queue_ms": 2.0,
        "prefill_ms": 3.0,
        "decode_ms": 4.0,
        "flush_ms": 0.5,
        "total_ms": 10.5,
    }


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("ttft=200ms", Budget(ttft_ms=200)),
        ("ttft=0.2s,tpot=20ms,total=2s", Budget(200, 20, 2000)),
        ("ttft=200", Budget(ttft_ms=200)),
        ("e2e:1s ttft<30ms", Budget(ttft_ms=30, total_ms=1000)),
        ("ttft=50ms; tpot=5ms; total=300ms", Budget(50, 5, 300)),
    ],
)
def test_a_budget_is_read_in_either_unit(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "ttft", "ttft=", "ttft=0", "ttft=-1ms", "itl=3ms", "ttft=1,ttft=2", "ttft=1.2.3"])
def test_what_is_no_budget_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="ttft=200ms"):
        parse_budget(text)


@given(st.text(alphabet="tfpoal=0123456789.ms,: x", max_size=20))
def test_any_text_is_a_budget_or_a_clear_error(text: str) -> None:
    with suppress(ConfigError):
        assert parse_budget(text)


limits = st.one_of(st.just(math.inf), st.floats(1e-3, 1e6))
budgets = st.builds(Budget, limits, limits, limits)


@given(budgets, budgets)
def test_the_tighter_of_two_budgets_wins_part_by_part(one: Budget, other: Budget) -> None:
    both = one.tighten(other)
    assert both == other.tighten(one)
    assert both.tighten(one) == both
    assert all(
        value == min(one.as_dict().get(name, math.inf), other.as_dict().get(name, math.inf))
        for name, value in both.as_dict().items()
    )


def test_a_deadline_counts_from_the_first_byte() -> None:
    assert Budget(50, 5, 300).deadline(1000.0) == Deadline(1000.05, 1000.3, 0.005)
    assert NO_BUDGET.deadline(1000.0) == Deadline()


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (NO_BUDGET, True),
        (Budget(ttft_ms=6), True),
        (Budget(ttft_ms=5.9), False),
        (Budget(tpot_ms=4), True),
        (Budget(tpot_ms=3.9), False),
        (Budget(total_ms=19), True),
        (Budget(total_ms=18.9), False),
    ],
)
def test_each_part_of_a_budget_is_held_to(budget: Budget, kept: bool) -> None:
    assert budget.kept_by(Timeline(1, 2, 3, 12, 1), tokens=4) is kept


def test_one_token_has_no_time_per_further_token() -> None:
    assert Budget(tpot_ms=0.1).kept_by(Timeline(), tokens=1)
