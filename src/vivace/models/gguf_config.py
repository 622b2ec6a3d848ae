"""The shape of a model, and how it wants to be sampled, from the metadata of a GGUF file.

Keys become the fields that the model's config.json has, which are then read as from any other checkpoint. What
llama.cpp keeps in code instead of the file (the head that is tied where there is none, Gemma's windows) is here; keys
are those of ggml's `docs/gguf.md` and of its `gguf-py/gguf/constants.py`. Knows nothing of weights but which there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vivace.errors import CheckpointError, UnsupportedModelError
from vivace.models.config import MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, ModelConfig, build_config
from vivace.models.fields import Fields
from vivace.models.gguf import GgufFile
from vivace.models.gguf_blocks import dequantize
from vivace.models.rope import MAX_CONTEXT, Rope
from vivace.sampling import GenerationDefaults

_END_TOKENS = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>")
"""Control tokens that end a turn by their name, in llama.cpp too: files often name only one of a model's several."""
_CONTROL = 3

_GEMMA3_27B_LAYERS = 62


@dataclass(frozen=True, slots=True)
class _Keys:
    """The metadata of one architecture."""

    file: GgufFile
    architecture: str

    @property
    def fields(self) -> Fields:
        return self.file.metadata

    def __contains__(self, key: str) -> bool:
        return self.name(key) in self.fields

    def name(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def integer(self, key: str, high: int, default: int | None = None) -> int:
        return self.fields.integer(self.name(key), 1, high, default)

    def number(self, key: str, default: float | None = None) -> float:
        return self.fields.number(self.name(key), default, above=0.0)

    def has_tensor(self, name: str) -> bool:
        return name in self.file.entries

    def vector(self, name: str) -> list[float]:
        """A small tensor's values."""
        entry = self.file.entries[name]
        if len(entry.shape) != 1 or entry.shape[0] > MAX_WIDTH or entry.blocks.decode is None:
            raise CheckpointError(f"{self.file.path}: tensor {name!r} is no list of numbers. Download the file again.")
        values: list[float] = dequantize(entry.blocks, self.file.rows(name))[0].tolist()
        return values


def read_architecture(file: GgufFile) -> str:
    """Raises `UnsupportedModelError` for one that this engine does not run, or one with experts."""
    name = file.metadata.text("general.architecture")
    if name not in _ARCHITECTURES:
        raise UnsupportedModelError(
            f"{file.path}: general.architecture is {name!r}; supported are {', '.join(_ARCHITECTURES)}."
        )
    if file.metadata.integer(f"{name}.expert_count", 0, MAX_WIDTH, 0):
        raise UnsupportedModelError(f"{file.path}: {name}.expert_count is not 0; supported are models without experts.")
    return name


def read_gguf_config(file: GgufFile) -> ModelConfig:
    """The shape of the model in a file.

    Raises `UnsupportedModelError` for a model this engine does not run, `CheckpointError` for metadata that is missing
    or says what cannot be.
    """
    keys = _Keys(file, read_architecture(file))
    config = build_config(Fields(file.path, _ARCHITECTURES[keys.architecture](keys)))
    if keys.has_tensor("rope_freqs.weight"):
        config = replace(config, ropes=tuple(_slow(keys, rope) for rope in config.ropes))
    return config


def read_gguf_generation(file: GgufFile) -> GenerationDefaults:
    """Greedy; stop tokens are those that the metadata names, and control tokens with the name of one.

    Raises `CheckpointError` for values that cannot be.
    """
    fields = file.metadata
    named = [f"tokenizer.ggml.{role}_token_id" for role in ("eos", "eot", "eom")]
    stops = [fields.integer(name, 0, MAX_VOCAB) for name in named if name in fields]
    tokens, kinds = fields.values.get("tokenizer.ggml.tokens"), fields.values.get("tokenizer.ggml.token_type")
    if isinstance(tokens, list) and isinstance(kinds, np.ndarray) and len(kinds) == len(tokens):
        control = np.flatnonzero(kinds == _CONTROL)
        stops += [int(index) for index in control if tokens[index] in _END_TOKENS]
    return GenerationDefaults(stop_token_ids=tuple(dict.fromkeys(stops)))


def _describe(keys: _Keys, model_type: str) -> dict[str, Any]:
    """What all architectures but GPT-2's have."""
    heads = keys.integer("attention.head_count", MAX_WIDTH)
    hidden = keys.integer("embedding_length", MAX_WIDTH)
    head_dim = keys.integer("attention.key_length", MAX_WIDTH, max(1, hidden // heads))
    if keys.integer("attention.value_length", MAX_WIDTH, head_dim) != head_dim:
        raise UnsupportedModelError(
            f"{keys.file.path}: {keys.name('attention.value_length')} differs from the length of keys, {head_dim}; "
            "supported are heads whose keys and values are of one length."
        )
    return {
        "model_type": model_type,
        "vocab_size": _count_vocabulary(keys),
        "hidden_size": hidden,
        "num_hidden_layers": keys.integer("block_count", MAX_LAYERS),
        "intermediate_size": _read_widths(keys),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv", MAX_WIDTH, heads),
        "head_dim": head_dim,
        "partial_rotary_factor": keys.integer("rope.dimension_count", MAX_WIDTH, head_dim) / head_dim,
        "max_position_embeddings": keys.integer("context_length", MAX_CONTEXT),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": keys.number("rope.freq_base", 10000.0),
        "rope_scaling": _read_scaling(keys),
        "tie_word_embeddings": not keys.has_tensor("output.weight"),
    }


def _count_vocabulary(keys: _Keys) -> int:
    """The rows of the embedding; the key `vocab_size` is often missing, and lists of tokens may be shorter."""
    entry = keys.file.entries.get("token_embd.weight")
    if entry is None or len(entry.shape) != 2:
        raise CheckpointError(
            f"{keys.file.path} holds no matrix 'token_embd.weight'; this is no whole language model. Download it again."
        )
    return entry.shape[0]


def _read_widths(keys: _Keys) -> int | list[int]:
    """Of the layers' MLPs: one for all, or one for each."""
    value = keys.fields.values.get(keys.name("feed_forward_length"))
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and len(value) <= MAX_LAYERS:
        widths: list[int] = value.tolist()
        return widths
    return keys.integer("feed_forward_length", MAX_WIDTH)


def _read_scaling(keys: _Keys) -> dict[str, Any] | None:
    """config.json's `rope_scaling`. llama.cpp takes `linear` where a factor is given without a type."""
    if keys.has_tensor("rope_factors_long.weight") and keys.has_tensor("rope_factors_short.weight"):
        return {
            "rope_type": "longrope",
            "short_factor": keys.vector("rope_factors_short.weight"),
            "long_factor": keys.vector("rope_factors_long.weight"),
            "original_max_position_embeddings": keys.integer("rope.scaling.original_context_length", MAX_CONTEXT),
        }
    kind = keys.fields.text(keys.name("rope.scaling.type"), "linear")
    old = keys.fields.number(keys.name("rope.scale_linear"), 0.0)
    factor = keys.fields.number(keys.name("rope.scaling.factor"), old)
    if kind == "none" or factor in (0.0, 1.0):
        return None
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = keys.integer("rope.scaling.original_context_length", MAX_CONTEXT)
        if keys.number("rope.scaling.attn_factor", 1.0) != 1.0:
            raise keys.fields.error(keys.name("rope.scaling.attn_factor"), "1 for rope of type yarn")
    return scaling


def _slow(keys: _Keys, rope: Rope) -> Rope:
    """Llama 3's rope: each wave slowed by a factor, which the converter has worked out."""
    factors = np.array(keys.vector("rope_freqs.weight"), np.float32)
    if len(factors) != len(rope.inverse_frequencies) or not (np.isfinite(factors) & (factors > 0)).all():
        raise CheckpointError(
            f"{keys.file.path}: tensor 'rope_freqs.weight' holds no {len(rope.inverse_frequencies)} numbers above 0, "
            "one for each pair of a head's dimensions. Download the file again."
        )
    slowed = np.array(rope.inverse_frequencies, np.float32) / factors
    return replace(rope, inverse_frequencies=tuple(float(value) for value in slowed))


def _describe_llama(keys: _Keys) -> dict[str, Any]:
    """Also Mistral, which differs by its window, and others that the converter writes as Llama."""
    window = keys.integer("attention.sliding_window", MAX_CONTEXT, MAX_CONTEXT)
    if window < MAX_CONTEXT:
        return _describe(keys, "mistral") | {"sliding_window": window}
    return _describe(keys, "llama") | {
        "attention_bias": keys.has_tensor("blk.0.attn_q.bias"),
        "mlp_bias": keys.has_tensor("blk.0.ffn_up.bias"),
    }


def _describe_qwen3(keys: _Keys) -> dict[str, Any]:
    return _describe(keys, "qwen3") | {"attention_bias": keys.has_tensor("blk.0.attn_q.bias")}


def _describe_gemma3(keys: _Keys) -> dict[str, Any]:
    """Each sixth layer looks back without a window, and only there is the rope scaled. The 27B model alone divides
    scores by the root of hidden size over heads."""
    described = _describe(keys, "gemma3_text")
    large = described["num_hidden_layers"] == _GEMMA3_27B_LAYERS
    scalar = described["hidden_size"] // described["num_attention_heads"] if large else described["head_dim"]
    return described | {
        "sliding_window": keys.integer("attention.sliding_window", MAX_CONTEXT),
        "sliding_window_pattern": keys.integer("attention.sliding_window_pattern", MAX_LAYERS, 6),
        "rope_theta": keys.number("rope.freq_base", 1e6),
        "rope_local_base_freq": keys.number("rope.freq_base_swa", 1e4),
        "query_pre_attn_scalar": scalar,
        "final_logit_softcapping": keys.fields.values.get(keys.name("final_logit_softcapping")),
    }


def _describe_phi3(keys: _Keys) -> dict[str, Any]:
    described = _describe(keys, "phi3")
    context = described["max_position_embeddings"]
    original = keys.integer("rope.scaling.original_context_length", MAX_CONTEXT, context)
    window = keys.fields.integer(keys.name("attention.sliding_window"), 0, MAX_CONTEXT, 0)
    return described | {"original_max_position_embeddings": original, "sliding_window": window or None}


def _describe_gpt2(keys: _Keys) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": _count_vocabulary(keys),
        "n_embd": keys.integer("embedding_length", MAX_WIDTH),
        "n_layer": keys.integer("block_count", MAX_LAYERS),
        "n_inner": _read_widths(keys),
        "n_head": keys.integer("attention.head_count", MAX_WIDTH),
        "n_positions": keys.integer("context_length", MAX_CONTEXT),
        "layer_norm_epsilon": keys.number("attention.layer_norm_epsilon"),
        "tie_word_embeddings": not keys.has_tensor("output.weight"),
    }


_ARCHITECTURES: dict[str, Callable[[_Keys], dict[str, Any]]] = {
    "gemma3": _describe_gemma3,
    "gpt2": _describe_gpt2,
    "llama": _describe_llama,
    "phi3": _describe_phi3,
    "qwen2": lambda keys: _describe(keys, "qwen2"),
    "qwen3": _describe_qwen3,
}
