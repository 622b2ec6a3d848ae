"""Tiny models to compress, text to calibrate on, and what both sides make of the result."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints import Dtype, write_llama
from vivace.compress import CalibrationConfig
from vivace.llm import load

TEXT = "the order has not come yet and I want my money back please tell me when it will be sent"
WORDS = TEXT.split(" ")
PROMPT = "the order has not come yet and I want my money back"
CALIBRATION = CalibrationConfig(tokens=512, length=64, held_out=128)


def write_model(directory: Path, dtype: Dtype = "float32", **shape: Any) -> Path:
    """A Llama whose widths groups of 128 divide."""
    return write_llama(directory, dtype=dtype, **{"hidden": 128, "heads": 4, "intermediate": 256, **shape})


def write_conversations(path: Path, count: int = 40, seed: int = 0) -> Path:
    choose = random.Random(seed)
    lines = []
    for _ in range(count):
        turns = [" ".join(choose.choices(WORDS, k=6)) for _ in range(4)]
        roles = ("user", "assistant", "user", "assistant")
        messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def score_with_engine(directory: Path, prompt: str = PROMPT, quantize: str = "none") -> NDArray[np.float64]:
    """The log-probability of each token of a prompt but the first, through our engine."""
    with load(directory, quantize=quantize, threads=1, max_sequences=4, kv_memory_bytes=1 << 24) as llm:
        scores = llm.generate(prompt, max_tokens=1, prompt_logprobs=True).prompt_logprobs
    assert scores is not None
    return np.array(scores)


def score_with_transformers(directory: Path, prompt: str = PROMPT) -> NDArray[np.float64]:
    """The same through transformers, in float32, with whatever the config declares."""
    import torch
    from transformers import AutoModelForCausalLM

    from vivace.tokenizer import Tokenizer

    ids = torch.tensor([Tokenizer.open(directory).encode(prompt)])
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        scores = torch.log_softmax(model(ids).logits[0].double(), -1)
    found: NDArray[np.float64] = scores[:-1].gather(1, ids[0, 1:, None])[:, 0].numpy()
    return found


def largest_difference(left: Sequence[float] | NDArray[Any], right: Sequence[float] | NDArray[Any]) -> float:
    return float(np.abs(np.asarray(left) - np.asarray(right)).max())
