"""A message's language is told by its script, and between Latin scripts by its commonest words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.apps.support.language import detect_language
from vivace.apps.support.sample import load_sample


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is my order?", "en"), ("ok", "en"), ("refund FL-20417 please", "en"), ("café lamp", "en"), ("我的订单在哪里", "zh"), ("退货", "zh"),
        ("我的 Heron 灯坏了", "zh"), ("what does 退货 mean in your shop emails", "en"), ("¿Dónde está mi pedido?", "other"), ("Où est ma commande ?", "other"),
        ("Wo ist meine Bestellung?", "other"), ("注文はどこですか", "other"), ("주문이 어디에 있나요", "other"), ("Где мой заказ?", "other"), ("12345", "other"), ("", "other"), ("👍", "other"),
    ],
)  # fmt: skip
def test_the_language_is_told(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_every_question_of_the_sample_is_in_its_language() -> None:
    wrong = [one for one in load_sample().questions if detect_language(one.question) != one.language]
    assert not wrong


def test_every_article_of_the_sample_is_in_its_language() -> None:
    assert all(detect_language(article.markdown) == article.language for article in load_sample().articles)


@given(st.text())
def test_any_text_has_a_language(text: str) -> None:
    assert detect_language(text) in ("en", "zh", "other")
