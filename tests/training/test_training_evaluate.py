from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

import vivace
from tests.checkpoints import write_llama
from tests.training.data_folder import write_data
from training.conversation import converse
from training.evaluate import (
    LENGTH,
    cut,
    find_perplexity,
    find_sentence,
    grade,
    measure,
    reproduce,
)
from training.tokenizer import render

RECORD = {
    "context": "It rains. The shop opens at nine. Bye.",
    "question": "When does the shop open?",
    "answers": ["at nine", "nine"],
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("long"), context=4096)


@pytest.fixture(scope="module")
def llm(directory: Path) -> Iterator[vivace.LLM]:
    with vivace.load(directory, quantize="none", threads=1, max_sequences=8) as llm:
        yield llm


def test_answers_are_compared_as_squad_compares_them() -> None:
    assert grade(["At nine."], [RECORD]) == (1.0, 1.0)
    assert tuple(grade(["It opens at nine"], [RECORD])) == pytest.approx((0.0, 2 / 3))


def test_the_trivial_answer_is_the_sentence_closest_to_the_question() -> None:
    assert find_sentence(RECORD["context"], RECORD["question"]) == "The shop opens at nine."  # type: ignore[arg-type]


def test_a_text_is_cut_to_a_little_more_than_the_tokens_that_count(llm: vivace.LLM) -> None:
    text = "good day " * 200
    assert LENGTH < len(llm.model.tokenizer.encode(cut(llm, text))) < 4 * LENGTH
    assert cut(llm, "short") == "short"


def test_perplexity_is_that_of_transformers(llm: vivace.LLM, directory: Path) -> None:
    dialogues = [converse("test", [("hello there", "good day " * 200)]), converse("test", [("a", "b")])]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    losses = []
    for dialogue in dialogues:
        ids = torch.tensor([llm.model.tokenizer.encode(render(dialogue))[:LENGTH]])
        with torch.no_grad():
            logits = theirs(ids).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    assert find_perplexity(llm, dialogues) == pytest.approx(math.exp(torch.cat(losses).mean()), rel=1e-3)


def test_a_turn_is_reproduced_only_letter_by_letter(llm: vivace.LLM) -> None:
    said = llm.generate([{"role": "user", "content": "hello"}], max_tokens=128, temperature=0.0).text
    right, wrong = converse("test", [("hello", said)]), converse("test", [("hello", said + "!")])
    assert reproduce(llm, [right, wrong]) == 0.5


def test_all_figures_are_measured_and_without_data_the_generated_ones(llm: vivace.LLM, tmp_path: Path) -> None:
    write_data(tmp_path, turns=1)
    assert measure(llm, None, 1).keys() == {"generated"}
    figures = measure(llm, tmp_path, 1)
    assert {"perplexity valid", "perplexity test", "replies", "squadshifts"} <= figures.keys()
