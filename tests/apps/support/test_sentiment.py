"""Complaint and praise are told apart, also when negated, in both languages; a plain question is neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.apps.support.language import detect_language
from vivace.apps.support.sentiment import judge_sentiment


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("This is unacceptable, I am furious", "negative"), ("I've been waiting for three weeks, nobody answers", "negative"), ("not good at all", "negative"),
        ("the lamp doesn't work and you don't help", "negative"), ("WHERE IS MY LAMP, THIS IS RIDICULOUS", "negative"), ("never again", "negative"),
        ("Thank you so much, perfect!", "positive"), ("I love the lamp", "positive"), ("works like a charm", "positive"), ("not bad at all", "positive"),
        ("Where is my order?", "neutral"), ("I would like to return a plate", "neutral"), ("no problem, which bulb do I need", "neutral"), ("What kind of glaze is it", "neutral"),
        ("太差了，我要投诉", "negative"), ("等了三周没人理，非常失望", "negative"), ("一点也不满意", "negative"), ("你们是骗子", "negative"),
        ("谢谢，非常满意", "positive"), ("灯很漂亮，我很喜欢", "positive"), ("请问怎么退货", "neutral"), ("有一个问题想问", "neutral"),
    ],
)  # fmt: skip
def test_a_message_sounds_as_it_is_meant(text: str, label: str) -> None:
    assert judge_sentiment(text, detect_language(text)).label == label


def test_emphasis_makes_it_stronger() -> None:
    plain = judge_sentiment("this is bad", "en").score
    assert judge_sentiment("this is very bad", "en").score < plain
    assert judge_sentiment("this is bad!!!", "en").score < plain


def test_another_language_is_not_judged() -> None:
    assert judge_sentiment("¡Esto es terrible!", "other").score == 0


@given(st.text(), st.sampled_from(["en", "zh"]))
def test_scores_keep_within_their_range(text: str, language: str) -> None:
    judged = judge_sentiment(text, language)  # type: ignore[arg-type]
    assert -1 <= judged.score <= 1
    assert (judged.label == "neutral") == (abs(judged.score) <= 0.25)
