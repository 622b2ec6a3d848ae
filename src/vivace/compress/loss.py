"""How well a model in memory predicts text. Weights only: the engine, which quantises activations too, is measured by
running it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch


def measure_loss(model: Any, sequences: Iterable[Sequence[int]]) -> float | None:
    """Mean negative log-likelihood of a token given those before it in its sequence, in nats. None without
    sequences."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for sequence in sequences:
            ids = torch.tensor([sequence])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += len(sequence) - 1
    return total / count if count else None
