from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import to_bfloat16, write_json, write_llama, write_qwen2, write_tensors
from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.checkpoint import Checkpoint, Tensor
from vivace.models.config import read_config
from vivace.models.weights import Linear, ModelWeights, Norm, check_finite, read_weights


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
}


def flatten(weights: ModelWeights) -> dict[str, np.ndarray[Any, Any]]:
    """Every weight under the name that transformers has for it."""
    flat = {"model.embed_tokens.weight": weights.embedding.to_f32(), "model.norm.weight": weights.final_norm.weight}
    if weights.head is not None:
        flat["lm_head.weight"] = weights.head.weight.to_f32()
    for index, layer in enumerate(weights.layers):
        for name, place in PLACES.items():
            part: Linear | Norm = getattr(layer, place)
            for kind in ("weight", "bias"):
                value: Any = getattr(part, kind)
                if value is not None:
                    flat[f"model.layers.{index}.{name}.{kind}"] = value.to_f32() if isinstance(value, Tensor) else value
    return flat


@pytest.mark.parametrize(
    ("write", "settings"),
    [
        (write_llama, {"tied": False, "attention_bias": True, "mlp_bias": True, "head_dim": 24}),
        (write_llama, {"dtype": "float16", "layers": 3}),
        (write_qwen2, {"dtype": "bfloat16", "sharded": True}),
    ],
)
def test_every_weight_is_where_transformers_has_it(tmp_path: Path, write: Any, settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    write(tmp_path, **settings)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).state_dict()
    flat = flatten(read(tmp_path))
    if settings.get("tied", True):
        expected.pop("lm_head.weight")
    assert set(flat) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(flat[name], values.numpy(), strict=True, err_msg=name)


def test_matrices_stay_views_of_the_file(llama_directory: Path) -> None:
    weights = read(llama_directory)
    layer = weights.layers[0]
    tensors = [weights.embedding, layer.query.weight, layer.down.weight]
    assert not any(tensor.data.flags.owndata for tensor in tensors)


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


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
)
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    rewrite(write_llama(tmp_path), lambda tensors: tensors.pop(name))
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


def test_weights_that_are_whole_numbers_are_refused(tmp_path: Path) -> None:
    numpy_face = pytest.importorskip("safetensors.numpy")
    checkpoint = Checkpoint.open(write_llama(tmp_path))
    tensors = {name: np.array(checkpoint.tensor(name).data) for name in checkpoint.names}
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].astype(np.int8)
    numpy_face.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="stored as I8; weights must be F32, F16 or BF16"):
        read(tmp_path)


def test_a_family_whose_names_are_not_known_is_unsupported(llama_directory: Path) -> None:
    config = dataclasses.replace(read_config(llama_directory), family="mamba")
    with pytest.raises(UnsupportedModelError, match="'mamba'; known are llama and qwen2"):
        read_weights(config, Checkpoint.open(llama_directory))


def test_a_norm_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    rewrite(write_llama(tmp_path), lambda tensors: tensors.update({"model.norm.weight": np.full(64, np.nan)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        read(tmp_path)


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
