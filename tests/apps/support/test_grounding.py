"""An answer is let through if its passages say it; each way to go wrong has its reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.apps.support.grounding import check_answer, cite, numbers
from vivace.apps.support.index import Hit
from vivace.apps.support.passages import cut_passages
from vivace.apps.support.sample import load_sample

PASSAGES = [
    "You may return most items within 45 days of delivery. Plants cannot be returned after 14 days.",
    "Returns within the United States cost 4.90 dollars. They are free if the item is faulty.",
    "大多数商品在送达后45天内可以退货。定制灯罩不能退货。",
]


@pytest.mark.parametrize(
    "answer",
    [
        "You may return most items within 45 days of delivery.",
        "You can return most items within forty-five days. A return costs 4.90 dollars.",
        "Hello! Thanks for asking. Returns are free if the item is faulty. Let me know if you need anything else!",
        "Plants can't be returned after 14 days [1].",
        "1. Return the items within 45 days.\n2. Faulty items are free.",
        "Yes, you can return most items, within 45 days of the delivery.",
        "No, plants cannot be returned after 14 days.",
        "A return within the United States costs 4.90 dollars, and is free if the item is faulty.",
    ],
)
def test_what_the_passages_say_is_supported(answer: str) -> None:
    verdict = check_answer(answer, PASSAGES, "en", True)
    assert verdict.reasons == ()
    assert verdict.supported
    assert verdict.overlap > 0.6


def test_chinese_is_checked_alike() -> None:
    assert check_answer("您好！商品在送达后四十五天内可以退货。", PASSAGES, "zh", True).supported
    assert "number" in check_answer("商品在送达后30天内可以退货。", PASSAGES, "zh", True).reasons
    assert "contradiction" in check_answer("定制灯罩可以退货。", PASSAGES, "zh", True).reasons


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        ("   [1]", "empty"),
        ("You may return most items within", "unfinished"),
        ("You may return most items. You may return most items.", "repeats"),
        ("return the items return the items return the items return the items within 45 days.", "repeats"),
        ("大多数商品在送达后45天内可以退货。", "language"),
        ("Our chief engineer recommends quantum batteries for every spaceship.", "beyond_passages"),
        ("Return the United delivery items free of days.", "scattered"),
        ("Faulty plants cost 45 dollars to return.", "scattered"),
        ("You may return most items within 14 to 45 days.", "scattered"),
        ("If you do not know.", "says_nothing"),
        ("You may return most items within 90 days of delivery.", "number"),
        ("You may return most items within ninety days of delivery.", "number"),
        ("You may return most items within 14 days of delivery.", "contradiction"),
        ("You may not return most items within 45 days of delivery.", "contradiction"),
        ("Plants can be returned after 14 days.", "contradiction"),
    ],
)
def test_each_way_to_go_wrong_has_its_reason(answer: str, reason: str) -> None:
    verdict = check_answer(answer, PASSAGES, "en", True)
    assert reason in verdict.reasons
    assert not verdict.supported


def test_an_answer_cut_at_a_limit_is_unfinished() -> None:
    assert check_answer("You may return most items.", PASSAGES, "en", False).reasons == ("unfinished",)


def test_without_passages_only_courtesy_is_supported() -> None:
    assert check_answer("Hello, thank you!", [], "en", True).supported
    assert not check_answer("Returns are free.", [], "en", True).supported


def test_numbers_are_the_same_in_any_writing() -> None:
    assert numbers("1,500 dollars") == numbers("1500") == {"1500"}
    assert numbers("twenty-one days") == numbers("21") == numbers("二十一天") == {"21"}
    assert numbers("4.90") == {"4.9"}


def hit(number: int, text: str) -> Hit:
    return Hit(number, f"article-{number}", 1, "Returns", "", text, 1.0, number)


def test_each_sentence_is_cited_from_the_passage_that_says_it() -> None:
    answer = "Hello! A return costs 4.90 dollars. Plants cannot be returned after 14 days. Elephants are grey."
    citations = cite(answer, [hit(1, PASSAGES[0]), hit(2, PASSAGES[1])])
    assert [(answer[one.start : one.end], one.article_id) for one in citations] == [
        ("A return costs 4.90 dollars.", "article-2"), ("Plants cannot be returned after 14 days.", "article-1"),
    ]  # fmt: skip
    assert cite(answer, []) == ()


def test_every_article_of_the_sample_supports_itself() -> None:
    """A passage quoted word for word is never refused for what it says."""
    for article in load_sample().articles:
        passages = [passage.text for passage in cut_passages(article.markdown, "markdown")]
        for passage in passages:
            verdict = check_answer(passage, passages, article.language, True)
            assert set(verdict.reasons) <= {"unfinished"}, (article.article_id, verdict.reasons, passage)


@given(st.text(max_size=200), st.lists(st.text(max_size=100), max_size=3), st.sampled_from(["en", "zh", "other"]))
def test_any_answer_gets_a_verdict(answer: str, passages: list[str], language: str) -> None:
    verdict = check_answer(answer, passages, language, True)  # type: ignore[arg-type]
    assert verdict.supported == (not verdict.reasons)
    assert 0 <= verdict.overlap <= 1
    for citation in cite(answer, [hit(at, text) for at, text in enumerate(passages)]):
        assert 0 <= citation.start < citation.end <= len(answer)


@pytest.mark.parametrize(
    "answer", ["I do not know.", "Sorry, we can't say within 45 days.", "I'm not sure about returns.", "我不知道。"]
)
def test_who_says_that_he_cannot_answer_has_not_answered(answer: str) -> None:
    assert "declines" in check_answer(answer, PASSAGES, "zh" if answer.startswith("我") else "en", True).reasons
