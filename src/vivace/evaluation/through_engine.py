"""A model measured as it is served: through this engine's runner, in one of its formats.

Rows go to the runner directly, each sequence on blocks of its own. Distributions come from decoding steps that are fed
the tokens of the text, and hold the `LIKELIEST` tokens only: more than that, a runner does not hand out at speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from vivace.batch import BLOCK_SIZE, Batch, Logprobs, Row, Sampling, Want
from vivace.errors import ContextLengthError
from vivace.evaluation.measures import Floats, Prediction
from vivace.evaluation.scorer import Reply, Scores
from vivace.evaluation.tasks import Choices, Prompt
from vivace.llm import LLM, load

LIKELIEST = 128
"""Tokens of a distribution that are told apart."""
CHUNK = 256
"""Tokens of one sequence in a step: so a step's rows are many, and not of one length."""
WIDTH = 64
"""Sequences at once."""

Answer = Sequence[float] | Sequence[Logprobs]
Made = TypeVar("Made")
Job = Generator[Row, Any, Made]
"""Yields rows of one slot, is sent what the runner said of each, and returns what it makes of that."""


class EngineScorer:
    """Implements `vivace.evaluation.scorer.Scorer`."""

    def __init__(self, name: str, quantize: str, threads: int = 0, **native: Any) -> None:
        """`native`: further fields of `NativeConfig`. Raises a `ModelError`."""
        self._llm = load(name, quantize=quantize, threads=threads, max_sequences=WIDTH, **native)

    def score(self, sequences: Sequence[Sequence[int]], *, predict: bool) -> Iterator[Scores]:
        for group in _batched(sequences, WIDTH):
            longest = max(len(sequence) for sequence in group)
            scored = self._run([lambda *place, s=s: _score(s, *place) for s in group], longest)
            predicted: Sequence[Prediction | None] = [None] * len(group)
            if predict:
                predicted = self._run([lambda *place, s=s: _predict(s, *place) for s in group], longest)
            yield from (Scores(*pair) for pair in zip(scored, predicted, strict=True))

    def choose(self, choices: Choices) -> Iterator[Floats]:
        room = max(len(reply) for reply in choices.replies)
        for group in _batched(choices.asked, WIDTH):
            longest = max(len(asked.prompt) for asked in group) + room
            jobs = [lambda *place, p=asked.prompt: _choose(p, choices.replies, *place) for asked in group]
            yield from self._run(jobs, longest)

    def reply(self, prompts: Sequence[Prompt], max_tokens: int, stop: tuple[str, ...] = ()) -> list[Reply]:
        # An engine of its own: rows above have written over blocks that another may know.
        llm = LLM(self._llm.model, self._llm.runner)
        answers = llm.generate_many(list(prompts), max_tokens=max_tokens, temperature=0.0, stop=stop)
        stops = set(self._llm.model.generation.stop_token_ids)
        return [
            Reply(
                answer.text,
                tuple(token for token in answer.token_ids if token not in stops),
                answer.finish_reason == "stop",
            )
            for answer in answers
        ]

    def close(self) -> None:
        self._llm.close()

    def _run(self, starts: Sequence[Callable[[int, Sequence[int]], Job[Made]]], longest: int) -> list[Made]:
        """Give each job a slot and blocks for `longest` tokens, and run as many as fit at a time."""
        limits = self._llm.runner.limits
        if longest > limits.context_length:
            raise ContextLengthError(
                f"A text has {longest} tokens; this model's context holds {limits.context_length}. Give a smaller "
                "--length, or leave long records out."
            )
        blocks = -(-longest // BLOCK_SIZE)
        width = min(limits.slots, limits.blocks // blocks)
        made: list[Made] = []
        for group in _batched(starts, width):
            places = [(slot, range(slot * blocks, (slot + 1) * blocks)) for slot in range(len(group))]
            made += self._finish([start(*place) for start, place in zip(group, places, strict=True)])
        return made

    def _finish(self, jobs: Sequence[Job[Made]]) -> list[Made]:
        made: dict[int, Made] = {}
        waiting = deque((index, next(job)) for index, job in enumerate(jobs))
        while waiting:
            chosen, room = [], self._llm.runner.limits.max_batch_tokens
            while waiting and len(waiting[0][1].tokens) <= room:
                chosen.append(waiting.popleft())
                room -= len(chosen[-1][1].tokens)
            for (index, _), answer in zip(chosen, self._step([row for _, row in chosen]), strict=True):
                try:
                    waiting.append((index, jobs[index].send(answer)))
                except StopIteration as stop:
                    made[index] = stop.value
        return [made[index] for index in range(len(jobs))]

    def _step(self, rows: list[Row]) -> list[Answer]:
        runner = self._llm.runner
        result = runner.collect(runner.launch(Batch(rows)))
        return [result.scores.get(index) or result.logprobs.get(index) or () for index in range(len(rows))]


def _batched(items: Sequence[Made], size: int) -> Iterator[Sequence[Made]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _score(tokens: Sequence[int], slot: int, blocks: Sequence[int]) -> Job[Floats]:
    scores: list[float] = []
    for at in range(0, len(tokens) - 1, CHUNK):
        end = min(at + CHUNK, len(tokens) - 1)
        targets = tokens[at + 1 : end + 1]
        scores += yield Row(slot, at, tokens[at:end], **_open(at, blocks), want=Want.SCORE, targets=targets)
    return np.array(scores, np.float64)


def _predict(tokens: Sequence[int], slot: int, blocks: Sequence[int]) -> Job[Prediction]:
    """Each step samples a token that nobody uses: the next row brings the text's own."""
    found: list[Logprobs] = []
    for at in range(len(tokens) - 1):
        found += yield Row(slot, at, tokens[at : at + 1], **_open(at, blocks, LIKELIEST), want=Want.SAMPLE)
    return Prediction(
        np.array([[token for token, _ in place.likeliest] for place in found]),
        np.array([[value for _, value in place.likeliest] for place in found], np.float64),
    )


def _choose(prompt: Sequence[int], replies: Sequence[Sequence[int]], slot: int, blocks: Sequence[int]) -> Job[Floats]:
    """The prompt once, and each reply written over the one before."""
    last = len(prompt) - 1
    for at in range(0, last, CHUNK):
        yield Row(slot, at, prompt[at : min(at + CHUNK, last)], **_open(at, blocks))
    sums = []
    for index, reply in enumerate(replies):
        opening = _open(index, blocks) if last == 0 else {}
        scores = yield Row(slot, last, [prompt[-1], *reply[:-1]], **opening, want=Want.SCORE, targets=list(reply))
        sums.append(sum(scores))
    return np.array(sums, np.float64)


def _open(at: int, blocks: Sequence[int], logprobs: int = -1) -> dict[str, Any]:
    """What the first row of a slot brings."""
    return {"opens": Sampling(logprobs=logprobs), "blocks": list(blocks)} if at == 0 else {}
