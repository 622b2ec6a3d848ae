"""Data become the tokens that the model would see, and only the assistant's count as said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import write_llama, write_tokenizer
from vivace.errors import DataError
from vivace.evaluation.data import Conversation, Data, Intent, Question
from vivace.evaluation.tasks import (
    cut_text,
    list_labels,
    mark_conversations,
    write_answers,
    write_choices,
    write_opening,
    write_question,
)
from vivace.tokenizer import Tokenizer

END = 258
TALK = Conversation(
    tuple(
        {"role": role, "content": content}
        for role, content in (("user", "hi"), ("assistant", "ho"), ("user", "bye"), ("assistant", "so long"))
    )
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.open(write_llama(tmp_path_factory.mktemp("chat")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.open(write_tokenizer(tmp_path_factory.mktemp("plain"), template=None))


def said(tokenizer: Tokenizer, tokens: tuple[int, ...], marks: tuple[bool, ...]) -> list[int]:
    return [token for token, mark in zip(tokens, marks, strict=True) if mark]


def test_a_turn_is_said_from_its_prompt_to_the_token_that_ends_it(tokenizer: Tokenizer) -> None:
    [passage] = mark_conversations([TALK], tokenizer, [END], 500)
    assert passage.tokens == tuple(tokenizer.encode_chat(TALK.messages, add_generation_prompt=False))
    assert said(tokenizer, passage.tokens, passage.said) == [*b"ho", END, *b"so long", END]


def test_an_opening_turn_of_the_assistant_answers_nothing(tokenizer: Tokenizer) -> None:
    talk = Conversation(({"role": "assistant", "content": "welcome"}, *TALK.messages))
    [passage] = mark_conversations([talk], tokenizer, [END], 500)
    assert said(tokenizer, passage.tokens, passage.said) == [*b"ho", END, *b"so long", END]
    assert write_opening(talk, tokenizer) == talk.messages[:2]


CHANGING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if loop.last and message.role == 'assistant' %}#{% endif %}{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_where_earlier_turns_are_written_otherwise_each_is_a_passage_of_its_own(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(write_tokenizer(tmp_path, template=CHANGING))
    first, second = mark_conversations([TALK], tokenizer, [END], 500)
    assert said(tokenizer, first.tokens, first.said) == [*b"#ho", END]
    assert said(tokenizer, second.tokens, second.said) == [*b"#so long", END]
    assert first.document == second.document == 0
    assert b"ho" in bytes(token for token in second.tokens if token < 256)


def test_conversations_are_cut_and_refused_where_nothing_is_left(tokenizer: Tokenizer) -> None:
    [whole] = mark_conversations([TALK], tokenizer, [END], 500)
    [passage] = mark_conversations([TALK], tokenizer, [END], 40)
    assert passage.tokens == whole.tokens[:40]
    with pytest.raises(DataError, match="--length"):
        mark_conversations([TALK], tokenizer, [END], 10)


def test_text_is_cut_into_windows_side_by_side(plain: Tokenizer) -> None:
    windows = cut_text("abcdefghij", plain, 4)
    assert [bytes(window.tokens) for window in windows] == [b"abcd", b"efgh", b"ij"]
    assert [bytes(window.tokens) for window in cut_text("abcdefghijkl", plain, 4, 2)] == [b"abcd", b"efgh"]
    with pytest.raises(DataError, match="fewer than two tokens"):
        cut_text("a", plain, 4)


def test_questions_have_a_form_with_and_without_template(tokenizer: Tokenizer, plain: Tokenizer) -> None:
    question = Question("It is red.", "Which colour?", ("red",))
    assert [message["role"] for message in write_question(question, tokenizer)] == ["system", "user"]  # type: ignore[index]
    prompt = write_question(question, plain)
    assert prompt == "It is red.\n\nQuestion: Which colour?\nAnswer:"
    [passage] = write_answers([question], [prompt], plain)
    assert bytes(token for token, mark in zip(passage.tokens, passage.said, strict=True) if mark) == b" red"


def test_labels_are_words_and_the_right_one_is_known(plain: Tokenizer) -> None:
    intents = [Intent("play", "play_music"), Intent("wet?", "get/weather")]
    labels = list_labels(Data("d", "intents", "", records=intents))
    choices = write_choices(intents, labels, plain)
    assert [bytes(reply) for reply in choices.replies] == [b" get weather", b" play music"]
    assert [choice.right for choice in choices.asked] == [1, 0]
    with pytest.raises(DataError, match="single label"):
        list_labels(Data("d", "intents", "", records=intents[:1]))
