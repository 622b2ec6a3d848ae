"""Prompt lookup: what followed before is proposed again, at a bounded cost."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from vivace.engine.proposer import Ask, PromptLookup, Proposal


def look_up(tokens: Sequence[int], limit: int = 4, proposer: PromptLookup | None = None) -> Proposal | None:
    return (proposer or PromptLookup()).propose([Ask("a", tokens, limit)])[0]


def test_what_followed_the_same_tokens_is_proposed() -> None:
    assert look_up([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]) == Proposal([4, 5, 6, 9], 3)


def test_the_longest_match_wins_and_of_equals_the_newest() -> None:
    longer_earlier = [7, 1, 2, 3, 50, 0, 8, 1, 2, 3, 60, 0, 7, 1, 2, 3]
    assert look_up(longer_earlier, 1) == Proposal([50], 4)
    equals = [1, 2, 3, 50, 0, 1, 2, 3, 60, 9, 1, 2, 3]
    assert look_up(equals, 1) == Proposal([60], 3)


def test_a_loop_is_unrolled_past_the_end_of_what_is_known() -> None:
    assert look_up([9, 5, 6, 5, 6, 5, 6], 5) == Proposal([5, 6, 5, 6, 5], 4)
    assert look_up([5, 5, 5, 5], 3) == Proposal([5, 5, 5], 3)


def test_nothing_is_proposed_without_a_match() -> None:
    assert look_up([1, 2, 3, 4, 5]) is None
    assert look_up([1, 2]) is None
    assert look_up([1]) is None


def test_sequences_do_not_see_each_other() -> None:
    proposer = PromptLookup()
    answers = proposer.propose([Ask("a", [1, 2, 3, 4], 2), Ask("b", [1, 2, 3], 2)])
    assert answers == [None, None]


def test_what_has_ended_is_forgotten_and_makes_room_for_others() -> None:
    proposer = PromptLookup(max_indexed=10)
    repeating = [1, 2, 3, 4, 1, 2, 3]
    assert look_up(repeating, 1, proposer) == Proposal([4], 3)
    assert proposer.propose([Ask("b", repeating, 1)]) == [None]
    proposer.forget("a")
    proposer.forget("never asked about")
    assert proposer.propose([Ask("b", repeating, 1)]) == [Proposal([4], 3)]
    assert proposer.propose([Ask("b", [*repeating, 1, 2, 3, 4], 1)]) == [None]


def longest_earlier_match(tokens: Sequence[int], least: int, most: int) -> int:
    """By the definition: how long a suffix is found again with something after it; 0 if below `least`."""
    for length in range(min(most, len(tokens) - 1), least - 1, -1):
        suffix = tokens[len(tokens) - length :]
        if any(tokens[i : i + length] == suffix for i in range(len(tokens) - length)):
            return length
    return 0


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.data())
def test_any_growth_gives_the_longest_match_there_is(tokens: list[int], data: st.DataObject) -> None:
    proposer, known = PromptLookup(candidates=1000), 0
    while known < len(tokens):
        known = data.draw(st.integers(known + 1, len(tokens)))
        found = look_up(tokens[:known], 3, proposer)
        due = longest_earlier_match(tokens[:known], 3, 16)
        assert (found.strength if found else 0) == due
        assert found is None or len(found.tokens) == 3
