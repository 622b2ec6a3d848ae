from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from training.conversation import Conversation
from training.generate import encyclopedia, facts, shop
from training.generate.ignorance import ENGLISH_ONLY, FOREIGN
from training.generate.product import ANSWERS
from training.generate.words import Draw, is_held_out
from training.sources import GENERATED

SEEDS = range(150)


def slots_left(text: str) -> list[str]:
    return re.findall(r"\{\w*\}", text)


@pytest.mark.parametrize("write", GENERATED.values(), ids=GENERATED)
def test_every_conversation_alternates_and_is_filled_in(write: Callable[[Draw], Conversation]) -> None:
    for seed in SEEDS:
        conversation = write(Draw(seed))
        roles = [message.role for message in conversation.messages]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert turns
        for message in conversation.messages:
            assert message.content
            assert message.content == message.content.strip()
            assert not slots_left(message.content)


@pytest.mark.parametrize("write", GENERATED.values(), ids=GENERATED)
def test_a_seed_gives_the_same_conversation_again(write: Callable[[Draw], Conversation]) -> None:
    assert write(Draw("a")) == write(Draw("a"))
    assert len({write(Draw(seed)) for seed in range(30)}) > 15


def test_an_answer_about_a_shop_stands_in_its_passage_or_is_the_admission() -> None:
    for seed in SEEDS:
        conversation = shop.write_single(Draw(seed))
        assert conversation.messages[-1].content in conversation.messages[0].content
        refused = shop.write_unanswerable(Draw(seed))
        assert refused.messages[-1].content == shop.UNKNOWN


def test_an_unanswerable_question_is_about_nothing_that_the_passage_states() -> None:
    for seed in SEEDS:
        draw = Draw(seed)
        stated = shop._choose(draw, "Marelda", 3)
        question = shop._question_about_another(draw, stated, "Marelda")
        assert question not in {q.format(**fact.slots) for fact in stated for q in fact.kind.questions}


def test_a_passage_never_states_two_facts_that_contradict_each_other() -> None:
    for seed in SEEDS:
        stated = shop._choose(Draw(seed), "Marelda", 12)
        general = [fact.kind.topic for fact in stated if fact.kind in facts.GENERAL]
        assert len(general) == len(set(general))


def test_a_span_about_an_entry_stands_in_its_passage() -> None:
    for seed in SEEDS:
        conversation = encyclopedia.write_entry(Draw(seed))
        for message in conversation.messages[2::2]:
            assert message.content in conversation.messages[0].content


def test_held_out_phrasings_are_never_trained_on() -> None:
    options = [str(number) for number in range(6)]
    assert {Draw(seed).phrasing(options) for seed in SEEDS} == set(options[:-1])
    assert {Draw(seed, held_out=True).phrasing(options) for seed in SEEDS} == {"5"}


def test_values_are_held_out_or_trained_on_but_never_both() -> None:
    for make in (
        Draw.name,
        Draw.price,
        Draw.hour,
        Draw.phone,
        Draw.code,
        Draw.date,
        Draw.span,
        Draw.product,
        Draw.email,
    ):
        assert not any(is_held_out(make(Draw(seed))) for seed in SEEDS)
        assert all(is_held_out(make(Draw(seed, held_out=True))) for seed in SEEDS)


def test_another_language_is_answered_in_english_that_it_is_not_spoken() -> None:
    answers = {GENERATED["ignorance"](Draw(seed)).messages for seed in range(300)}
    foreign = [messages for messages in answers if messages[-2].content in FOREIGN]
    assert foreign
    assert all(messages[-1].content == ENGLISH_ONLY for messages in foreign)


def test_no_question_about_the_product_has_two_answers() -> None:
    questions = [question.lower() for asked, _ in ANSWERS for question in asked]
    assert len(questions) == len(set(questions))
