"""The orders of work."""

from __future__ import annotations

import pytest

from tests.fakes import make_request
from vivace.budget import NO_BUDGET, Budget
from vivace.engine.policy import POLICIES, Policy, edf, fifo, shortest
from vivace.engine.sequence import PATIENCE_S, Sequence


def make(arrival: int, budget: Budget = NO_BUDGET, prompt: int = 3, max_tokens: int = 8, expected: int = 0) -> Sequence:
    request = make_request(
        str(arrival), [1] * prompt, max_tokens, arrived=1000.0 + arrival, budget=budget, expected_tokens=expected
    )
    return Sequence(request, arrival, 512)


def order(policy: Policy, *sequences: Sequence) -> list[int]:
    return [sequence.arrival for sequence in sorted(sequences, key=policy)]


def test_first_come_is_first_served_whatever_the_deadline() -> None:
    assert order(fifo, make(2, Budget(ttft_ms=1)), make(0), make(1, Budget(total_ms=1))) == [0, 1, 2]


def test_the_earliest_deadline_goes_first_be_it_of_the_first_token_or_of_the_last() -> None:
    late, total, first = make(0, Budget(ttft_ms=9000)), make(1, Budget(total_ms=5000)), make(2, Budget(ttft_ms=3000))
    assert order(edf, late, total, first) == [2, 1, 0]


def test_who_has_no_deadline_is_patient_but_not_for_ever() -> None:
    patient = make(0)
    assert order(edf, patient, make(1, Budget(ttft_ms=1000 * PATIENCE_S - 1500))) == [1, 0]
    assert order(edf, patient, make(1, Budget(ttft_ms=1000 * PATIENCE_S - 500))) == [0, 1]
    assert order(edf, patient, make(1, Budget(ttft_ms=1e9))) == [0, 1]


def test_the_least_work_goes_first_counted_by_the_answer_that_is_expected() -> None:
    assert order(shortest, make(0, prompt=20), make(1, max_tokens=5), make(2, max_tokens=400, expected=1)) == [2, 1, 0]


def test_what_is_computed_already_is_no_work() -> None:
    begun = make(0, prompt=50)
    begun.computed = 48
    assert order(shortest, make(1, prompt=10), begun) == [0, 1]


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_orders_every_sequence(name: str) -> None:
    keys = [POLICIES[name](make(i, Budget(tpot_ms=5) if i % 2 else NO_BUDGET)) for i in range(4)]
    assert all(isinstance(key, (int, float)) and key < float("inf") for key in keys)
