"""A question is searched with the other words for the same thing, and with those of the other language when asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vivace.apps.support.synonyms import NONE, SHOP, Term, Thesaurus
from vivace.apps.support.words import content_words, split_words

LAMPS = Thesaurus.of(("parcel, package, 包裹", "money back, refund, 退款"))


def test_other_words_for_the_same_come_with_it() -> None:
    assert LAMPS.expand("my package") == [Term("packag", ("parcel",))]


def test_a_phrase_is_known_whole() -> None:
    assert LAMPS.expand("money back") == [Term("money", ("refund",)), Term("back")]
    assert LAMPS.expand("my money") == [Term("money")]


def test_the_other_language_comes_when_asked() -> None:
    assert "parcel" not in LAMPS.expand("包裹")[0].others
    assert {"parcel", "packag"} <= set(LAMPS.expand("包裹", across=True)[0].others)


def test_concepts_are_the_same_in_both_languages() -> None:
    assert LAMPS.concepts("where is my parcel") == LAMPS.concepts("包裹在哪")
    assert NONE.concepts("parcel") == []


@given(st.text())
def test_what_was_asked_is_asked_first(question: str) -> None:
    words = list(dict.fromkeys(content_words(question) or split_words(question)))
    assert [term.word for term in SHOP.expand(question)] == words
    assert all(term.word not in term.others for term in SHOP.expand(question, across=True))
