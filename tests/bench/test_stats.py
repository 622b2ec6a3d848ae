from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivace.bench.stats import (
    SequentialTest,
    compare_pairs,
    highest_supported,
    quantile,
    quantile_interval,
    required_sample,
    share_interval,
    summarize,
    verdict_of,
)

VALUES = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300)


@pytest.mark.parametrize(("q", "n"), [(0.99, 662), (0.999, 6636), (0.5, 11), (0.9, 64)])
def test_a_percentile_takes_as_many_values_as_order_statistics_say(q: float, n: int) -> None:
    assert required_sample(q) == n


@given(st.floats(0.05, 0.9995), st.floats(0.5, 0.999))
def test_the_required_sample_is_the_least_that_leaves_two_values_beyond(q: float, confidence: float) -> None:
    def at_most_one_beyond(n: int) -> float:
        return float(q**n + n * (1 - q) * q ** (n - 1))

    n = required_sample(q, confidence)
    assert at_most_one_beyond(n) <= 1 - confidence
    assert n == 2 or at_most_one_beyond(n - 1) > 1 - confidence


@given(VALUES, st.floats(0.001, 1))
def test_a_quantile_is_a_value_with_its_share_at_or_below(values: list[float], q: float) -> None:
    ordered = np.sort(np.array(values))
    found = quantile(ordered, q)
    assert found in values
    assert np.mean(ordered <= found) >= q - 1e-6
    assert np.mean(ordered < found) <= q + 1e-6


@settings(deadline=None)
@given(VALUES)
def test_only_percentiles_that_the_sample_bears_are_given(values: list[float]) -> None:
    summary = summarize(values)
    assert summary is not None
    told = summary.as_dict()
    assert set(told) >= {"p50", "p90", "p99"}
    assert (told["p99"] is None) == (len(values) < 662)
    assert (told["p50"] is None) == (len(values) < 11)
    assert list(summary.percentiles.values()) == sorted(summary.percentiles.values())
    assert summary.n == len(values)


def test_nothing_has_no_summary_and_nan_is_nothing() -> None:
    assert summarize([]) is None
    assert summarize([math.nan]) is None
    found = summarize([math.nan, 1.0])
    assert found is not None
    assert found.n == 1


@settings(deadline=None)
@given(VALUES, st.sampled_from([0.5, 0.9, 0.99]))
def test_an_interval_holds_the_estimate_and_lies_in_the_sample(values: list[float], q: float) -> None:
    ordered = np.sort(np.array(values))
    low, high = quantile_interval(ordered, q)
    assert ordered[0] <= low <= high <= ordered[-1]
    assert (low, high) == quantile_interval(ordered, q)


def test_the_medians_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    samples = [np.sort(generator.exponential(1.0, 200)) for _ in range(400)]
    intervals = [quantile_interval(sample, 0.5, seed) for seed, sample in enumerate(samples)]
    covered = np.mean([low <= math.log(2) <= high for low, high in intervals])
    assert 0.91 <= covered <= 0.98


def test_the_furthest_percentile_is_the_one_the_sample_bears() -> None:
    assert highest_supported(5) is None
    assert highest_supported(70) == ("p90", 0.9)
    assert highest_supported(10**6) == ("p99", 0.99)


@given(st.integers(0, 500), st.integers(1, 500))
def test_a_shares_interval_holds_the_share(hits: int, n: int) -> None:
    hits = min(hits, n)
    low, high = share_interval(hits, n)
    assert 0 <= low <= hits / n + 1e-12
    assert hits / n - 1e-12 <= high <= 1


def draw_pairs(seed: int, ratio: float, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    base = generator.lognormal(3, 0.5, n)
    noise = generator.lognormal(0, 0.03, (2, n))
    return base * noise[0], base * ratio * noise[1]


@pytest.mark.parametrize(("ratio", "verdict"), [(1.05, "worse"), (0.95, "better"), (1.0, "no evidence")])
def test_a_difference_of_five_percent_is_found_and_none_invented(ratio: float, verdict: str) -> None:
    verdicts = [verdict_of(compare_pairs(*draw_pairs(seed, ratio), seed=seed), 0.01) for seed in range(20)]
    assert verdicts.count(verdict) >= 19


def test_one_stall_of_one_side_is_not_taken_for_a_slower_server() -> None:
    a, b = draw_pairs(0, 1.0)
    b[:20] *= 50
    assert verdict_of(compare_pairs(a, b), 0.01) == "no evidence"


@settings(max_examples=30, deadline=None)
@given(VALUES.filter(lambda values: len(values) >= 4))
def test_a_comparison_with_itself_is_exactly_equal(values: list[float]) -> None:
    effect = compare_pairs(values, values)
    assert effect.ratio == effect.low == effect.high == 1.0
    assert verdict_of(effect, 0.0) == "no evidence"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(1.02, 3))
def test_a_comparison_turned_round_is_turned_round(seed: int, ratio: float) -> None:
    a, b = draw_pairs(seed, ratio, 60)
    forth, back = compare_pairs(a, b), compare_pairs(b, a)
    assert forth.ratio == pytest.approx(1 / back.ratio)


def test_whole_blocks_are_resampled() -> None:
    """Two blocks that disagree leave the ratio open, however many pairs they hold."""
    a = np.ones(1000)
    b = np.where(np.arange(1000) < 500, 0.9, 1.2)
    labels = (np.arange(1000) >= 500).astype(int)
    effect = compare_pairs(a, b, labels)
    assert effect.low < 1 < effect.high


@pytest.mark.parametrize(("misses", "kept"), [(0.002, True), (0.05, False)])
def test_the_sequential_test_tells_good_rates_from_bad_ones(misses: float, kept: bool) -> None:
    right = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        test = SequentialTest(0.01)
        while test.verdict is None:
            missed = bool(generator.random() < misses)
            test.add(not missed, missed)
        right += test.verdict == kept
    assert right >= 95


def test_plain_cases_are_decided_early() -> None:
    test = SequentialTest(0.01)
    test.add(0, 3)
    assert test.verdict is False
