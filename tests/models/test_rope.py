"""Rope frequencies against those that transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
KINDS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "dynamic", "factor": 2.0},
    LLAMA3,
    LLAMA3 | {"factor": 8.0, "high_freq_factor": 2.0, "original_max_position_embeddings": 512},
    YARN,
    YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
    YARN | {"attention_factor": 0.75},
    YARN | {"mscale": 0.7, "mscale_all_dim": 0.9},
]


def read(values: dict[str, Any], dims: int = 64, context: int = 131072) -> Rope:
    return read_rope(Fields(Path("config.json"), values), dims, context)


def transformers_rope(scaling: dict[str, Any], theta: float, dims: int) -> tuple[NDArray[np.float32], float]:
    pytest.importorskip("torch")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=4 * dims,
        num_attention_heads=4,
        max_position_embeddings=131072,
        rope_parameters=dict(scaling) | {"rope_theta": theta},
    )
    embedding = LlamaRotaryEmbedding(config)
    return embedding.inv_freq.numpy(), float(embedding.attention_scaling)


@pytest.mark.parametrize("scaling", KINDS, ids=lambda kind: str(kind["rope_type"]))
@pytest.mark.parametrize(("theta", "dims"), [(10000.0, 64), (500000.0, 128), (1000000.0, 96), (150000.0, 16)])
def test_frequencies_are_those_of_transformers(scaling: dict[str, Any], theta: float, dims: int) -> None:
    """To the last place, but for the powers, which libraries of vector mathematics round up or down."""
    expected, scale = transformers_rope(scaling, theta, dims)
    rope = read({"rope_theta": theta, "rope_scaling": scaling}, dims)
    frequencies = np.array(rope.inverse_frequencies, dtype=np.float32)
    units = np.abs(frequencies.view(np.int32) - expected.view(np.int32))
    assert units.max() <= 3
    assert np.mean(units == 0) >= 0.75
    assert rope.scale == pytest.approx(scale, rel=1e-12)


def test_every_frequency_is_a_float32_value() -> None:
    frequencies = read({"rope_scaling": LLAMA3}).inverse_frequencies
    assert frequencies == tuple(float(np.float32(value)) for value in frequencies)


@pytest.mark.parametrize("scaling", KINDS, ids=lambda kind: str(kind["rope_type"]))
def test_both_dialects_say_the_same(scaling: dict[str, Any]) -> None:
    published = read({"rope_theta": 5e5, "rope_scaling": scaling})
    older = read({"rope_theta": 5e5, "rope_scaling": scaling | {"type": scaling["rope_type"], "rope_type": None}})
    assert published == older == read({"rope_parameters": scaling | {"rope_theta": 5e5}})


def test_no_setting_at_all_is_the_default_rope() -> None:
    assert read({}) == read({"rope_theta": 10000.0}) == read({"rope_scaling": None, "rope_parameters": None})


def test_the_original_length_may_stand_outside_and_then_wins() -> None:
    outside = {"rope_scaling": YARN, "original_max_position_embeddings": 4096}
    assert read(outside) == read({"rope_scaling": YARN | {"original_max_position_embeddings": 4096}})
    assert read(outside) != read({"rope_scaling": YARN})


@pytest.mark.parametrize("kind", ["mrope", "longrope", "proportional", ""])
def test_an_unknown_kind_is_unsupported_and_the_known_ones_are_listed(kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"config\.json: rope_scaling .*default, linear, dynamic, llama3"):
        read({"rope_scaling": {"rope_type": kind, "factor": 2.0}})


def test_a_rope_for_each_kind_of_layer_is_unsupported() -> None:
    with pytest.raises(UnsupportedModelError, match="rope_parameters"):
        read({"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e4}}})


@pytest.mark.parametrize("place", [{"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}])
def test_heads_rotated_in_part_are_unsupported(place: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="partial_rotary_factor"):
        read(place)


@pytest.mark.parametrize(
    ("scaling", "field"),
    [
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0}, "factor"),
        (LLAMA3 | {"high_freq_factor": 1.0}, "high_freq_factor"),
        (LLAMA3 | {"original_max_position_embeddings": -1}, "original_max_position_embeddings"),
        (YARN | {"beta_fast": -3.0}, "beta_fast"),
        ({"rope_theta": 1.0}, "rope_theta"),
        ({"rope_theta": "10000"}, "rope_theta"),
    ],
)
def test_values_that_cannot_be_name_their_field(scaling: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError, match=field):
        read({"rope_parameters": scaling})


numbers = st.floats(allow_nan=False) | st.integers(-3, 2**40) | st.none() | st.booleans()
keys = st.sampled_from([*sorted({key for kind in KINDS for key in kind} - {"rope_type"}), "rope_theta"])


@settings(max_examples=500, deadline=None)
@given(
    kind=st.sampled_from(["default", "linear", "dynamic", "llama3", "yarn"]),
    changes=st.dictionaries(keys, numbers, max_size=5),
    dims=st.integers(1, 64).map(lambda half: 2 * half),
)
def test_any_numbers_give_finite_frequencies_or_a_model_error(kind: str, changes: dict[str, Any], dims: int) -> None:
    base = next(setting for setting in reversed(KINDS) if setting["rope_type"] == kind)
    try:
        rope = read({"rope_parameters": base | changes}, dims)
    except ModelError:
        return
    assert len(rope.inverse_frequencies) == dims // 2
    assert np.isfinite(rope.inverse_frequencies).all()
