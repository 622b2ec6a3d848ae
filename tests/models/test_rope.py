"""Rope frequencies against those transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.errors import CheckpointError, ModelError, UnsupportedModelError
from vivace.models.fields import Fields
from vivace.models.rope import Rope, read_rope

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
KINDS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"type": "linear", "factor": 2.5},
    {"type": "dynamic", "factor": 2.0},
    LLAMA3,
    LLAMA3 | {"factor": 8.0, "high_freq_factor": 2.0, "original_max_position_embeddings": 512},
    YARN,
    YARN | {"beta_fast": 16, "beta_slow": 2, "truncate": False},
    YARN | {"attention_factor": 0.75},
    YARN | {"mscale": 0.7, "mscale_all_dim": 0.9},
]


def read(values: dict[str, Any], dims: int = 64, context: int = 131072) -> Rope:
    return read_rope(Fields(Path("config.json"), values), dims, context)


def transformers_rope(scaling: dict[str, Any], theta: float, dims: int, context: int) -> tuple[np.ndarray, float]:
    pytest.importorskip("torch")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=4 * dims,
        num_attention_heads=4,
        max_position_embeddings=context,
        rope_parameters=dict(scaling) | {"rope_theta": theta},
    )
    embedding = LlamaRotaryEmbedding(config)
    return embedding.inv_freq.numpy(), embedding.attention_scaling


@pytest.mark.parametrize("scaling", KINDS, ids=lambda kind: kind.get("rope_type") or kind["type"])
@pytest.mark.parametrize(("theta", "dims"), [(10000.0, 64), (500000.0, 128), (1000000.0, 96), (150000.0, 16)])
def test_frequencies_are_transformers_own(scaling: dict[str, Any], theta: float, dims: int) -> None:
    expected, scale = transformers_rope(scaling, theta, dims, 131072)
    rope = read({"rope_theta": theta, "rope_scaling": scaling}, dims)
    frequencies = np.array(rope.inverse_frequencies, dtype=np.float32)
    units = np.abs(frequencies.view(np.int32) - expected.view(np.int32))
    assert units.max() <= UNITS.get(scaling.get("rope_type") or scaling["type"], 1)
    assert rope.scale == pytest.approx(scale, rel=1e-12)
