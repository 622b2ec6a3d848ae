from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.bench.calibrate import null_server
from vivace.bench.experiment import Experiment
from vivace.bench.schedule import Load
from vivace.bench.search import Trial, find_max, patience_s, try_rate
from vivace.bench.workload import Workload, parse_lengths
from vivace.budget import Budget


def trial(rate: float, kept: bool, valid: bool = True) -> Trial:
    return Trial(rate, kept, True, 100, 100, 1.0, valid)


@given(st.floats(0.01, 5000), st.floats(0.1, 100), st.floats(0.02, 0.5))
def test_the_interval_holds_the_highest_rate_and_is_as_narrow_as_asked(limit: float, start: float, wide: float) -> None:
    found = find_max(lambda rate: trial(rate, rate <= limit), start, wide)
    assert found.low <= limit
    if not found.stopped:
        assert found.low <= limit <= found.high
        assert found.high / found.low <= 1 + wide + 1e-9
    assert len(found.trials) <= 40


def test_a_budget_that_is_missed_at_any_rate_is_told_so() -> None:
    found = find_max(lambda rate: trial(rate, False), 1.0, 0.1)
    assert (found.low, bool(found.stopped)) == (0.0, True)
    alone = find_max(lambda rate: replace(trial(rate, False), in_flight=rate), 1.0, 0.1)
    assert len(alone.trials) == 5


def test_a_budget_that_is_always_kept_ends_at_the_highest_rate() -> None:
    found = find_max(lambda rate: trial(rate, True), 1.0, 0.1, highest=100)
    assert found.low >= 100
    assert math.isinf(found.high)


def test_a_client_that_cannot_keep_up_ends_the_search_with_what_is_known() -> None:
    found = find_max(lambda rate: trial(rate, rate < 5, valid=rate < 5), 1.0, 0.1)
    assert found.low == 4
    assert "client" in found.stopped


@pytest.mark.parametrize(("ttft_ms", "kept"), [(300, True), (5, False)])
def test_a_rate_is_tried_over_http(ttft_ms: float, kept: bool) -> None:
    workload = Workload(model="null", output_tokens=parse_lengths("2"))
    with null_server("--ttft-ms", "20") as url:
        limits = Budget(ttft_ms=ttft_ms)
        experiment = Experiment(url, workload, Load(rate=1, duration_s=1), limits, 0.7, calibrated=False)
        found = try_rate(experiment, None, 40.0, 1.0, 1.0)
    assert found.kept is kept
    assert found.offered > 20


def test_a_request_is_not_waited_for_long_after_it_missed_the_budget() -> None:
    limits = Budget(ttft_ms=100, tpot_ms=10)
    experiment = Experiment("http://h/v1", Workload(model="m"), Load(rate=1, duration_s=1), limits)
    assert patience_s(experiment) == 2.0
