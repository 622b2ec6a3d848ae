from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoints import set_fields, write_json, write_llama, write_qwen2
from tests.families import write_gemma3, write_gpt2, write_mistral, write_phi3, write_qwen3, write_smollm3
from vivace.errors import CheckpointError, ModelError, UnsupportedModelError
from vivace.models.config import LayerConfig, ModelConfig, read_config, read_generation_defaults
from vivace.sampling import GenerationDefaults

WRITERS: dict[str, Callable[..., Path]] = {
    "gemma3": partial(write_gemma3, images=True),
    "gemma3_text": write_gemma3,
    "gpt2": write_gpt2,
    "llama": write_llama,
    "mistral": write_mistral,
    "phi3": partial(write_phi3, original=32, partial=0.75),
    "qwen2": write_qwen2,
    "qwen3": write_qwen3,
    "smollm3": write_smollm3,
}


def windows(config: ModelConfig) -> list[int]:
    return [layer.window for layer in config.layers]


def test_a_llama_config_is_read_whole(tmp_path: Path) -> None:
    write_llama(tmp_path, hidden=64, heads=4, kv_heads=2, layers=3, intermediate=112, vocab=320, context=512)
    config = read_config(tmp_path)
    assert (config.family, config.vocab_size, config.hidden_size) == ("llama", 320, 64)
    assert (config.heads, config.kv_heads, config.head_dim) == (4, 2, 16)
    assert config.layers == (LayerConfig(intermediate_size=112, window=0, rope=0),) * 3
    assert len(config.ropes) == 1
    assert len(config.ropes[0].inverse_frequencies) == 8
    assert (config.norm, config.norm_eps, config.activation, config.gated) == ("rms", 1e-5, "silu", True)
    assert (config.attention_scale, config.embedding_scale) == (0.25, 1.0)
    assert (config.tied, config.context_length) == (True, 512)
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (False, False, False)


def test_qwen2_always_has_biases_on_query_key_and_value(qwen2_directory: Path) -> None:
    config = read_config(qwen2_directory)
    assert config.family == "qwen2"
    assert (config.qkv_bias, config.output_bias, config.mlp_bias) == (True, False, False)


@pytest.mark.parametrize("write", [write_llama, write_qwen2, write_gemma3])
def test_both_dialects_give_the_same_scaled_rope(tmp_path: Path, write: Any) -> None:
    scaling = {"rope_type": "linear", "factor": 4.0}
    published = write(tmp_path / "published", dialect="published", rope_scaling=scaling)
    new = write(tmp_path / "new", dialect="new", rope_scaling=scaling)
    assert read_config(published) == read_config(new) != read_config(write(tmp_path / "plain"))


@pytest.mark.parametrize("family", WRITERS)
def test_both_dialects_give_the_same_config(tmp_path: Path, family: str) -> None:
    write = WRITERS[family]
    published, new = write(tmp_path / "published", dialect="published"), write(tmp_path / "new", dialect="new")
    assert read_config(published) == read_config(new)


SMALL = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 200}
SAVED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (SMALL, {"context_length": 2048, "head_dim": 16}),
    "mistral": (SMALL, {"context_length": 131072, "head_dim": 16}),
    "qwen2": (SMALL, {"context_length": 32768, "head_dim": 16, "qkv_bias": True}),
    "qwen3": (SMALL, {"context_length": 32768, "head_dim": 128}),
    "smollm3": (SMALL | {"pad_token_id": 0}, {"context_length": 32768, "tied": True}),
    "gemma3_text": (SMALL, {"context_length": 131072, "head_dim": 256, "attention_scale": 1 / 16, "tied": True}),
    "phi3": (SMALL | {"pad_token_id": 0}, {"context_length": 4096, "norm_eps": 1e-5}),
    "gpt2": ({"n_embd": 96, "n_head": 6}, {"context_length": 1024, "kv_heads": 6, "tied": True, "norm": "layer"}),
}


@pytest.mark.parametrize("family", SAVED)
def test_files_that_transformers_writes_are_read(tmp_path: Path, family: str) -> None:
    pytest.importorskip("torch")
    from transformers import AutoConfig

    sizes, expected = SAVED[family]
    layers = "n_layer" if family == "gpt2" else "num_hidden_layers"
    AutoConfig.for_model(family, **sizes, **{layers: 2}, vocab_size=99).save_pretrained(tmp_path)
    config = read_config(tmp_path)
    expected = {"family": family, "vocab_size": 99, "hidden_size": 96, "kv_heads": 3, "tied": False} | expected
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_head_dimension_may_be_given(tmp_path: Path) -> None:
    config = read_config(write_llama(tmp_path, hidden=64, heads=4, head_dim=24))
    assert (config.head_dim, config.attention_scale) == (24, 24**-0.5)


def test_biases_are_as_the_config_says(tmp_path: Path) -> None:
    config = read_config(write_llama(tmp_path, attention_bias=True, mlp_bias=True))
    assert config.qkv_bias
    assert config.output_bias
    assert config.mlp_bias


def test_key_heads_that_are_not_given_are_as_many_as_heads(tmp_path: Path) -> None:
    assert read_config(set_fields(write_llama(tmp_path), num_key_value_heads=...)).kv_heads == 4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"model_type": "mamba"},
            r"model_type is 'mamba'; supported are gemma3, gemma3_text, gpt2",
        ),
        ({"hidden_act": "relu6"}, r"hidden_act is 'relu6'; supported are silu"),
        ({"rope_scaling": {"rope_type": "mrope"}}, r"rope_scaling .*'mrope'.*supported"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config\.quant_method .*supported"),
    ],
)
def test_what_is_not_run_is_unsupported_by_file_and_field(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"config\.json: " + named):
        read_config(set_fields(write_llama(tmp_path), **changes))


def test_mistral_slides_in_every_layer_unless_its_window_is_null(tmp_path: Path) -> None:
    write_mistral(tmp_path, window=24)
    assert windows(read_config(tmp_path)) == [24, 24]
    assert windows(read_config(set_fields(tmp_path, sliding_window=...))) == [4096, 4096]
    assert windows(read_config(set_fields(tmp_path, sliding_window=None))) == [0, 0]


SLIDING = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}


@pytest.mark.parametrize("write", [write_qwen2, write_qwen3])
def test_qwen_slides_from_a_layer_on_or_in_layers_that_are_named_when_it_is_switched_on(
    tmp_path: Path, write: Any
) -> None:
    set_fields(write(tmp_path), **SLIDING)
    assert windows(read_config(tmp_path)) == [0, 24]
    assert windows(read_config(set_fields(tmp_path, layer_types=["sliding_attention", "full_attention"]))) == [24, 0]
    assert windows(read_config(set_fields(tmp_path, layer_types=None, sliding_window=None))) == [0, 0]
    assert windows(read_config(set_fields(tmp_path, sliding_window=24, use_sliding_window=False))) == [0, 0]


def test_each_fourth_layer_of_smollm3_has_no_rope_unless_the_config_names_others(tmp_path: Path) -> None:
    write_smollm3(tmp_path, num_hidden_layers=5, no_rope_layers=None)
    assert [layer.rope for layer in read_config(tmp_path).layers] == [0, 0, 0, -1, 0]
    set_fields(tmp_path, no_rope_layers=[0, 1, 1, 0, 1], **SLIDING)
    assert [layer.rope for layer in read_config(tmp_path).layers] == [-1, 0, 0, -1, 0]
    assert windows(read_config(tmp_path)) == [24, 0, 0, 24, 0]


def test_gemma3_has_a_window_and_a_rope_for_each_kind_of_layer(tmp_path: Path) -> None:
    config = read_config(write_gemma3(tmp_path, layers=4))
    assert windows(config) == [24, 24, 0, 24]
    assert [layer.rope for layer in config.layers] == [1, 1, 0, 1]
    full, sliding = config.ropes
    assert full.inverse_frequencies[1] == pytest.approx(1e6 ** (-1 / 12), rel=1e-6)
    assert sliding.inverse_frequencies[1] == pytest.approx(5000.0 ** (-1 / 12), rel=1e-6)
    assert (config.activation, config.attention_scale) == ("gelu_tanh", 20**-0.5)


@pytest.mark.parametrize(("stored", "scale"), [("float32", np.sqrt(np.float32(80))), ("bfloat16", 8.9375)])
def test_gemma3_scales_embeddings_by_a_root_rounded_to_the_type_of_its_weights(
    tmp_path: Path, stored: Any, scale: float
) -> None:
    for dialect in ("published", "new"):
        assert read_config(write_gemma3(tmp_path, hidden=80, dtype=stored, dialect=dialect)).embedding_scale == scale


def test_the_text_part_of_gemma3_may_leave_out_what_is_usual(tmp_path: Path) -> None:
    scaling = {"factor": 8.0, "rope_type": "linear"}
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    values = {"model_type": "gemma3", "torch_dtype": "bfloat16", "text_config": text | {"rope_scaling": scaling}}
    write_json(tmp_path / "config.json", values)
    config = read_config(tmp_path)
    assert (config.family, config.heads, config.kv_heads, config.head_dim) == ("gemma3_text", 8, 4, 256)
    assert (config.vocab_size, config.context_length, config.tied) == (262208, 131072, True)
    assert windows(config) == ([1024] * 5 + [0]) * 5 + [1024] * 4
    assert config.embedding_scale == 50.5
    assert config.ropes[0].inverse_frequencies[0] == 0.125
    assert config.ropes[1].inverse_frequencies[0] == 1.0


def test_phi3_takes_short_factors_up_to_the_original_context_and_long_ones_beyond(tmp_path: Path) -> None:
    write_phi3(tmp_path, context=512, original=512)
    factors = json.loads((tmp_path / "config.json").read_text())["rope_scaling"]
    short = read_config(tmp_path).ropes[0]
    long = read_config(set_fields(tmp_path, original_max_position_embeddings=511)).ropes[0]
    assert short.inverse_frequencies[0] == pytest.approx(1 / factors["short_factor"][0])
    assert long.inverse_frequencies[0] == pytest.approx(1 / factors["long_factor"][0])
    assert (short.scale, long.scale > 1) == (1.0, True)


def test_phi3_rotates_a_part_of_each_head(tmp_path: Path) -> None:
    config = read_config(write_phi3(tmp_path, partial=0.75, window=24))
    assert (config.head_dim, len(config.ropes[0].inverse_frequencies)) == (16, 6)
    assert windows(config) == [24, 24]


def test_a_gpt2_config_is_read_whole(tmp_path: Path) -> None:
    config = read_config(write_gpt2(tmp_path))
    assert config.layers == (LayerConfig(intermediate_size=256, window=0, rope=-1),) * 2
    assert (config.heads, config.kv_heads, config.head_dim, config.ropes) == (4, 4, 16, ())
    assert (config.norm, config.norm_eps, config.activation, config.gated) == ("layer", 1e-5, "gelu_tanh", False)
    assert (config.qkv_bias, config.output_bias, config.mlp_bias, config.tied) == (True, True, True, True)
    assert read_config(set_fields(tmp_path, n_inner=100)).layers[0].intermediate_size == 100
    assert read_config(set_fields(tmp_path, scale_attn_weights=False)).attention_scale == 1.0


@pytest.mark.parametrize(
    ("family", "field"), [("llama", "intermediate_size"), ("gemma3_text", "intermediate_size"), ("gpt2", "n_inner")]
)
def test_mlp_widths_may_be_a_list_with_one_for_each_layer(tmp_path: Path, family: str, field: str) -> None:
    WRITERS[family](tmp_path)
    widths = [48 + layer for layer in range(len(read_config(tmp_path).layers))]
    config = read_config(set_fields(tmp_path, **{field: widths}))
    assert [layer.intermediate_size for layer in config.layers] == widths
    for wrong in ([48], [*widths[1:], 0], [*widths[1:], "48"], []):
        with pytest.raises(CheckpointError, match=rf"config\.json: {field}"):
            read_config(set_fields(tmp_path, **{field: wrong}))


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0; supported is null"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0; supported is null"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is true; supported"),
        ("gemma3_text", {"hidden_activation": "relu"}, "hidden_activation is 'relu'; supported are silu"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is true; supported"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is true; supported"),
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'; supported are silu"),
        ("phi3", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling .*'yarn'.*default, longrope"),
        ("phi3", {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5; supported"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; supported"),
        ("mistral", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types has 'chunked_attention'"),
    ],
)
def test_what_is_not_run_of_a_family_is_unsupported_by_field(
    tmp_path: Path, family: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=r"config\.json: " + named):
        read_config(set_fields(WRITERS[family](tmp_path), **changes))


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        ("mistral", {"layer_types": ["full_attention"]}, r"layer_types is .*a list of 2 items"),
        ("mistral", {"layer_types": "full_attention"}, "layer_types"),
        ("mistral", {"layer_types": ["full_attention", 1]}, r"layer_types\.1 is 1"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "use_sliding_window is False; .*true"),
        ("smollm3", {"no_rope_layers": [1, 2, 1]}, r"no_rope_layers\.1 is 2"),
        ("smollm3", {"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0"),
        ("gemma3_text", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        ("gemma3_text", {"sliding_window": None}, "sliding_window is missing"),
        ("gemma3_text", {"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ("gemma3_text", {"rope_parameters": {"rope_type": "linear", "factor": 8.0}}, "rope_parameters is .*full_att"),
        ("gemma3", {"text_config": {"head_dim": 15}}, r".*text_config\.head_dim"),
        ("gemma3", {"text_config": {"num_hidden_layers": -1}}, r"text_config\.num_hidden_layers is -1"),
        ("gemma3", {"text_config": 3}, "text_config is 3"),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6}}, "rope_scaling.long_factor"),
        ("phi3", {"partial_rotary_factor": 0.1}, "1 dimensions of each head are to be rotated"),
        ("gpt2", {"n_embd": 65}, "n_embd is 65; it must be a multiple of n_head, 4"),
        ("gpt2", {"n_positions": 0}, "n_positions is 0"),
        ("gpt2", {"n_layer": ...}, "n_layer is missing"),
    ],
)
def test_what_cannot_be_of_a_family_is_refused_by_field(
    tmp_path: Path, family: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: " + named):
        read_config(set_fields(WRITERS[family](tmp_path), **changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", -64),
        ("hidden_size", 64.0),
        ("hidden_size", "64"),
        ("hidden_size", True),
        ("hidden_size", 65),
        ("hidden_size", 2**40),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 10**9),
        ("num_key_value_heads", 3),
        ("num_key_value_heads", 8),
        ("vocab_size", 2**31),
        ("intermediate_size", ...),
        ("vocab_size", ...),
        ("model_type", ...),
        ("model_type", 3),
        ("head_dim", 15),
        ("head_dim", 2**20),
        ("max_position_embeddings", -1),
        ("rms_norm_eps", 0),
        ("tie_word_embeddings", "yes"),
        ("rope_theta", []),
        ("rope_scaling", "linear"),
    ],
)
def test_a_size_that_cannot_be_is_refused_by_file_and_field(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{field}"):
        read_config(set_fields(write_llama(tmp_path), **{field: value}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


OFTEN_ABSENT = (
    "layer_types",
    "head_dim",
    "rope_parameters",
    "rope_scaling",
    "partial_rotary_factor",
    "use_sliding_window",
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=800, deadline=None)
@given(data=st.data())
def test_any_field_may_lie_and_only_a_model_error_comes_of_it(tmp_path: Path, data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(sorted(WRITERS)))
    directory = tmp_path / family
    if not directory.exists():
        WRITERS[family](directory, dialect="published")
        (directory / "config.json").rename(directory / "true.json")
    true = json.loads((directory / "true.json").read_text()) | dict.fromkeys(OFTEN_ABSENT)
    part = data.draw(st.sampled_from([true, true.get("text_config", true)]))
    part |= data.draw(st.dictionaries(st.sampled_from(sorted(part)), json_values, min_size=1, max_size=3))
    write_json(directory / "config.json", true)
    try:
        config = read_config(directory)
        read_generation_defaults(directory)
    except ModelError as error:
        message = str(error)
    else:
        message = "config.json" if config.heads % config.kv_heads == 0 else ""
    assert "config.json" in message


def generation(directory: Path, values: dict[str, Any] | None, **config: Any) -> GenerationDefaults:
    set_fields(write_llama(directory), **config)
    path = directory / "generation_config.json"
    path.unlink()
    if values is not None:
        write_json(path, values)
    return read_generation_defaults(directory)


def test_stop_tokens_come_from_the_generation_config_one_or_several(tmp_path: Path) -> None:
    assert generation(tmp_path, {"eos_token_id": 7}, eos_token_id=1).stop_token_ids == (7,)
    assert generation(tmp_path, {"eos_token_id": [7, 9, 7]}, eos_token_id=1).stop_token_ids == (7, 9)


def test_stop_tokens_come_from_the_config_when_the_generation_config_is_silent(tmp_path: Path) -> None:
    assert generation(tmp_path, {}, eos_token_id=[1, 2]).stop_token_ids == (1, 2)
    assert generation(tmp_path, None, eos_token_id=5).stop_token_ids == (5,)
    assert generation(tmp_path, None, eos_token_id=...).stop_token_ids == ()


def test_sampling_counts_only_when_the_model_asks_to_sample(tmp_path: Path) -> None:
    settings = {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "eos_token_id": 3}
    assert generation(tmp_path, settings) == GenerationDefaults(stop_token_ids=(3,))
    assert generation(tmp_path, settings | {"do_sample": False}) == GenerationDefaults(stop_token_ids=(3,))
    assert generation(tmp_path, settings | {"do_sample": True}) == GenerationDefaults(0.6, 20, 0.9, (3,))


def test_settings_left_open_are_those_of_transformers(tmp_path: Path) -> None:
    assert generation(tmp_path, {"do_sample": True, "eos_token_id": 3}) == GenerationDefaults(1.0, 50, 1.0, (3,))


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1), ("temperature", 1000), ("top_p", 0), ("top_p", 1.5), ("top_k", -1), ("eos_token_id", "x"),
     ("eos_token_id", [1, None]), ("eos_token_id", -1), ("do_sample", 1)],
)  # fmt: skip
def test_a_generation_setting_that_cannot_be_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {field}"):
        generation(tmp_path, {"do_sample": True} | {field: value})
