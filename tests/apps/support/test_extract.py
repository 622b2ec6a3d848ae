"""The answer without a model is the passage's own words, and none where the passages do not answer."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from vivace.apps.support.extract import MAX_CHARACTERS, answer_from
from vivace.apps.support.index import Hit

TEXT = "We open at ten.\nPlants ship on Mondays. Parcels wait 10 days. " + "Then they come back to us. " * 30
HIT = Hit(1, "a", 1, "Shipping", "", TEXT, 1.0, 1)


def test_the_answer_holds_the_sentence_that_fits_and_what_stands_before_it() -> None:
    assert answer_from([HIT], "when do plants ship").startswith("We open at ten.\nPlants ship on Mondays. Parcels wait")


def test_it_begins_later_where_what_is_asked_stands_too_far_below() -> None:
    text = "We sell lamps and plates. " * 20 + "Parcels wait 10 days. Then they come back."
    answer = answer_from([replace(HIT, text=text)], "how many days do parcels wait")
    assert "Parcels wait 10 days." in answer
    assert len(answer) <= MAX_CHARACTERS


def test_a_synonym_finds_the_sentence_too() -> None:
    text = "We sell lamps and plates. " * 20 + "Parcels wait 10 days."
    assert answer_from([replace(HIT, text=text)], "package").endswith("Parcels wait 10 days.")


def test_it_is_word_for_word_and_no_longer_than_the_limit() -> None:
    answer = answer_from([HIT], "when do you open")
    assert answer in TEXT
    assert len(answer) <= MAX_CHARACTERS


def test_there_is_none_where_the_first_hit_covers_too_little() -> None:
    assert answer_from([replace(HIT, score=0.2)], "when do plants ship") == ""
    assert answer_from([], "when do plants ship") == ""
    assert answer_from([HIT], "?!") == ""


@given(st.text(min_size=1, max_size=300), st.text(max_size=60))
def test_any_passage_is_quoted_as_it_is(text: str, question: str) -> None:
    if text.strip():
        assert answer_from([replace(HIT, text=text)], question) in text
