"""GGUF files, written on the spot: by hand, so that they can lie, and from the tiny checkpoints of other tests.

The conversion does what llama.cpp's converter does to names and tensors. Knows nothing of the package under test.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints import CHATML, SPECIAL_TOKENS, byte_level_tokenizer, read_tensors, to_bfloat16

NUMBERS = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q4_K": 12, "Q5_K": 13,
    "Q6_K": 14, "BF16": 30,
}  # fmt: skip
"""Tensor types by name."""

_PACKS = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"),
          "f32": (6, "f"), "bool": (7, "?"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d")}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor as a file holds it."""

    kind: str
    shape: tuple[int, ...]
    """Rows first."""
    data: bytes


def value(kind: str, number: Any) -> bytes:
    """A number of a type, with its type before it; for a list, an array of them."""
    code, letter = _PACKS[kind]
    if isinstance(number, list):
        return struct.pack(f"<IIQ{len(number)}{letter}", 9, code, len(number), *number)
    return struct.pack(f"<I{letter}", code, number)


def text(string: str) -> bytes:
    data = string.encode()
    return struct.pack("<Q", len(data)) + data


def encode(content: Any) -> bytes:
    """A value as a converter writes it: floats as float32, whole numbers as uint32, lists by their first item."""
    match content:
        case bytes():
            return content
        case bool():
            return value("bool", content)
        case int():
            return value("u32", content)
        case float():
            return value("f32", content)
        case str():
            return struct.pack("<I", 8) + text(content)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(content)) + b"".join(map(text, content))
        case [float(), *_]:
            return value("f32", content)
        case list():
            return value("i32", content)
    raise TypeError(type(content))


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Stored] | None = None,
    *,
    version: int = 3,
    alignment: int = 32,
) -> Path:
    """The format itself. Values that are bytes are written as they are."""
    tensors = tensors or {}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + encode(content) for key, content in metadata.items())
    body = b""
    for name, tensor in tensors.items():
        body += b"\0" * (-len(body) % alignment)
        dimensions = tensor.shape[::-1]
        head += text(name) + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
        head += struct.pack("<IQ", NUMBERS[tensor.kind], len(body))
        body += tensor.data
    path.write_bytes(head + b"\0" * (-len(head) % alignment) + body)
    return path


def store(array: NDArray[Any], kind: str) -> Stored:
    """Numbers in a type without blocks."""
    data = to_bfloat16(array) if kind == "BF16" else array.astype({"F32": "<f4", "F16": "<f2"}[kind])
    return Stored(kind, array.shape, data.tobytes())


Store = Callable[[str, NDArray[np.float32]], Stored]


def convert(directory: Path, path: Path, kind: Store | str = "F32", **more: Any) -> Path:
    """A float32 checkpoint directory as one GGUF file.

    `kind` stores the matrices; vectors stay float32, as in real files. `more` adds to the metadata, with `__` for dots;
    a value of None takes a key out.
    """
    config = json.loads((directory / "config.json").read_text())
    architecture = {"mistral": "llama", "gemma3_text": "gemma3"}.get(config["model_type"], config["model_type"])
    metadata = {"general.architecture": architecture, "general.alignment": 32}
    metadata |= {f"{architecture}.{key}": content for key, content in _describe(config, architecture).items()}
    metadata |= byte_level_metadata() | {key.replace("__", "."): content for key, content in more.items()}
    save: Store = (lambda name, array: store(array, kind)) if isinstance(kind, str) else kind
    tensors = {}
    for name, array in read_tensors(directory / "model.safetensors").items():
        ours, changed = _rename(name, architecture == "gemma3"), _change(name, array, config, architecture)
        tensors[ours] = save(ours, changed) if changed.ndim == 2 else store(changed, "F32")
    for name, array in _rope_tensors(config).items():
        tensors[name] = store(array, "F32")
    kept = {key: content for key, content in metadata.items() if content is not None}
    return write_gguf(path, kept, tensors)


def byte_level_metadata() -> dict[str, Any]:
    """The tokenizer of the tiny checkpoints: a token for each byte, and their special tokens."""
    vocabulary = byte_level_tokenizer().get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL_TOKENS else 1 for token in tokens],
        "tokenizer.ggml.merges": struct.pack("<IIQ", 9, 8, 0),
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.ggml.padding_token_id": 256,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }


def _describe(config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    if architecture == "gpt2":
        return {
            "context_length": config["n_positions"],
            "embedding_length": config["n_embd"],
            "feed_forward_length": config["n_inner"] or 4 * config["n_embd"],
            "block_count": config["n_layer"],
            "attention.head_count": config["n_head"],
            "attention.layer_norm_epsilon": config["layer_norm_epsilon"],
        }
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    described = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config.get("rms_norm_eps", 1e-6),
        "rope.freq_base": float(config["rope_theta"]),
        "rope.dimension_count": int(head_dim * config.get("partial_rotary_factor", 1.0)),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.sliding_window": config.get("sliding_window") if architecture != "qwen2" else None,
        "rope.freq_base_swa": config.get("rope_local_base_freq"),
        "attention.sliding_window_pattern": config.get("sliding_window_pattern"),
        "rope.scaling.original_context_length": config.get("original_max_position_embeddings"),
    }
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") in ("linear", "yarn"):
        original = scaling.get("original_max_position_embeddings")
        described |= {"rope.scaling.type": scaling["rope_type"], "rope.scaling.factor": float(scaling["factor"])}
        described |= {"rope.scaling.original_context_length": original} if original else {}
    return described


def _rope_tensors(config: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Factors of each wave, which converters put beside the weights."""
    scaling = config.get("rope_scaling") or {}
    match scaling.get("rope_type", scaling.get("type")):
        case "longrope":
            names = {"short_factor": "rope_factors_short", "long_factor": "rope_factors_long"}
            return {f"{ours}.weight": np.array(scaling[name], np.float32) for name, ours in names.items()}
        case "llama3":
            return {"rope_freqs.weight": _llama3_factors(config, scaling)}
    return {}


def _llama3_factors(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> NDArray[np.float32]:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    waves = 2 * np.pi * config["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    turns = scaling["original_max_position_embeddings"] / waves
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    factors: NDArray[np.float32] = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    return factors


_NAMES = {
    "model.embed_tokens": "token_embd", "transformer.wte": "token_embd", "transformer.wpe": "position_embd",
    "model.norm": "output_norm", "transformer.ln_f": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip


def _rename(name: str, sandwich: bool) -> str:
    place, _, part = name.rpartition(".")
    if place in _NAMES:
        return f"{_NAMES[place]}.{part}"
    layer, _, inner = place.removeprefix("model.layers.").removeprefix("transformer.h.").partition(".")
    if inner == "post_attention_layernorm":
        return f"blk.{layer}.{'post_attention_norm' if sandwich else 'ffn_norm'}.{part}"
    return f"blk.{layer}.{_NAMES[inner]}.{part}"


def _change(name: str, array: NDArray[np.float32], config: Mapping[str, Any], architecture: str) -> NDArray[np.float32]:
    """What the converter does to a tensor."""
    if architecture == "llama" and ".q_proj." in name:
        return permute(array, config["num_attention_heads"])
    if architecture == "llama" and ".k_proj." in name:
        return permute(array, config["num_key_value_heads"])
    if architecture == "gemma3" and "norm" in name:
        return array + np.float32(1)
    return array.T if architecture == "gpt2" and ".h." in name and array.ndim == 2 else array


def permute(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows so that dimensions which llama.cpp turns together lie side by side."""
    return array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
