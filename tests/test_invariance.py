"""What a request answers alone it answers in a crowd, to the last bit: the engine and the native core together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import write_qwen2
from tests.runners.loading import load_directory, random_prompt
from vivace.batch import Sampling
from vivace.engine.engine import Engine
from vivace.engine.request import Request
from vivace.runners.native import Quantize

Answers = dict[str, list[tuple[int, float]]]
"""By request: each token with the log-probability it was chosen with."""


def make_requests() -> list[Request]:
    """32 of many lengths, every third behind the same 40 tokens; greedy and sampled, with and without penalties."""
    shared, requests = random_prompt(40, seed=99), []
    for i in range(32):
        own = random_prompt(1 + 11 * (i % 9), seed=i)
        sampling = Sampling(
            temperature=(0.0, 0.8, 1.2)[i % 3],
            top_k=(0, 30)[i % 2],
            top_p=(1.0, 0.9)[i // 2 % 2],
            seed=i,
            repetition_penalty=(1.0, 1.2)[i // 4 % 2],
            logprobs=0,
        )
        prompt = tuple(shared + own if i % 3 == 0 else own)
        requests.append(Request(f"{i}", prompt, 4 + i % 13, sampling, arrived=0.0))
    return requests


def answer(engine: Engine, requests: list[Request]) -> Answers:
    answers: Answers = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for update in engine.step():
            chosen = [one.chosen for one in update.logprobs or ()]
            answers[update.id] += list(zip(update.tokens, chosen, strict=True))
        engine.check_integrity()
    return answers


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_32_mixed_requests_together_answer_bit_for_bit_as_alone(quantize: Quantize, tmp_path: Path) -> None:
    model, requests = load_directory(write_qwen2(tmp_path / "model", context=256)), make_requests()
    alone: Answers = {}
    for request in requests:
        alone |= answer(Engine(model.native(quantize, threads=1)), [request])
    assert all(len(alone[request.id]) == request.max_tokens for request in requests)
    for threads in (1, 2):
        # 100 tokens a step: prompts come in chunks, beside others' single tokens.
        engine = Engine(model.native(quantize, threads=threads, max_batch_tokens=100))
        assert answer(engine, requests) == alone
        assert answer(engine, requests[::-1]) == alone  # now with every prefix in the cache
        assert engine.stats().cached_tokens > 32 * 20
