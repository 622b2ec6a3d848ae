"""The queue against a plain sort, and against time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_request
from vivace.budget import NO_BUDGET, Budget
from vivace.engine.policy import POLICIES, edf
from vivace.engine.request import PRIORITIES
from vivace.engine.sequence import Sequence
from vivace.engine.waiting import WaitingQueue

AGEING_S = 5.0


def make(
    arrival: int, priority: int = 5, ttft_ms: float = math.inf, latest_start: float = math.inf, tokens: int = 3
) -> Sequence:
    budget = Budget(ttft_ms=ttft_ms) if ttft_ms < math.inf else NO_BUDGET
    sequence = Sequence(make_request(str(arrival), [1] * tokens, budget=budget, priority=priority), arrival, 512)
    sequence.latest_start = latest_start
    return sequence


def take_all(queue: WaitingQueue, now: float) -> list[int]:
    order = []
    while (sequence := queue.first(now)) is not None:
        queue.remove(sequence)
        queue.check_integrity()
        order.append(sequence.arrival)
    return order


drawn = st.tuples(st.integers(0, 9), st.sampled_from([10.0, 20.0, 5000.0, math.inf]), st.integers(1, 40))


@given(st.lists(drawn, max_size=40), st.sampled_from(list(POLICIES)))
def test_who_waits_is_taken_by_priority_then_by_policy_then_by_arrival(
    waiting: list[tuple[int, float, int]], policy: str
) -> None:
    key = POLICIES[policy]
    queue = WaitingQueue(key, AGEING_S)
    sequences = [make(i, priority, ttft, tokens=tokens) for i, (priority, ttft, tokens) in enumerate(waiting)]
    for sequence in sequences:
        queue.add(sequence, 0.0)
    due = sorted(sequences, key=lambda sequence: (-sequence.request.priority, key(sequence), sequence.arrival))
    assert take_all(queue, 0.0) == [sequence.arrival for sequence in due]


Step = tuple[str, int, float]
operations = st.lists(
    st.tuples(st.sampled_from(["add", "add", "remove", "first", "wait"]), st.integers(0, 9), st.floats(0, 12)),
    max_size=60,
)


@given(operations)
def test_any_run_of_additions_removals_and_waits_agrees_with_a_list_that_is_sorted_anew(steps: list[Step]) -> None:
    queue = WaitingQueue(edf, AGEING_S)
    model: dict[int, tuple[Sequence, int, float]] = {}  # by arrival: level, and since when
    now = 0.0
    for arrival, (what, number, value) in enumerate(steps):
        if what == "add":
            urgent = now + value if number % 2 else math.inf
            sequence = make(arrival, number, 1000 * value + 1 if number % 2 else math.inf, urgent)
            queue.add(sequence, now)
            model[arrival] = sequence, number, now
        elif what == "remove" and model:
            sequence, _, _ = model.pop(sorted(model)[number % len(model)])
            queue.remove(sequence)
        elif what == "first":
            rescued = [(s.latest_start, s.arrival) for s, _, _ in model.values() if s.limited and s.latest_start <= now]
            if not rescued:
                model = {key: age(*entry, now) for key, entry in model.items()}
            ranked = [(-level, edf(sequence), key) for key, (sequence, level, _) in model.items()]
            due = min(rescued)[1] if rescued else min(ranked)[2] if ranked else None
            first = queue.first(now)
            assert (None if first is None else first.arrival) == due
        else:
            now += value
        queue.check_integrity()
        assert len(queue) == len(model)
        assert {sequence.id for sequence in queue} == {str(key) for key in model}
        assert all(str(key) in queue for key in model)


def age(sequence: Sequence, level: int, since: float, now: float) -> tuple[Sequence, int, float]:
    """One level higher for one look after the time, however long it has been."""
    return (sequence, level + 1, now) if level < 9 and now - since >= AGEING_S else (sequence, level, since)


def test_nobody_is_first_when_nobody_waits() -> None:
    assert WaitingQueue(edf, AGEING_S).first(1e9) is None


def test_whoever_would_miss_a_deadline_by_waiting_goes_before_any_priority() -> None:
    queue = WaitingQueue(edf, AGEING_S)
    queue.add(make(0, priority=9), 0.0)
    queue.add(make(1, priority=0, ttft_ms=100.0, latest_start=50.0), 0.0)
    first = queue.first(49.0)
    assert first is not None
    assert first.arrival == 0
    assert take_all(queue, 50.0) == [1, 0]


def test_of_several_that_would_miss_their_deadlines_the_one_that_must_start_first_does() -> None:
    queue = WaitingQueue(edf, AGEING_S)
    for arrival, start in enumerate((30.0, 10.0, 20.0)):
        queue.add(make(arrival, ttft_ms=1.0, latest_start=start), 0.0)
    assert take_all(queue, 40.0) == [1, 2, 0]


def test_the_lowest_priority_reaches_the_highest_in_the_end() -> None:
    """However many of high priority come: each looks for a place once, and stays away when it finds none."""
    queue = WaitingQueue(edf, AGEING_S)
    low = make(0, priority=0)
    queue.add(low, 0.0)
    for arrival in range(1, int(len(PRIORITIES) * AGEING_S) + 2):
        now = float(arrival)
        queue.add(make(arrival, priority=9), now)
        first = queue.first(now)
        assert first is not None
        if first is low:
            break
        queue.remove(first)
    assert low.level == 9


def test_integrity_notices_a_level_that_was_changed_behind_its_back() -> None:
    queue = WaitingQueue(edf, AGEING_S)
    sequence = make(0)
    queue.add(sequence, 0.0)
    sequence.level = 7
    with pytest.raises(AssertionError, match="another level"):
        queue.check_integrity()
