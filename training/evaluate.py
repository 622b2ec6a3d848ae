"""The figures of the model card, each through vivace's own engine in the format it is served in.

    python -m training.evaluate MODEL --data DATA --quantize none bf16 int8 int4 --out figures.json

MODEL is a Hugging Face directory or `mini`. Everything is greedy. Without --data only generated questions are asked.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import vivace
from training.conversation import Conversation
from training.generate import copying, encyclopedia, instructions, orders, shop
from training.generate.words import Draw
from training.sources import DIALOGUES, read_dialogues, read_questions
from training.tokenizer import render
from vivace.evaluation.measures import find_best_f1, find_exact, find_repeats, normalise

LENGTH = 512
"""Tokens of a dialogue that count for its perplexity."""
LONGEST_REPLY = 128
SPLITS = ("valid", "test")

HELD_OUT: Mapping[str, Callable[[Draw], Conversation]] = {
    "shop": shop.write_single,
    "unanswerable": shop.write_unanswerable,
    "shop_turns": shop.write_shop,
    "encyclopedia": encyclopedia.write_entry,
    "copying": copying.write_copy,
    "orders": orders.write_order,
    "instructions": instructions.write_instruction,
}


class Answers(NamedTuple):
    exact: float
    f1: float


def find_perplexity(llm: vivace.LLM, dialogues: Sequence[Conversation]) -> float:
    """Over the first tokens of every rendered dialogue, whoever speaks, the template's own tokens too."""
    texts = [cut(llm, render(dialogue)) for dialogue in dialogues]
    answers = llm.generate_many(texts, max_tokens=1, prompt_logprobs=True)
    scores = [score for answer in answers for score in (answer.prompt_logprobs or [])[: LENGTH - 1]]
    return math.exp(-sum(scores) / len(scores))


def cut(llm: vivace.LLM, text: str) -> str:
    """A beginning of a little more than the tokens that count: the last one may be of half a word."""
    length = 3 * LENGTH
    while length < len(text) and len(llm.model.tokenizer.encode(text[:length])) <= LENGTH:
        length += LENGTH // 4
    return text[:length]


def answer_questions(llm: vivace.LLM, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Short answers, the passage as system message."""
    prompts = [
        [{"role": "system", "content": record["context"]}, {"role": "user", "content": record["question"]}]
        for record in records
    ]
    return [answer.text for answer in llm.generate_many(prompts, max_tokens=40, temperature=0.0)]


def find_sentence(passage: str, question: str) -> str:
    """The baseline: the passage's sentence that shares most words with the question."""
    asked = set(normalise(question).split())
    sentences = re.split(r"(?<=[.!?])\s+", passage)
    return max(sentences, key=lambda sentence: len(asked & set(normalise(sentence).split())))


def grade(replies: Sequence[str], records: Sequence[Mapping[str, Any]]) -> Answers:
    """Exact match and F1 of SQuAD (Rajpurkar et al., 2016), each against the nearest gold answer."""
    pairs = list(zip(replies, records, strict=True))
    exact = [find_exact(reply, record["answers"]) for reply, record in pairs]
    f1 = [find_best_f1(reply, record["answers"]) for reply, record in pairs]
    return Answers(sum(exact) / len(exact), sum(f1) / len(f1))


def reproduce(llm: vivace.LLM, conversations: Sequence[Conversation]) -> float:
    """Share of the assistant's turns, after the right ones before, that come out letter by letter."""
    prompts, due = [], []
    for conversation in conversations:
        for index, message in enumerate(conversation.messages):
            if message.role == "assistant":
                prompts.append([before._asdict() for before in conversation.messages[:index]])
                due.append(message.content)
    answers = llm.generate_many(prompts, max_tokens=LONGEST_REPLY, temperature=0.0)
    return sum(answer.text == text for answer, text in zip(answers, due, strict=True)) / len(due)


def reply(llm: vivace.LLM, openings: Sequence[str]) -> dict[str, float]:
    """How replies to first turns end, and how much they repeat themselves."""
    prompts = [[{"role": "user", "content": opening}] for opening in openings]
    answers = llm.generate_many(prompts, max_tokens=LONGEST_REPLY, temperature=0.0)
    ended = sum(answer.finish_reason == "stop" for answer in answers) / len(answers)
    return {"ended": ended, "repeats": find_repeats([answer.token_ids for answer in answers])}


def measure(
    llm: vivace.LLM, data: Path | None, count: int, splits: Sequence[str] = ("valid", "test")
) -> dict[str, Any]:
    """All figures of one loaded model; `count` generated conversations a kind; perplexity on these splits."""
    draws = {name: Draw(f"test {name}", held_out=True) for name in HELD_OUT}
    generated = {name: [write(draws[name]) for _ in range(count)] for name, write in HELD_OUT.items()}
    figures: dict[str, Any] = {"generated": {name: reproduce(llm, sets) for name, sets in generated.items()}}
    if data is None:
        return figures
    for split in splits:
        sets = {name: read_dialogues(data, name, split)[:60] for name in DIALOGUES}
        figures[f"perplexity {split}"] = {name: find_perplexity(llm, sets[name]) for name in sets}
    tests = [read_dialogues(data, name, "test")[:20] for name in DIALOGUES]
    openings = [dialogue.messages[0].content for dialogues in tests for dialogue in dialogues]
    figures["replies"] = reply(llm, openings)
    records = read_questions(data, "squadshifts_new_wiki", "test")
    answers = answer_questions(llm, records)
    trivial = [find_sentence(record["context"], record["question"]) for record in records]
    figures["squadshifts"] = grade(answers, records)._asdict()
    figures["squadshifts, first 150"] = grade(answers[:150], records[:150])._asdict()
    figures["squadshifts, trivial baseline"] = grade(trivial, records)._asdict()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--quantize", nargs="+", default=["none"])
    parser.add_argument("--count", type=int, default=200, help="generated conversations a kind")
    parser.add_argument("--splits", nargs="+", default=SPLITS, help="for perplexity")
    parser.add_argument("--out", type=Path, help="also write the figures there, as JSON")
    options = parser.parse_args()
    figures = {}
    for quantize in options.quantize:
        with vivace.load(options.model, quantize=quantize, max_sequences=64) as llm:
            figures[quantize] = measure(llm, options.data, options.count, options.splits)
        print(quantize, json.dumps(figures[quantize], indent=2), flush=True)
        if options.out:
            options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
