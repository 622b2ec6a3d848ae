from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoints import write_json, write_llama, write_qwen2
from vivace.errors import CheckpointError, ModelError, UnsupportedModelError
from vivace.models.config import LayerConfig, read_config, read_generation_defaults
from vivace.sampling import GenerationDefaults


def change(directory: Path, **changes: Any) -> Path:
    """Change fields of config.json; a field set to `...` is removed."""
    path = directory / "config.json"
    values = json.loads(path.read_text()) | changes
    write_json(path, {name: value for name, value in values.items() if value is not ...})
    return directory


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


@pytest.mark.parametrize("write", [write_llama, write_qwen2])
def test_both_dialects_give_the_same_config(tmp_path: Path, write: Any) -> None:
    scaling = {"rope_type": "linear", "factor": 4.0}
    published = write(tmp_path / "published", dialect="published", rope_scaling=scaling)
    new = write(tmp_path / "new", dialect="new", rope_scaling=scaling)
    assert read_config(published) == read_config(new)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_files_that_transformers_writes_are_read(tmp_path: Path, family: str) -> None:
    pytest.importorskip("torch")
    from transformers import AutoConfig

    sizes = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 200}
    AutoConfig.for_model(family, **sizes, num_hidden_layers=2, vocab_size=99).save_pretrained(tmp_path)
    config = read_config(tmp_path)
    assert (config.family, config.vocab_size, config.kv_heads, config.head_dim) == (family, 99, 3, 16)
    assert config.context_length == {"llama": 2048, "qwen2": 32768}[family]
    assert not config.tied


def test_a_head_dimension_may_be_given(tmp_path: Path) -> None:
    config = read_config(write_llama(tmp_path, hidden=64, heads=4, head_dim=24))
    assert (config.head_dim, config.attention_scale) == (24, 24**-0.5)


def test_biases_are_as_the_config_says(tmp_path: Path) -> None:
    config = read_config(write_llama(tmp_path, attention_bias=True, mlp_bias=True))
    assert config.qkv_bias
    assert config.output_bias
    assert config.mlp_bias


def test_key_heads_that_are_not_given_are_as_many_as_heads(tmp_path: Path) -> None:
    assert read_config(change(write_llama(tmp_path), num_key_value_heads=...)).kv_heads == 4


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba"}, r"model_type is 'mamba'; supported are llama, qwen2"),
        ({"hidden_act": "relu6"}, r"hidden_act is 'relu6'; supported are silu"),
        ({"rope_scaling": {"rope_type": "mrope"}}, r"rope_scaling .*'mrope'.*supported"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config .*supported"),
    ],
)
def test_what_is_not_run_is_unsupported_by_file_and_field(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=r"config\.json: " + named):
        read_config(change(write_llama(tmp_path), **changes))


@pytest.mark.parametrize("changes", [{"use_sliding_window": True}, {"layer_types": ["full_attention", "sliding"]}])
def test_sliding_windows_of_qwen2_are_unsupported(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="sliding"):
        read_config(change(write_qwen2(tmp_path), **changes))


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
        read_config(change(write_llama(tmp_path), **{field: value}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None)
@given(data=st.data())
def test_any_field_may_lie_and_only_a_model_error_comes_of_it(tmp_path: Path, data: st.DataObject) -> None:
    write = data.draw(st.sampled_from([write_llama, write_qwen2]))
    directory = tmp_path / write.__name__
    if not directory.exists():
        write(directory)
        (directory / "config.json").rename(directory / "true.json")
    true = json.loads((directory / "true.json").read_text()) | {"layer_types": None, "head_dim": None}
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(true)), json_values, min_size=1, max_size=3))
    write_json(directory / "config.json", true | changes)
    try:
        config = read_config(directory)
        read_generation_defaults(directory)
    except ModelError as error:
        message = str(error)
    else:
        message = "config.json" if config.heads % config.kv_heads == 0 else ""
    assert "config.json" in message


def generation(directory: Path, values: dict[str, Any] | None, **config: Any) -> GenerationDefaults:
    change(write_llama(directory), **config)
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
