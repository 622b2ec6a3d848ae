"""Intents are learned from few examples in either language, and what is like none of them is unknown."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vivace.apps.support.intents import Example, IntentModel, IntentSettings, train_intents
from vivace.apps.support.sample import load_sample
from vivace.errors import DataError


@pytest.fixture(scope="module")
def model() -> IntentModel:
    return train_intents(load_sample().examples)


def test_examples_are_known_again(model: IntentModel) -> None:
    known = [example for example in load_sample().examples if example.label]
    told = model.classify_all([example.text for example in known])
    right = sum(intent.label == example.label for intent, example in zip(told, known, strict=True))
    assert right > 0.95 * len(known)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("please cancel my order", "cancel_order"), ("where is my parcel", "order_status"), ("I forgot my password again", "account_help"),
        ("我想取消订单", "cancel_order"), ("我的包裹在哪里", "order_status"), ("忘了密码", "account_help"),
    ],
)  # fmt: skip
def test_a_question_in_other_words_is_put_right(model: IntentModel, text: str, label: str) -> None:
    assert model.classify(text).label == label


@pytest.mark.parametrize(
    "text", ["", "   ", "xyzzy plugh", "who wrote the odyssey in ancient greece", "量子力学的基本假设"]
)
def test_what_is_like_no_example_is_unknown(model: IntentModel, text: str) -> None:
    assert model.classify(text).label is None


def test_one_by_one_is_as_all_at_once(model: IntentModel) -> None:
    texts = ["cancel it", "退货", "play music"]
    together = model.classify_all(texts)
    assert [intent.label for intent in together] == [model.classify(text).label for text in texts]
    assert model.classify_all([]) == []


def test_the_same_examples_teach_the_same() -> None:
    examples = load_sample().examples[:80]
    one, two = train_intents(examples), train_intents(tuple(reversed(examples)))
    assert (one.threshold, one.margin) == pytest.approx((two.threshold, two.margin), abs=1e-3)


@pytest.mark.parametrize(
    ("examples", "remedy"),
    [
        ([], "two or more"), ([Example("a b", "x"), Example("c d", "x")], "two or more"), ([Example("a", "x"), Example("b", "x"), Example("c", "y")], "one example"),
    ],
)  # fmt: skip
def test_too_few_examples_say_what_to_add(examples: list[Example], remedy: str) -> None:
    with pytest.raises(DataError, match=remedy):
        train_intents(examples)


@pytest.mark.parametrize(
    "bad", [{"held_out": 0.0}, {"held_out": 0.9}, {"known_weight": 1.0}, {"inverse_penalty": 0.0}, {"max_features": 0}]
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(DataError):
        IntentSettings(**bad)  # type: ignore[arg-type]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.text(max_size=200))
def test_any_text_has_an_answer_within_range(model: IntentModel, text: str) -> None:
    intent = model.classify(text)
    assert 0 <= intent.score <= 1 + 1e-6
    assert 0 <= intent.margin <= 1 + 1e-6
    assert intent.label is None or intent.label in model.labels
