"""Readers of files that come from anywhere, sound files for each, and ways to spoil these.

Whatever is done to a file, its reader may raise nothing but `VivaceError`. Knows no test framework, so that any
fuzzer can drive it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tests.checkpoints import (
    byte_level_tokenizer,
    metaspace_tokenizer,
    write_json,
    write_llama,
    write_qwen2,
    write_safetensors,
)
from tests.families import write_gemma3, write_gpt2, write_mistral, write_phi3, write_qwen3, write_smollm3
from tests.gguf_files import Stored, convert, store
from vivace.errors import ModelError, VivaceError
from vivace.models.checkpoint import Checkpoint
from vivace.models.compressed import QuantizedTensor, read_linear, read_quantization
from vivace.models.config import read_config, read_generation_defaults
from vivace.models.fields import read_fields
from vivace.models.model import open_model
from vivace.models.weights import check_finite, read_weights
from vivace.tokenizer import Tokenizer

TEXT = "Hello, w\u00f6rld \u4f60\u597d <|im_end|> 12"

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 128}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A kind of file and what reads it."""

    file: str
    """Its name in a directory, where the sound rest of a checkpoint lies beside it."""
    prepare: Callable[[Path], list[bytes]]
    """Puts that rest into a directory; sound contents of the file."""
    read: Callable[[Path], object]
    """Reads the whole of it, from the directory."""
    is_json: bool = True

    def accepts(self, directory: Path, data: bytes) -> bool:
        """Whether the file could be read. Anything raised but `VivaceError` comes through."""
        path = directory / self.file
        path.write_bytes(data)
        try:
            self.read(directory)
        except ModelError as error:
            if not any(word in str(error) for word in (str(directory), "Tensor ", "tokenizer file")):
                raise AssertionError("an error that names neither file nor tensor") from error
            return False
        except VivaceError:
            return False
        return True


def spoil(data: bytes, seed: int, is_json: bool) -> bytes:
    """A file with one to four changes, of its structure or of its bytes."""
    source = random.Random(seed)
    if is_json and source.random() < 0.7:
        return _spoil_json(data, source)
    content = bytearray(data)
    for _ in range(source.randint(1, 4)):
        source.choice(_CHANGES)(content, source)
    return bytes(content)


_NUMBERS = (0, 1, 2, 3, 7, 8, 31, 32, 255, 256, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**56, 2**63 - 1, 2**63, 2**64 - 1)


def _flip(content: bytearray, source: random.Random) -> None:
    if content:
        content[_place(content, source)] ^= 1 << source.randrange(8)


def _set_byte(content: bytearray, source: random.Random) -> None:
    if content:
        content[_place(content, source)] = source.choice((0, 1, 255, 127, source.randrange(256)))


def _set_number(content: bytearray, source: random.Random) -> None:
    place, size = _place(content, source), source.choice((1, 2, 4, 8))
    content[place : place + size] = (source.choice(_NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little")


def _cut(content: bytearray, source: random.Random) -> None:
    del content[_place(content, source) :]


def _remove(content: bytearray, source: random.Random) -> None:
    place = _place(content, source)
    del content[place : place + source.randint(1, 16)]


def _repeat(content: bytearray, source: random.Random) -> None:
    place, size = _place(content, source), source.randint(1, 64)
    content[place:place] = content[place : place + size]


def _insert(content: bytearray, source: random.Random) -> None:
    place = _place(content, source)
    content[place:place] = source.randbytes(source.randint(1, 16))


_CHANGES = (_flip, _flip, _set_byte, _set_number, _set_number, _set_number, _cut, _remove, _repeat, _insert)


def _place(content: bytearray, source: random.Random) -> int:
    """Mostly near the beginning, where headers are."""
    size = len(content)
    return source.randrange(min(size, source.choice((32, 512, 4096, size))) or 1) if size else 0


_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 8, 64, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), 10**400, 0.0, 0.5, -0.5,
    1e-300, 1e300, 1.5, "", "x", "0", "a" * 300, "\u0000", "\ud800", "default", "llama", "group", "int-quantized", [],
    {}, [0], [[]], [None], ["x"], {"": {}}, {"x": 1}, [1] * 5000,
)  # fmt: skip


def _spoil_json(data: bytes, source: random.Random) -> bytes:
    root = [json.loads(data)]
    for _ in range(source.randint(1, 4)):
        holder, key = _pick(root, source)
        if source.random() < 0.2 and holder is not root:
            del holder[key]
        elif source.random() < 0.1:
            holder[key] = _nest(holder[key], source.choice((1, 3, 200, 3000)))
        elif isinstance(holder, dict) and source.random() < 0.2:
            holder[source.choice((*holder, "x", "dtype"))] = holder[key]
        else:
            holder[key] = source.choice(_VALUES)
    return _dump(root[0])


def _dump(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except (RecursionError, ValueError):
        return b"[" * 100_000


def _nest(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _pick(root: list[Any], source: random.Random) -> tuple[Any, Any]:
    """A random place in a tree: a list or object, and where in it."""
    holder: Any = root
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = source.choice(keys)
        if not (isinstance(holder[key], dict | list) and holder[key]) or source.random() < 0.15:
            return holder, key
        holder = holder[key]


def _prepare_safetensors(directory: Path) -> list[bytes]:
    seeds = []
    for dtype in ("float32", "bfloat16"):
        write_llama(directory, layers=1, hidden=16, heads=2, kv_heads=1, intermediate=8, vocab=8, dtype=dtype)
        seeds.append((directory / "model.safetensors").read_bytes())
    return seeds


def _read_safetensors(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    for name in checkpoint:
        checkpoint.tensor(name).to_f32()
    read_weights(read_config(directory), checkpoint)


def _prepare_configs(directory: Path) -> list[bytes]:
    writers: list[Callable[[Path], object]] = [
        write_llama,
        lambda path: write_llama(path, dialect="new", rope_scaling=YARN),
        lambda path: write_llama(path, rope_scaling=LLAMA3),
        write_qwen2,
        write_mistral,
        write_qwen3,
        lambda path: write_gemma3(path, images=True),
        lambda path: write_gemma3(path, dialect="new"),
        write_phi3,
        write_gpt2,
        write_smollm3,
    ]
    seeds = []
    for writer in writers:
        writer(directory)
        seeds.append((directory / "config.json").read_bytes())
    return seeds


def _prepare_generation(directory: Path) -> list[bytes]:
    write_llama(directory)
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "eos_token_id": [258, 256]}
    return [json.dumps(settings).encode(), b'{"eos_token_id": 258}']


def _prepare_tokenizers(directory: Path) -> list[bytes]:
    write_llama(directory)
    return [metaspace_tokenizer().to_str().encode(), byte_level_tokenizer().to_str().encode()]


def _prepare_tokenizer_configs(directory: Path) -> list[bytes]:
    write_llama(directory)
    (directory / "chat_template.jinja").unlink()
    config = json.loads((directory / "tokenizer_config.json").read_bytes())
    named = [
        {"name": "default", "template": "{{ messages[0].content }}"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]
    token = {"content": "<|im_end|>", "special": True, "__type": "AddedToken"}
    return [json.dumps(config | {"chat_template": named}).encode(), json.dumps(config | {"eos_token": token}).encode()]


def _use_tokenizer(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    tokenizer.decode(ids)
    stream = tokenizer.stream(["stop"])
    stream.push(ids)
    stream.finish()
    if tokenizer.has_chat_template:
        tokenizer.encode_chat([{"role": "user", "content": TEXT}])


def _prepare_gguf(directory: Path) -> list[bytes]:
    seeds = []
    sizes: dict[str, Any] = {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "intermediate": 32, "vocab": 8}
    write_llama(directory, **sizes, rope_scaling=LLAMA3)
    for kind in ("F32", "F16", "Q8_0", "Q4_0"):
        more = _scored_tokens() if kind == "Q8_0" else {}
        seeds.append(convert(directory, directory / "x.gguf", _store_zeros(kind), **more).read_bytes())
    write_qwen2(directory, **sizes)
    pre = {"tokenizer__ggml__pre": "qwen2"}
    seeds.append(convert(directory, directory / "x.gguf", _store_zeros("Q5_1"), **pre).read_bytes())
    return seeds


def _store_zeros(kind: str) -> Callable[[str, Any], Stored]:
    if kind in ("F32", "F16"):
        return lambda name, array: store(array, kind)
    bytes_of_block = {"Q8_0": 34, "Q4_0": 18, "Q5_1": 24}[kind]
    return lambda name, array: Stored(kind, array.shape, bytes(array.size // 32 * bytes_of_block))


def _scored_tokens() -> dict[str, Any]:
    vocabulary = metaspace_tokenizer()
    tokens = [vocabulary.id_to_token(id) for id in range(vocabulary.get_vocab_size())]
    return {
        "tokenizer__ggml__model": "llama",
        "tokenizer__ggml__tokens": tokens,
        "tokenizer__ggml__scores": [-float(id) for id in range(len(tokens))],
        "tokenizer__ggml__token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "tokenizer__ggml__unknown_token_id": 0,
    }


def _read_gguf(directory: Path) -> None:
    model = open_model(str(directory / "model.gguf"))
    _use_tokenizer(model.tokenizer)
    checkpoint = model.open_checkpoint()
    for name in checkpoint.names:
        check_finite(checkpoint.tensor(name))
    read_weights(model.config, checkpoint)


SETTINGS = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32},
            "input_activations": {"num_bits": 8, "dynamic": True, "strategy": "token"},
        },
        "group_1": {
            "targets": ["Linear"],
            "format": "int-quantized",
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
        },
    },
}

_PACKED: dict[str, tuple[str, list[int], bytes]] = {
    "a.weight_packed": ("I32", [8, 8], bytes(range(256))),
    "a.weight_scale": ("F32", [8, 2], np.full(16, 0.5, np.float32).tobytes()),
    "a.weight_zero_point": ("I32", [1, 2], bytes(8)),
    "a.weight_shape": ("I64", [2], np.array([8, 64]).tobytes()),
    "b.weight": ("I8", [8, 64], bytes(512)),
    "b.weight_scale": ("F32", [8, 1], np.full(8, 0.5, np.float32).tobytes()),
}


def _packed_file(directory: Path) -> bytes:
    header, body = {}, b""
    for name, (dtype, shape, data) in _PACKED.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    write_safetensors(directory / "model.safetensors", header, body)
    return (directory / "model.safetensors").read_bytes()


def _prepare_packed(directory: Path) -> list[bytes]:
    write_json(directory / "config.json", {"quantization_config": SETTINGS})
    return [_packed_file(directory)]


def _prepare_settings(directory: Path) -> list[bytes]:
    _packed_file(directory)
    return [json.dumps({"quantization_config": SETTINGS}).encode()]


def _read_compressed(directory: Path) -> None:
    scheme = read_quantization(read_fields(directory / "config.json"))
    checkpoint = Checkpoint.open(directory)
    for name in ("a", "b"):
        tensor = read_linear(checkpoint, name, 8, 64, scheme)
        assert tensor.to_f32().shape == tensor.shape == (8, 64)
        assert not isinstance(tensor, QuantizedTensor) or tensor.scales.shape == (8, 64 // tensor.group_size)


READERS: dict[str, Reader] = {
    "safetensors": Reader("model.safetensors", _prepare_safetensors, _read_safetensors, is_json=False),
    "config": Reader("config.json", _prepare_configs, read_config),
    "generation_config": Reader("generation_config.json", _prepare_generation, read_generation_defaults),
    "tokenizer": Reader(
        "tokenizer.json", _prepare_tokenizers, lambda directory: _use_tokenizer(Tokenizer.open(directory))
    ),
    "tokenizer_config": Reader(
        "tokenizer_config.json", _prepare_tokenizer_configs, lambda directory: _use_tokenizer(Tokenizer.open(directory))
    ),
    "gguf": Reader("model.gguf", _prepare_gguf, _read_gguf, is_json=False),
    "compressed tensors": Reader("model.safetensors", _prepare_packed, _read_compressed, is_json=False),
    "quantization_config": Reader("config.json", _prepare_settings, _read_compressed),
}


@cache
def sound_files(name: str) -> tuple[bytes, ...]:
    """The contents that a reader must accept."""
    with TemporaryDirectory() as directory:
        return tuple(READERS[name].prepare(Path(directory)))
