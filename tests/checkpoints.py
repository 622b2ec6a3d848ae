"""Tiny random checkpoints and tokenizers, written on the spot in the forms that Hugging Face directories have.

Weights come from numpy, so most tests need no torch; parity tests open the same directories with transformers. Knows
nothing of the package under test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

Dialect = Literal["published", "new"]
Dtype = Literal["float32", "bfloat16", "float16"]

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Ids 256, 257 and 258; id i below 256 is the byte i."""

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

HERMES = (
    "{% if tools %}<|im_start|>system\nTools: {% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    'Call one with <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n{% endif %}'
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    '{% for call in message.tool_calls or [] %}<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}'
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that shows its model tools, and calls as Hermes and Qwen write them."""


def write_llama(
    directory: Path,
    *,
    dialect: Dialect = "published",
    tied: bool = True,
    dtype: Dtype = "float32",
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    layers: int = 2,
    intermediate: int = 112,
    vocab: int = 320,
    context: int = 512,
    sharded: bool = False,
    seed: int = 0,
    rope_theta: float = 10000.0,
    rope_scaling: Mapping[str, Any] | None = None,
    attention_bias: bool = False,
    mlp_bias: bool = False,
) -> Path:
    """A Llama checkpoint with a tokenizer. `rope_scaling` is as published files have it, `rope_type` included."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": attention_bias,
        "mlp_bias": mlp_bias,
        "rms_norm_eps": 1e-5,
    }
    if head_dim is not None:
        config["head_dim"] = head_dim
    config |= shape_fields(hidden, heads, kv_heads, layers, intermediate, vocab, context, tied)
    config |= dialect_fields(dialect, dtype, rope_theta, rope_scaling)
    attention = ("q_proj", "k_proj", "v_proj", "o_proj") if attention_bias else ()
    mlp = ("gate_proj", "up_proj", "down_proj") if mlp_bias else ()
    return write_checkpoint(directory, config, attention + mlp, dtype, sharded, seed)


def write_qwen2(
    directory: Path,
    *,
    dialect: Dialect = "published",
    tied: bool = True,
    dtype: Dtype = "float32",
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    layers: int = 2,
    intermediate: int = 112,
    vocab: int = 320,
    context: int = 512,
    sharded: bool = False,
    seed: int = 0,
    rope_theta: float = 1000000.0,
    rope_scaling: Mapping[str, Any] | None = None,
) -> Path:
    """A Qwen2 checkpoint with a tokenizer: biases on query, key and value, no sliding window."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
        "sliding_window": context,
        "max_window_layers": layers,
    }
    config |= shape_fields(hidden, heads, kv_heads, layers, intermediate, vocab, context, tied)
    config |= dialect_fields(dialect, dtype, rope_theta, rope_scaling)
    return write_checkpoint(directory, config, ("q_proj", "k_proj", "v_proj"), dtype, sharded, seed)


def write_tokenizer(directory: Path, *, template: str | None = CHATML, template_in_config: bool = False) -> Path:
    """A byte-level tokenizer of 256 bytes and `SPECIAL_TOKENS`, with a chat template in either of its places."""
    directory.mkdir(parents=True, exist_ok=True)
    byte_level_tokenizer().save(str(directory / "tokenizer.json"))
    config = {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if template is not None and template_in_config:
        config["chat_template"] = template
    elif template is not None:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    write_json(directory / "tokenizer_config.json", config)
    return directory


def byte_level_tokenizer() -> Tokenizer:
    """One token a byte, id the byte's value, and the special tokens after them."""
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    return tokenizer


def metaspace_tokenizer() -> Tokenizer:
    """A tokenizer as of Llama 2: pieces with a mark for spaces, bytes for the rest, BOS put before each text."""
    specials = {"<unk>": 0, "<s>": 1, "</s>": 2}
    fallback = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    pieces = [
        "\u2581",
        *"abcdefghijklmnopqrstuvwxyzHW.,!",
        "\u4f60",
        "he",
        "ll",
        "\u2581h",
        "\u2581he",
        "llo",
        "\u2581\u2581",
    ]
    vocabulary = specials | fallback | {piece: 259 + index for index, piece in enumerate(pieces)}
    merges = [("h", "e"), ("l", "l"), ("\u2581", "h"), ("\u2581", "he"), ("ll", "o"), ("\u2581", "\u2581")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def set_fields(directory: Path, **changes: Any) -> Path:
    """Change fields of config.json; a field set to `...` is removed."""
    path = directory / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {name: value for name, value in values.items() if value is not ...})
    return directory


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], dtype: Dtype = "float32") -> None:
    """One safetensors file of float32 arrays, stored as `dtype`."""
    code = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in tensors.items():
        data = _as_bytes(array, dtype)
        header[name] = {
            "dtype": code,
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    write_safetensors(path, header, body)


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of a float32 file of `write_tensors`."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = {name: entry for name, entry in json.loads(data[8:start]).items() if name != "__metadata__"}
    return {
        name: np.frombuffer(data[start:][slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
        for name, entry in entries.items()
    }


def write_safetensors(path: Path, header: object, body: bytes) -> None:
    """The format itself: the header's length as eight bytes, the header as JSON padded with spaces, the data."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def to_bfloat16(array: NDArray[Any]) -> NDArray[np.uint16]:
    """The upper halves of float32 values, rounded to nearest even: uint16 of the same shape."""
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _as_bytes(array: NDArray[Any], dtype: Dtype) -> bytes:
    if dtype == "bfloat16":
        return to_bfloat16(array).tobytes()
    return array.astype(dtype).tobytes()


def shape_fields(
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    layers: int = 2,
    intermediate: int = 112,
    vocab: int = 320,
    context: int = 512,
    tied: bool = True,
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
        "bos_token_id": 256,
        "eos_token_id": 258,
    }


def dialect_fields(
    dialect: Dialect, dtype: Dtype = "float32", theta: float = 10000.0, scaling: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    if dialect == "published":
        rope = {} if scaling is None else {"rope_scaling": dict(scaling)}
        return {"rope_theta": theta, "torch_dtype": dtype, "transformers_version": "4.45.0"} | rope
    parameters = {"rope_type": "default"} | dict(scaling or {}) | {"rope_theta": theta}
    return {"rope_parameters": parameters, "dtype": dtype, "transformers_version": "5.5.4"}


def write_checkpoint(
    directory: Path,
    config: dict[str, Any],
    biased: tuple[str, ...] = (),
    dtype: Dtype = "float32",
    sharded: bool = False,
    seed: int = 0,
    tensors: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """A config, a tokenizer, and `tensors` or else those of a llama-like config, with biases on linears of a name."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", config)
    write_json(directory / "generation_config.json", {"bos_token_id": 256, "eos_token_id": 258})
    tensors = tensors or random_tensors(config, biased, seed)
    if sharded:
        _write_shards(directory, tensors, dtype)
    else:
        write_tensors(directory / "model.safetensors", tensors, dtype)
    return write_tokenizer(directory)


def random_tensors(config: Mapping[str, Any], biased: tuple[str, ...] = (), seed: int = 0) -> dict[str, NDArray[Any]]:
    """Norm weights and biases are random too, and layers outweigh the residual, so that a mistake in any shows."""
    hidden, vocab, family = config["hidden_size"], config["vocab_size"], config["model_type"]
    random = np.random.default_rng(seed)
    normal, centre = normal_source(random), 0.0 if family == "gemma3_text" else 1.0

    def norm(width: int = hidden) -> NDArray[np.float32]:
        values: NDArray[np.float32] = random.uniform(centre - 0.5, centre + 0.5, width).astype(np.float32)
        return values

    tensors = {"model.embed_tokens.weight": normal(vocab, hidden, scale=0.3), "model.norm.weight": norm()}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, width in _norms(config).items():
            tensors[f"{prefix}{name}.weight"] = norm(width)
        for name, (out, width, gain) in _linears(config, layer).items():
            tensors[f"{prefix}{name}.weight"] = normal(out, width, scale=gain * width**-0.5)
            if name.split(".")[1] in biased:
                tensors[f"{prefix}{name}.bias"] = normal(out, scale=0.3)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = normal(vocab, hidden, scale=0.3)
    return tensors


def normal_source(random: np.random.Generator) -> Callable[..., NDArray[np.float32]]:
    def normal(*shape: int, scale: float) -> NDArray[np.float32]:
        values: NDArray[np.float32] = (random.standard_normal(shape) * scale).astype(np.float32)
        return values

    return normal


def _norms(config: Mapping[str, Any]) -> dict[str, int]:
    """The width of each norm of a layer."""
    hidden, family = config["hidden_size"], config["model_type"]
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    if family == "gemma3_text":
        norms |= {"pre_feedforward_layernorm": hidden, "post_feedforward_layernorm": hidden}
    if family in ("gemma3_text", "qwen3"):
        norms |= {"self_attn.q_norm": config["head_dim"], "self_attn.k_norm": config["head_dim"]}
    return norms


def _linears(config: Mapping[str, Any], layer: int) -> dict[str, tuple[int, int, float]]:
    """Outputs, inputs and gain of each linear of a layer."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    inner = inner[layer] if isinstance(inner, list) else inner
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    if config["model_type"] == "phi3":
        return {
            "self_attn.qkv_proj": (queries + 2 * keys, hidden, 1.5),
            "self_attn.o_proj": (hidden, queries, 2.0),
            "mlp.gate_up_proj": (2 * inner, hidden, 1.0),
            "mlp.down_proj": (hidden, inner, 2.0),
        }
    return {
        "self_attn.q_proj": (queries, hidden, 1.5),
        "self_attn.k_proj": (keys, hidden, 1.5),
        "self_attn.v_proj": (keys, hidden, 2.0),
        "self_attn.o_proj": (hidden, queries, 2.0),
        "mlp.gate_proj": (inner, hidden, 1.0),
        "mlp.up_proj": (inner, hidden, 1.0),
        "mlp.down_proj": (hidden, inner, 2.0),
    }


def _write_shards(directory: Path, tensors: Mapping[str, NDArray[Any]], dtype: Dtype, count: int = 3) -> None:
    names = sorted(tensors)
    files = {name: f"model-{index % count + 1:05d}-of-{count:05d}.safetensors" for index, name in enumerate(names)}
    for file in sorted(set(files.values())):
        write_tensors(directory / file, {name: tensors[name] for name in names if files[name] == file}, dtype)
    size = sum(len(_as_bytes(array, dtype)) for array in tensors.values())
    write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": files})


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = [""] * 256
    for byte in printable:
        characters[byte] = chr(byte)
    for offset, byte in enumerate(byte for byte in range(256) if not characters[byte]):
        characters[byte] = chr(0x100 + offset)
    return characters
