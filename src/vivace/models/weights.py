"""A checkpoint's tensors under this package's own names, every shape checked against the model's config.

Lazy: matrices stay views of the file; only norms, which are small, become float32 here. Knows no packed layout: what
a runner makes of these is its own business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.checkpoint import Checkpoint, Tensor
from vivace.models.config import ModelConfig

_CHUNK = 1 << 18
"""Elements looked at together by `check_finite`: the scratch for them stays in the cache."""


@dataclass(frozen=True, slots=True)
class Linear:
    """y = weight @ x + bias."""

    weight: Tensor
    """[out, in]"""
    bias: Tensor | None = None
    """[out]"""


@dataclass(frozen=True, slots=True)
class Norm:
    weight: NDArray[np.float32]
    """[n]"""
    bias: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. What its family does not have is None."""

    attention_norm: Norm
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    mlp_norm: Norm
    up: Linear
    down: Linear
    gate: Linear | None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class ModelWeights:
    embedding: Tensor
    """[vocab, hidden]"""
    positions: Tensor | None
    """[context, hidden] of learned positions, where there are such."""
    layers: tuple[LayerWeights, ...]
    final_norm: Norm
    head: Linear | None
    """None: tied to the embedding."""


@dataclass(frozen=True, slots=True)
class _Names:
    """Reads tensors of one checkpoint by name and shape."""

    checkpoint: Checkpoint

    def tensor(self, name: str, *shape: int) -> Tensor:
        tensor = self.checkpoint.tensor(name, shape)
        if tensor.dtype not in ("F32", "F16", "BF16"):
            raise CheckpointError(
                f"{self.checkpoint.directory}: tensor {name!r} is stored as {tensor.dtype}; weights must be F32, F16 "
                "or BF16. Give the original model, not a quantised one."
            )
        return tensor

    def linear(self, name: str, out: int, width: int, *, bias: bool = False) -> Linear:
        weight = self.tensor(f"{name}.weight", out, width)
        return Linear(weight, self.tensor(f"{name}.bias", out) if bias else None)

    def norm(self, name: str, width: int) -> Norm:
        tensor = self.tensor(f"{name}.weight", width)
        check_finite(tensor)
        return Norm(tensor.to_f32())


def read_weights(config: ModelConfig, checkpoint: Checkpoint) -> ModelWeights:
    """The weights of a model whose config was read from the same directory.

    A head beside a tied embedding is ignored, as transformers does. Raises `CheckpointError` for a tensor that is
    missing or of another shape or type than the config makes it.
    """
    if config.family not in ("llama", "qwen2"):
        raise UnsupportedModelError(f"No names of tensors are known for {config.family!r}; known are llama and qwen2.")
    names, hidden = _Names(checkpoint), config.hidden_size
    return ModelWeights(
        embedding=names.tensor("model.embed_tokens.weight", config.vocab_size, hidden),
        positions=None,
        layers=tuple(_read_layer(config, names, index) for index in range(len(config.layers))),
        final_norm=names.norm("model.norm", hidden),
        head=None if config.tied else names.linear("lm_head", config.vocab_size, hidden),
    )


def _read_layer(config: ModelConfig, names: _Names, index: int) -> LayerWeights:
    prefix, hidden, inner = f"model.layers.{index}", config.hidden_size, config.layers[index].intermediate_size
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    return LayerWeights(
        attention_norm=names.norm(f"{prefix}.input_layernorm", hidden),
        query=names.linear(f"{attention}.q_proj", queries, hidden, bias=config.qkv_bias),
        key=names.linear(f"{attention}.k_proj", keys, hidden, bias=config.qkv_bias),
        value=names.linear(f"{attention}.v_proj", keys, hidden, bias=config.qkv_bias),
        output=names.linear(f"{attention}.o_proj", hidden, queries, bias=config.output_bias),
        mlp_norm=names.norm(f"{prefix}.post_attention_layernorm", hidden),
        up=names.linear(f"{mlp}.up_proj", inner, hidden, bias=config.mlp_bias),
        down=names.linear(f"{mlp}.down_proj", hidden, inner, bias=config.mlp_bias),
        gate=names.linear(f"{mlp}.gate_proj", inner, hidden, bias=config.mlp_bias),
    )


def check_finite(tensor: Tensor) -> None:
    """Raise `CheckpointError` if a weight is infinite or not a number. Runs at about the speed of memory."""
    bits, limit = _exponent_limit(tensor)
    scratch = np.empty(min(bits.size, _CHUNK), bits.dtype)
    for start in range(0, bits.size, _CHUNK):
        chunk = bits[start : start + _CHUNK]
        magnitudes = np.bitwise_and(chunk, bits.dtype.type(np.iinfo(bits.dtype).max >> 1), out=scratch[: chunk.size])
        if magnitudes.max() >= limit:
            raise CheckpointError(
                f"Tensor {tensor.name!r} holds a weight that is infinite or not a number; the file was damaged, or "
                "the model's training failed. Download the checkpoint again, or use another."
            )


def _exponent_limit(tensor: Tensor) -> tuple[NDArray[Any], int]:
    """The values as unsigned bits, flat, and the least bits without sign whose exponent is all ones."""
    limits = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
    kind, limit = limits.get(tensor.dtype, (None, 0))
    if kind is None:
        return np.empty(0, np.uint16), 1
    return tensor.data.reshape(-1).view(kind), limit
