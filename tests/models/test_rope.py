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
from vivace.models.rope import Rope, read_rope, read_rope_pair

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "short_factor": [1.0 + pair / 64 for pair in range(32)],
    "long_factor": [1.0 + pair for pair in range(32)],
}
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


@pytest.mark.parametrize("original", [8192, 131072])
@pytest.mark.parametrize("more", [{}, {"factor": 4.0}, {"attention_factor": 1.19}])
def test_long_ropes_are_those_of_transformers_for_sequences_as_long_as_the_context(
    original: int, more: dict[str, float]
) -> None:
    """The context is 131072, so the factors are the long ones for the first of the lengths, else the short ones."""
    pytest.importorskip("torch")
    from transformers import Phi3Config
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling: dict[str, Any] = LONGROPE | more
    config = Phi3Config(
        hidden_size=4 * 64,
        num_attention_heads=4,
        max_position_embeddings=131072,
        original_max_position_embeddings=original,
        pad_token_id=0,
        rope_parameters=scaling | {"rope_theta": 10000.0, "original_max_position_embeddings": original},
    )
    expected, scale = ROPE_INIT_FUNCTIONS["longrope"](config, "cpu", seq_len=131072)
    rope = read({"rope_scaling": scaling, "original_max_position_embeddings": original})
    np.testing.assert_allclose(rope.inverse_frequencies, expected.numpy(), rtol=3e-7)
    assert rope.scale == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize("name", ["short_factor", "long_factor"])
@pytest.mark.parametrize("factors", [None, [1.0] * 31, [1.0] * 31 + [0.0], [1.0] * 31 + ["x"], 2.0])
def test_long_ropes_need_a_factor_above_zero_for_each_pair(name: str, factors: object) -> None:
    with pytest.raises(CheckpointError, match=rf"rope_scaling\.{name}"):
        read({"rope_scaling": LONGROPE | {name: factors}})


PAIR = {"full_attention": {"rope_type": "linear", "factor": 8.0}, "sliding_attention": {"rope_theta": 7e3}}


def read_pair(values: dict[str, Any]) -> tuple[Rope, Rope]:
    defaults = {"rope_theta": 1e6, "rope_local_base_freq": 1e4}
    return read_rope_pair(Fields(Path("config.json"), defaults | values), 64, 131072)


def test_a_pair_of_ropes_reads_the_same_from_both_dialects() -> None:
    published = read_pair({"rope_scaling": PAIR["full_attention"], "rope_local_base_freq": 7e3})
    assert published == read_pair({"rope_parameters": PAIR})
    assert published == (
        read({"rope_theta": 1e6, "rope_scaling": PAIR["full_attention"]}),
        read({"rope_theta": 7e3}),
    )
    assert read_pair({}) == (read({"rope_theta": 1e6}), read({"rope_theta": 1e4}))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"rope_parameters": {"rope_type": "linear", "factor": 8.0}}, "rope_parameters is"),
        ({"rope_parameters": {"full_attention": 3}}, r"rope_parameters\.full_attention"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}}, r"sliding_attention\.factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "x"}}, r"rope_scaling\.factor"),
        ({"rope_local_base_freq": 0.5}, "rope_local_base_freq"),
    ],
)
def test_values_of_a_pair_that_cannot_be_name_their_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError, match=field):
        read_pair(values)


@pytest.mark.parametrize("kind", ["mrope", "proportional", ""])
def test_an_unknown_kind_is_unsupported_and_the_known_ones_are_listed(kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"config\.json: rope_scaling .*default, linear, dynamic, llama3"):
        read({"rope_scaling": {"rope_type": kind, "factor": 2.0}})


def test_a_rope_for_each_kind_of_layer_is_unsupported() -> None:
    with pytest.raises(UnsupportedModelError, match="rope_parameters"):
        read({"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e4}}})


def test_heads_rotated_in_part_have_a_rope_for_that_part_alone_where_the_family_allows_it() -> None:
    for place in ({"partial_rotary_factor": 0.75}, {"rope_parameters": {"partial_rotary_factor": 0.75}}):
        assert read_rope(Fields(Path("config.json"), place), 64, 131072, partial=True) == read({}, dims=48)


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
    kind=st.sampled_from(["default", "linear", "dynamic", "llama3", "yarn", "longrope"]),
    changes=st.dictionaries(keys, numbers, max_size=5),
    dims=st.integers(1, 64).map(lambda half: 2 * half),
)
def test_any_numbers_give_finite_frequencies_or_a_model_error(kind: str, changes: dict[str, Any], dims: int) -> None:
    factors = {name: [1.0] * (dims // 2) for name in ("short_factor", "long_factor")}
    base = next(setting for setting in [*reversed(KINDS), LONGROPE | factors] if setting["rope_type"] == kind)
    try:
        rope = read({"rope_parameters": base | changes}, dims)
    except ModelError:
        return
    assert len(rope.inverse_frequencies) == dims // 2
    assert np.isfinite([*rope.inverse_frequencies, rope.scale]).all()
