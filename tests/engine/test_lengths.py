"""How long answers get, against the definition of the estimator and against answers drawn from a known distribution."""

from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.engine.lengths import ENOUGH, REFIT, WINDOW, Lengths, estimate_quantile

Seen = list[tuple[int, bool]]
answers = st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=60)


def survival(seen: Seen, length: int) -> float:
    """The share of answers longer than `length`, by the definition: every length counted over all answers anew."""
    share = 1.0
    for n in range(length + 1):
        reached = sum(tokens >= n for tokens, _ in seen)
        ended = sum(tokens == n and by_itself for tokens, by_itself in seen)
        share *= 1 - ended / reached if reached else 1.0
    return share


@given(answers, st.sampled_from([0.5, 0.9, 0.95]))
def test_the_quantile_is_the_first_length_that_enough_answers_do_not_exceed(seen: Seen, quantile: float) -> None:
    by_hand = (n for n in range(14) if survival(seen, n) <= 1 - quantile + 1e-9)
    found = estimate_quantile(deque(seen), quantile)
    expected = next(by_hand, None)
    if expected is None or found is None:
        assert found is expected
    else:
        assert found == min(tokens for tokens, _ in seen if tokens >= expected)


@given(st.lists(st.integers(0, 500), min_size=1, max_size=200))
def test_of_answers_that_all_ended_by_themselves_it_is_the_plain_quantile(lengths: list[int]) -> None:
    found = estimate_quantile(deque((length, True) for length in lengths), 0.95)
    assert found is not None
    assert sum(length <= found for length in lengths) >= 0.95 * len(lengths) - 1e-6
    assert sum(length < found for length in lengths) < 0.95 * len(lengths)


@given(answers)
def test_answers_that_ran_into_a_limit_never_make_the_estimate_shorter(seen: Seen) -> None:
    ended = [(tokens, True) for tokens, _ in seen]
    found, plain = estimate_quantile(deque(seen), 0.9), estimate_quantile(deque(ended), 0.9)
    assert plain is not None
    assert found is None or found >= plain


def test_censored_answers_count_for_as_long_as_they_were_seen() -> None:
    """The example of a survival table worked by hand: 1 (4/5), 3 (4/5 * 2/3), 5 (0); at 2 one was cut."""
    seen: deque[tuple[int, bool]] = deque([(1, True), (2, False), (3, True), (4, False), (5, True)])
    assert estimate_quantile(seen, 0.2) == 1
    assert estimate_quantile(seen, 0.4) == 3
    assert estimate_quantile(seen, 0.5) == 5
    assert estimate_quantile(seen, 0.9) == 5


def test_a_limit_on_most_answers_does_not_hide_how_long_they_would_be() -> None:
    rng = random.Random(4)
    lengths = Lengths()
    for _ in range(WINDOW):
        wanted, limit = rng.expovariate(1 / 40), rng.choice((30, 400))
        lengths.observe(int(min(wanted, limit)) + 1, ended=wanted < limit)
    assert 90 < lengths.expect(10**6) < 160  # the 95th percentile of the distribution is 120


def test_nothing_is_known_before_enough_answers() -> None:
    lengths = Lengths()
    for _ in range(ENOUGH - 1):
        lengths.observe(3, ended=True)
        assert lengths.expect(4096) == 4096
    lengths.observe(3, ended=True)
    assert lengths.expect(4096) == 3


def test_nothing_is_known_when_every_answer_ran_into_its_limit() -> None:
    lengths = Lengths()
    for _ in range(WINDOW):
        lengths.observe(16, ended=False)
    assert lengths.expect(4096) == 4096


def test_no_more_is_counted_on_than_was_asked_for_and_never_less_than_one() -> None:
    lengths = Lengths()
    for _ in range(ENOUGH):
        lengths.observe(0, ended=True)
    assert lengths.expect(4096) == 1
    for _ in range(WINDOW):
        lengths.observe(100, ended=True)
    assert lengths.expect(16) == 16
    assert lengths.expect(4096) == 100


def test_answers_of_long_ago_are_forgotten() -> None:
    lengths = Lengths()
    for _ in range(WINDOW):
        lengths.observe(500, ended=True)
    assert lengths.expect(4096) == 500
    for _ in range(WINDOW + REFIT):
        lengths.observe(10, ended=True)
    assert lengths.expect(4096) == pytest.approx(10)
