"""A question is searched with the other words for the same thing, and with those of the other language when asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vivace.apps.support.synonyms import NONE, SHOP, WEAK, Term, Thesaurus
from vivace.apps.support.words import content_words, split_words

LAMPS = Thesaurus.of(("parcel, package, 包裹", "money back, refund, 退款"))


def test_other_words_for_the_same_come_with_it() -> None:
    assert LAMPS.expand("my package") == [Term("packag", ("parcel",))]


def test_a_phrase_is_known_whole() -> None:
    assert LAMPS.expand("money back") == [Term("money", ("refund",)), Term("back", ("refund",))]
    assert LAMPS.expand("my money") == [Term("money")]
    assert LAMPS.expand("refund") == [Term("refund", (), (("money", "back"),))]


def test_a_phrase_is_a_synonym_where_it_stands_whole() -> None:
    term = Term("refund", ("reimburs",), (("money", "back"),))
    assert term.has_synonym_in({"your", "money", "back"})
    assert term.has_synonym_in({"reimburs"})
    assert not term.has_synonym_in({"back", "in", "stock"})


def test_a_word_of_any_question_says_less() -> None:
    assert LAMPS.expand("is it possible to see a parcel") == [
        Term("possibl", weight=WEAK), Term("see", weight=WEAK), Term("parcel", ("packag",)),
    ]  # fmt: skip


def test_the_other_language_comes_when_asked() -> None:
    holders = {term.word: term.others for term in LAMPS.expand("包裹", across=True)}
    assert holders == {"包": (), "包裹": ("parcel", "packag"), "裹": ()}
    assert all(term.others == () for term in LAMPS.expand("包裹"))


def test_concepts_are_the_same_in_both_languages() -> None:
    assert LAMPS.concepts("where is my parcel") == LAMPS.concepts("包裹在哪")
    assert NONE.concepts("parcel") == []


@given(st.text())
def test_what_was_asked_is_asked_first(question: str) -> None:
    words = list(dict.fromkeys(content_words(question) or split_words(question)))
    assert [term.word for term in SHOP.expand(question)] == words
    assert all(term.word not in term.others for term in SHOP.expand(question, across=True))
