"""The shape of a model, from the config.json and generation_config.json of a Hugging Face directory.

Two dialects are read: published files say `rope_theta`, `rope_scaling`, `torch_dtype`; files written by transformers 5
say `rope_parameters`, `dtype`. All sizes are distrusted and bounded. Knows nothing of weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.compressed import Scheme, read_quantization
from vivace.models.fields import Fields, read_fields
from vivace.models.rope import MAX_CONTEXT, Rope, read_rope, read_rope_pair
from vivace.sampling import GenerationDefaults

__all__ = [
    "Activation",
    "LayerConfig",
    "ModelConfig",
    "Rope",
    "build_config",
    "read_config",
    "read_generation_defaults",
]

Activation = Literal["silu", "gelu", "gelu_tanh"]

MAX_VOCAB = 2**24
MAX_WIDTH = 2**20
MAX_LAYERS = 4096

_FULL, _SLIDING = "full_attention", "sliding_attention"

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
    """The config's `model_type`; of a model with images, its text part's."""
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
    quantization: Scheme | None = None
    """How linears are stored that are integers already; None: there are none."""


def read_config(directory: Path) -> ModelConfig:
    """The shape of the model in a directory.

    Raises `UnsupportedModelError` for a model this engine does not run, `CheckpointError` for a file that is missing
    or says what cannot be.
    """
    fields = read_fields(directory / "config.json")
    return replace(build_config(fields), quantization=read_quantization(fields))


def build_config(fields: Fields) -> ModelConfig:
    """The shape of a model from the fields that config.json has, wherever they come from. Raises as `read_config`."""
    family = fields.text("model_type")
    if family not in _FAMILIES:
        raise UnsupportedModelError(
            f"{fields.path}: model_type is {family!r}; supported are {', '.join(sorted(_FAMILIES))}."
        )
    return _FAMILIES[family](fields)


def read_generation_defaults(directory: Path) -> GenerationDefaults:
    """How the checkpoint wants to be sampled, and the tokens that end its turn.

    Settings count only when `do_sample` is true, as in transformers, and those left open are then its defaults; else
    the model is greedy. The repetition penalty counts always. Stop tokens are generation_config.json's, else
    config.json's. Raises `CheckpointError` for values that cannot be.
    """
    config = read_fields(directory / "config.json")
    path = directory / "generation_config.json"
    fields = read_fields(path) if path.exists() else Fields(path, {})
    stops = _stop_tokens(fields if "eos_token_id" in fields else config)
    penalty = _number_between(fields, "repetition_penalty", 0.01, 100, 1.0)
    if not fields.boolean("do_sample", False):
        return GenerationDefaults(stop_token_ids=stops, repetition_penalty=penalty)
    return GenerationDefaults(
        temperature=_number_between(fields, "temperature", 0, 100, 1.0),
        top_k=fields.integer("top_k", 0, MAX_VOCAB, 50),
        top_p=_number_between(fields, "top_p", 1e-6, 1, 1.0),
        stop_token_ids=stops,
        min_p=_number_between(fields, "min_p", 0, 1, 0.0),
        repetition_penalty=penalty,
    )


def _number_between(fields: Fields, name: str, low: float, high: float, default: float) -> float:
    value = fields.number(name, default)
    if not low <= value <= high:
        raise fields.error(name, f"{low} to {high}")
    return value


def _stop_tokens(fields: Fields) -> tuple[int, ...]:
    value = fields.values.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if len(ids) > 1024 or not all(type(id) is int and 0 <= id < MAX_VOCAB for id in ids):
        raise fields.error("eos_token_id", f"a token id below {MAX_VOCAB}, or a list of at most 1024")
    return tuple(dict.fromkeys(ids))


def _read_llama(fields: Fields) -> ModelConfig:
    bias = fields.boolean("attention_bias", False)
    return _read_decoder(
        fields.with_defaults(max_position_embeddings=2048),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=fields.boolean("mlp_bias", False),
    )


def _read_mistral(fields: Fields) -> ModelConfig:
    """Where `layer_types` is given, transformers reads the same files as `ministral`."""
    fields = fields.with_defaults(max_position_embeddings=131072, sliding_window=4096, num_key_value_heads=8)
    return _read_decoder(fields, windows=_read_windows(fields, lambda layer: "sliding_window" in fields))


def _read_qwen2(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(max_position_embeddings=32768)
    return _read_decoder(fields, windows=_read_qwen_windows(fields), qkv_bias=True)


def _read_qwen3(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(max_position_embeddings=32768, head_dim=128)
    bias = fields.boolean("attention_bias", False)
    return _read_decoder(fields, windows=_read_qwen_windows(fields), qkv_bias=bias, output_bias=bias)


def _read_qwen_windows(fields: Fields) -> tuple[int, ...]:
    """Layers from `max_window_layers` on slide, when windows are switched on."""
    fields = fields.with_defaults(sliding_window=4096, max_window_layers=28)
    full = fields.integer("max_window_layers", 0, MAX_CONTEXT)
    return _read_switched_windows(fields, lambda layer: layer >= full)


def _read_smollm3(fields: Fields) -> ModelConfig:
    """Llama with layers that have no rope: by default each fourth, and these slide when windows are switched on."""
    fields = fields.with_defaults(max_position_embeddings=32768, rope_theta=2e6, tie_word_embeddings=True)
    layers = _count_layers(fields)
    interval = fields.integer("no_rope_layer_interval", 1, MAX_LAYERS, 4)
    rotated = tuple(int((layer + 1) % interval > 0) for layer in range(layers))
    if "no_rope_layers" in fields:
        rotated = fields.integers("no_rope_layers", layers, 0, 1)
    bias = fields.boolean("attention_bias", False)
    return _read_decoder(
        fields,
        windows=_read_switched_windows(fields, lambda layer: not rotated[layer]),
        rope_of_layer=[0 if turned else -1 for turned in rotated],
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=fields.boolean("mlp_bias", False),
    )


def _read_gemma3(fields: Fields) -> ModelConfig:
    """The text part of a model with images. Published files leave out most of what is as in the 4B model."""
    shared = {name: fields.values[name] for name in ("dtype", "torch_dtype") if name in fields}
    shared |= {"tie_word_embeddings": fields.boolean("tie_word_embeddings", True), "model_type": "gemma3_text"}
    text = fields.child("text_config")
    return _read_gemma3_text(Fields(text.path, dict(text.values) | shared, text.prefix))


def _read_gemma3_text(fields: Fields) -> ModelConfig:
    """Scaled embeddings, norms around each block and on each head, and one kind of rope for each kind of layer."""
    fields = fields.with_defaults(**_GEMMA3_DEFAULTS)
    _refuse_gemma3_extras(fields)
    pattern = fields.integer("sliding_window_pattern", 1, MAX_LAYERS)
    windows = _read_windows(fields, lambda layer: (layer + 1) % pattern > 0)
    bias = fields.boolean("attention_bias", False)
    config = _read_decoder(
        fields,
        windows=windows,
        read_ropes=read_rope_pair,
        rope_of_layer=[int(window > 0) for window in windows],
        activation="hidden_activation",
        qkv_bias=bias,
        output_bias=bias,
    )
    return replace(
        config,
        attention_scale=fields.number("query_pre_attn_scalar", above=0.0) ** -0.5,
        embedding_scale=_round_as_stored(fields, config.hidden_size**0.5),
    )


_GEMMA3_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}
"""What transformers takes where a config file is silent."""


def _refuse_gemma3_extras(fields: Fields) -> None:
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if name in fields:
            raise UnsupportedModelError(
                f"{fields.path}: {fields.prefix}{name} is {fields.values[name]!r}; supported is null, logits that are "
                "not capped."
            )
    if fields.boolean("use_bidirectional_attention", False):
        raise UnsupportedModelError(
            f"{fields.path}: {fields.prefix}use_bidirectional_attention is true; supported are models that look back "
            "only."
        )


def _round_as_stored(fields: Fields, value: float) -> float:
    """In the type that the weights are stored in: transformers scales Gemma's embeddings so, unless told otherwise."""
    stored = fields.text("dtype", fields.text("torch_dtype", "float32"))
    for digits in (24, {"bfloat16": 8, "float16": 11}.get(stored, 24)):
        mantissa, exponent = math.frexp(value)
        value = math.ldexp(round(math.ldexp(mantissa, digits)), exponent - digits)
    return value


def _read_phi3(fields: Fields) -> ModelConfig:
    fields = fields.with_defaults(
        max_position_embeddings=4096, original_max_position_embeddings=4096, rms_norm_eps=1e-5
    )
    return _read_decoder(
        fields,
        windows=_read_windows(fields, lambda layer: "sliding_window" in fields),
        read_ropes=lambda *sizes: (read_rope(*sizes, kinds=("default", "longrope", "su"), partial=True),),
    )


def _read_gpt2(fields: Fields) -> ModelConfig:
    """Learned positions, layer norms, biases everywhere, an MLP without gate."""
    hidden, heads = fields.integer("n_embd", 1, MAX_WIDTH), fields.integer("n_head", 1, MAX_WIDTH)
    layers = fields.integer("n_layer", 1, MAX_LAYERS)
    if hidden % heads:
        raise fields.error("n_embd", f"a multiple of n_head, {heads}")
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if fields.boolean(name, False):
            raise UnsupportedModelError(f"{fields.path}: {name} is true; supported is false.")
    widths = _read_widths(fields, "n_inner", layers, 4 * hidden)
    return ModelConfig(
        family="gpt2",
        vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden_size=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        layers=tuple(LayerConfig(width, rope=-1) for width in widths),
        ropes=(),
        norm="layer",
        norm_eps=fields.number("layer_norm_epsilon", 1e-5, above=0.0),
        activation=_activation(fields, "activation_function", "gelu_new"),
        gated=False,
        attention_scale=(hidden // heads) ** -0.5 if fields.boolean("scale_attn_weights", True) else 1.0,
        embedding_scale=1.0,
        tied=fields.boolean("tie_word_embeddings", True),
        context_length=fields.integer("n_positions", 1, MAX_CONTEXT, 1024),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )


class _Biases(TypedDict, total=False):
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool


def _read_decoder(
    fields: Fields,
    *,
    windows: Sequence[int] | None = None,
    read_ropes: Callable[[Fields, int, int], tuple[Rope, ...]] = lambda *sizes: (read_rope(*sizes),),
    rope_of_layer: Sequence[int] | None = None,
    activation: str = "hidden_act",
    **biases: Unpack[_Biases],
) -> ModelConfig:
    """What the families around Llama have in common: RMS norms, a gated MLP, rotary positions."""
    hidden, heads = fields.integer("hidden_size", 1, MAX_WIDTH), fields.integer("num_attention_heads", 1, MAX_WIDTH)
    kv_heads = fields.integer("num_key_value_heads", 1, MAX_WIDTH, heads)
    head_dim = _head_dim(fields, hidden, heads, kv_heads)
    layers = _count_layers(fields)
    widths = _read_widths(fields, "intermediate_size", layers)
    windows, ropes = windows or [0] * layers, rope_of_layer or [0] * layers
    context = fields.integer("max_position_embeddings", 1, MAX_CONTEXT)
    return ModelConfig(
        family=fields.text("model_type"),
        vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        layers=tuple(map(LayerConfig, widths, windows, ropes)),
        ropes=read_ropes(fields, head_dim, context),
        norm="rms",
        norm_eps=fields.number("rms_norm_eps", 1e-6, above=0.0),
        activation=_activation(fields, activation, "silu"),
        gated=True,
        attention_scale=head_dim**-0.5,
        embedding_scale=1.0,
        tied=fields.boolean("tie_word_embeddings", False),
        context_length=context,
        **biases,
    )


def _count_layers(fields: Fields) -> int:
    return fields.integer("num_hidden_layers", 1, MAX_LAYERS)


def _read_widths(fields: Fields, name: str, layers: int, default: int | None = None) -> tuple[int, ...]:
    """The MLP width of each layer: a list of them, or one number for all."""
    if isinstance(fields.values.get(name), list):
        return fields.integers(name, layers, 1, MAX_WIDTH)
    return (fields.integer(name, 1, MAX_WIDTH, default),) * layers


def _read_windows(fields: Fields, slides: Callable[[int], bool]) -> tuple[int, ...]:
    """The window of each layer: `sliding_window` where `layer_types`, or in its absence `slides`, says so, else 0."""
    layers = _count_layers(fields)
    kinds = [_SLIDING if slides(layer) else _FULL for layer in range(layers)]
    if "layer_types" in fields:
        kinds = list(fields.texts("layer_types", layers))
    unknown = [kind for kind in kinds if kind not in (_FULL, _SLIDING)]
    if unknown:
        raise UnsupportedModelError(
            f"{fields.path}: {fields.prefix}layer_types has {unknown[0]!r}; supported are {_FULL} and {_SLIDING}."
        )
    if _SLIDING not in kinds:
        return (0,) * layers
    window = fields.integer("sliding_window", 1, MAX_CONTEXT)
    return tuple(window if kind == _SLIDING else 0 for kind in kinds)


def _read_switched_windows(fields: Fields, slides: Callable[[int], bool]) -> tuple[int, ...]:
    """The same for families where `use_sliding_window` must be true for any layer to slide."""
    on = fields.boolean("use_sliding_window", False)
    windows = _read_windows(fields, lambda layer: on and "sliding_window" in fields and slides(layer))
    if any(windows) and not on:
        raise fields.error("use_sliding_window", f"true when layer_types names {_SLIDING}")
    return windows


def _head_dim(fields: Fields, hidden: int, heads: int, kv_heads: int) -> int:
    if heads % kv_heads:
        raise fields.error("num_key_value_heads", f"a divisor of num_attention_heads, {heads}")
    if "head_dim" not in fields and hidden % heads:
        raise fields.error("hidden_size", f"a multiple of num_attention_heads, {heads}, when head_dim is not given")
    head_dim = fields.integer("head_dim", 1, MAX_WIDTH, hidden // heads)
    if head_dim % 2 or head_dim * heads > MAX_WIDTH:
        raise CheckpointError(
            f"{fields.path}: heads have {head_dim} dimensions ({fields.prefix}head_dim, or hidden_size / "
            f"num_attention_heads); this must be even, and all heads together at most {MAX_WIDTH}."
        )
    return head_dim


def _activation(fields: Fields, field: str, default: str) -> Activation:
    name = fields.text(field, default)
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{fields.path}: {fields.prefix}{field} is {name!r}; supported are {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


_FAMILIES: dict[str, Callable[[Fields], ModelConfig]] = {
    "gemma3": _read_gemma3,
    "gemma3_text": _read_gemma3_text,
    "gpt2": _read_gpt2,
    "llama": _read_llama,
    "mistral": _read_mistral,
    "phi3": _read_phi3,
    "qwen2": _read_qwen2,
    "qwen3": _read_qwen3,
    "smollm3": _read_smollm3,
}
