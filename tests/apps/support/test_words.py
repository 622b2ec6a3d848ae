"""Words are stems and pairs of characters; sentences are kept whole, and nothing is lost between them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vivace.apps.support.words import content_words, split_sentences, split_words


def test_forms_of_a_word_are_one_word() -> None:
    assert split_words("Returns, returned: RETURNING") == ["return"] * 3


def test_chinese_is_characters_and_the_pairs_they_make() -> None:
    assert split_words("退货单") == ["退", "退货", "货", "货单", "单"]


def test_full_width_letters_and_thousands_are_plain() -> None:
    assert split_words("ＦＬ-２０４１７ costs 1,500") == ["fl", "20417", "cost", "1500"]


def test_words_that_say_little_are_left_out_and_negations_are_not() -> None:
    assert content_words("Can I not return what I've bought?") == ["not", "return", "bought"]
    assert content_words("请问怎么退货") == ["退", "退货", "货"]


def test_sentences_end_where_they_end() -> None:
    text = "It costs 5.90 dollars, e.g. in Oregon. Really? Yes!\n- one item\n可以退货。三十天内。"
    assert split_sentences(text) == [
        "It costs 5.90 dollars, e.g. in Oregon.", "Really?", "Yes!", "- one item", "可以退货。", "三十天内。",
    ]  # fmt: skip


@given(st.text())
def test_sentences_hold_every_character_but_space(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@given(st.text())
def test_content_words_are_words(text: str) -> None:
    assert set(content_words(text)) <= set(split_words(text))


def test_the_time_of_day_ends_no_sentence() -> None:
    text = "We are here from 8 a.m. to 6 p.m. Pacific time. Write to us!"
    assert split_sentences(text) == ["We are here from 8 a.m. to 6 p.m. Pacific time.", "Write to us!"]
