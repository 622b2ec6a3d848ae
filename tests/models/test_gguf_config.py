from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import set_fields, write_llama, write_qwen2
from tests.families import write_gemma3, write_gpt2, write_mistral, write_phi3, write_qwen3
from tests.gguf_files import convert, value, write_gguf
from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.config import ModelConfig, read_config
from vivace.models.gguf import GgufFile
from vivace.models.gguf_config import read_architecture, read_gguf_config, read_gguf_generation

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}

MODELS: dict[str, Callable[[Path], Path]] = {
    "llama": write_llama,
    "llama with a head": lambda path: write_llama(path, tied=False, head_dim=24, rope_theta=5e5),
    "llama with biases": lambda path: write_llama(path, attention_bias=True, mlp_bias=True),
    "llama with linear rope": lambda path: write_llama(path, rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "mistral": write_mistral,
    "qwen2": write_qwen2,
    "qwen2 with yarn": lambda path: write_qwen2(path, rope_scaling=YARN),
    "qwen3": write_qwen3,
    "qwen3 with biases": lambda path: write_qwen3(path, attention_bias=True),
    "gemma3": lambda path: set_fields(write_gemma3(path), query_pre_attn_scalar=24),
    "gemma3 with linear rope": lambda path: set_fields(
        write_gemma3(path, rope_scaling={"rope_type": "linear", "factor": 8.0}), query_pre_attn_scalar=24
    ),
    "phi3": write_phi3,
    "phi3 beyond its first context": lambda path: write_phi3(path, context=1024, window=300),
    "phi3 rotated in part": lambda path: write_phi3(path, partial=0.75),
    "phi3 with plain rope": lambda path: write_phi3(path, longrope=False),
    "gpt2": write_gpt2,
    "gpt2 with a head": lambda path: write_gpt2(path, tied=False, inner=96),
}


def read(path: Path) -> ModelConfig:
    return read_gguf_config(GgufFile.open(path))


def llama(directory: Path, **more: Any) -> Path:
    return convert(write_llama(directory / "model"), directory / "model.gguf", **more)


@pytest.mark.parametrize("name", MODELS)
def test_the_shape_is_that_of_the_config_file(tmp_path: Path, name: str) -> None:
    directory = MODELS[name](tmp_path / "model")
    assert read(convert(directory, tmp_path / "model.gguf")) == read_config(directory)


def test_llama3_ropes_are_slowed_by_the_factors_in_the_file(tmp_path: Path) -> None:
    directory = write_llama(tmp_path / "model", head_dim=64, rope_theta=5e5, rope_scaling=LLAMA3)
    ours, expected = read(convert(directory, tmp_path / "model.gguf")), read_config(directory)
    slowed, plain = ours.ropes[0].inverse_frequencies, read_config(write_llama(tmp_path / "plain", head_dim=64)).ropes
    assert slowed != plain[0].inverse_frequencies
    np.testing.assert_allclose(slowed, expected.ropes[0].inverse_frequencies, rtol=1e-6)


def test_layers_may_differ_in_the_width_of_their_mlps(tmp_path: Path) -> None:
    config = read(llama(tmp_path, llama__feed_forward_length=[112, 80]))
    assert [layer.intermediate_size for layer in config.layers] == [112, 80]


def test_the_largest_gemma_divides_scores_by_another_root(tmp_path: Path) -> None:
    path = convert(write_gemma3(tmp_path / "model"), tmp_path / "model.gguf", gemma3__block_count=62)
    assert read(path).attention_scale == (80 // 4) ** -0.5


def test_an_old_key_scales_rope_too(tmp_path: Path) -> None:
    expected = read_config(write_llama(tmp_path / "linear", rope_scaling={"rope_type": "linear", "factor": 4.0}))
    assert read(llama(tmp_path, llama__rope__scale_linear=4.0)).ropes == expected.ropes


def test_the_vocabulary_is_as_large_as_the_embedding(tmp_path: Path) -> None:
    path = llama(tmp_path, llama__vocab_size=7)
    assert len(GgufFile.open(path).metadata.values["tokenizer.ggml.tokens"]) == 259
    assert read(path).vocab_size == 320


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"general__architecture": "mamba"}, "general.architecture is 'mamba'; supported are gemma3, gpt2, llama"),
        ({"llama__expert_count": 8}, "llama.expert_count is not 0"),
        ({"llama__attention__value_length": 8}, "llama.attention.value_length differs"),
        ({"llama__rope__dimension_count": 8}, "partial_rotary_factor is 0.5"),
        ({"llama__rope__scaling__type": "spiral", "llama__rope__scaling__factor": 2.0}, "spiral"),
    ],
)
def test_what_is_not_run_is_unsupported_by_file_and_field(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"model\.gguf: .*{message}"):
        read(llama(tmp_path, **more))


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"general__architecture": None}, "general.architecture is missing"),
        ({"llama__block_count": None}, "llama.block_count is missing"),
        ({"llama__block_count": 0}, "llama.block_count is 0"),
        ({"llama__block_count": 2**32 - 1}, "llama.block_count is 4294967295"),
        ({"llama__embedding_length": "64"}, "llama.embedding_length is '64'"),
        ({"llama__attention__head_count": [4, 4]}, "llama.attention.head_count is"),
        ({"llama__attention__head_count_kv": 3}, "num_key_value_heads is 3"),
        ({"llama__attention__layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon is missing"),
        ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon is nan"),
        ({"llama__rope__freq_base": -1.0}, "llama.rope.freq_base is -1.0"),
        ({"llama__feed_forward_length": [112]}, "intermediate_size is"),
        ({"llama__feed_forward_length": value("f32", [112.0, 112.0])}, "llama.feed_forward_length is"),
        ({"llama__rope__scaling__type": "yarn", "llama__rope__scaling__factor": 2.0}, "original_context_length"),
    ],
)
def test_metadata_that_cannot_be_is_refused_by_file_and_field(tmp_path: Path, more: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError, match=rf"model\.gguf: .*{field}"):
        read(llama(tmp_path, **more))


def test_a_file_without_an_embedding_is_no_language_model(tmp_path: Path) -> None:
    sizes = {"llama.embedding_length": 64, "llama.attention.head_count": 4}
    path = write_gguf(tmp_path / "model.gguf", {"general.architecture": "llama"} | sizes)
    with pytest.raises(CheckpointError, match=r"no matrix 'token_embd\.weight'"):
        read(path)


def test_factors_of_a_rope_must_fit_it(tmp_path: Path) -> None:
    scaling = LLAMA3 | {"factor": -8.0}
    directory = write_llama(tmp_path / "model", rope_scaling=scaling)
    with pytest.raises(CheckpointError, match=r"'rope_freqs\.weight' holds no 8 numbers above 0"):
        read(convert(directory, tmp_path / "model.gguf"))


def test_the_architecture_is_read_alone_too(tmp_path: Path) -> None:
    assert read_architecture(GgufFile.open(llama(tmp_path))) == "llama"


@pytest.mark.parametrize(
    ("more", "stops"),
    [
        ({}, (258, 256)),
        ({"tokenizer__ggml__eot_token_id": 257}, (258, 257, 256)),
        ({"tokenizer__ggml__eos_token_id": None, "tokenizer__ggml__token_type": None}, ()),
        ({"tokenizer__ggml__eos_token_id": 7, "tokenizer__ggml__token_type": None}, (7,)),
    ],
)
def test_turns_end_with_tokens_that_are_named_so(tmp_path: Path, more: dict[str, Any], stops: tuple[int, ...]) -> None:
    generation = read_gguf_generation(GgufFile.open(llama(tmp_path, **more)))
    assert generation.stop_token_ids == stops
    assert generation.temperature == 0


def test_a_stop_token_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.ggml\.eos_token_id is -1"):
        read_gguf_generation(GgufFile.open(llama(tmp_path, tokenizer__ggml__eos_token_id=value("i32", -1))))
