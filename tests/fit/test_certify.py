"""What runs of a workload amount to, and what a variant's steps cost."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from tests.fakes import FakeClock, FakeRunner
from tests.fit.certificates import document
from vivace.batch import RunnerLimits
from vivace.budget import Budget
from vivace.errors import VivaceError
from vivace.fit.certify import describe_serving, serving, summarize_documents
from vivace.fit.settings import EngineSettings
from vivace.fit.steps import Lengths, fit_steps, measure_steps, solve_relative


def test_percentiles_are_given_where_the_sample_bears_them() -> None:
    large, small = (summarize_documents([document(n=n)], 0) for n in (800, 100))
    assert set(large.ttft.percentiles) == {"p50", "p95", "p99"}
    assert set(small.ttft.percentiles) == {"p50"}
    found = large.find("ttft_p50")
    assert found is not None
    assert found.low is not None and found.value is not None and found.high is not None  # noqa: PT018
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(10.0, rel=0.1)
    assert small.find("ttft_p99") is None


def test_a_request_without_an_answer_is_slower_than_any_other() -> None:
    found = summarize_documents([document(errors={"refused": 4, "http_504": 4, "timeout": 4})], 0)
    p99, p95 = found.find("ttft_p99"), found.find("ttft_p95")
    assert p99 is not None
    assert p99.value is None
    assert p95 is not None
    assert p95.value is not None
    assert found.values()["ttft_p99"] == math.inf
    assert (found.offered, found.answered, found.refused, found.late, found.failed) == (800, 788, 4, 4, 4)


def test_runs_are_taken_together() -> None:
    once, twice = (summarize_documents([document(seed=seed) for seed in range(runs)], 0) for runs in (1, 2))
    assert twice.offered == 2 * once.offered
    assert twice.requests_per_s == pytest.approx(once.requests_per_s)
    assert twice.ttft.n == 1600


def test_lengths_are_those_that_the_server_counted() -> None:
    found = summarize_documents([document()], 0)
    assert (found.prompt_tokens.median, found.answer_tokens.median) == (64.0, 32.0)
    assert found.prompt_tokens.sigma == pytest.approx(0.0)


def test_a_server_that_does_not_start_is_quoted() -> None:
    with pytest.raises(VivaceError, match="There is no directory"), serving(["/nowhere/at/all"]):
        pass


def test_settings_and_budget_are_said_in_full() -> None:
    said = describe_serving("mini", EngineSettings(threads=1), Budget(ttft_ms=30.0, tpot_ms=2.5))
    assert said[:2] == ["mini", "--no-certificate"]
    assert said[-2:] == ["--budget", "ttft=30.0ms,tpot=2.5ms"]
    assert "--budget" not in describe_serving("mini", EngineSettings(), Budget())


# Steps


def test_a_true_model_is_found_from_small_passes_and_large() -> None:
    work = [(1, 1, 100), (8, 8, 900), (64, 64, 9000), (96, 1, 4608), (384, 1, 70000), (16, 16, 16000)]
    true = (0.2, 0.03, 0.01, 4e-5)
    times = [[sum(c * x for c, x in zip(true, (1, *kind), strict=True))] * 5 for kind in work]
    found = fit_steps(work, times)
    assert astuple(found.cost) == pytest.approx(true)
    assert found.error < 1e-9
    assert found.noise < 1e-9


def test_a_stall_is_no_noise() -> None:
    work = [(1, 1, 100), (8, 8, 900), (64, 64, 9000), (96, 1, 4608)]
    times = [[float(sum(kind[:2]))] * 9 + [1000.0] for kind in work]
    assert fit_steps(work, times).noise < 0.05


def test_no_coefficient_is_negative() -> None:
    features = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    found = solve_relative(features, np.array([3.0, 2.0, 1.0]))
    assert min(found) == 0
    assert max(found) > 0


def test_steps_of_a_runner_are_timed_within_its_limits() -> None:
    """The fake checks every row against its limits, and takes as long for any pass."""
    clock = FakeClock()
    limits = RunnerLimits(slots=4, blocks=64, max_batch_tokens=40, context_length=128, vocab_size=32)
    found = measure_steps(FakeRunner(limits, clock=clock, pass_ms=2.0), Lengths(48, 16), clock, rounds=2)
    assert found.passes > 10
    assert found.cost.base_ms == pytest.approx(2.0)
    assert found.cost.step_ms(40, 4, 300) == pytest.approx(2.0)
    assert found.error < 1e-9
