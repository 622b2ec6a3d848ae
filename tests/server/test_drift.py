"""Live answers are watched against certified limits."""

from __future__ import annotations

import logging
import random

import pytest

from vivace.server.drift import LEAST, CertifiedLimit, DriftWatch

FIRST = CertifiedLimit("ttft_p99", "ttft", 0.99, 30.0)
EACH = CertifiedLimit("tpot_p50", "tpot", 0.5, 2.0)


def feed(watch: DriftWatch, n: int, late: float, seed: int = 0) -> None:
    """That share of first tokens is late."""
    generator = random.Random(seed)
    for _ in range(n):
        watch.observe(100.0 if generator.random() < late else 10.0, 1.0, 50.0)


def test_as_many_misses_as_the_limit_allows_are_no_drift(caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(20):
        watch = DriftWatch([FIRST])
        feed(watch, 2000, 0.01, seed)
        assert watch.describe() == ""
    assert caplog.messages == []


def test_many_more_are_drift_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = DriftWatch([FIRST, EACH])
    with caplog.at_level(logging.WARNING, "vivace.drift"):
        feed(watch, 1500, 0.2)
    assert watch.describe() == "ttft_p99"
    assert caplog.messages == ["drifted from the certificate"]
    fields = vars(caplog.records[0])["fields"]
    assert fields["limit"] == "ttft_p99"
    assert fields["missed_share"] > fields["allowed_share"]
    first, each = watch.states()
    assert first.answers == 1000
    assert first.missed_share == pytest.approx(0.2, abs=0.05)
    assert (each.missed_share, each.drifted) == (0.0, False)


def test_it_holds_again_once_no_more_are_late_than_it_allows(caplog: pytest.LogCaptureFixture) -> None:
    watch = DriftWatch([FIRST], window=200)
    with caplog.at_level(logging.WARNING, "vivace.drift"):
        feed(watch, 200, 0.5)
        feed(watch, 250, 0.0)
        feed(watch, 200, 0.5)
    assert caplog.messages == [
        "drifted from the certificate",
        "holds the certificate again",
        "drifted from the certificate",
    ]


def test_a_few_answers_say_nothing() -> None:
    watch = DriftWatch([FIRST])
    feed(watch, LEAST - 1, 1.0)
    assert watch.describe() == ""


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    watch = DriftWatch([EACH])
    watch.observe(1.0, None, 1.0)
    assert watch.states()[0].answers == 0


def test_a_request_that_its_deadline_ended_kept_nothing() -> None:
    watch = DriftWatch([FIRST, EACH])
    for _ in range(200):
        watch.observe_expired()
    assert watch.describe() == "ttft_p99, tpot_p50"
