from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.errors import ConfigError
from vivace.fit.objective import NAMES, Constraint, Objective, format_value, parse_objective


def test_a_budget_is_read_with_its_units() -> None:
    objective = parse_objective("ttft_p99=30ms, tpot_p95=0.002s; total_p50=1.5s memory=500MB loss=2%")
    assert {one.name: one.limit for one in objective.constraints} == pytest.approx(
        {"ttft_p99": 30.0, "tpot_p95": 2.0, "total_p50": 1500.0, "memory": 500e6, "loss": 0.02}
    )


def test_what_is_printed_reads_as_the_same() -> None:
    objective = parse_objective("ttft_p99=30ms tpot_p99=2.5ms memory=500MB loss=2%")
    assert parse_objective(str(objective)) == objective


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "Write one such as"),
        ("speed=3", "there are ttft_p50"),
        ("ttft=30ms", "Write one of ttft_p50, ttft_p95, ttft_p99"),
        ("ttft_p90=30ms", "there are ttft_p50"),
        ("tpot_p99=2MB", "takes one of 'ms'"),
        ("memory=2ms", "takes one of 'b'"),
        ("loss=2ms", "takes one of '%'"),
        ("tpot_p99=0ms", "above 0"),
        ("tpot_p99=1e999ms", "above 0"),
        ("loss=1% loss=2%", "give one limit"),
        ("tpot_p99", "is no limit"),
        ("x" * 5000, "characters"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_remedy(text: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        parse_objective(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_objective(text)
    except ConfigError:
        return
    assert all(one.name in NAMES and 0 <= one.limit < math.inf for one in found.constraints)


def test_a_server_gets_a_budget_of_single_requests_only() -> None:
    budget = parse_objective("ttft_p50=10ms ttft_p99=30ms tpot_p95=2ms total_p50=100ms").budget
    assert (budget.ttft_ms, budget.tpot_ms, budget.total_ms) == (30.0, 2.0, math.inf)


LIMITS = Objective((Constraint("tpot_p99", 2.0), Constraint("loss", 0.02)))


def test_the_worst_limit_is_named_first_and_what_is_unknown_is_missed() -> None:
    assert [one.name for one in LIMITS.find_missed({"tpot_p99": 3.0, "loss": 0.2})] == ["loss", "tpot_p99"]
    assert [one.name for one in LIMITS.find_missed({"tpot_p99": 1.0})] == ["loss"]
    assert not LIMITS.find_missed({"tpot_p99": 2.0, "loss": 0.02})


def test_what_keeps_all_limits_comes_before_what_is_better_and_misses_one() -> None:
    kept, missed = {"tpot_p99": 2.0, "loss": 0.02}, {"tpot_p99": 2.1, "loss": 0.0}
    assert LIMITS.rank(kept) < LIMITS.rank(missed)


def test_preference_decides_among_those_that_keep_all() -> None:
    fast, good = {"tpot_p99": 0.5, "loss": 0.015}, {"tpot_p99": 1.9, "loss": 0.001}
    assert LIMITS.rank(good) < LIMITS.rank(fast)
    speed = Objective(LIMITS.constraints, "speed")
    assert speed.rank(fast) < speed.rank(good)


def test_a_limit_of_no_loss_is_kept_by_no_loss() -> None:
    none = Constraint("loss", 0.0)
    assert none.find_ratio(-0.001) == 0.0
    assert none.find_ratio(0.001) == math.inf


def test_values_have_their_units() -> None:
    assert [format_value("loss", 0.0213), format_value("memory", 5e8), format_value("ttft_p99", 1.5)] == [
        "2.13%",
        "500MB",
        "1.5ms",
    ]
