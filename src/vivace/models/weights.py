"""A checkpoint's tensors under this package's own names, every shape checked against the model's config.

Lazy: matrices stay views of the file, parts of fused ones and transposed ones too; only norms, which are small, become
float32 here. A matrix is checked for being finite by the runner that packs it, all else here. Knows no packed layout:
what a runner makes of these is its own business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.checkpoint import Tensor, TensorSource
from vivace.models.compressed import QuantizedTensor, Scheme, read_linear
from vivace.models.config import ModelConfig

_CHUNK = 1 << 18
"""Elements looked at together by `check_finite`: the scratch for them stays in the cache."""


@dataclass(frozen=True, slots=True)
class Linear:
    """y = weight @ x + bias; of a factored matrix, y = weight @ (factor @ x) + bias."""

    weight: Tensor | QuantizedTensor
    """[out, in]; [out, rank] beside a factor. Maybe not contiguous."""
    bias: Tensor | None = None
    """[out]"""
    factor: Tensor | None = None
    """[rank, in]. Query, key and value share one object when they were fused and then factored; so do gate and up."""


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
    embedding: Tensor | QuantizedTensor
    """[vocab, hidden]"""
    positions: Tensor | None
    """[context, hidden] of learned positions, where there are such."""
    layers: tuple[LayerWeights, ...]
    final_norm: Norm
    head: Linear | None
    """None: tied to the embedding."""


@dataclass(frozen=True, slots=True)
class _Names:
    """Reads what one checkpoint has under a prefix, by name and shape."""

    checkpoint: TensorSource
    prefix: str = ""
    norm_offset: float = 0.0
    norm_bias: bool = False
    scheme: Scheme | None = None

    def under(self, prefix: str) -> _Names:
        return replace(self, prefix=self.prefix + prefix)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.checkpoint

    def tensor(self, name: str, shape: tuple[int, ...] | None) -> Tensor:
        tensor = self.checkpoint.tensor(self.prefix + name, shape)
        if tensor.dtype not in ("F32", "F16", "BF16"):
            raise CheckpointError(
                f"{self.checkpoint.directory}: tensor {tensor.name!r} is stored as {tensor.dtype}; weights must be "
                "F32, F16 or BF16. Give the original model, not a quantised one."
            )
        return tensor

    def vector(self, name: str, size: int) -> Tensor:
        tensor = self.tensor(name, (size,))
        check_finite(tensor)
        return tensor

    def linear(self, name: str, out: int, width: int, *, bias: bool = False, transposed: bool = False) -> Linear:
        """`name.weight`, or `name.up.weight` and `name.down.weight`, of which it is the product.

        `transposed`: `name.weight` is stored [in, out]. Factors are stored [out, rank] and [rank, in] in any case.
        """
        offset = self.vector(f"{name}.bias", out) if bias else None
        if f"{name}.up.weight" in self:
            up, down = self._factors(name, out, width)
            return Linear(up, offset, down)
        if not transposed:
            return Linear(read_linear(self.checkpoint, self.prefix + name, out, width, self.scheme), offset)
        stored = self.tensor(f"{name}.weight", (width, out))
        return Linear(stored.transposed(), offset)

    def _factors(self, name: str, out: int, width: int) -> tuple[Tensor, Tensor]:
        place = f"{self.checkpoint.directory}: {self.prefix}{name}"
        if f"{name}.weight" in self:
            raise CheckpointError(f"{place} is there both whole and factored into up and down; remove one of the two.")
        up, down = (self.tensor(f"{name}.{part}.weight", None) for part in ("up", "down"))
        rank = up.shape[-1] if up.shape else 0
        if rank < 1 or up.shape != (out, rank) or down.shape != (rank, width):
            raise CheckpointError(
                f"{place} is factored into up {list(up.shape)} and down {list(down.shape)}; config.json makes these "
                f"[{out}, rank] and [rank, {width}], of one rank from 1. Factor the layer again."
            )
        return up, down

    def norm(self, name: str, width: int) -> Norm:
        weight = self.vector(f"{name}.weight", width).to_f32()
        bias = self.vector(f"{name}.bias", width).to_f32() if self.norm_bias else None
        return Norm(weight + np.float32(self.norm_offset) if self.norm_offset else weight, bias)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a family's checkpoints keep what, and how."""

    read_linears: Callable[[ModelConfig, _Names, int], dict[str, Linear | None]]
    """Those of one layer by the field of `LayerWeights`, from the names under its prefix and its MLP width."""
    norms: Mapping[str, str]
    """By the field of `LayerWeights`."""
    norm_offset: float = 0.0
    """Added to the weights of every norm."""
    prefixes: tuple[str, ...] = ("model.", "")
    """Of all but the head: the first under which there is an embedding."""
    embedding: str = "embed_tokens"
    positions: str = ""
    layers: str = "layers"
    final_norm: str = "norm"


def read_weights(config: ModelConfig, checkpoint: TensorSource) -> ModelWeights:
    """The weights of a model whose config was read from the same directory.

    A head beside a tied embedding is ignored, as transformers does, and the scales of one that shares its integers.
    Raises `CheckpointError` for a tensor that is
    missing or of another shape or type than the config makes it.
    """
    if config.family not in _LAYOUTS:
        raise UnsupportedModelError(
            f"No names of tensors are known for {config.family!r}; known are those of {', '.join(_LAYOUTS)}."
        )
    layout, hidden = _LAYOUTS[config.family], config.hidden_size
    found = [
        prefix
        for prefix in layout.prefixes
        if any(f"{prefix}{layout.embedding}.{part}" in checkpoint for part in ("weight", "weight_packed"))
    ]
    names = _Names(
        checkpoint, (found or layout.prefixes)[0], layout.norm_offset, config.norm == "layer", config.quantization
    )
    return ModelWeights(
        embedding=read_linear(
            checkpoint, names.prefix + layout.embedding, config.vocab_size, hidden, config.quantization
        ),
        positions=_read_positions(config, names, layout.positions) if layout.positions else None,
        layers=tuple(_read_layer(config, layout, names, index) for index in range(len(config.layers))),
        final_norm=names.norm(layout.final_norm, hidden),
        head=None if config.tied else _read_head(config, checkpoint),
    )


def _read_positions(config: ModelConfig, names: _Names, name: str) -> Tensor:
    positions = names.tensor(f"{name}.weight", (config.context_length, config.hidden_size))
    check_finite(positions)
    return positions


def _read_head(config: ModelConfig, checkpoint: TensorSource) -> Linear:
    """Beside the decoder; in files of models with images, beside the decoder's part of them."""
    places = [_Names(checkpoint, prefix, scheme=config.quantization) for prefix in ("", "language_model.")]
    parts = ("weight", "weight_packed", "up.weight")
    held = [names for names in places if any(f"lm_head.{part}" in names for part in parts)]
    return (held or places)[0].linear("lm_head", config.vocab_size, config.hidden_size)


def _read_layer(config: ModelConfig, layout: _Layout, names: _Names, index: int) -> LayerWeights:
    names = names.under(f"{layout.layers}.{index}.")
    parts: dict[str, Any] = dict(layout.read_linears(config, names, config.layers[index].intermediate_size))
    for place, name in layout.norms.items():
        of_head = place in ("query_norm", "key_norm")
        parts[place] = names.norm(name, config.head_dim if of_head else config.hidden_size)
    return LayerWeights(**parts)


def _read_separate(config: ModelConfig, names: _Names, inner: int) -> dict[str, Linear | None]:
    """Llama and most others: seven matrices."""
    hidden, queries, keys = config.hidden_size, config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention, mlp = names.under("self_attn."), names.under("mlp.")
    return {
        "query": attention.linear("q_proj", queries, hidden, bias=config.qkv_bias),
        "key": attention.linear("k_proj", keys, hidden, bias=config.qkv_bias),
        "value": attention.linear("v_proj", keys, hidden, bias=config.qkv_bias),
        "output": attention.linear("o_proj", hidden, queries, bias=config.output_bias),
        "up": mlp.linear("up_proj", inner, hidden, bias=config.mlp_bias),
        "down": mlp.linear("down_proj", hidden, inner, bias=config.mlp_bias),
        "gate": mlp.linear("gate_proj", inner, hidden, bias=config.mlp_bias),
    }


def _read_fused(config: ModelConfig, names: _Names, inner: int) -> dict[str, Linear | None]:
    """Phi-3: query, key and value are one matrix, gate and up another."""
    hidden, queries, keys = config.hidden_size, config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention, mlp = names.under("self_attn."), names.under("mlp.")
    query, key, value = _split(attention.linear("qkv_proj", queries + 2 * keys, hidden), queries, keys, keys)
    gate, up = _split(mlp.linear("gate_up_proj", 2 * inner, hidden), inner, inner)
    output = attention.linear("o_proj", hidden, queries)
    down = mlp.linear("down_proj", hidden, inner)
    return {"query": query, "key": key, "value": value, "output": output, "up": up, "down": down, "gate": gate}


def _read_gpt2(config: ModelConfig, names: _Names, inner: int) -> dict[str, Linear | None]:
    """GPT-2: query, key and value are one matrix, and all matrices are stored [in, out]."""
    hidden = config.hidden_size

    def read(name: str, out: int, width: int) -> Linear:
        return names.linear(name, out, width, bias=True, transposed=True)

    query, key, value = _split(read("attn.c_attn", 3 * hidden, hidden), hidden, hidden, hidden)
    output = read("attn.c_proj", hidden, hidden)
    up, down = read("mlp.c_fc", inner, hidden), read("mlp.c_proj", hidden, inner)
    return {"query": query, "key": key, "value": value, "output": output, "up": up, "down": down, "gate": None}


def _split(linear: Linear, *sizes: int) -> list[Linear]:
    """Linears of `sizes` outputs each, from one of them all: views, and a factor that is shared."""
    parts = pairwise(accumulate(sizes, initial=0))
    return [
        Linear(linear.weight.rows(*part), None if linear.bias is None else linear.bias.rows(*part), linear.factor)
        for part in parts
    ]


_LLAMA_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_HEAD_NORMS = {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
_LLAMA = _Layout(_read_separate, _LLAMA_NORMS)

_LAYOUTS: dict[str, _Layout] = {
    "gemma3_text": _Layout(
        _read_separate,
        _HEAD_NORMS
        | {
            "attention_norm": "input_layernorm",
            "attention_post_norm": "post_attention_layernorm",
            "mlp_norm": "pre_feedforward_layernorm",
            "mlp_post_norm": "post_feedforward_layernorm",
        },
        norm_offset=1.0,
        prefixes=("model.", "language_model.model.", "model.language_model.", "model.language_model.model.", ""),
    ),
    "gpt2": _Layout(
        _read_gpt2,
        {"attention_norm": "ln_1", "mlp_norm": "ln_2"},
        prefixes=("transformer.", ""),
        embedding="wte",
        positions="wpe",
        layers="h",
        final_norm="ln_f",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "phi3": _Layout(_read_fused, _LLAMA_NORMS),
    "qwen2": _LLAMA,
    "qwen3": _Layout(_read_separate, _LLAMA_NORMS | _HEAD_NORMS),
    "smollm3": _LLAMA,
}


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
    return tensor.data.ravel(order="K").view(kind), limit
