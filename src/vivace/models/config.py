"""The shape of a model, from the config.json and generation_config.json of a Hugging Face directory.

Two dialects are read: published files say `rope_theta`, `rope_scaling`, `torch_dtype`; files written by transformers 5
say `rope_parameters`, `dtype`. All sizes are distrusted and bounded. Knows nothing of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.fields import Fields, read_fields
from vivace.models.rope import MAX_CONTEXT, Rope, read_rope
from vivace.sampling import GenerationDefaults

__all__ = ["Activation", "LayerConfig", "ModelConfig", "Rope", "read_config", "read_generation_defaults"]

Activation = Literal["silu", "gelu", "gelu_tanh"]

MAX_VOCAB = 2**24
MAX_WIDTH = 2**20
MAX_LAYERS = 4096

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What may differ from layer to layer."""

    intermediate_size: int
    window: int = 0
    """0: attends to everything before it; else to the last `window` tokens, itself included."""
    rope: int = 0
    """Index into `ModelConfig.ropes`; -1: none."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder's shape, resolved once: what a runner needs to know besides the weights."""

    family: str
    """The config's `model_type`."""
    vocab_size: int
    hidden_size: int
    heads: int
    kv_heads: int
    """Query head h reads key head h // (heads / kv_heads)."""
    head_dim: int
    layers: tuple[LayerConfig, ...]
    ropes: tuple[Rope, ...]
    norm: Literal["rms", "layer"]
    norm_eps: float
    activation: Activation
    gated: bool
    """The MLP is down(activation(gate(x)) * up(x)); else down(activation(up(x)))."""
    attention_scale: float
    """Multiplies query times key: head_dim ** -0.5 unless the family says otherwise."""
    embedding_scale: float
    tied: bool
    """The head is the embedding."""
    context_length: int
    """Tokens."""
    qkv_bias: bool = False
    output_bias: bool = False
    """Of the attention's output projection."""
    mlp_bias: bool = False


def read_config(directory: Path) -> ModelConfig:
    """The shape of the model in a directory.

    Raises `UnsupportedModelError` for a model this engine does not run, `CheckpointError` for a file that is missing
    or says what cannot be.
    """
    fields = read_fields(directory / "config.json")
    family = fields.text("model_type")
    if family not in _FAMILIES:
        raise UnsupportedModelError(
            f"{fields.path}: model_type is {family!r}; supported are {', '.join(sorted(_FAMILIES))}."
        )
    if "quantization_config" in fields:
        raise UnsupportedModelError(
            f"{fields.path}: quantization_config says the weights are quantised already; supported are weights in "
            "float32, float16 and bfloat16. Give the original model."
        )
    return _FAMILIES[family](fields)


def read_generation_defaults(directory: Path) -> GenerationDefaults:
    """How the checkpoint wants to be sampled, and the tokens that end its turn.

    Settings count only when `do_sample` is true, as in transformers, and those left open are then its defaults; else
    the model is greedy. Stop tokens are generation_config.json's, else config.json's. Raises `CheckpointError` for
    values that cannot be.
    """
    config = read_fields(directory / "config.json")
    path = directory / "generation_config.json"
    fields = read_fields(path) if path.exists() else Fields(path, {})
    stops = _stop_tokens(fields if "eos_token_id" in fields else config)
    if not fields.boolean("do_sample", False):
        return GenerationDefaults(stop_token_ids=stops)
    temperature, top_p = fields.number("temperature", 1.0), fields.number("top_p", 1.0, above=0.0)
    if not 0 <= temperature <= 100:
        raise fields.error("temperature", "0 to 100")
    if top_p > 1:
        raise fields.error("top_p", "at most 1")
    return GenerationDefaults(temperature, fields.integer("top_k", 0, MAX_VOCAB, 50), top_p, stops)


def _stop_tokens(fields: Fields) -> tuple[int, ...]:
    value = fields.values.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if len(ids) > 1024 or not all(type(id) is int and 0 <= id < MAX_VOCAB for id in ids):
        raise fields.error("eos_token_id", f"a token id below {MAX_VOCAB}, or a list of at most 1024")
    return tuple(dict.fromkeys(ids))


def _read_llama(fields: Fields) -> ModelConfig:
    bias = fields.boolean("attention_bias", False)
    return _read_decoder(
        fields,
        context_default=2048,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=fields.boolean("mlp_bias", False),
    )


def _read_qwen2(fields: Fields) -> ModelConfig:
    kinds = fields.values.get("layer_types") or []
    if not isinstance(kinds, list):
        raise fields.error("layer_types", "a list")
    if fields.boolean("use_sliding_window", False) or any(kind != "full_attention" for kind in kinds):
        raise UnsupportedModelError(
            f"{fields.path}: use_sliding_window or layer_types asks for sliding attention; supported for qwen2 is "
            "full attention in every layer."
        )
    return _read_decoder(fields, context_default=32768, qkv_bias=True)


def _read_decoder(fields: Fields, context_default: int, **biases: bool) -> ModelConfig:
    """What the families around Llama have in common: RMS norms, a gated MLP, rotary positions."""
    hidden, heads = fields.integer("hidden_size", 1, MAX_WIDTH), fields.integer("num_attention_heads", 1, MAX_WIDTH)
    kv_heads = fields.integer("num_key_value_heads", 1, MAX_WIDTH, heads)
    head_dim = _head_dim(fields, hidden, heads, kv_heads)
    layer = LayerConfig(fields.integer("intermediate_size", 1, MAX_WIDTH))
    context = fields.integer("max_position_embeddings", 1, MAX_CONTEXT, context_default)
    return ModelConfig(
        family=fields.text("model_type"),
        vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        layers=(layer,) * fields.integer("num_hidden_layers", 1, MAX_LAYERS),
        ropes=(read_rope(fields, head_dim, context),),
        norm="rms",
        norm_eps=fields.number("rms_norm_eps", 1e-6, above=0.0),
        activation=_activation(fields),
        gated=True,
        attention_scale=head_dim**-0.5,
        embedding_scale=1.0,
        tied=fields.boolean("tie_word_embeddings", False),
        context_length=context,
        **biases,
    )


def _head_dim(fields: Fields, hidden: int, heads: int, kv_heads: int) -> int:
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"a divisor of num_attention_heads, {heads}")
    if "head_dim" not in fields and hidden % heads:
        raise fields.error("hidden_size", f"a multiple of num_attention_heads, {heads}, when head_dim is not given")
    head_dim = fields.integer("head_dim", 1, MAX_WIDTH, hidden // heads)
    if head_dim % 2 or head_dim * heads > MAX_WIDTH:
        raise CheckpointError(
            f"{fields.path}: heads have {head_dim} dimensions (head_dim, or hidden_size / num_attention_heads); this "
            f"must be even, and all heads together at most {MAX_WIDTH}."
        )
    return head_dim


def _activation(fields: Fields) -> Activation:
    name = fields.text("hidden_act", "silu")
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(f"{fields.path}: hidden_act is {name!r}; supported are {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name]


_FAMILIES: dict[str, Callable[[Fields], ModelConfig]] = {"llama": _read_llama, "qwen2": _read_qwen2}
