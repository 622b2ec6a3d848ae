from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.checkpoints import set_fields, to_bfloat16, write_json, write_llama, write_qwen2, write_tensors
from tests.families import (
    factor_linears,
    write_gemma3,
    write_gpt2,
    write_mistral,
    write_phi3,
    write_qwen3,
    write_smollm3,
)
from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.checkpoint import Checkpoint, Tensor
from vivace.models.config import read_config
from vivace.models.weights import Linear, ModelWeights, Norm, check_finite, read_weights


def values_of(linear: Linear) -> NDArray[Any]:
    """The view of the file that a linear of floats is."""
    assert isinstance(linear.weight, Tensor)
    return linear.weight.data


def read(directory: Path) -> ModelWeights:
    return read_weights(read_config(directory), Checkpoint.open(directory))


def rewrite(directory: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Write the single file of a float32 checkpoint again, its tensors changed."""
    checkpoint = Checkpoint.open(directory)
    tensors = {name: np.array(checkpoint.tensor(name).data) for name in checkpoint.names}
    change(tensors)
    write_tensors(directory / "model.safetensors", tensors)
    return directory


PLACES = {
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.o_proj": "output",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    "mlp.gate_proj": "gate",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
    "self_attn.q_norm": "query_norm",
    "self_attn.k_norm": "key_norm",
}


def flatten(weights: ModelWeights) -> dict[str, np.ndarray[Any, Any]]:
    """Every weight under the name that transformers has for it."""
    flat = {"model.embed_tokens.weight": weights.embedding.to_f32(), "model.norm.weight": weights.final_norm.weight}
    if weights.head is not None:
        flat["lm_head.weight"] = weights.head.weight.to_f32()
    for index, layer in enumerate(weights.layers):
        for name, place in PLACES.items():
            part: Linear | Norm | None = getattr(layer, place)
            for kind in ("weight", "bias"):
                value: Any = getattr(part, kind, None)
                if value is not None:
                    flat[f"model.layers.{index}.{name}.{kind}"] = value.to_f32() if isinstance(value, Tensor) else value
    return flat


@pytest.mark.parametrize(
    ("write", "settings"),
    [
        (write_llama, {"tied": False, "attention_bias": True, "mlp_bias": True, "head_dim": 24}),
        (write_llama, {"dtype": "float16", "layers": 3}),
        (write_qwen2, {"dtype": "bfloat16", "sharded": True}),
        (write_mistral, {}),
        (write_qwen3, {"attention_bias": True}),
        (write_smollm3, {}),
    ],
)
def test_every_weight_is_where_transformers_has_it(tmp_path: Path, write: Any, settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    write(tmp_path, **settings)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    flat = flatten(read(tmp_path))
    if read_config(tmp_path).tied:
        expected.pop("lm_head.weight")
    assert set(flat) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(flat[name], values.numpy(), strict=True, err_msg=name)


def read_raw(directory: Path, name: str) -> np.ndarray[Any, Any]:
    return Checkpoint.open(directory).tensor(name).data


@pytest.mark.parametrize("write", [write_llama, write_phi3, write_gpt2, write_gemma3])
def test_matrices_stay_views_of_the_file(tmp_path: Path, write: Any) -> None:
    weights = read(write(tmp_path))
    layer = weights.layers[0]
    linears = [layer.query, layer.value, layer.up, layer.down]
    assert not any(values.flags.owndata for values in map(values_of, [Linear(weights.embedding), *linears]))


def test_the_norms_of_gemma3_are_one_more_than_what_is_stored(tmp_path: Path) -> None:
    weights = read(write_gemma3(tmp_path))
    layer, prefix = weights.layers[1], "model.layers.1."
    stored = {
        "input_layernorm": layer.attention_norm,
        "post_attention_layernorm": layer.attention_post_norm,
        "pre_feedforward_layernorm": layer.mlp_norm,
        "post_feedforward_layernorm": layer.mlp_post_norm,
        "self_attn.q_norm": layer.query_norm,
        "self_attn.k_norm": layer.key_norm,
    }
    for name, norm in stored.items():
        assert norm is not None
        np.testing.assert_array_equal(norm.weight, read_raw(tmp_path, f"{prefix}{name}.weight") + np.float32(1))
    np.testing.assert_array_equal(weights.final_norm.weight, read_raw(tmp_path, "model.norm.weight") + np.float32(1))


def test_fused_matrices_are_taken_apart(tmp_path: Path) -> None:
    layer = read(write_phi3(tmp_path)).layers[1]
    fused = read_raw(tmp_path, "model.layers.1.self_attn.qkv_proj.weight")
    parts = (layer.query, layer.key, layer.value)
    assert [part.weight.shape for part in parts] == [(64, 64), (32, 64), (32, 64)]
    np.testing.assert_array_equal(np.concatenate([values_of(part) for part in parts]), fused)
    assert layer.gate is not None
    gate_up = np.concatenate([values_of(layer.gate), values_of(layer.up)])
    np.testing.assert_array_equal(gate_up, read_raw(tmp_path, "model.layers.1.mlp.gate_up_proj.weight"))
    assert len({part.weight.name for part in parts}) == 3


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_the_matrices_of_gpt2_are_turned_to_out_by_in(tmp_path: Path, prefix: str) -> None:
    weights = read(write_gpt2(tmp_path, prefix=prefix))
    layer = weights.layers[0]
    fused = read_raw(tmp_path, f"{prefix}h.0.attn.c_attn.weight")
    np.testing.assert_array_equal(values_of(layer.key), fused[:, 64:128].T)
    assert layer.key.bias is not None
    np.testing.assert_array_equal(layer.key.bias.data, read_raw(tmp_path, f"{prefix}h.0.attn.c_attn.bias")[64:128])
    np.testing.assert_array_equal(values_of(layer.up), read_raw(tmp_path, f"{prefix}h.0.mlp.c_fc.weight").T)
    assert (layer.gate, layer.up.weight.shape, layer.down.weight.shape) == (None, (256, 64), (64, 256))
    assert weights.positions is not None
    np.testing.assert_array_equal(weights.positions.data, read_raw(tmp_path, f"{prefix}wpe.weight"))
    assert layer.attention_norm.bias is not None
    np.testing.assert_array_equal(layer.attention_norm.bias, read_raw(tmp_path, f"{prefix}h.0.ln_1.bias"))


def test_the_tensors_of_a_bare_decoder_are_found_without_prefix(tmp_path: Path) -> None:
    def strip(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    expected = values_of(read(write_qwen3(tmp_path / "model")).layers[1].down)
    stripped = rewrite(write_qwen3(tmp_path / "bare"), strip)
    np.testing.assert_array_equal(values_of(read(stripped).layers[1].down), expected)


def test_each_layer_has_the_mlp_width_that_the_config_gives_it(tmp_path: Path) -> None:
    def cut(tensors: dict[str, Any]) -> None:
        for name in ("gate_proj", "up_proj"):
            tensors[f"model.layers.0.mlp.{name}.weight"] = tensors[f"model.layers.0.mlp.{name}.weight"][:48]
        tensors["model.layers.0.mlp.down_proj.weight"] = tensors["model.layers.0.mlp.down_proj.weight"][:, :48].copy()

    rewrite(set_fields(write_llama(tmp_path), intermediate_size=[48, 112]), cut)
    assert [layer.down.weight.shape for layer in read(tmp_path).layers] == [(64, 48), (64, 112)]
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up_proj.*config\.json makes it \[112, 64\]"):
        read(set_fields(tmp_path, intermediate_size=[112, 48]))


def test_a_factored_linear_keeps_both_factors_and_its_bias(tmp_path: Path) -> None:
    factor_linears(write_qwen2(tmp_path, tied=False), 9, "model.layers.0.self_attn.q_proj", "lm_head")
    weights = read(tmp_path)
    query, key = weights.layers[0].query, weights.layers[0].key
    assert query.factor is not None
    assert (query.weight.shape, query.factor.shape) == ((64, 9), (9, 64))
    assert query.bias is not None
    assert (key.weight.shape, key.factor) == ((32, 64), None)
    assert weights.head is not None
    assert weights.head.factor is not None


def test_parts_of_a_fused_linear_share_its_factor(tmp_path: Path) -> None:
    factor_linears(write_phi3(tmp_path), 9, "model.layers.0.self_attn.qkv_proj")
    layer = read(tmp_path).layers[0]
    assert layer.query.factor is not None
    assert layer.query.factor is layer.key.factor is layer.value.factor
    assert [part.weight.shape for part in (layer.query, layer.key, layer.value)] == [(64, 9), (32, 9), (32, 9)]


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("up", np.zeros((64, 8), np.float32)),
        ("up", np.zeros((63, 9), np.float32)),
        ("up", np.zeros(64, np.float32)),
        ("down", np.zeros((9, 63), np.float32)),
        ("down", np.zeros((9, 64, 1), np.float32)),
    ],
)
def test_factors_that_do_not_fit_are_told_their_shapes(tmp_path: Path, part: str, values: Any) -> None:
    name = "model.layers.0.mlp.gate_proj"
    factor_linears(write_llama(tmp_path, intermediate=64), 9, name)
    rewrite(tmp_path, lambda tensors: tensors.update({f"{name}.{part}.weight": values}))
    with pytest.raises(
        CheckpointError, match=rf"{name} is factored into up \[.*\] and down \[.*makes these \[64, rank\]"
    ):
        read(tmp_path)


def test_factors_of_rank_zero_are_refused(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj"
    factor_linears(write_llama(tmp_path), 9, name)
    none = {f"{name}.up.weight": np.zeros((64, 0), np.float32), f"{name}.down.weight": np.zeros((0, 112), np.float32)}
    rewrite(tmp_path, lambda tensors: tensors.update(none))
    with pytest.raises(CheckpointError, match=r"of one rank from 1"):
        read(tmp_path)


def test_half_of_a_factored_linear_is_missing_by_name(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj"
    factor_linears(write_llama(tmp_path), 9, name)
    rewrite(tmp_path, lambda tensors: tensors.pop(f"{name}.down.weight"))
    with pytest.raises(CheckpointError, match=rf"no tensor '{name}\.down\.weight'"):
        read(tmp_path)


def test_a_linear_that_is_there_whole_and_factored_is_refused(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj"
    factor_linears(write_llama(tmp_path), 9, name)
    rewrite(tmp_path, lambda tensors: tensors.update({f"{name}.weight": np.zeros((64, 112), np.float32)}))
    with pytest.raises(CheckpointError, match=rf"{name} is there both whole and factored.*remove"):
        read(tmp_path)


def test_what_a_family_has_not_is_none(llama_directory: Path) -> None:
    weights = read(llama_directory)
    layer = weights.layers[0]
    assert weights.positions is None
    assert layer.query.bias is None
    assert (layer.query_norm, layer.key_norm, layer.attention_post_norm, layer.mlp_post_norm) == (None,) * 4


def test_a_head_beside_a_tied_embedding_is_ignored(tmp_path: Path) -> None:
    write_llama(tmp_path, tied=True)
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": np.ones((320, 64), np.float32)}))
    assert read(tmp_path).head is None


def test_a_head_that_is_not_tied_must_be_there(tmp_path: Path) -> None:
    write_llama(tmp_path, tied=True)
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", config | {"tie_word_embeddings": False})
    with pytest.raises(CheckpointError, match=r"no tensor 'lm_head\.weight'"):
        read(tmp_path)


MISSING: list[tuple[Any, str]] = [
    (write_llama, "model.embed_tokens.weight"),
    (write_llama, "model.layers.1.mlp.up_proj.weight"),
    (write_llama, "model.norm.weight"),
    (write_qwen3, "model.layers.1.self_attn.k_norm.weight"),
    (write_gemma3, "model.layers.0.post_feedforward_layernorm.weight"),
    (write_phi3, "model.layers.0.self_attn.qkv_proj.weight"),
    (write_gpt2, "transformer.wpe.weight"),
    (write_gpt2, "transformer.h.1.ln_2.bias"),
    (write_gpt2, "transformer.h.1.mlp.c_fc.bias"),
]


@pytest.mark.parametrize(("write", "name"), MISSING)
def test_a_missing_tensor_is_named(tmp_path: Path, write: Any, name: str) -> None:
    rewrite(write(tmp_path), lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=name):
        read(tmp_path)


def test_a_missing_bias_is_named(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.bias"
    rewrite(write_qwen2(tmp_path), lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=name):
        read(tmp_path)


@pytest.mark.parametrize("field", ["vocab_size", "intermediate_size"])
def test_a_config_that_lies_about_a_size_is_told_both_shapes(tmp_path: Path, field: str) -> None:
    write_llama(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", config | {field: 48})
    with pytest.raises(CheckpointError, match=r"has shape \[\d+, \d+\].*config\.json makes it \["):
        read(tmp_path)


@pytest.mark.parametrize(("write", "name"), MISSING)
def test_a_tensor_of_another_shape_is_told_both(tmp_path: Path, write: Any, name: str) -> None:
    rewrite(write(tmp_path), lambda tensors: tensors.update({name: np.ones((3, 5), np.float32)}))
    with pytest.raises(CheckpointError, match=rf"{name}.* has shape \[3, 5\].*config\.json makes it \["):
        read(tmp_path)


def test_weights_that_are_whole_numbers_are_refused(tmp_path: Path) -> None:
    numpy_face = pytest.importorskip("safetensors.numpy")
    checkpoint = Checkpoint.open(write_llama(tmp_path))
    tensors = {name: np.array(checkpoint.tensor(name).data) for name in checkpoint.names}
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].astype(np.int8)
    numpy_face.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"stored as I8, and config\.json does not say"):
        read(tmp_path)


def test_a_family_whose_names_are_not_known_is_unsupported(llama_directory: Path) -> None:
    config = dataclasses.replace(read_config(llama_directory), family="mamba")
    with pytest.raises(UnsupportedModelError, match="'mamba'; known are those of gemma3_text, gpt2, llama"):
        read_weights(config, Checkpoint.open(llama_directory))


def test_a_norm_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    rewrite(write_llama(tmp_path), lambda tensors: tensors.update({"model.norm.weight": np.full(64, np.nan)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["wpe.weight", "h.0.attn.c_attn.bias", "h.1.ln_1.bias"])
def test_positions_and_biases_that_are_not_finite_are_refused(tmp_path: Path, name: str) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors[f"transformer.{name}"].flat[-1] = np.inf

    with pytest.raises(CheckpointError, match=name):
        read(rewrite(write_gpt2(tmp_path), spoil))


def test_a_weight_that_is_not_finite_is_found_in_a_part_and_in_a_transpose() -> None:
    values = np.zeros((6, 8), np.float32)
    values[4, 5] = np.nan
    tensor = Tensor("w", "F32", values)
    for part in (tensor.rows(4, 5), tensor.transposed(), tensor.transposed().rows(5, 6)):
        with pytest.raises(CheckpointError, match="'w"):
            check_finite(part)
    for part in (tensor.rows(0, 4), tensor.transposed().rows(0, 5)):
        check_finite(part)


def as_tensor(values: np.ndarray[Any, Any], dtype: str) -> Tensor:
    if dtype == "BF16":
        return Tensor("w", "BF16", to_bfloat16(values))
    return Tensor("w", "F16", values.astype(np.float16)) if dtype == "F16" else Tensor("w", "F32", values)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1234, 599_999])
def test_one_weight_that_is_not_finite_is_found_wherever_it_is(dtype: str, value: float, place: int) -> None:
    values = np.zeros((600, 1000), dtype=np.float32)
    values.flat[place] = value
    with pytest.raises(CheckpointError, match=r"'w' holds a weight that is infinite or not a number.*Download"):
        check_finite(as_tensor(values, dtype))


@pytest.mark.parametrize(("dtype", "largest"), [("F32", 3.4e38), ("F16", 65504.0), ("BF16", 3.38e38)])
def test_the_largest_finite_weights_are_not_refused(dtype: str, largest: float) -> None:
    check_finite(as_tensor(np.array([largest, -largest, 0.0, -0.0, 1e-45], dtype=np.float32), dtype))


def test_whole_numbers_and_nothing_are_finite() -> None:
    check_finite(Tensor("w", "I32", np.full(4, -1, dtype=np.int32)))
    check_finite(Tensor("w", "F32", np.zeros((0, 3), dtype=np.float32)))
