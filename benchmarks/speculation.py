"""What speculation gives and costs, by prompt lookup or by a draft: the same prompts with it and without, in turn.

    python benchmarks/speculation.py mini --task repeat --texts texts.jsonl.gz --concurrent 4
    python benchmarks/speculation.py /tmp/135m --task loop --prompts 4 --rounds 3
    python benchmarks/speculation.py mini --task plain --texts texts.jsonl.gz --concurrent 16 --prompts 200
    python benchmarks/speculation.py mini --draft mini-draft --task chat --texts talks.jsonl --temperature 0.7

A line of the file holds an object whose `context` or `text` is a text, or whose `messages` are a conversation. Tasks:
`repeat` gives a text and how it begins again, so that the answer can be read off the prompt; `plain` continues a text;
`chat` answers the last turn of a user; `random` draws the prompt's tokens and the answer's (temperature 1), which
nothing predicts; `loop` draws the prompt and is greedy, so that models of random weights soon go in circles. Two
engines share one runner, and their order changes with every round. Printed: how many different prompts were answered
the same by both, tokens/s without, the median of the rounds' ratios (above 1: speculation is faster) with its
quartiles, and what was proposed and accepted for each token made. A round whose answers differ ends the run with status
1. Where the machine is shared, many rounds of one prompt tell more than few of many.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vivace.batch import Sampling
from vivace.engine.draft import DraftProposer
from vivace.engine.engine import Engine
from vivace.engine.request import Request
from vivace.engine.scheduler import SchedulerConfig
from vivace.engine.speculation import find_max_proposed
from vivace.llm import load_draft, load_runner, open_draft
from vivace.models.model import Model, open_model
from vivace.runners.native import QUANTIZE, NativeConfig

TASKS = ("repeat", "plain", "chat", "random", "loop")


def read_lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]


def read_texts(path: Path) -> Iterator[str]:
    return iter(dict.fromkeys(item.get("context") or item["text"] for item in read_lines(path)))


def read_chats(model: Model, path: Path) -> list[list[int]]:
    """Conversations up to a user's second turn, or the first where there is one only."""
    talks = [item["messages"] for item in read_lines(path)]
    prompts = [model.tokenizer.encode_chat(talk[: 3 if len(talk) > 3 else 1]) for talk in talks]
    return [prompt for prompt in prompts if len(prompt) < 256]


def read_passages(model: Model, texts: Path) -> list[list[int]]:
    """The first 96 tokens of every text that has as many."""
    passages = [list(model.tokenizer.encode(text))[:96] for text in read_texts(texts)]
    return [tokens for tokens in passages if len(tokens) == 96]


def make_prompts(task: str, passages: list[list[int]], count: int, seed: int) -> list[list[int]]:
    """Prompts of 48 to 120 tokens, no passage twice unless there are too few."""
    generator = random.Random(seed)
    if task in ("random", "loop"):
        return [generator.choices(range(256), k=64) for _ in range(count)]
    found = generator.sample(passages, min(count, len(passages)))
    if task == "chat":
        return list(itertools.islice(itertools.cycle(found), count))
    if task == "repeat":
        found = [tokens + tokens[:24] for tokens in found]
    else:
        found = [tokens[: generator.randrange(48, 96)] for tokens in found]
    return list(itertools.islice(itertools.cycle(found), count))


def answer(
    engine: Engine, prompts: list[list[int]], arguments: argparse.Namespace, temperature: float, salt: str
) -> tuple[float, list[list[int]]]:
    """Seconds, and each prompt's answer. As soon as one ends the next begins.

    The engines share a runner's memory, so the prefixes that one has kept the other has written over since: with a salt
    for each call, none is found again.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    begun = ended = 0
    start = time.perf_counter()
    while ended < len(prompts):
        while begun < len(prompts) and begun - ended < arguments.concurrent:
            sampling = Sampling(temperature=temperature, seed=begun)
            engine.add(
                Request(
                    str(begun), tuple(prompts[begun]), arguments.new_tokens, sampling, time.monotonic(), cache_salt=salt
                )
            )
            begun += 1
        for update in engine.step():
            if update.error:
                raise SystemExit(update.error)
            answers[int(update.id)] += update.tokens
            ended += update.finish_reason is not None
    return time.perf_counter() - start, answers


def compare(engines: dict[str, Engine], arguments: argparse.Namespace, model: Model) -> dict[str, object]:
    temperature = 1.0 if arguments.task == "random" else arguments.temperature
    read = read_chats if arguments.task == "chat" else read_passages
    passages = read(model, arguments.texts) if arguments.texts else []
    rates: dict[str, list[float]] = {name: [] for name in engines}
    compared: set[tuple[int, ...]] = set()
    for index in range(arguments.rounds + 1):  # the first one warms up and teaches
        prompts = make_prompts(arguments.task, passages, arguments.prompts, index)
        compared.update(map(tuple, prompts))
        answers = []
        for name in list(engines)[:: 1 if index % 2 else -1]:
            seconds, made = answer(engines[name], prompts, arguments, temperature, f"{index}")
            answers.append(made)
            rates[name].append(sum(map(len, made)) / seconds)
        if answers[0] != answers[1]:
            raise SystemExit(f"The answers of round {index} differ.")
    ratios = [on / off for on, off in zip(rates["on"][1:], rates["off"][1:], strict=True)]
    stats = engines["on"].stats()
    return {
        "concurrent": arguments.concurrent,
        "same_answers": len(compared),
        "off_tokens_per_s": round(statistics.median(rates["off"][1:]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "quartiles": [round(quartile, 3) for quartile in statistics.quantiles(ratios, n=4)[::2]],
        "proposed": round(stats.proposed / stats.tokens, 3),
        "accepted": round(stats.accepted / stats.tokens, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--task", choices=TASKS, default="repeat")
    parser.add_argument("--draft", help="A model that proposes, instead of prompt lookup.")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--quantize", choices=QUANTIZE, default="int8")
    parser.add_argument("--concurrent", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=16, help="A round's.")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="At least 2, after one that warms up.")
    arguments = parser.parse_args()
    if arguments.task in ("repeat", "plain", "chat") and arguments.texts is None:
        parser.error(f"The task {arguments.task} needs --texts.")
    if arguments.rounds < 2:
        parser.error("It takes at least 2 rounds.")
    model = open_model(arguments.model)
    config = NativeConfig(quantize=arguments.quantize)
    runner = load_runner(model, config)
    proposer = None
    if arguments.draft:
        proposer = DraftProposer(load_draft(open_draft(arguments.draft, model), config, runner.limits))
    most = find_max_proposed("off" if arguments.draft else "lookup", draft=arguments.draft is not None)
    engines = {
        "off": Engine(runner),
        "on": Engine(runner, SchedulerConfig(max_proposed=most), proposer=proposer),
    }
    print(json.dumps({"task": arguments.task} | compare(engines, arguments, model)))


if __name__ == "__main__":
    main()
