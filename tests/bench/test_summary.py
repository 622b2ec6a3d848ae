"""The definitions, on numbers made by hand."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.bench.limits import is_kept
from vivace.bench.observation import Observation
from vivace.bench.processes import Measured
from vivace.bench.schedule import Load
from vivace.bench.summary import check_client, raw_arrays, summarize_run, waiting_client
from vivace.bench.worker import Outcome
from vivace.budget import NO_BUDGET, Budget

OPEN = Load(rate=10, requests=1)


def observe(
    index: int = 0, scheduled: float = 100.0, first: float = 0.1, last: float = 0.3, **more: Any
) -> Observation:
    """First and last fragment in seconds after the scheduled moment; sent at once."""
    options: dict[str, Any] = {"dispatched": scheduled, "sent": scheduled, "status": 200} | more
    times = {"first": scheduled + first, "last": scheduled + last, "ended": scheduled + last}
    return Observation(index=index, scheduled=scheduled, **(times | options))


def measure(*seen: Observation, lags_ms: list[float] | None = None, cpu_s: float = 0.1) -> Measured:
    ended = max((one.ended or one.scheduled for one in seen), default=101.0)
    lags = lags_ms or [0.0]
    outcome = Outcome(
        observations=list(seen),
        started=100.0,
        ended=ended,
        ticks=[100.0 + 0.005 * i for i in range(len(lags))],
        lags_ms=lags,
        cpu_s=cpu_s,
        connections=1,
    )
    return Measured((outcome,), "")


def summarize(*seen: Observation, load: Load = OPEN, limits: Budget = NO_BUDGET) -> dict[str, Any]:
    return summarize_run(measure(*seen), load, limits, 0.99, None, 0)


def test_times_run_from_the_scheduled_moment_and_service_times_from_the_sending() -> None:
    one = observe(sent=100.05)
    assert one.ttft_ms == pytest.approx(100)
    assert one.e2e_ms == pytest.approx(300)
    assert one.service_ttft_ms == pytest.approx(50)


@given(st.integers(2, 50), st.floats(0.001, 5), st.floats(0, 5))
def test_time_per_token_is_between_the_first_and_the_last_over_one_less(n: int, first: float, more: float) -> None:
    one = observe(first=first, last=first + more, tokens=n)
    assert one.e2e_ms is not None
    assert one.ttft_ms is not None
    assert one.tpot_ms == pytest.approx((one.e2e_ms - one.ttft_ms) / (n - 1), abs=1e-6)


@pytest.mark.parametrize("tokens", [None, 0, 1])
def test_time_per_token_is_undefined_below_two_tokens(tokens: int | None) -> None:
    assert observe(tokens=tokens).tpot_ms is None
    assert summarize(observe(tokens=tokens))["tpot_ms"] is None


def test_gaps_are_between_tokens_only_where_each_chunk_brought_one() -> None:
    arrivals = [100.1, 100.2, 100.4]
    one = observe(arrivals=arrivals, chunks=3, tokens=3)
    assert one.gaps_ms == pytest.approx([100, 200])
    assert summarize(one)["inter_token_ms"]["n"] == 2
    lumped = summarize(observe(arrivals=arrivals, chunks=3, tokens=9))
    assert lumped["inter_token_ms"] is None
    assert lumped["inter_chunk_ms"]["n"] == 2


def test_speed_in_characters_is_their_number_over_the_time_they_came_in() -> None:
    assert summarize(observe(characters=40))["characters_per_s"]["mean"] == pytest.approx(200)


def test_a_stall_is_met_once_by_a_client_that_waits() -> None:
    seen = [observe(i, 100 + i / 10, 0.01, 0.02) for i in range(100)]
    for i in range(50, 60):  # all of a second's requests are answered at its end
        late = 106.0 - seen[i].scheduled
        seen[i] = observe(i, seen[i].scheduled, late, late + 0.01)
    corrected = [one.ttft_ms or 0.0 for one in seen]
    naive, _ = waiting_client(seen, Load(rate=10, requests=100))
    assert sum(value > 150 for value in corrected) == 9
    assert sum(value > 150 for value in naive) == 1
    assert len(naive) == 100


def test_without_a_stall_a_waiting_client_sees_the_service_times() -> None:
    seen = [observe(i, 100 + i, 0.01, 0.02) for i in range(50)]
    naive, _ = waiting_client(seen, OPEN)
    assert naive == pytest.approx([10.0] * 50)


def test_attainment_is_of_all_that_were_offered() -> None:
    good = [observe(i) for i in range(8)]
    bad = [observe(8, error="refused", first=0.0), observe(9, first=0.5, last=0.6)]
    budget = summarize(*good, *bad, limits=Budget(ttft_ms=200))["budget"]
    assert (budget["kept"], budget["offered"]) == (8, 10)
    assert budget["verdict"] == "missed"


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (Budget(ttft_ms=100.1), True),
        (Budget(ttft_ms=99), False),
        (Budget(total_ms=299), False),
        (Budget(tpot_ms=100.1), True),
        (Budget(tpot_ms=99), False),
    ],
)
def test_each_limit_is_held_to(limits: Budget, kept: bool) -> None:
    assert is_kept(limits, observe(tokens=3)) is kept


def test_a_limit_on_what_is_not_known_is_missed_and_on_what_is_not_there_is_kept() -> None:
    assert not is_kept(Budget(tpot_ms=1e6), observe(tokens=None))
    assert is_kept(Budget(tpot_ms=1e-6), observe(tokens=1))


def test_tokens_that_came_after_the_end_are_not_throughput() -> None:
    arrivals = [100.5, 100.9, 101.5, 102.0]
    one = observe(arrivals=arrivals, chunks=4, tokens=8, first=0.5, last=2.0)
    found = summarize(one, load=Load(rate=10, duration_s=1))["throughput"]
    assert found["output_tokens_per_s"] == pytest.approx(4)
    assert found["requests_per_s"] == 0


def test_throughput_in_tokens_is_unknown_when_one_count_is() -> None:
    assert summarize(observe(tokens=3), observe(1))["throughput"]["output_tokens_per_s"] is None


def test_failures_are_counted_by_kind_with_the_first_message() -> None:
    found = summarize(observe(error="timeout", message="a"), observe(1, error="timeout", message="b"), observe(2))
    assert found["requests"]["failed"] == 2
    assert found["requests"]["errors"] == [{"kind": "timeout", "count": 2, "first": "a"}]


def test_a_client_that_sends_late_makes_the_run_invalid() -> None:
    late = [observe(i, dispatched=100.05, sent=100.05) for i in range(20)]
    client = check_client(measure(*late), late, None)
    assert not client["valid"]
    assert client["share_of_tail"] == pytest.approx(0.5)


def test_waiting_for_a_free_connection_is_not_the_clients_doing() -> None:
    waited = [observe(i, sent=100.05, waited=True) for i in range(20)]
    assert check_client(measure(*waited), waited, None)["valid"]


def test_a_loop_that_was_late_when_the_answer_came_counts() -> None:
    seen = [observe(i) for i in range(20)]
    assert check_client(measure(*seen, lags_ms=[0.0] * 60), seen, None)["valid"]
    lags = [0.0] * 19 + [30.0] * 3 + [0.0] * 40
    assert not check_client(measure(*seen, lags_ms=lags), seen, None)["valid"]


def test_a_client_with_no_time_left_makes_the_run_invalid() -> None:
    seen = [observe(i) for i in range(20)]
    client = check_client(measure(*seen, cpu_s=0.29), seen, None)
    assert not client["valid"]
    assert "busy" in client["reasons"][0]


def test_raw_columns_are_all_of_one_length() -> None:
    raw = raw_arrays(measure(observe(), observe(1, error="x"), observe(2)))
    assert {len(column) for column in raw.values()} == {3}


def test_nothing_answered_is_summarized_too() -> None:
    found = summarize(observe(error="timeout", message="a"))
    assert found["ttft_ms"] is None
    assert found["requests"]["answered"] == 0


def test_requests_that_all_fall_due_at_one_moment_take_no_more_connections_than_there_are_requests() -> None:
    seen = [observe(i) for i in range(8)]
    tracemalloc.start()
    try:
        summarize(*seen)
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()
